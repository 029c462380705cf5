//! A tiny HTTP/1.1 client for the observer's interface, without a dependency on what it tests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

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
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)
        .with_context(|| format!("no connection to {address}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    read_response(&mut BufReader::new(stream))
        .with_context(|| format!("answer of {address} to GET {path}"))
}

fn read_response(reader: &mut impl BufRead) -> Result<Response> {
    let first = read_line(reader)?;
    let status = first
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("not a status line: {first:?}"))?;
    let (mut length, mut chunked, mut content_type) = (None, false, String::new());
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').with_context(|| format!("header {line:?}"))?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = Some(value.parse().context("content-length")?),
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            "content-type" => value.clone_into(&mut content_type),
            _ => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            let line = read_line(reader)?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).with_context(|| format!("chunk {line:?}"))?;
            if size == 0 {
                break;
            }
            read_exactly(reader, size, &mut body)?;
            read_line(reader)?;
        }
    } else if let Some(length) = length {
        read_exactly(reader, length, &mut body)?;
    } else {
        reader.take(MAX_BODY).read_to_end(&mut body)?;
    }
    Ok(Response { status, content_type, body })
}

fn read_exactly(reader: &mut impl BufRead, size: u64, body: &mut Vec<u8>) -> Result<()> {
    if body.len() as u64 + size > MAX_BODY {
        bail!("a body of more than {MAX_BODY} bytes");
    }
    let read = reader.take(size).read_to_end(body)?;
    if read as u64 != size {
        bail!("the body ends after {read} of {size} bytes");
    }
    Ok(())
}

fn read_line(reader: &mut impl BufRead) -> Result<String> {
    let mut line = Vec::new();
    reader.take(64 << 10).read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        bail!("the answer ends within its headers");
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).context("a header is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Response> {
        read_response(&mut text.as_bytes())
    }

    #[test]
    fn a_body_of_known_length() {
        let text = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
                    content-length: 7\r\n\r\n{\"a\":1}more";
        let response = read(text).unwrap();
        assert_eq!(response.status, 503);
        assert_eq!(response.content_type, "application/json");
        assert_eq!(response.json().unwrap()["a"], 1);
    }

    #[test]
    fn a_chunked_body_and_one_until_close() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                       3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n";
        assert_eq!(read(chunked).unwrap().text().unwrap(), "abc0123456789");
        let open = "HTTP/1.0 200 OK\r\n\r\nabc";
        assert_eq!(read(open).unwrap().text().unwrap(), "abc");
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
