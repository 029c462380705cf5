//! `dwcp-observer migrations`: asks the running observer and prints what it holds.

use std::{
    io::{self, ErrorKind, IsTerminal as _, Read, Write},
    net::{TcpStream, ToSocketAddrs as _},
    process::ExitCode,
    time::Duration,
};

use jiff::Timestamp;
use serde_json::Value;

use super::table::{render_detail, render_list};

/// Limit of each single read, write and connect.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A larger answer is none of the observer's.
const MAX_ANSWER_BYTES: u64 = 256 << 20;
/// Moves the cursor home and clears what follows.
const REDRAW: &str = "\x1b[H\x1b[J";

const EXAMPLES: &str = "\
Examples:
  dwcp-observer migrations                          all migrations that the observer on this host holds
  dwcp-observer migrations --watch                  the same, every second
  dwcp-observer migrations 1795350000123-4711       one of them: streams, threads, evidence, last seconds
  dwcp-observer migrations --json | jq '.migrations[] | {id, outcome, duration_seconds}'
  dwcp-observer migrations --url http://node7:8080  ask the observer of another host

Exit codes: 0 printed; 1 no observer answers, or it holds no such migration; 2 wrong arguments.";

/// Show live and finished migrations of a running observer
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct MigrationsArgs {
    /// Show this migration in detail
    #[arg(value_name = "ID")]
    pub id: Option<String>,
    /// Print the observer's JSON as it is (with --watch one document per line)
    #[arg(long)]
    pub json: bool,
    /// Print again every SECONDS (1 unless told; 0.1 to 3600); on a terminal in place
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = seconds)]
    pub watch: Option<Duration>,
    /// Where the observer listens
    #[arg(long, default_value = "http://127.0.0.1:8080", value_parser = Url::parse)]
    pub url: Url,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "a number of seconds from 0.1 to 3600".to_owned();
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    if (0.1..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(wrong())
    }
}

/// `http://HOST:PORT`, nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// `HOST:PORT`.
    authority: String,
}

impl Url {
    fn parse(text: &str) -> Result<Self, String> {
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
enum ClientError {
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

/// Runs the command: prints once, or until interrupted with `--watch`.
///
/// # Errors
/// When no observer answers, what answers is none, or it holds no such migration. Each message is one line.
pub fn run(args: &MigrationsArgs) -> anyhow::Result<ExitCode> {
    let mut stdout = io::stdout();
    let in_place = stdout.is_terminal() && !args.json;
    let mut first = true;
    loop {
        let mut output = String::new();
        if args.watch.is_some() && in_place {
            output.push_str(REDRAW);
        } else if !first && !args.json {
            output.push('\n');
        }
        output.push_str(&page(args, Timestamp::now())?);
        match stdout.write_all(output.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => {}
            // The reader (`head`, a pager) has seen enough.
            Err(failure) if failure.kind() == ErrorKind::BrokenPipe => {
                return Ok(ExitCode::SUCCESS);
            }
            Err(failure) => return Err(failure.into()),
        }
        let Some(pause) = args.watch else {
            return Ok(ExitCode::SUCCESS);
        };
        first = false;
        std::thread::sleep(pause);
    }
}

fn page(args: &MigrationsArgs, now: Timestamp) -> Result<String, ClientError> {
    let body = match &args.id {
        // Nothing in an id needs escaping; anything else is no id, and must not become a second header.
        Some(id)
            if id.is_empty() || !id.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') =>
        {
            let text = format!("{id:?} is no migration id: `dwcp-observer migrations` lists them");
            return Err(ClientError::Refused(text));
        }
        Some(id) => get(&args.url, &format!("/api/v1/migrations/{id}"))?,
        None => get(&args.url, "/api/v1/migrations")?,
    };
    if args.json {
        return Ok(format!("{}\n", body.text));
    }
    Ok(if args.id.is_some() { render_detail(&body.value) } else { render_list(&body.value, now) })
}

struct Body {
    text: String,
    value: Value,
}

/// A `GET` on a connection of its own. HTTP/1.0, so that the body ends with the connection.
fn get(url: &Url, path: &str) -> Result<Body, ClientError> {
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
fn parse(answer: &[u8]) -> Result<(u16, &str), String> {
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

#[cfg(test)]
#[path = "migrations_tests.rs"]
mod tests;
