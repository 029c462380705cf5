//! What the probes on QEMU's phase functions cost a migration: the same one with the observer, with and without them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dwcp_observer_lab::guest::Guest;
use dwcp_observer_lab::migration::{self, MigrationPlan};
use dwcp_observer_lab::observer::Observer;
use dwcp_observer_lab::qemu::{QEMU, QemuSpec};
use dwcp_observer_lab::temp::free_migration_port;
use dwcp_observer_model::record::State;

use super::load::{Setup, stop};
use super::row::{Group, Row};
use super::samples::Samples;
use crate::shell::find;

/// What `query-migrate` and the observer say of one migration.
struct Run {
    total_ms: f64,
    rounds: usize,
    exit_ms: f64,
}

/// Measures in pairs, in turns.
///
/// # Errors
/// When the observer or a migration does not work.
pub(super) fn run(setup: &Setup) -> Result<Vec<Row>> {
    if find(QEMU).is_none() {
        let reason = format!("{QEMU} is not installed: run `cargo xtask setup`");
        return Ok(vec![Row::not_measured(Group::Phases, "phase functions", reason)]);
    }
    let (mut off, mut on) = (Vec::new(), Vec::new());
    for pair in 0..setup.times(10, 3) {
        if pair % 2 == 0 {
            off.push(migrate(setup, false)?);
            on.push(migrate(setup, true)?);
        } else {
            on.push(migrate(setup, true)?);
            off.push(migrate(setup, false)?);
        }
    }
    ensure!(off.iter().all(|run| run.rounds == 0), "rounds without probes");
    ensure!(on.iter().all(|run| run.rounds > 0), "no rounds with probes");
    let total = |runs: &[Run]| Samples::new(runs.iter().map(|run| run.total_ms));
    let by_pair = Samples::new(off.iter().zip(&on).map(|(off, on)| on.total_ms / off.total_ms));
    let ratio = by_pair.median();
    let exit = |runs: &[Run]| Samples::new(runs.iter().map(|run| run.exit_ms));
    let row = |name: &str, samples: &Samples| Row::new(Group::Phases, name, "ms", samples);
    Ok(vec![
        row("total-time of a migration, probes off", &total(&off)),
        row("total-time of a migration, probes on", &total(&on)),
        Row::of(
            Group::Phases,
            "total-time, probes on / off",
            "",
            ratio.and_then(|ratio| by_pair.figure_of(ratio)),
        )
        .note("median, least and most by pair"),
        row("exit of the observer, probes off", &exit(&off)),
        row("exit of the observer, probes on one executable", &exit(&on)),
    ])
}

/// One migration at a fixed rate, long enough for some hundred stays in the rate limiter.
fn migrate(setup: &Setup, probes: bool) -> Result<Run> {
    let observer = setup.observer_with(&format!("[probes]\nphase_functions = {probes}\n"))?;
    let spec =
        QemuSpec { guest: Guest { memory_mib: 256, ..Guest::default() }, ..QemuSpec::default() };
    let plan = MigrationPlan {
        max_bandwidth: Some(100 << 20),
        port: free_migration_port(false)?,
        ..MigrationPlan::default()
    };
    let figures = migration::run(&spec, &plan)?;
    let rounds = rounds(&observer, &spec)?;
    let begun = Instant::now();
    stop(observer)?;
    let exit_ms = begun.elapsed().as_secs_f64() * 1e3;
    let total = figures.total_time_ms.context("QEMU gives no total-time")?;
    Ok(Run { total_ms: Duration::from_millis(total).as_secs_f64() * 1e3, rounds, exit_ms })
}

fn rounds(observer: &Observer, spec: &QemuSpec) -> Result<usize> {
    let record = observer.wait_migration(Duration::from_secs(10), |record| {
        record.vm.uuid == spec.uuid && record.state == State::Finished
    })?;
    Ok(record.rounds.len())
}
