//! Time of a collection cycle, and how late it begins.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dwcp_observer_lab::observer::Observer;

use super::load::{MIGRATOR, Setup, Traffic, metrics, stop, value};
use super::row::{Group, Row};
use super::samples::Samples;

const DURATION: &str = "dwcp_observer_cycle_duration_seconds";
const JITTER: &str = "dwcp_observer_cycle_jitter_seconds";
/// A daemon of DWCP: its flows are followed, and with a byte a second they are no migration.
const DAEMON: &str = "dwcpd";
const FLOWS: u32 = 10_000;
const STREAMS: u32 = 100;
const IN_USE: &str = "dwcp_observer_map_slots_used{map=\"flows\"}";
/// A few of many callers' ports are migration ports, by chance.
const IN_USE_BY_PORT: &str = "dwcp_observer_map_slots_used{map=\"flows_by_port\"}";

/// Measures.
///
/// # Errors
/// When the observer or the traffic does not work.
pub(super) fn run(setup: &Setup) -> Result<Vec<Row>> {
    let cycles = setup.times(12, 5);
    let mut rows = Vec::new();

    let observer = setup.observer()?;
    let steady = setup
        .steady(MIGRATOR, Traffic { connections: STREAMS, first_bytes: 1000, rate: 125_000_000 })?;
    observer.wait_migration(Duration::from_secs(10), |record| {
        record.has_process(steady.pid()) && record.streams.len() == STREAMS as usize
    })?;
    let found = watch(&observer, cycles)?;
    let slots = value(&metrics(&observer)?, IN_USE)?;
    steady.stop()?;
    stop(observer)?;
    rows.extend(found.rows(
        "100 streams",
        1.0,
        &format!("one migration at 1 Gbit/s, both ends on this host ({slots} flows)"),
    ));

    let observer = setup.observer_with("[limits]\nmax_flows = 32768\n")?;
    // Each connection is seen from both its ends: two flows.
    let traffic = Traffic { connections: FLOWS / 2, first_bytes: 1, rate: u64::from(FLOWS) * 32 };
    let steady = setup.steady(DAEMON, traffic)?;
    wait_flows(&observer, f64::from(FLOWS))?;
    let found = watch(&observer, cycles)?;
    let migrations = observer.migrations()?;
    let taken = migrations.iter().any(|migration| migration.has_process(steady.pid()));
    ensure!(!taken, "these flows were to be no migration: {migrations:?}");
    steady.stop()?;
    stop(observer)?;
    rows.extend(found.rows(
        "10,000 flows",
        10.0,
        "5,000 connections of a DWCP daemon, followed from both ends, each with 64 bytes a second; \
         no migration",
    ));
    Ok(rows)
}

fn wait_flows(observer: &Observer, flows: f64) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(20);
    let start = Instant::now();
    loop {
        let text = metrics(observer)?;
        let used = value(&text, IN_USE)? + value(&text, IN_USE_BY_PORT)?;
        if used >= flows {
            return Ok(());
        }
        ensure!(start.elapsed() < LIMIT, "{used} of {flows} flows are followed after {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

struct Cycles {
    seconds: Samples,
    late: Samples,
}

impl Cycles {
    fn rows(&self, load: &str, limit_ms: f64, note: &str) -> [Row; 2] {
        let ms = |samples: &Samples| samples.scaled(1e3);
        [
            Row::new(Group::Cycle, format!("cycle, {load}"), "ms", &ms(&self.seconds))
                .at_most(limit_ms)
                .note(note),
            Row::new(Group::Cycle, format!("cycle begins late, {load}"), "ms", &ms(&self.late)),
        ]
    }
}

/// The next `count` cycles, one by one: sum and count of the histograms are read several times
/// within each.
fn watch(observer: &Observer, count: u32) -> Result<Cycles> {
    let read = |name: &str| -> Result<(f64, f64)> {
        let text = metrics(observer)?;
        Ok((value(&text, &format!("{name}_count"))?, value(&text, &format!("{name}_sum"))?))
    };
    let limit = Duration::from_secs(u64::from(count) * 3 + 10);
    let start = Instant::now();
    let mut last = [read(DURATION)?, read(JITTER)?];
    let mut found = [Vec::new(), Vec::new()];
    while found[0].len() < count as usize {
        ensure!(start.elapsed() < limit, "{} of {count} cycles in {limit:?}", found[0].len());
        std::thread::sleep(Duration::from_millis(200));
        for ((name, last), values) in [DURATION, JITTER].iter().zip(&mut last).zip(&mut found) {
            let now = read(name)?;
            if now.0 > last.0 {
                // The sum has grown by what one cycle took.
                values.push((now.1 - last.1) / (now.0 - last.0));
                *last = now;
            }
        }
    }
    let [seconds, late] = found;
    let samples = |values: Vec<f64>| Some(Samples::new(values)).filter(|s| s.median().is_some());
    Ok(Cycles {
        seconds: samples(seconds).context("no cycle")?,
        late: samples(late).context("no cycle tells how late it was")?,
    })
}
