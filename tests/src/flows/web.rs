//! A web server and its client: traffic that is no migration, whatever its port.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::receive::{listen, tell};

/// What the client got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebReport {
    /// Files.
    pub downloads: u32,
    /// Bytes of all bodies.
    pub bytes: u64,
}

/// Serves a file of `bytes` bytes on every path of `port` until its stdin ends. Prints where it
/// listens.
///
/// # Errors
/// When the port is taken.
pub fn web_serve(port: u16, bytes: u64) -> Result<()> {
    let (listening, ipv4, ipv6) = listen(port)?;
    for listener in [ipv4, ipv6] {
        std::thread::spawn(move || serve(&listener, bytes));
    }
    tell(&listening)?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn serve(listener: &TcpListener, bytes: u64) {
    while let Ok((stream, _)) = listener.accept() {
        std::thread::spawn(move || {
            // A client that goes away is its own business.
            let _ = answer(stream, bytes);
        });
    }
}

fn answer(mut stream: TcpStream, bytes: u64) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = String::new();
        ensure!(reader.read_line(&mut line)? > 0, "the request ends within its headers");
        if line.trim().is_empty() {
            break;
        }
    }
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    io::copy(&mut io::repeat(b'x').take(bytes), &mut stream)?;
    Ok(())
}

/// Downloads the file `downloads` times, one after the other.
///
/// # Errors
/// When the server does not answer, or cuts its answer.
pub fn web_get(server: SocketAddr, downloads: u32) -> Result<WebReport> {
    let mut total = 0;
    for _ in 0..downloads {
        let mut stream = TcpStream::connect(server)?;
        write!(stream, "GET /file HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")?;
        let mut reader = BufReader::with_capacity(256 << 10, stream);
        let mut length = None;
        loop {
            let mut line = String::new();
            ensure!(reader.read_line(&mut line)? > 0, "the answer ends within its headers");
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = Some(value.trim().parse::<u64>()?);
            }
        }
        let body = io::copy(&mut reader, &mut io::sink())?;
        let length = length.context("no content length")?;
        ensure!(body == length, "the body ends after {body} of {length} bytes");
        total += body;
    }
    Ok(WebReport { downloads, bytes: total })
}
