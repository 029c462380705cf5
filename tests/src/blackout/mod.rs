//! Real migrations whose blackout, phases and rounds, as the observer tells them, are compared with
//! the guest's own clock and with QEMU's events and figures.

mod cases;
mod compare;
mod table;

use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dwcp_observer_model::record::Migration;

pub use self::cases::{Case, cases};
pub use self::compare::{Comparison, Spread, Summary};
pub use self::table::render;
use crate::clock::{GuestClock, Standstill};
use crate::migration::{Pair, QemuFigures};
use crate::observer::Observer;
use crate::qemu::{Accelerator, Qemu, QemuSpec, Role};
use crate::qmp::Event;
use crate::record::RecordExt as _;

/// The period of the guest's clock.
pub const TICK: Duration = Duration::from_micros(100);
/// A guest that has not filled its RAM by then hangs.
const FILL_LIMIT: Duration = Duration::from_secs(40);
const MIGRATION_LIMIT: Duration = Duration::from_secs(120);
const RECORD_LIMIT: Duration = Duration::from_secs(20);

/// One migration, over: what its guest, QEMU and the observer say.
#[derive(Clone, Debug)]
pub struct Run {
    /// Which one.
    pub case: Case,
    /// By the guest's clock.
    pub standstill: Standstill,
    /// By `query-migrate`.
    pub figures: QemuFigures,
    /// QEMU's events on the source and on the destination.
    pub events: [Vec<Event>; 2],
    /// By the observer.
    pub record: Migration,
}

/// Why a case cannot run here; `None` if it can.
#[must_use]
pub fn cannot_run(case: &Case) -> Option<String> {
    match case.accelerator {
        Accelerator::Kvm => {
            let opened = File::options().read(true).write(true).open("/dev/kvm");
            opened.err().map(|error| format!("/dev/kvm: {error}"))
        }
        Accelerator::Tcg => None,
    }
}

/// Migrates under the eyes of `observer`.
///
/// # Errors
/// When the migration does not complete, the guest's clock cannot be trusted, or the observer has
/// no finished record of it.
pub fn run(case: &Case, observer: &Observer) -> Result<Run> {
    run_with(case, observer, |_| ())
}

/// The same with QEMUs that are started a little differently: `change` says how.
///
/// # Errors
/// As [`run`].
pub fn run_with(
    case: &Case,
    observer: &Observer,
    change: impl FnOnce(&mut QemuSpec),
) -> Result<Run> {
    migrate(case, observer, change).with_context(|| format!("`{}`", case.name))
}

fn migrate(case: &Case, observer: &Observer, change: impl FnOnce(&mut QemuSpec)) -> Result<Run> {
    let clock = GuestClock::start()?;
    let mut spec = case.spec(TICK, clock.ports());
    change(&mut spec);
    let mut source = Qemu::start(&spec, Role::Source)?;
    let destination = Qemu::start(&spec, Role::Destination)?;
    source.wait_filled(FILL_LIMIT)?;
    let mut pair = Pair { source, destination };
    if case.pinned {
        pair.pin(0, 1)?;
    }
    wait_ticks(&clock, Role::Source)?;
    pair.migrate(&case.plan()?)?;
    if let Some(delay) = case.postcopy_after {
        std::thread::sleep(delay);
        pair.start_postcopy()?;
    }
    let figures = pair.wait_end(MIGRATION_LIMIT)?;
    ensure!(figures.status == "completed", "QEMU says {figures:?}");
    wait_ticks(&clock, Role::Destination)?;
    let record = wait_record(observer, &pair)?;
    let events = pair.take_events()?;
    drop(pair);
    let standstill = Standstill::between(&clock.finish()?)?;
    Ok(Run { case: *case, standstill, figures, events, record })
}

/// Waits until the guest has run for a good while, half a second of its time.
///
/// # Errors
/// When it has not after 20 s.
pub fn wait_ticks(clock: &GuestClock, role: Role) -> Result<()> {
    const WANTED: usize = 5000;
    let start = Instant::now();
    while clock.count(role) < WANTED {
        if start.elapsed() > Duration::from_secs(20) {
            bail!("the guest has ticked {} times in 20 s on the {role:?}", clock.count(role));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The finished record of this pair's migration.
///
/// # Errors
/// When there is none after 20 s, or there are more.
pub fn wait_record(observer: &Observer, pair: &Pair) -> Result<Migration> {
    let of_pair = |record: &Migration| {
        record.pid(Role::Source) == Some(pair.source.pid())
            || record.pid(Role::Destination) == Some(pair.destination.pid())
    };
    let done = |record: &Migration| of_pair(record) && record.is_final();
    let records = observer.wait_records(RECORD_LIMIT, |records| records.iter().any(done))?;
    let mut own = records.into_iter().filter(of_pair);
    let record = own.next().context("no record")?;
    let others = own.count();
    ensure!(others == 0, "{others} more records of one migration");
    Ok(record)
}
