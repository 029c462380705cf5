use std::{net::TcpListener, thread::JoinHandle};

use clap::Parser as _;

use std::io::Read as _;

use serde_json::Value;

use super::*;
use crate::{
    cycle::published::Board,
    http::{HttpLimits, ServerHandle, bind, serve},
    metrics::{Exporter, SeriesLimits, sample},
};

#[derive(clap::Parser)]
struct Command {
    #[command(flatten)]
    args: MigrationsArgs,
}

fn parse_args(arguments: &[&str]) -> Result<MigrationsArgs, String> {
    let arguments = std::iter::once(&"migrations").chain(arguments);
    Command::try_parse_from(arguments).map(|command| command.args).map_err(|e| e.to_string())
}

fn observer() -> ServerHandle {
    let board = Board::default();
    board.publish(sample::published());
    let exporter = Exporter::new("node-7".to_owned(), SeriesLimits::default());
    serve(bind("127.0.0.1:0".parse().unwrap()).unwrap(), board, exporter, HttpLimits::default())
        .unwrap()
}

fn ask(address: std::net::SocketAddr, arguments: &[&str]) -> Result<String, String> {
    let url = format!("http://{address}");
    let args = parse_args(&[&["--url", url.as_str()], arguments].concat())?;
    page(&args, sample::at()).map_err(|failure| failure.to_string())
}

/// A server that says one thing to one client.
fn saying(answer: &'static [u8]) -> (std::net::SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut head = [0; 1024];
        let _ = client.read(&mut head).unwrap();
        client.write_all(answer).unwrap();
    });
    (address, thread)
}

#[test]
fn list_detail_and_json_of_a_running_observer() {
    let server = observer();
    let address = server.local_addr();
    let text = ask(address, &[]).unwrap();
    assert!(text.starts_with("1 active, 2 finished\n"), "{text}");
    let text = ask(address, &["1795350596500-4711"]).unwrap();
    assert!(text.starts_with("migration    1795350596500-4711\n"), "{text}");
    assert!(text.contains("LAST SECONDS"), "{text}");
    let text = ask(address, &["--json"]).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["migrations"].as_array().unwrap().len(), 3);
    assert_eq!(text.lines().count(), 1);
    let text = ask(address, &["--json", "1795350596500-4711"]).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["state"], "active");
}

#[test]
fn unknown_and_impossible_ids() {
    let server = observer();
    let failure = ask(server.local_addr(), &["1-1"]).unwrap_err();
    assert!(failure.contains("1-1") && failure.contains("/api/v1/migrations"), "{failure}");
    let failure = ask(server.local_addr(), &["a b\r\nX: y"]).unwrap_err();
    assert!(failure.contains("`dwcp-observer migrations`") && !failure.contains('\n'), "{failure}");
}

#[test]
fn no_observer_is_one_line_that_says_what_to_do() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let failure = ask(address, &[]).unwrap_err();
    assert!(failure.contains(&address.to_string()), "{failure}");
    assert!(failure.contains("sudo dwcp-observer run"), "{failure}");
    assert!(!failure.contains('\n'), "{failure}");
}

#[test]
fn other_servers_are_told_apart() {
    for (answer, part) in [
        (b"SSH-2.0-OpenSSH_9.2\r\n".as_slice(), "not HTTP"),
        (b"", "not HTTP"),
        (b"\xff\xfe\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>", "not JSON"),
        (b"HTTP/1.1 404 Not Found\r\n\r\nno", "status 404"),
    ] {
        let (address, thread) = saying(answer);
        let failure = ask(address, &[]).unwrap_err();
        assert!(failure.contains(part), "{failure}");
        assert!(failure.contains(&address.to_string()), "{failure}");
        thread.join().unwrap();
    }
}

#[test]
fn an_answer_that_is_cut_or_no_text_is_none() {
    for answer in [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}".as_slice(),
        b"HTTP/1.1 200 OK\r\n\r\n\xff\xfe",
    ] {
        let (address, thread) = saying(answer);
        let failure = ask(address, &[]).unwrap_err();
        assert!(
            failure.contains("/api/v1/migrations") && failure.contains(&address.to_string()),
            "{failure}"
        );
        thread.join().unwrap();
    }
}

#[test]
fn urls() {
    let authority = |text: &str| Url::parse(text).map(|url| url.0.address);
    assert_eq!(authority("http://127.0.0.1:8080").unwrap(), "127.0.0.1:8080");
    assert_eq!(authority("http://node-7.example:9000/").unwrap(), "node-7.example:9000");
    assert_eq!(authority("http://node7").unwrap(), "node7:80");
    assert_eq!(authority("http://[::1]:8080").unwrap(), "[::1]:8080");
    assert_eq!(authority("http://[::1]").unwrap(), "[::1]:80");
    for wrong in [
        "127.0.0.1:8080",
        "https://node7:8080",
        "http://",
        "http://:8080",
        "http://node7:0",
        "http://node7:99999",
        "http://node7:8080/metrics",
        "http://node7:80 80",
        "http://a\r\nb:80",
        "http://[::g]:80",
    ] {
        assert!(authority(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn watch_arguments() {
    let watch = |arguments: &[&str]| parse_args(arguments).map(|args| args.watch);
    assert_eq!(watch(&[]).unwrap(), None);
    assert_eq!(watch(&["--watch"]).unwrap(), Some(Duration::from_secs(1)));
    assert_eq!(watch(&["--watch", "2.5"]).unwrap(), Some(Duration::from_millis(2500)));
    assert_eq!(watch(&["1-2", "--watch"]).unwrap(), Some(Duration::from_secs(1)));
    for wrong in ["0", "-1", "nan", "inf", "1e9", "soon"] {
        let failure = watch(&[&format!("--watch={wrong}")]).unwrap_err();
        assert!(failure.contains("0.1 to 3600"), "{failure}");
    }
}
