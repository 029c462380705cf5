//! `GET` from the observer's interface, by another client than its own.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use ureq::Agent;

const LIMIT: Duration = Duration::from_secs(10);
/// More than any answer of the observer; keeps a broken server from filling memory.
const MAX_BODY: u64 = 256 << 20;

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// For instance 200.
    pub status: u16,
    /// `content-type`, empty if there is none.
    pub content_type: String,
    /// The body, unchunked.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text.
    ///
    /// # Errors
    /// When it is not UTF-8.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.body).context("the body is not UTF-8")
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is not JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).context("the body is not JSON")
    }
}

/// `GET path`, on a connection of its own.
///
/// # Errors
/// When nobody answers within 10 s, or the answer is not HTTP.
pub fn get(address: SocketAddr, path: &str) -> Result<Response> {
    let agent = Agent::new_with_config(
        Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_connect(Some(LIMIT))
            .timeout_per_read(Some(LIMIT))
            .timeout_per_write(Some(LIMIT))
            .build(),
    );
    let mut answer = agent
        .get(format!("http://{address}{path}"))
        .header("connection", "close")
        .call()
        .with_context(|| format!("answer of {address} to GET {path}"))?;
    let content_type = answer.headers().get("content-type").and_then(|it| it.to_str().ok());
    Ok(Response {
        status: answer.status().as_u16(),
        content_type: content_type.unwrap_or_default().to_owned(),
        body: answer
            .body_mut()
            .with_config()
            .limit(MAX_BODY)
            .read_to_vec()
            .with_context(|| format!("body of {address} to GET {path}"))?,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// The answer to one request of a server that says this, whatever it is asked.
    fn read(text: &'static str) -> Result<Response> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let _ = client.read(&mut [0; 4096]);
            let _ = client.write_all(text.as_bytes());
        });
        let response = get(address, "/");
        server.join().unwrap();
        response
    }

    #[test]
    fn any_status_and_any_way_to_end_a_body_is_an_answer() {
        let text = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
                    content-length: 7\r\n\r\n{\"a\":1}";
        let response = read(text).unwrap();
        assert_eq!((response.status, &*response.content_type), (503, "application/json"));
        assert_eq!(response.json().unwrap()["a"], 1);
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                       3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n";
        assert_eq!(read(chunked).unwrap().text().unwrap(), "abc0123456789");
        let open = "HTTP/1.0 200 OK\r\n\r\nabc";
        assert_eq!(read(open).unwrap().text().unwrap(), "abc");
        let moved = "HTTP/1.1 302 Found\r\nLocation: /x\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(read(moved).unwrap().status, 302);
    }

    #[test]
    fn a_cut_answer_is_an_error() {
        for text in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabc",
            "hello\r\n\r\n",
        ] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }
}
