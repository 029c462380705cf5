//! `GET /metrics` with 100 migrations.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::load::{MIGRATOR, Setup, Traffic, metrics, stop};
use super::row::{Group, Row};
use super::samples::{Figure, Samples};

const MIGRATIONS: usize = 100;
/// All of them, and their streams, have series; without this 32 and 256.
const CONFIG: &str = "[limits]\nlive_series_migrations = 100\nlive_series_streams = 400\n";

/// Measures.
///
/// # Errors
/// When the observer or the traffic does not work.
pub(super) fn run(setup: &Setup) -> Result<Vec<Row>> {
    let observer = setup.observer_with(CONFIG)?;
    let traffic = Traffic { connections: 4, first_bytes: 100_000, rate: 0 };
    let mut running = Vec::with_capacity(MIGRATIONS);
    for _ in 0..MIGRATIONS {
        running.push(setup.steady(MIGRATOR, traffic)?);
    }
    let start = Instant::now();
    while series(&metrics(&observer)?) < MIGRATIONS {
        ensure!(start.elapsed() < Duration::from_secs(20), "not all migrations have series");
        std::thread::sleep(Duration::from_millis(100));
    }
    let (mut times, mut bytes) = (Vec::new(), Vec::new());
    for _ in 0..setup.times(200, 50) {
        let start = Instant::now();
        let response = observer.get("/metrics")?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        ensure!(response.status == 200, "GET /metrics: {}", response.status);
        bytes.push(response.body.len() as f64);
        // Spread over several cycles, as no scraper is in step with them.
        std::thread::sleep(Duration::from_millis(15));
    }
    for steady in running {
        steady.stop()?;
    }
    stop(observer)?;
    let (times, bytes) = (Samples::new(times), Samples::new(bytes));
    let p99: Option<Figure> = times.quantile(0.99).and_then(|p99| times.figure_of(p99));
    Ok(vec![
        Row::new(Group::Scrape, "GET /metrics, 100 migrations, p50", "ms", &times)
            .at_most(2.0)
            .note("each on a connection of its own; 4 streams each, all with series"),
        Row::of(Group::Scrape, "GET /metrics, 100 migrations, p99", "ms", p99).at_most(2.0),
        Row::new(Group::Scrape, "size of that answer", "KiB", &bytes.scaled(1.0 / 1024.0)),
    ])
}

fn series(text: &str) -> usize {
    text.lines().filter(|line| line.starts_with("dwcp_v3_migration_info{")).count()
}
