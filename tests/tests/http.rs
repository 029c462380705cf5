//! Slow and hostile clients neither stop the cycle nor fill memory; a live scrape is clean.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper that fails fails its test")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dwcp_observer_lab::flows::raise_file_limit;
use dwcp_observer_lab::migration::{MigrationPlan, Pair};
use dwcp_observer_lab::observer::{Observer, binary};
use dwcp_observer_lab::qemu::QemuSpec;
use dwcp_observer_lab::temp::free_migration_port;

const LIMIT: Duration = Duration::from_secs(10);

fn start() -> Observer {
    Observer::start(&binary().unwrap(), &[]).unwrap()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, LIMIT).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

/// Resident memory, KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What a server says to `request` before it closes; what a reset cut off is missing.
fn answer(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = connect(address);
    // It may refuse and close before it has read all.
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn hostile_clients_cost_nothing() {
    const HALF_OPEN: usize = 1000;
    const MAX_GROWTH_KIB: u64 = 8 << 10;
    raise_file_limit().unwrap();
    let observer = start();
    let address = observer.address();
    // Scrapes have made their buffers.
    for _ in 0..20 {
        assert!(!observer.metrics().unwrap().is_empty());
    }
    observer.wait_cycles().unwrap();
    let before = observer.metrics().unwrap();
    let memory_before = resident(observer.pid());

    // Half of them say nothing, half begin a request and leave it there.
    let half_open: Vec<TcpStream> = (0..HALF_OPEN)
        .map(|number| {
            let mut stream = connect(address);
            if number % 2 == 0 {
                // The server may have closed it already: it has too many.
                let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ");
            }
            stream
        })
        .collect();
    // One that sends a byte of its header now and then.
    let slow = std::thread::spawn(move || {
        let mut stream = connect(address);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(4) {
            if stream.write_all(b"x").is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    // One that sends a header without end, and reads nothing meanwhile.
    let header = [b"GET /metrics HTTP/1.1\r\nX-Big: ".as_slice(), &vec![b'x'; 1 << 20]].concat();
    let refused = answer(address, &[&header, b"\r\n\r\n".as_slice()].concat());
    assert!(!refused.starts_with("HTTP/1.1 200"), "a header of 1 MiB is not served: {refused}");

    // Others are served meanwhile, each within a few seconds.
    let mut slowest = Duration::ZERO;
    let mut peak = 0;
    for _ in 0..20 {
        let start = Instant::now();
        let scraped = observer.metrics().unwrap();
        slowest = slowest.max(start.elapsed());
        assert!(!scraped.is_empty());
        peak = peak.max(resident(observer.pid()));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    slow.join().unwrap();
    let after = observer.metrics().unwrap();
    let grown = |name: &str| after.sum(name, &[]).unwrap() - before.sum(name, &[]).unwrap();
    let cycles = grown("dwcp_observer_cycle_duration_seconds_count");
    let missed = grown("dwcp_observer_cycles_missed_total");
    assert!(cycles >= 2.0, "{cycles} cycles");
    // One may be late on a busy machine.
    assert!(missed <= 1.0, "{missed} cycles missed");
    let accepted = grown("dwcp_observer_http_connections_accepted_total");
    assert!(accepted >= HALF_OPEN as f64, "{accepted}");
    let open = after.sum("dwcp_observer_http_connections_open", &[]).unwrap();
    assert!(open <= 128.0, "{open} connections are held");
    drop(half_open);
    let growth = peak.saturating_sub(memory_before);
    assert!(growth < MAX_GROWTH_KIB, "{growth} KiB more than {memory_before} KiB");
    println!(
        "{HALF_OPEN} half-open connections: slowest scrape {slowest:?}, {cycles} cycles, {missed} missed, +{growth} KiB on {memory_before} KiB"
    );
    assert!(observer.stop().unwrap().status.success());
}

#[test]
fn only_get_is_served_and_only_what_is_there() {
    let observer = start();
    let request = |method: &str, path: &str| {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let answer = answer(observer.address(), request.as_bytes());
        let status = answer.split(' ').nth(1).map(str::parse::<u16>);
        status.unwrap_or_else(|| panic!("no answer to {method} {path}: {answer:?}")).unwrap()
    };
    let paths = ["/metrics", "/metrics/summary", "/health", "/api/v1/migrations"];
    for path in paths {
        assert_eq!(request("GET", path), 200, "{path}");
        assert_eq!(request("HEAD", path), 200, "{path}");
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            assert_eq!(request(method, path), 405, "{method} {path}");
        }
    }
    for path in ["/nothing", "/api/v1/migrations/none", "/metrics/../etc/passwd"] {
        assert_eq!(request("GET", path), 404, "{path}");
    }
    let garbage = answer(observer.address(), b"\x16\x03\x01 hello\r\n\r\n");
    assert!(garbage.is_empty() || garbage.starts_with("HTTP/1.1 400"), "{garbage}");
    assert_eq!(observer.get("/health").unwrap().status, 200);
    assert!(observer.stop().unwrap().status.success());
}

/// What `promtool check metrics` says; nothing if all is well.
fn promtool(text: &str) -> String {
    let mut process = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("promtool: {error}: run `cargo xtask setup`"));
    process.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if !output.status.success() && said.is_empty() {
        return output.status.to_string();
    }
    said
}

#[test]
fn promtool_has_nothing_to_say_about_a_live_scrape() {
    let plan = MigrationPlan {
        multifd_channels: Some(4),
        max_bandwidth: Some(30 << 20),
        port: free_migration_port(false).unwrap(),
        ..MigrationPlan::default()
    };
    let mut pair = Pair::start(&QemuSpec::default()).unwrap();
    let observer = start();
    pair.migrate(&plan).unwrap();
    observer
        .wait_records(LIMIT, |records| records.iter().any(|record| record.streams.len() == 5))
        .unwrap();
    observer.wait_cycles().unwrap();
    let scrape = observer.get("/metrics").unwrap();
    assert!(scrape.content_type.starts_with("text/plain"), "{}", scrape.content_type);
    let text = scrape.text().unwrap().to_owned();
    // The scrape is one of a running migration: series of each kind are in it.
    for family in [
        "dwcp_v3_throughput_bytes_per_second{",
        "dwcp_v3_migration_info{",
        "dwcp_v3_migration_stream_bytes{",
        "dwcp_v3_migration_thread_cpu_seconds{",
        "dwcp_v3_rtt_seconds_bucket{",
    ] {
        assert!(text.lines().any(|line| line.starts_with(family)), "no {family}:\n{text}");
    }
    // The contract's own name, which its scripts ask for; the base unit's name is beside it.
    let name =
        "dwcp_v3_throughput_bytes_per_sec metric names should not contain abbreviated units\n";
    assert_eq!(promtool(&text), name);
    // It does speak up where something is wrong.
    assert!(promtool("# TYPE a_total gauge\na_total 1\n").contains("a_total"));
    println!("promtool is content with {} series", observer.metrics().unwrap().len());
    pair.cancel().unwrap();
    assert!(observer.stop().unwrap().status.success());
}
