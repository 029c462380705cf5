//! Asks a running observer over HTTP.

use std::{io, time::Duration};

use hyper::StatusCode;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use tokio::runtime::Builder;

use crate::{
    client::{self, FetchError},
    config::Endpoint,
};

/// Limit of each step: connecting, the head of the answer, each piece of its body.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The observer never sends more than this.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// `http://HOST:PORT`, nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url(pub(super) Endpoint);

impl Url {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if !text.starts_with("http://") {
            return Err("must begin with http:// (the observer does not support https)".to_owned());
        }
        Endpoint::parse(text).filter(|endpoint| endpoint.path == "/").map(Self).ok_or_else(|| {
            "must be http://HOST:PORT, for instance http://127.0.0.1:8080".to_owned()
        })
    }
}

/// Why there is nothing to print.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error(
        "no observer answers on http://{authority} ({source}): start one with `sudo dwcp-observer run`, \
         or name another one with --url"
    )]
    NotRunning { authority: String, source: io::Error },
    #[error("the answer of http://{authority} is incomplete: {source}")]
    BrokeOff { authority: String, source: FetchError },
    #[error("http://{authority} is not a dwcp-observer: {what}; set the right port with --url")]
    Foreign { authority: String, what: String },
    #[error("{0}")]
    Refused(String),
    #[error("cannot ask: {0}")]
    Runtime(#[from] io::Error),
    #[error("the observer has another version: {0}")]
    OtherVersion(serde_json::Error),
}

/// JSON.
pub(super) struct Body {
    pub(super) text: String,
}

impl Body {
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_str(&self.text).map_err(ClientError::OtherVersion)
    }
}

/// A `GET` on a connection of its own.
pub(super) fn get(url: &Url, path: &str) -> Result<Body, ClientError> {
    let authority = url.0.host.clone();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(fetch(&url.0.with_path(path)));
    let (status, text) = answer.map_err(|error| explain(authority.clone(), error))?;
    let what = if status == StatusCode::OK {
        if serde_json::from_str::<IgnoredAny>(&text).is_ok() {
            return Ok(Body { text });
        }
        format!("{path} is not JSON")
    } else {
        let value: Option<Value> = serde_json::from_str(&text).ok();
        if let Some(said) = value.as_ref().and_then(|value| value.get("error")?.as_str()) {
            return Err(ClientError::Refused(said.to_owned()));
        }
        format!("{path} gives status {}", status.as_u16())
    };
    Err(ClientError::Foreign { authority, what })
}

async fn fetch(endpoint: &Endpoint) -> Result<(StatusCode, String), FetchError> {
    let answer = client::get(endpoint, "application/json", TIMEOUT).await?;
    Ok((answer.status(), answer.text(MAX_ANSWER_BYTES).await?))
}

/// What an answer that did not come, or is none, says of who listens there.
fn explain(authority: String, error: FetchError) -> ClientError {
    match error {
        FetchError::Connect(_, source) => ClientError::NotRunning { authority, source },
        FetchError::Http(_, error) if is_no_http(&*error) => {
            ClientError::Foreign { authority, what: format!("the answer is not HTTP ({error})") }
        }
        source => ClientError::BrokeOff { authority, source },
    }
}

fn is_no_http(error: &(dyn std::error::Error + 'static)) -> bool {
    error
        .downcast_ref::<hyper::Error>()
        .is_some_and(|error| error.is_parse() || error.is_incomplete_message())
}
