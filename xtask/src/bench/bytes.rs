//! Bytes that the observer does not account for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dwcp_observer_lab::flows::FlowReport;
use dwcp_observer_lab::observer::Observer;
use dwcp_observer_model::record::{Migration, State, Stream};

use super::load::{MIGRATOR, Setup, stop};
use super::row::{Group, Row};
use super::samples::Figure;

/// Sent and received by one connection, by its two ends.
type Totals = BTreeMap<(SocketAddr, SocketAddr), (u64, u64)>;

/// Measures.
///
/// # Errors
/// When the observer or the traffic does not work.
pub(super) fn run(setup: &Setup) -> Result<Vec<Row>> {
    let observer = setup.observer()?;
    let flows = setup.times(1000, 200).to_string();
    let helper =
        setup.flows(MIGRATOR, &["exchange", "--flows", &flows, "--max-bytes", "5000000"])?;
    let pid = helper.pid();
    let reports: Vec<FlowReport> = helper.finish()?;
    let mut truth = Totals::new();
    for report in &reports {
        let total = truth.entry((report.sender, report.receiver)).or_default();
        total.0 += report.bytes_written;
        total.1 += report.bytes_read;
    }
    let migrations = wait_finished(&observer, pid)?;
    let mut seen = Totals::new();
    for migration in &migrations {
        for stream in &migration.streams {
            let (ends, bytes) = stream_totals(stream).with_context(|| format!("{stream:?}"))?;
            let total = seen.entry(ends).or_default();
            total.0 += bytes.0;
            total.1 += bytes.1;
        }
    }
    stop(observer)?;
    let bytes: u64 = truth.values().map(|total| total.0).sum();
    ensure!(bytes > 0, "the traffic generator has moved nothing");
    let figure = Figure::single(difference(&truth, &seen) as f64);
    Ok(vec![Row::of(Group::Bytes, "bytes not accounted for", "B", Some(figure)).at_most(0.0).note(
        format!(
            "{} connections, {:.0} MB, IPv4 and IPv6, closed by either end or reset; both \
                 directions of each against what the programs wrote and read",
            reports.len(),
            bytes as f64 / 1e6
        ),
    )])
}

/// Waits until all migrations of the process are finished: their totals are final then.
fn wait_finished(observer: &Observer, pid: u32) -> Result<Vec<Migration>> {
    let start = Instant::now();
    loop {
        let mut migrations = observer.migrations()?;
        migrations.retain(|migration| migration.has_process(pid));
        if !migrations.is_empty() && migrations.iter().all(|one| one.state == State::Finished) {
            return Ok(migrations);
        }
        ensure!(start.elapsed() < Duration::from_secs(30), "the migrations do not end");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Sender's and receiver's figure of a stream of a record.
fn stream_totals(stream: &Stream) -> Option<((SocketAddr, SocketAddr), (u64, u64))> {
    let ends = (stream.local.parse().ok()?, stream.peer.parse().ok()?);
    let bytes = stream.bytes?;
    Some((ends, (bytes.bytes_delivered, bytes.bytes_received)))
}

/// The sum over all connections and both ends of what was seen too much or too little.
fn difference(truth: &Totals, seen: &Totals) -> u64 {
    let part = |ends, total: &(u64, u64)| {
        let other = seen.get(ends).copied().unwrap_or_default();
        total.0.abs_diff(other.0) + total.1.abs_diff(other.1)
    };
    let invented = seen.iter().filter(|(ends, _)| !truth.contains_key(ends));
    truth.iter().map(|(ends, total)| part(ends, total)).sum::<u64>()
        + invented.map(|(_, total)| total.0 + total.1).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn totals(all: &[(u16, u64, u64)]) -> Totals {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        all.iter().map(|(port, sent, received)| ((at(*port), at(9)), (*sent, *received))).collect()
    }

    #[test]
    fn each_byte_too_much_or_too_little_counts() {
        let truth = totals(&[(1, 10, 10), (2, 5, 5)]);
        assert_eq!(difference(&truth, &truth), 0);
        assert_eq!(difference(&truth, &totals(&[(1, 11, 8), (2, 5, 5)])), 3);
        assert_eq!(difference(&truth, &totals(&[(1, 10, 10)])), 10);
        assert_eq!(difference(&truth, &totals(&[(1, 10, 10), (2, 5, 5), (3, 0, 4)])), 4);
    }

    #[test]
    fn a_stream_is_read() {
        let mut stream: Stream = serde_json::from_value(json!({
            "role": "main", "local": "127.0.0.1:1", "peer": "[::1]:2",
            "bytes_queued": 3, "bytes_delivered": 3, "bytes_received": 4, "bytes_returned": 0,
            "started_at": "2026-11-22T12:30:00Z",
        }))
        .unwrap();
        let (ends, bytes) = stream_totals(&stream).unwrap();
        assert_eq!((ends.0.port(), ends.1.port(), bytes), (1, 2, (3, 4)));
        stream.bytes = None;
        assert!(stream_totals(&stream).is_none());
    }
}
