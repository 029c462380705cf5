//! A component's endpoint as it may be: well, slow, endless, nonsense.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use super::*;

/// Answers each connection by a function; stops when dropped.
pub(crate) struct Fake {
    pub(crate) port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    pub(crate) fn start(answer: impl Fn(&mut TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let mut request = [0; 4096];
                let _ = stream.read(&mut request);
                answer(&mut stream);
            }
        });
        Self { port, stop, thread: Some(thread) }
    }

    pub(crate) fn body(body: impl Into<String>) -> Self {
        let body = body.into();
        Self::start(move |stream| {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(body.as_bytes());
        })
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Long enough for a loaded machine; the tests of deadlines use a short one.
const PATIENT: Duration = Duration::from_secs(60);

fn run(port: u16, deadline: Duration) -> Result<super::super::exposition::Scraped, ScrapeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(scrape(&Endpoint::local(port), deadline))
}

fn reason(port: u16) -> &'static str {
    run(port, PATIENT).unwrap_err().reason()
}

#[test]
fn a_good_answer_is_taken() {
    let fake = Fake::body("dwcp_v3_hde_compression_ratio 0.8\n");
    let scraped = run(fake.port, PATIENT).unwrap();
    assert!(scraped.families.contains_key("dwcp_v3_hde_compression_ratio"));
    let chunked = Fake::start(|stream| {
        let _ = stream.write_all(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndwcp\r\n7\r\n_v3_x 1\r\n0\r\n\r\n",
        );
    });
    assert!(run(chunked.port, PATIENT).unwrap().families.contains_key("dwcp_v3_x"));
}

#[test]
fn an_endpoint_that_hangs_costs_the_deadline_and_no_more() {
    // Held open without an answer, and with half of one.
    for half in ["", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ndwcp_v3_a 1\n"] {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = std::sync::Mutex::new(released);
        let fake = Fake::start(move |stream| {
            let _ = stream.write_all(half.as_bytes());
            let _ = released.lock().unwrap().recv();
        });
        let error = run(fake.port, Duration::from_millis(200)).unwrap_err();
        assert_eq!(error.reason(), "timeout", "{error}");
        drop(release);
    }
}

#[test]
fn ten_megabytes_are_refused() {
    let line = "dwcp_v3_a{i=\"0123456789\"} 1\n";
    let sized = Fake::body(line.repeat((10 << 20) / line.len()));
    assert_eq!(reason(sized.port), "too_long");
    // Without a length, as long as the client takes it.
    let endless = Fake::start(move |stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(line.repeat(1000).as_bytes()).is_ok() {}
    });
    assert_eq!(reason(endless.port), "too_long");
}

#[test]
fn nonsense_has_its_reason() {
    let page = Fake::body("<html>not found</html>");
    assert_eq!(reason(page.port), "malformed");
    let status = Fake::start(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n");
    });
    assert_eq!(reason(status.port), "status");
    let ssh = Fake::start(|stream| {
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
    });
    assert_eq!(reason(ssh.port), "http");
    let binary = Fake::start(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe");
    });
    assert_eq!(reason(binary.port), "http");
    let cut = Fake::start(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ndwcp_v3_a 1\n");
    });
    assert_eq!(reason(cut.port), "http");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert_eq!(reason(free), "connect");
}

#[test]
fn endpoints_are_read() {
    let parse = |text| Endpoint::parse(text).map(|endpoint| endpoint.to_string());
    assert_eq!(
        parse("http://127.0.0.1:9092/metrics"),
        Some("http://127.0.0.1:9092/metrics".into())
    );
    assert_eq!(parse("http://[::1]:9092"), Some("http://[::1]:9092/".into()));
    assert_eq!(parse("http://hde.local/a?b=c"), Some("http://hde.local/a?b=c".into()));
    assert_eq!(Endpoint::parse("http://hde.local/").unwrap().address, "hde.local:80");
    for wrong in [
        "",
        "127.0.0.1:9092",
        "https://x/metrics",
        "http:///metrics",
        "http://a:b@c/",
        "x",
        "http://x:99999",
    ] {
        assert_eq!(parse(wrong), None, "{wrong}");
    }
}
