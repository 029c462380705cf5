//! What Alertmanager delivers to: an HTTP server that keeps each alert with the time at which it came.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// An alert as it was delivered.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivered {
    /// When it came.
    pub at: Instant,
    /// The path that it was posted to, which tells the receiver: `/page`, `/chat`.
    pub path: String,
    /// `alertname`.
    pub name: String,
    /// Whether it fires; else it is resolved.
    pub firing: bool,
    /// The annotation `runbook_url`.
    pub runbook_url: String,
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Webhook {
    address: SocketAddr,
    delivered: Arc<Mutex<Vec<Delivered>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Webhook {
    /// Listens on a free port.
    ///
    /// # Errors
    /// When there is none.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let delivered = Arc::new(Mutex::new(Vec::new()));
        let over = Arc::new(AtomicBool::new(false));
        let (kept, ends) = (Arc::clone(&delivered), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ends.load(Ordering::Relaxed) {
                    break;
                }
                match receive(stream) {
                    Ok(alerts) => {
                        kept.lock().unwrap_or_else(PoisonError::into_inner).extend(alerts);
                    }
                    Err(error) => eprintln!("webhook: {error:#}"),
                }
            }
        });
        Ok(Self { address, delivered, over, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has come so far.
    #[must_use]
    pub fn delivered(&self) -> Vec<Delivered> {
        self.delivered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes the thread; if nobody listens any more it has ended.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn receive(stream: TcpStream) -> Result<Vec<Delivered>> {
    const LIMIT: Duration = Duration::from_secs(5);
    const MAX_BODY: usize = 16 << 20;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).context("not a request")?.to_owned();
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        if line.trim_end().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse()?;
        }
    }
    ensure!(length <= MAX_BODY, "{length} bytes");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let at = Instant::now();
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    reader.into_inner().write_all(answer)?;
    parse(&path, at, &serde_json::from_slice(&body)?)
}

fn parse(path: &str, at: Instant, message: &Value) -> Result<Vec<Delivered>> {
    let alerts = message["alerts"].as_array().context("no alerts")?;
    alerts
        .iter()
        .map(|alert| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let name = alert["labels"]["alertname"].as_str().context("no alertname")?;
            Ok(Delivered {
                at,
                path: path.to_owned(),
                name: name.to_owned(),
                firing: alert["status"] == "firing",
                runbook_url: text(&alert["annotations"]["runbook_url"]),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_posted_is_kept() {
        let webhook = Webhook::start().unwrap();
        let body = r#"{"alerts":[{"status":"firing","labels":{"alertname":"A"},"annotations":{"runbook_url":"u"}},
            {"status":"resolved","labels":{"alertname":"B"}}]}"#;
        let mut stream = TcpStream::connect(webhook.address()).unwrap();
        let head = format!("POST /page HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        // The answer is sent before the alerts are kept.
        let start = Instant::now();
        while webhook.delivered().is_empty() && start.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let seen: Vec<(String, String, bool)> =
            webhook.delivered().into_iter().map(|it| (it.path, it.name, it.firing)).collect();
        let page = || "/page".to_owned();
        assert_eq!(seen, [(page(), "A".to_owned(), true), (page(), "B".to_owned(), false)]);
    }
}
