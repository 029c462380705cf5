//! Migrations without a fault: no alert may come.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::migrations::{self, TARGET};
use super::run::{Lab, changes, observe};
use super::stack::Stack;
use crate::temp::TempDir;

/// What came of a time without faults.
#[derive(Clone, Debug, Default)]
pub struct Clean {
    /// Migrations that were made.
    pub migrations: usize,
    /// QEMU's own `downtime` of each, ms: an alert that comes of one over the mode's limit is no false one.
    pub downtimes_ms: Vec<u64>,
    /// From the first one's start to the end.
    pub time: Duration,
    /// Alerts that were delivered, with the second: none is wanted.
    pub delivered: Vec<(String, f64)>,
    /// Alerts that fired in Prometheus at the end.
    pub firing: Vec<String>,
    /// What the observer called an anomaly: its events, whether or not an alert came of them.
    pub anomalies: Vec<Value>,
}

impl Clean {
    /// Whether it was as it must be.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.delivered.is_empty() && self.firing.is_empty()
    }
}

/// Migrates again and again for `time`, plain and with four streams in turns, and listens for alerts.
///
/// # Errors
/// When something cannot be started, or a migration fails.
pub fn clean(lab: &Lab, speed: u32, time: Duration) -> Result<Clean> {
    let directory = TempDir::new()?;
    let config = format!("[sla]\nthroughput_bytes_per_second = {TARGET}.0\n");
    let observer = observe(&lab.agent, &directory, &config, None)?;
    let stack = Stack::start(&lab.programs, observer.address(), &changes(speed))?;
    let mut clean = Clean::default();
    let start = Instant::now();
    while start.elapsed() < time {
        let channels = (clean.migrations % 2 == 1).then_some(4);
        let figures = migrations::at_default_rate(channels)?;
        clean.migrations += 1;
        clean.downtimes_ms.extend(figures.downtime_ms);
    }
    // What is pending now, or waits in Alertmanager, has its time.
    std::thread::sleep(Duration::from_secs(60) / speed.max(1));
    clean.time = start.elapsed();
    clean.downtimes_ms.sort_unstable();
    clean.firing = stack.firing()?;
    let delivered = stack.webhook.delivered().into_iter();
    clean.delivered =
        delivered.map(|it| (it.name, it.at.duration_since(start).as_secs_f64())).collect();
    let anomalies = observer.json("/api/v1/anomalies")?;
    clean.anomalies = anomalies["events"].as_array().context("no events")?.clone();
    Ok(clean)
}
