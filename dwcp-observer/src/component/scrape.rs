//! Collects what a component serves itself: one request, with a deadline and a limit.

use std::time::Duration;

use crate::config::Endpoint;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// All of a scrape takes at most this long: less than the second in which the next one comes.
pub const DEADLINE: Duration = Duration::from_millis(800);
/// A longer answer is refused.
pub const MAX_BYTES: usize = 4 << 20;

/// Why a scrape failed.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeError {
    /// Nobody listens there, or the connection broke.
    #[error("cannot connect to {0}: {1}")]
    Connect(String, std::io::Error),
    /// The deadline passed.
    #[error("no answer from {0} within {1:?}")]
    Timeout(String, Duration),
    /// Another status than 200.
    #[error("{0} answered {1}")]
    Status(String, StatusCode),
    /// The answer is too long.
    #[error("the answer of {0} is longer than {MAX_BYTES} bytes")]
    TooLong(String),
    /// No HTTP, or it broke off.
    #[error("{0}: {1}")]
    Http(String, String),
    /// No exposition.
    #[error("{0} serves no exposition: {1}")]
    Malformed(String, super::exposition::Malformed),
}

impl ScrapeError {
    /// All values of the label `reason`.
    pub const REASONS: [&'static str; 6] =
        ["connect", "timeout", "status", "too_long", "http", "malformed"];

    /// The label `reason`.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Connect(..) => "connect",
            Self::Timeout(..) => "timeout",
            Self::Status(..) => "status",
            Self::TooLong(_) => "too_long",
            Self::Http(..) => "http",
            Self::Malformed(..) => "malformed",
        }
    }
}

/// Scrapes once.
///
/// # Errors
/// [`ScrapeError`]; in any case within `deadline`.
pub async fn scrape(
    endpoint: &Endpoint,
    deadline: Duration,
) -> Result<super::exposition::Scraped, ScrapeError> {
    let name = || endpoint.to_string();
    let body = timeout(deadline, fetch(endpoint))
        .await
        .map_err(|_| ScrapeError::Timeout(name(), deadline))??;
    let text = std::str::from_utf8(&body)
        .map_err(|_| ScrapeError::Http(name(), "no UTF-8 in the answer".to_owned()))?;
    super::exposition::parse(text).map_err(|error| ScrapeError::Malformed(name(), error))
}

async fn fetch(endpoint: &Endpoint) -> Result<Bytes, ScrapeError> {
    let name = || endpoint.to_string();
    let http = |error: &dyn std::error::Error| ScrapeError::Http(name(), error.to_string());
    let socket = TcpStream::connect(&endpoint.address)
        .await
        .map_err(|error| ScrapeError::Connect(name(), error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
        .await
        .map_err(|it| http(&it))?;
    let driver = AbortOnDrop(tokio::spawn(connection));
    let request = Request::get(endpoint.path.as_str())
        .header(header::HOST, endpoint.host.as_str())
        .header(header::ACCEPT, "text/plain;version=0.0.4")
        .header(header::CONNECTION, "close")
        .header(header::USER_AGENT, concat!("dwcp-observer/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|error| http(&error))?;
    let response = sender.send_request(request).await.map_err(|error| http(&error))?;
    if response.status() != StatusCode::OK {
        return Err(ScrapeError::Status(name(), response.status()));
    }
    let body = Limited::new(response.into_body(), MAX_BYTES).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() { ScrapeError::TooLong(name()) } else { http(&*error) }
    })?;
    drop(driver);
    Ok(body.to_bytes())
}

/// The connection must not outlive the deadline.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
#[path = "scrape_tests.rs"]
pub(super) mod tests;
