//! A minimal client of QMP, QEMU's control protocol: JSON lines over a Unix socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

/// A command that QEMU has not answered by then is reported as an error.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// An event that QEMU sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its name, for instance `MIGRATION`.
    pub name: String,
    /// Its data; `null` if it has none.
    pub data: Value,
    /// When it happened: time since the Unix epoch by the host's clock, whole microseconds.
    pub timestamp: Duration,
}

/// A connection to one QEMU process.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    events: Vec<Event>,
}

impl Qmp {
    /// Connects and leaves the negotiation mode. Tries until `limit` has passed, since QEMU makes
    /// its socket some time after its start.
    ///
    /// # Errors
    /// When nobody listens on `path` in time or the other side does not speak QMP.
    pub fn connect(path: &Path, limit: Duration) -> Result<Self> {
        let start = Instant::now();
        let writer = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if start.elapsed() >= limit => {
                    return Err(error).with_context(|| format!("no QMP on {}", path.display()));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        writer.set_read_timeout(Some(ANSWER_LIMIT))?;
        let reader = BufReader::new(writer.try_clone()?);
        let mut qmp = Self { reader, writer, events: Vec::new() };
        let greeting = qmp.read()?;
        if greeting.get("QMP").is_none() {
            bail!("not a QMP greeting: {greeting}");
        }
        qmp.execute("qmp_capabilities", &Value::Null)?;
        Ok(qmp)
    }

    /// Runs one command and returns what it returns. `arguments` is an object or `null`.
    ///
    /// # Errors
    /// When QEMU answers with an error, closes the connection or does not answer in 30 s.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let mut request = json!({ "execute": command });
        if !arguments.is_null() {
            request["arguments"] = arguments.clone();
        }
        self.writer
            .write_all(format!("{request}\n").as_bytes())
            .with_context(|| format!("QMP command `{command}`"))?;
        loop {
            let mut answer = self.read().with_context(|| format!("QMP command `{command}`"))?;
            if let Some(error) = answer.get("error") {
                bail!("QMP command `{command}`: {error}");
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            self.events.extend(parse_event(&answer));
        }
    }

    /// The events that came before the answers read so far; each is returned once.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        let length = self.reader.read_line(&mut line).context("QEMU does not answer")?;
        if length == 0 {
            return Err(anyhow!("QEMU closed its control socket"));
        }
        serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
    }
}

fn parse_event(message: &Value) -> Option<Event> {
    let time = message.get("timestamp")?;
    let seconds = time.get("seconds")?.as_u64()?;
    let microseconds = time.get("microseconds")?.as_u64()?;
    Some(Event {
        name: message.get("event")?.as_str()?.to_owned(),
        data: message.get("data").cloned().unwrap_or(Value::Null),
        timestamp: Duration::from_secs(seconds) + Duration::from_micros(microseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp::TempDir;
    use std::os::unix::net::UnixListener;

    #[test]
    fn answers_and_events_are_told_apart() {
        let directory = TempDir::new().unwrap();
        let path = directory.join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut request = String::new();
            stream.write_all(b"{\"QMP\": {}}\n").unwrap();
            reader.read_line(&mut request).unwrap();
            stream.write_all(b"{\"return\": {}}\n").unwrap();
            reader.read_line(&mut request).unwrap();
            let event = r#"{"timestamp":{"seconds":2,"microseconds":5},"event":"STOP"}"#;
            stream.write_all(format!("{event}\n{{\"return\": 7}}\n").as_bytes()).unwrap();
            reader.read_line(&mut request).unwrap();
            stream.write_all(b"{\"error\": {\"desc\": \"no such command\"}}\n").unwrap();
            request
        });
        let mut qmp = Qmp::connect(&path, Duration::from_secs(10)).unwrap();
        assert_eq!(qmp.execute("first", &Value::Null).unwrap(), json!(7));
        let error = qmp.execute("second", &json!({"a": 1})).unwrap_err();
        assert!(error.to_string().contains("no such command"), "{error}");
        let events = qmp.take_events();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].name, "STOP");
        assert_eq!(events[0].timestamp, Duration::from_micros(2_000_005));
        assert!(qmp.take_events().is_empty());
        let requests = server.join().unwrap();
        assert!(requests.contains(r#""execute":"second""#), "{requests}");
        assert!(requests.contains(r#""arguments":{"a":1}"#), "{requests}");
    }
}
