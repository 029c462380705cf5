use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpStream},
};

use super::*;
use crate::{
    cycle::published::Published,
    http::bind,
    metrics::{SeriesLimits, sample},
};

/// Far beyond what any of it takes; only a server that hangs reaches it.
const DEADLINE: Duration = Duration::from_secs(60);

fn start_with(limit: usize, published: Published) -> (ServerHandle, Board) {
    let board = Board::default();
    board.publish(published);
    let exporter = Exporter::new("node-7".to_owned(), SeriesLimits::default());
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let limits = HttpLimits { max_connections: limit };
    (serve(listener, board.clone(), exporter, limits).unwrap(), board)
}

fn start(limit: usize) -> ServerHandle {
    start_with(limit, sample::published()).0
}

fn connect(server: &ServerHandle) -> TcpStream {
    let stream = TcpStream::connect(server.local_addr()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Sends `request` and reads until the server closes.
fn exchange(server: &ServerHandle, request: &str) -> String {
    let mut stream = connect(server);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(server: &ServerHandle, path: &str) -> String {
    exchange(server, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
}

/// Reads one answer of a connection that stays open.
fn read_answer(reader: &mut BufReader<TcpStream>) -> (String, Vec<u8>) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "closed within a head: {head:?}");
    }
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok())
        .unwrap();
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (head, body)
}

/// A counter of the server; the exposition must not come from an earlier cycle.
fn metric(server: &ServerHandle, board: &Board, name: &str) -> f64 {
    board.publish(sample::published());
    let text = get(server, "/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap().parse().unwrap()
}

/// Whether the server has closed the connection.
fn closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let closed = match stream.read(&mut [0; 64]) {
        Ok(count) => count == 0,
        Err(failure) => failure.kind() != io::ErrorKind::WouldBlock,
    };
    stream.set_nonblocking(false).unwrap();
    closed
}

#[test]
fn answers_over_a_socket() {
    let server = start(8);
    let answer = get(&server, "/metrics?name=x");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    assert!(answer.contains("\ndwcp_v3_migrations_active{role=\"source\"} 1\n"));
    let answer = get(&server, "/nope");
    assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
    assert!(answer.contains("{\"error\":"));
}

#[test]
fn one_connection_serves_many_requests() {
    let server = start(8);
    let mut stream = connect(&server);
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    for _ in 0..3 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let (head, body) = read_answer(&mut reader);
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(body.starts_with(b"dwcp-observer"));
    }
}

#[test]
fn head_has_the_length_but_no_body() {
    let server = start(8);
    let answer =
        exchange(&server, "HEAD /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let length = answer.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    assert!(length.parse::<usize>().unwrap() > 1000);
    assert!(answer.ends_with("\r\n\r\n"));
}

#[test]
fn a_request_with_a_body_is_answered_and_closed() {
    let server = start(8);
    let answer =
        exchange(&server, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.contains("allow: GET, HEAD\r\n"));
    assert!(answer.contains("connection: close\r\n"));
    let answer = exchange(&server, "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close\r\n"));
}

#[test]
fn rubbish_and_huge_heads_are_refused() {
    let server = start(8);
    let many: String = (0..200).map(|index| format!("X-{index}: y\r\n")).collect();
    for request in [
        "\u{1}\u{2}\u{3}\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n"),
        // As much as the server reads at most: it has nothing left to read when it refuses.
        format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}", "y".repeat(MAX_HEAD_BYTES - 28)),
    ] {
        let answer = exchange(&server, &request);
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    // A megabyte of head: refused by answer or by reset, never read to its end.
    let mut stream = connect(&server);
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nX: ");
    let chunk = vec![b'y'; 64 << 10];
    let sent = (0..1024).take_while(|_| stream.write_all(&chunk).is_ok()).count();
    assert!(sent < 1024, "64 MiB of head were taken");
    assert!(get(&server, "/").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_thousand_half_open_connections_do_not_keep_a_scrape_out() {
    let (server, board) = start_with(16, sample::published());
    let mut hostile = Vec::new();
    for index in 0..1000 {
        let mut stream = connect(&server);
        if index % 2 == 0 {
            let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ");
        }
        hostile.push(stream);
        if index % 250 == 249 {
            assert!(get(&server, "/metrics").starts_with("HTTP/1.1 200"), "after {index}");
        }
    }
    assert!(get(&server, "/metrics").starts_with("HTTP/1.1 200"));
    assert!(metric(&server, &board, "dwcp_observer_http_connections_open") <= 16.0);
    assert!(metric(&server, &board, "dwcp_observer_http_connections_evicted_total") >= 984.0);
    assert_eq!(metric(&server, &board, "dwcp_observer_http_connections_rejected_total"), 0.0);
    let open = hostile.iter_mut().map(|stream| u32::from(!closed(stream))).sum::<u32>();
    assert!(open <= 16, "{open} still open");
}

#[test]
fn a_half_open_connection_ends_by_itself() {
    let (server, board) = start_with(16, sample::published());
    let mut stream = connect(&server);
    stream.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
    // Blocks until the server gives up.
    assert_eq!(stream.read(&mut [0; 64]).unwrap_or(0), 0);
    assert_eq!(metric(&server, &board, "dwcp_observer_http_connections_timed_out_total"), 1.0);
}

/// A cycle whose exposition fills any socket buffer.
fn large() -> Published {
    let mut published = sample::published();
    let mut record = sample::active("1-1");
    record.vm.name = Some("x".repeat(32 << 20));
    published.entries = vec![sample::entry(record)];
    published
}

#[test]
fn clients_that_take_nothing_lose_their_place() {
    let (server, _board) = start_with(4, large());
    let mut stalled: Vec<TcpStream> = (0..4).map(|_| connect(&server)).collect();
    for stream in &mut stalled {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        // The answer has begun, so the place is taken for good.
        stream.read_exact(&mut [0; 16]).unwrap();
    }
    // All four stall; a scrape gets in as soon as one of them has taken nothing for a second.
    let begin = Instant::now();
    loop {
        let mut stream = connect(&server);
        let mut answer = Vec::new();
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let _ = stream.read_to_end(&mut answer);
        if answer.starts_with(b"HTTP/1.1 200") {
            break;
        }
        assert!(begin.elapsed() < DEADLINE, "stalled clients keep all places");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_large_answer_arrives_whole() {
    let (server, _board) = start_with(4, large());
    let answer = get(&server, "/metrics");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    assert_eq!(length.parse::<usize>().unwrap(), body.len());
    assert!(body.len() > 32 << 20);
}

#[test]
fn a_client_that_half_closes_after_its_request_is_answered() {
    let server = start(4);
    for _ in 0..20 {
        let mut stream = connect(&server);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[test]
fn stopping_closes_the_port_and_all_connections() {
    let server = start(4);
    let address = server.local_addr();
    let mut idle = connect(&server);
    idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut reader = BufReader::new(idle.try_clone().unwrap());
    read_answer(&mut reader);
    server.stop();
    assert_eq!(reader.read(&mut [0; 64]).unwrap_or(0), 0);
    assert!(TcpStream::connect(address).is_err());
    // The port is free at once, with connections in TIME_WAIT or not.
    bind(address).unwrap();
}

#[test]
fn components_have_ports_of_their_own_and_share_the_limit() {
    let board = Board::default();
    board.publish(sample::published());
    let exporter = Exporter::new("node-7".to_owned(), SeriesLimits::default());
    let listener = || bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (main, hde) = (listener(), listener());
    let port = hde.local_addr().unwrap();
    let sockets = vec![(main, Site::Main), (hde, Site::Component(Component::Hde))];
    let control = Control::default();
    let server =
        serve_sites(sockets, board, exporter, HttpLimits { max_connections: 4 }, control).unwrap();
    let ask = |address: SocketAddr, path: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for _ in 0..10 {
        let answer = ask(port, "/metrics");
        assert!(answer.contains("\ndwcp_v3_hde_compression_ratio 0.8125\n"), "{answer}");
        assert!(!answer.contains("amst"));
        assert!(ask(server.local_addr(), "/metrics").contains("dwcp_v3_amst_active_streams"));
    }
    // The sample's cycle is long ago: nobody has looked since.
    let health = ask(port, "/health");
    assert!(health.starts_with("HTTP/1.1 200") && health.contains("\"unknown\""), "{health}");
    let idle: Vec<TcpStream> = (0..8).map(|_| TcpStream::connect(port).unwrap()).collect();
    assert!(ask(server.local_addr(), "/").starts_with("HTTP/1.1 200"));
    drop(idle);
    server.stop();
    assert!(TcpStream::connect(port).is_err());
}

#[test]
fn the_rollout_is_set_over_a_socket() {
    let server = start(8);
    let put = |head: &str, body: &str| {
        let length = body.len();
        exchange(
            &server,
            &format!(
                "PUT /api/v1/rollout HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}Content-Length: {length}\r\n\r\n{body}"
            ),
        )
    };
    let json = "Content-Type: application/json\r\n";
    let answer = put(json, r#"{"stage":"canary"}"#);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with(r#"{"region":null,"stage":"canary"}"#), "{answer}");
    assert!(get(&server, "/api/v1/rollout").contains("canary"));
    assert!(put("", r#"{"stage":"x"}"#).starts_with("HTTP/1.1 415"));
    assert!(put(json, &" ".repeat(5000)).starts_with("HTTP/1.1 413"));
    let answer =
        exchange(&server, "POST /api/v1/rollout HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("allow: get, head, put"), "{answer}");
    // A body that never comes costs two seconds and no more.
    let mut slow = connect(&server);
    slow.write_all(
        format!("PUT /api/v1/rollout HTTP/1.1\r\nHost: x\r\n{json}Content-Length: 9\r\n\r\n{{")
            .as_bytes(),
    )
    .unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}
