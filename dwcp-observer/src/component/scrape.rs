//! Scrapes a component's own endpoint: one request, with a deadline and a size limit.

use std::time::Duration;

use hyper::StatusCode;
use tokio::time::timeout;

use crate::{
    client::{FetchError, get},
    config::Endpoint,
};

/// All of a scrape takes at most this long: less than the second in which the next one comes.
pub const DEADLINE: Duration = Duration::from_millis(800);
/// A longer answer is refused.
pub const MAX_BYTES: usize = 4 << 20;

/// Why a scrape failed.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeError {
    /// No answer, or not all of one.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Another status than 200.
    #[error("{0} answered {1}")]
    Status(String, StatusCode),
    /// No exposition.
    #[error("{0} does not serve Prometheus metrics: {1}")]
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
            Self::Fetch(FetchError::Connect(..)) => "connect",
            Self::Fetch(FetchError::Timeout(..)) => "timeout",
            Self::Fetch(FetchError::TooLong(..)) => "too_long",
            Self::Fetch(FetchError::Http(..)) => "http",
            Self::Status(..) => "status",
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
    let text = timeout(deadline, fetch(endpoint, deadline))
        .await
        .map_err(|_| FetchError::Timeout(endpoint.to_string(), deadline))??;
    super::exposition::parse(&text)
        .map_err(|error| ScrapeError::Malformed(endpoint.to_string(), error))
}

async fn fetch(endpoint: &Endpoint, deadline: Duration) -> Result<String, ScrapeError> {
    let answer = get(endpoint, "text/plain;version=0.0.4", deadline).await?;
    if answer.status() != StatusCode::OK {
        return Err(ScrapeError::Status(endpoint.to_string(), answer.status()));
    }
    Ok(answer.text(MAX_BYTES).await?)
}

#[cfg(test)]
#[path = "scrape_tests.rs"]
pub(super) mod tests;
