//! From the first byte of a migration to its record in the API.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use dwcp_observer_lab::observer::Observer;

use super::load::{MIGRATOR, Setup, Traffic, metrics, stop, value};
use super::row::{Group, Row};
use super::samples::Samples;

const POLL: Duration = Duration::from_millis(5);
const START: &str = "dwcp_v3_migration_start_time_seconds";

/// Measures.
///
/// # Errors
/// When the observer or the traffic does not work, or a time cannot be right.
pub(super) fn run(setup: &Setup) -> Result<Vec<Row>> {
    let observer = setup.observer()?;
    let mut delays = Vec::new();
    for run in 0..setup.times(20, 5) {
        // At all places within the cycle.
        std::thread::sleep(Duration::from_millis(300 + 70 * u64::from(run % 14)));
        delays.push(one(setup, &observer)? * 1e3);
    }
    stop(observer)?;
    let delays = Samples::new(delays);
    let worst = delays.quantile(1.0).and_then(|worst| delays.figure_of(worst));
    Ok(vec![
        Row::new(Group::Notice, "connection to record in the API, median", "ms", &delays)
            .at_most(100.0)
            .note("the API is asked every 5 ms; the first byte follows the connection at once"),
        Row::of(Group::Notice, "connection to record in the API, worst", "ms", worst)
            .at_most(100.0),
    ])
}

/// Seconds from the opening of the connection, by the kernel's clock, to its record.
///
/// The opening is taken from the record. It must lie between the start of the sender and the moment
/// in which it says that the first byte is sent, both by this program's clock.
fn one(setup: &Setup, observer: &Observer) -> Result<f64> {
    let before = now()?;
    let traffic = Traffic { connections: 1, first_bytes: 1, rate: 0 };
    let steady = setup.steady(MIGRATOR, traffic)?;
    let sent = now()?;
    let begun = Instant::now();
    let (record, seen) = loop {
        let all = observer.migrations()?;
        let seen = now()?;
        let ours = all.into_iter().find(|record| record.has_process(steady.pid()));
        if let Some(record) = ours {
            break (record, seen);
        }
        ensure!(begun.elapsed() < Duration::from_secs(10), "the migration is not noticed");
        std::thread::sleep(POLL);
    };
    let id = &record.id;
    let started = value(&metrics(observer)?, &format!("{START}{{migration_id=\"{id}\"}}"))?;
    steady.stop()?;
    ensure!(
        before <= started && started <= sent,
        "the connection was opened between {before} and {sent}, the record says {started}"
    );
    Ok(seen - started)
}

/// Seconds since 1970.
fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}
