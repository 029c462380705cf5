//! The server: one thread with a runtime of its own, so that no client can delay the cycle.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    task::Poll,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes, Incoming},
    header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS},
    server::conn::http1,
    service::service_fn,
};
use jiff::Timestamp;
use tokio::{
    net::TcpStream,
    sync::oneshot,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    answer::{Answer, Endpoints, error},
    cache::PerCycle,
    component::MAX_BODY,
    connections::{Admission, Connections, lock_activity},
    io::WatchedSocket,
};
use crate::{
    component::rollout::Control, config::Component, cycle::published::Board, metrics::Exporter,
};

/// Head of a request, and all that one connection reads ahead.
const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// How long answers may take to be written when the server stops.
const STOP_GRACE: Duration = Duration::from_millis(50);
/// Time in which the few bytes that a client may send must have come.
const BODY_TIMEOUT: Duration = Duration::from_secs(2);

/// What is served on one listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// Everything.
    Main,
    /// One component.
    Component(Component),
}

/// What clients may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Connections at a time, at least 1; a further one takes the place of the oldest that is not being answered.
    pub max_connections: usize,
}

impl Default for HttpLimits {
    /// 64 connections.
    fn default() -> Self {
        Self { max_connections: 64 }
    }
}

/// The server could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the HTTP server: {0}")]
pub struct ServeError(#[from] io::Error);

/// A running server; stops when dropped.
#[derive(Debug)]
pub struct ServerHandle {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ServerHandle {
    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Stops: answers under way get 50 ms, then everything is closed.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the HTTP thread panicked");
        }
    }
}

/// Serves `board` on a thread of its own until the handle is dropped.
///
/// # Errors
/// When the thread or its runtime cannot be made.
pub fn serve(
    listener: TcpListener,
    board: Board,
    exporter: Exporter,
    limits: HttpLimits,
) -> Result<ServerHandle, ServeError> {
    serve_sites(vec![(listener, Site::Main)], board, exporter, limits, Control::default())
}

/// As [`serve`], on several sockets that share one limit of connections; the handle names the first one's address.
///
/// # Errors
/// When the thread or its runtime cannot be made, and without any socket.
pub fn serve_sites(
    sockets: Vec<(TcpListener, Site)>,
    board: Board,
    exporter: Exporter,
    limits: HttpLimits,
    control: Control,
) -> Result<ServerHandle, ServeError> {
    let (first, _) = sockets.first().ok_or_else(|| io::Error::other("nothing to listen on"))?;
    let address = first.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listeners = {
        let _guard = runtime.enter();
        let listen = |(listener, site): (TcpListener, Site)| {
            listener.set_nonblocking(true)?;
            Ok((tokio::net::TcpListener::from_std(listener)?, site))
        };
        sockets.into_iter().map(listen).collect::<io::Result<Vec<_>>>()?
    };
    let endpoints = Arc::new(Endpoints {
        board,
        exporter,
        connections: Arc::new(Connections::new(limits.max_connections)),
        metrics: PerCycle::default(),
        migrations: PerCycle::default(),
        control,
    });
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("http".to_owned())
        .spawn(move || runtime.block_on(run(listeners, endpoints, stopped)))?;
    Ok(ServerHandle { address, stop: Some(stop), thread: Some(thread) })
}

async fn run(
    listeners: Vec<(tokio::net::TcpListener, Site)>,
    endpoints: Arc<Endpoints>,
    mut stopped: oneshot::Receiver<()>,
) {
    let connections = &endpoints.connections;
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = &mut stopped => break,
            _ = tick.tick(), if !connections.is_empty() => connections.close_overdue(Instant::now()),
            (accepted, site) = accept(&listeners) => match accepted {
                Ok((socket, peer)) => {
                    admit(socket, site, peer, &endpoints);
                    // Lets the new connection be answered before a burst of others takes its place.
                    tokio::task::yield_now().await;
                }
                Err(failure) => {
                    log::warn!("cannot accept an HTTP connection: {failure}");
                    // Out of descriptors, most likely; trying at once would only burn CPU.
                    sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listeners);
    let end = Instant::now() + STOP_GRACE;
    while connections.answering() && Instant::now() < end {
        sleep(Duration::from_millis(2)).await;
    }
    // The runtime goes with this thread and closes what is left.
}

/// The next connection on any of the sockets.
async fn accept(
    listeners: &[(tokio::net::TcpListener, Site)],
) -> (io::Result<(TcpStream, SocketAddr)>, Site) {
    poll_fn(|context| {
        for (listener, site) in listeners {
            if let Poll::Ready(accepted) = listener.poll_accept(context) {
                return Poll::Ready((accepted, *site));
            }
        }
        Poll::Pending
    })
    .await
}

fn admit(socket: TcpStream, site: Site, peer: SocketAddr, endpoints: &Arc<Endpoints>) {
    let Some(admission) = endpoints.connections.admit(Instant::now()) else {
        return;
    };
    let id = admission.id;
    let task = tokio::spawn(serve_connection(socket, site, peer, admission, Arc::clone(endpoints)));
    endpoints.connections.served_by(id, task.abort_handle());
}

async fn serve_connection(
    socket: TcpStream,
    site: Site,
    peer: SocketAddr,
    admission: Admission,
    endpoints: Arc<Endpoints>,
) {
    // Answers are written in one go; waiting for more would only delay the last segment.
    if let Err(failure) = socket.set_nodelay(true) {
        log::debug!("TCP_NODELAY on an HTTP connection: {failure}");
    }
    let io = WatchedSocket::new(socket, Arc::clone(&admission.activity));
    let service = service_fn(|request: Request<Incoming>| {
        lock_activity(&admission.activity).request(Instant::now());
        let endpoints = Arc::clone(&endpoints);
        async move { Ok::<_, Infallible>(respond(&endpoints, site, peer, request).await) }
    });
    let served = http1::Builder::new()
        .keep_alive(true)
        // A client may close its side after the request, as `nc -N` does.
        .half_close(true)
        // All deadlines are kept by `Connections`.
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(io, service)
        .await;
    if let Err(failure) = served {
        log::debug!("HTTP connection: {failure}");
    }
}

async fn respond(
    endpoints: &Endpoints,
    site: Site,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    // A body is otherwise never read, so the connection cannot be used for a next request.
    let closes = request.method() == Method::CONNECT || !request.body().is_end_stream();
    let (method, path, now) = (request.method(), request.uri().path(), Timestamp::now());
    let answer = match site {
        Site::Main if method == Method::PUT && path == ROLLOUT => {
            set_rollout(endpoints, peer, request).await
        }
        Site::Main => endpoints.answer(method, path, now),
        Site::Component(component) => endpoints.component_answer(component, method, path, now),
    };
    let Answer { endpoint, status, content_type, body } = answer;
    endpoints.connections.answered(endpoint, status.as_u16());
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = if endpoint == ROLLOUT { "GET, HEAD, PUT" } else { "GET, HEAD" };
        headers.insert(ALLOW, HeaderValue::from_static(allowed));
    }
    if closes {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

const ROLLOUT: &str = "/api/v1/rollout";

async fn set_rollout(
    endpoints: &Endpoints,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Answer {
    let is_json =
        request.headers().get(CONTENT_TYPE).and_then(|it| it.to_str().ok()).is_some_and(|kind| {
            kind.split(';').next().is_some_and(|it| it.trim() == "application/json")
        });
    let body = timeout(BODY_TIMEOUT, Limited::new(request.into_body(), MAX_BODY).collect()).await;
    match body {
        Ok(Ok(body)) => {
            let is_local = peer.ip().to_canonical().is_loopback();
            endpoints.set_rollout(is_local, is_json, &body.to_bytes())
        }
        Ok(Err(_)) => {
            error(ROLLOUT, StatusCode::PAYLOAD_TOO_LARGE, "the body is too long or incomplete")
        }
        Err(_) => error(ROLLOUT, StatusCode::REQUEST_TIMEOUT, "the body did not arrive"),
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
