//! Asks a running observer over HTTP.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{TcpStream, ToSocketAddrs as _},
    time::Duration,
};

use serde_json::Value;

/// Limit of each single read, write and connect.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A larger answer is none of the observer's.
const MAX_ANSWER_BYTES: u64 = 256 << 20;
/// `http://HOST:PORT`, nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// `HOST:PORT`.
    pub(super) authority: String,
}

impl Url {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix("http://") else {
            return Err("must begin with http:// (the observer speaks no https)".to_owned());
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port),
            _ => (authority, "80"),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host_is_good = match bracketed {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.chars().all(plain),
        };
        match port.parse::<u16>() {
            Ok(port) if host_is_good && port > 0 => {
                Ok(Self { authority: format!("{host}:{port}") })
            }
            _ => Err("must be http://HOST:PORT, for instance http://127.0.0.1:8080".to_owned()),
        }
    }
}

/// Why there is nothing to print.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error(
        "no observer answers on http://{authority} ({source}): start one with `sudo dwcp-observer run`, \
         or name another with --url"
    )]
    NotRunning { authority: String, source: io::Error },
    #[error("the answer of http://{authority} broke off: {source}")]
    BrokeOff { authority: String, source: io::Error },
    #[error("http://{authority} is no dwcp-observer: {what}; name the right port with --url")]
    Foreign { authority: String, what: String },
    #[error("{0}")]
    Refused(String),
}

pub(super) struct Body {
    pub(super) text: String,
    pub(super) value: Value,
}

/// A `GET` on a connection of its own. HTTP/1.0, so that the body ends with the connection.
pub(super) fn get(url: &Url, path: &str) -> Result<Body, ClientError> {
    let authority = url.authority.clone();
    let mut stream = connect(&authority)
        .map_err(|source| ClientError::NotRunning { authority: authority.clone(), source })?;
    let answer = exchange(&mut stream, &authority, path)
        .map_err(|source| ClientError::BrokeOff { authority: authority.clone(), source })?;
    let (status, body) = parse(&answer)
        .map_err(|what| ClientError::Foreign { authority: authority.clone(), what })?;
    let value: Option<Value> = serde_json::from_str(body).ok();
    match (status, value) {
        (200, Some(value)) => Ok(Body { text: body.to_owned(), value }),
        (200, None) => Err(ClientError::Foreign { authority, what: format!("{path} is not JSON") }),
        (_, Some(value)) if value.get("error").is_some_and(Value::is_string) => {
            let text = value.get("error").and_then(Value::as_str).unwrap_or_default();
            Err(ClientError::Refused(text.to_owned()))
        }
        _ => Err(ClientError::Foreign { authority, what: format!("{path} gives status {status}") }),
    }
}

fn connect(authority: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in authority.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => {
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                return Ok(stream);
            }
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

fn exchange(stream: &mut TcpStream, authority: &str, path: &str) -> io::Result<Vec<u8>> {
    let request =
        format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\nAccept: application/json\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
    Ok(answer)
}

/// Status and body.
pub(super) fn parse(answer: &[u8]) -> Result<(u16, &str), String> {
    let answer = std::str::from_utf8(answer).map_err(|_| "the answer is not text".to_owned())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("the answer is not HTTP")?;
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1."))
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .ok_or("the answer is not HTTP")?;
    let length = lines.filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())
    });
    match length {
        Some(Ok(length)) if length != body.len() => {
            Err(format!("the answer has {} of {length} bytes", body.len()))
        }
        _ => Ok((status, body)),
    }
}
