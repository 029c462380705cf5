//! The migrations of the scenarios, beyond what the fault rig has.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::faults::{BASELINE_RATE, Fault, Rig, Shaper, Variant};
use crate::guest::Guest;
use crate::migration::{self, MigrationPlan, Pair, QemuFigures};
use crate::netns::Wire;
use crate::qemu::{QemuSpec, Role};
use crate::temp::free_migration_port;

/// The target of the lab's network, bytes per second. The thresholds of the two throughput alerts are the same share of it as in
/// the contract: 83 % and 92 %.
pub(super) const TARGET: u64 = BASELINE_RATE * 2 / 3;

/// A rate at which the memory of the rig's guest takes longer than any alert, bytes per second.
pub(super) const LONG_RATE: u64 = 6_000_000;

/// QEMU's default `max-bandwidth`, bytes per second.
const QEMU_RATE: u64 = 128 << 20;

/// What the slow path of [`slow_path`] carries, bytes per second.
const SLOW_RATE: u64 = 50_000;

/// A migration as it should be, over loopback, plain or with four streams; to this port if one is given.
pub(super) fn clean(port: Option<u16>) -> Result<QemuFigures> {
    migrate(port, None)
}

/// The same with a given number of multifd channels.
pub(super) fn migrate(port: Option<u16>, channels: Option<u8>) -> Result<QemuFigures> {
    let port = match port {
        Some(port) => port,
        None => free_migration_port(false)?,
    };
    completed(&MigrationPlan { port, multifd_channels: channels, ..MigrationPlan::default() })
}

/// The same at the rate that QEMU keeps to by itself. Without a limit both ends and the guests want all of a small host's CPU
/// time, and one guest in 70 stands still for longer than the contract allows.
pub(super) fn at_default_rate(channels: Option<u8>) -> Result<QemuFigures> {
    completed(&MigrationPlan {
        port: free_migration_port(false)?,
        multifd_channels: channels,
        max_bandwidth: Some(QEMU_RATE),
        ..MigrationPlan::default()
    })
}

fn completed(plan: &MigrationPlan) -> Result<QemuFigures> {
    let figures = migration::run(&QemuSpec::default(), plan)?;
    ensure!(figures.status == "completed", "{figures:?}");
    Ok(figures)
}

/// A guest that writes to most of its memory, and a QEMU that may stop it for long. Returns when the migration was over.
pub(super) fn long_blackout() -> Result<Instant> {
    let guest = Guest { memory_mib: 1536, working_set_mib: 1280, ..Guest::default() };
    let mut pair = Pair::start(&QemuSpec { guest, ..QemuSpec::default() })?;
    let plan = MigrationPlan {
        downtime_limit_ms: 60_000,
        port: free_migration_port(false)?,
        ..MigrationPlan::default()
    };
    pair.set_storm(true)?;
    pair.migrate(&plan)?;
    let figures = pair.wait_end(Duration::from_secs(120))?;
    ensure!(figures.status == "completed", "{figures:?}");
    Ok(Instant::now())
}

/// 110 MiB are sent at 30 MB/s while the guest stands still: between the 3 s and the 5 s of the mode `hybrid`. QEMU may stop it for 4 s and
/// was up to 0.4 s over what it may; over 5 s the alerts on the limit silence this one.
pub(super) fn near_blackout() -> Result<Instant> {
    let wire = Wire::new()?;
    let _shaper = Shaper::new(&wire, BASELINE_RATE / 2)?;
    let guest = Guest { memory_mib: 256, working_set_mib: 110, ..Guest::default() };
    let mut pair =
        Pair::start(&QemuSpec { guest, wire: Some(wire.clone()), ..QemuSpec::default() })?;
    let plan = MigrationPlan {
        downtime_limit_ms: 4000,
        host: Some(Wire::address(Role::Destination)),
        ..MigrationPlan::default()
    };
    pair.set_storm(true)?;
    pair.migrate(&plan)?;
    let figures = pair.wait_end(Duration::from_secs(120))?;
    ensure!(figures.status == "completed", "{figures:?}");
    Ok(Instant::now())
}

/// A migration with four streams, one of which becomes slow: QEMU waits for it at the end of each round of its streams. In force
/// until what is returned is dropped.
pub(super) fn slow_path() -> Result<(Instant, Rig)> {
    let variant = Variant { channels: Some(4), congestion: None };
    let mut rig = Rig::start_sized(Fault::Clean, variant, 1536, 300)?;
    rig.migrate()?;
    std::thread::sleep(Duration::from_secs(4));
    let onset = Instant::now();
    rig.slow_one_down(SLOW_RATE, BASELINE_RATE)?;
    Ok((onset, rig))
}
