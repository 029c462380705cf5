//! `GET` over HTTP/1.1, on a connection of its own: bounded in time and bytes.

use std::{error::Error, io, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
    header,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};

use crate::config::Endpoint;

/// Why there is no answer, or not all of one. Each begins with the endpoint.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody listens there.
    #[error("cannot connect to {0}: {1}")]
    Connect(String, io::Error),
    /// A step took longer than it may.
    #[error("no answer from {0} within {1:?}")]
    Timeout(String, Duration),
    /// The answer is too long.
    #[error("the answer of {0} is longer than {1} bytes")]
    TooLong(String, usize),
    /// No HTTP, or it broke off.
    #[error("{0}: {1}")]
    Http(String, Box<dyn Error + Send + Sync>),
}

/// An answer whose body is still to come.
#[derive(Debug)]
pub struct Answer {
    endpoint: String,
    step: Duration,
    response: Response<Incoming>,
    _sender: SendRequest<Empty<Bytes>>,
    _connection: AbortOnDrop,
}

/// The connection must not outlive whoever gives it up.
#[derive(Debug)]
struct AbortOnDrop(JoinHandle<hyper::Result<()>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Asks an endpoint. To connect, the head of the answer and each piece of its body may take `step`.
///
/// # Errors
/// [`FetchError`]; an answer with any status is none.
pub async fn get(
    endpoint: &Endpoint,
    accept: &'static str,
    step: Duration,
) -> Result<Answer, FetchError> {
    let name = || endpoint.to_string();
    let http = |error: hyper::Error| FetchError::Http(name(), error.into());
    let socket = timeout(step, TcpStream::connect(&endpoint.address))
        .await
        .unwrap_or_else(|late| Err(late.into()))
        .map_err(|error| FetchError::Connect(name(), error))?;
    let (mut sender, connection) = handshake(TokioIo::new(socket)).await.map_err(http)?;
    let connection = AbortOnDrop(tokio::spawn(connection));
    let request = Request::get(endpoint.path.as_str())
        .header(header::HOST, endpoint.host.as_str())
        .header(header::ACCEPT, accept)
        .header(header::CONNECTION, "close")
        .header(header::USER_AGENT, concat!("dwcp-observer/", env!("CARGO_PKG_VERSION")))
        .body(Empty::new())
        .map_err(|error| FetchError::Http(name(), error.into()))?;
    let response = timeout(step, sender.send_request(request))
        .await
        .map_err(|_| FetchError::Timeout(name(), step))?
        .map_err(http)?;
    Ok(Answer { endpoint: name(), step, response, _sender: sender, _connection: connection })
}

impl Answer {
    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// All of its body.
    ///
    /// # Errors
    /// It is longer than `limit` bytes, breaks off, or is no UTF-8.
    pub async fn text(self, limit: usize) -> Result<String, FetchError> {
        let Self { endpoint, step, response, _sender, _connection } = self;
        let mut body = Limited::new(response.into_body(), limit);
        let mut bytes = Vec::new();
        loop {
            let frame = match timeout(step, body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => break,
                Ok(Some(Err(error))) if error.is::<LengthLimitError>() => {
                    return Err(FetchError::TooLong(endpoint, limit));
                }
                Ok(Some(Err(error))) => return Err(FetchError::Http(endpoint, error)),
                Err(_) => return Err(FetchError::Timeout(endpoint, step)),
            };
            bytes.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
        String::from_utf8(bytes).map_err(|error| FetchError::Http(endpoint, error.into()))
    }
}
