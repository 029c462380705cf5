//! Throughput of migrations with and without the observer.
//!
//! Both ends share one CPU: then the transfer is bound by CPU time, each ns that the observer takes
//! from it shows, and where the scheduler puts the threads makes no difference.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use dwcp_observer_lab::guest::Guest;
use dwcp_observer_lab::migration::{self, MigrationPlan};
use dwcp_observer_lab::observer::Observer;
use dwcp_observer_lab::qemu::{QEMU, QemuSpec};
use dwcp_observer_lab::temp::free_migration_port;

use super::load::{MIGRATOR, Setup, Traffic, UNPACED, on_one_cpu, stop};
use super::row::{Group, Row};
use super::samples::Samples;
use crate::shell::find;

/// Measures.
///
/// # Errors
/// When the observer or a migration does not work.
pub(super) fn run(setup: &Setup) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let flows = pairs(setup, setup.times(9, 3), |observer| stream_rate(setup, observer))?;
    rows.extend(flows.rows("4 streams at full speed"));
    if find(QEMU).is_none() {
        let reason = format!("{QEMU} is not installed: run `cargo xtask setup`");
        rows.push(Row::not_measured(Group::Throughput, "QEMU multifd", reason));
    } else {
        let qemu = pairs(setup, setup.times(7, 2), qemu_rate)?;
        rows.extend(qemu.rows("QEMU multifd, 4 channels, no limit"));
    }
    Ok(rows)
}

struct Pairs {
    off: Vec<f64>,
    on: Vec<f64>,
}

/// Off and on in turns; which one is first changes, so that a drift of the machine meets both.
fn pairs(
    setup: &Setup,
    count: u32,
    rate: impl Fn(Option<&Observer>) -> Result<f64>,
) -> Result<Pairs> {
    let with_observer = || {
        let observer = setup.observer()?;
        let figure = rate(Some(&observer))?;
        stop(observer)?;
        anyhow::Ok(figure)
    };
    let (mut off, mut on) = (Vec::new(), Vec::new());
    for pair in 0..count {
        if pair % 2 == 0 {
            off.push(rate(None)?);
            on.push(with_observer()?);
        } else {
            on.push(with_observer()?);
            off.push(rate(None)?);
        }
    }
    Ok(Pairs { off, on })
}

impl Pairs {
    fn rows(self, what: &str) -> [Row; 3] {
        let by_pair = Samples::new(self.off.iter().zip(&self.on).map(|(off, on)| on / off));
        let (off, on) = (Samples::new(self.off), Samples::new(self.on));
        let ratio = off.median().zip(on.median()).map(|(off, on)| on / off);
        let row = |state: &str, samples: &Samples| {
            let name = format!("{what}, observer {state}");
            Row::new(Group::Throughput, name, "MB/s", &samples.scaled(1e-6))
        };
        [
            row("off", &off),
            row("on", &on),
            Row::of(
                Group::Throughput,
                format!("{what}, on / off"),
                "",
                ratio.and_then(|ratio| by_pair.figure_of(ratio)),
            )
            .at_least(0.99)
            .note("ratio of the medians; least and most by pair"),
        ]
    }
}

/// Bytes per second over four connections, as fast as they go.
fn stream_rate(setup: &Setup, observer: Option<&Observer>) -> Result<f64> {
    let traffic = Traffic { connections: 4, first_bytes: 1, rate: UNPACED };
    let steady = on_one_cpu(|| setup.steady(MIGRATOR, traffic))?;
    std::thread::sleep(Duration::from_secs_f64(1.5));
    if let Some(observer) = observer {
        observer
            .wait_migration(Duration::from_secs(5), |record| record.has_process(steady.pid()))?;
    }
    let report = steady.stop()?;
    ensure!(report.bytes_read == report.bytes_written, "bytes are missing: {report:?}");
    Ok(report.bytes_read as f64 / report.seconds)
}

/// Bytes per second of one migration, by QEMU's own figures.
fn qemu_rate(observer: Option<&Observer>) -> Result<f64> {
    let spec = QemuSpec {
        guest: Guest { memory_mib: 768, working_set_mib: 0, ..Guest::default() },
        ..QemuSpec::default()
    };
    let plan = MigrationPlan {
        multifd_channels: Some(4),
        port: free_migration_port(false)?,
        ..MigrationPlan::default()
    };
    let figures = on_one_cpu(|| migration::run(&spec, &plan))?;
    if let Some(observer) = observer {
        observer.wait_migration(Duration::from_secs(10), |record| record.vm.uuid == spec.uuid)?;
    }
    match figures.total_time_ms {
        Some(ms) if ms > 0 => Ok(figures.transferred as f64 / (ms as f64 / 1e3)),
        _ => bail!("QEMU does not say how long it took: {figures:?}"),
    }
}
