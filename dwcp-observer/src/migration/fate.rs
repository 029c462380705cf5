//! What is still to come of a migration, by its migrator's own words: where a guest stands still and for what it waits, whether the
//! end is held up, and when it came.

use super::{dump, end::EndState, live::LiveMigration, machine::Streams};
use crate::model::{
    qemu::{MigratorState, Request},
    record::{Awaited, Role},
};
use crate::phase::timeline::{Stop, Timeline};

/// Time after the last close in which a migrator that says nothing may still be at work, as a destination that loads what it has, ns.
const LOADING_NS: u64 = 30_000_000_000;

/// A stop by the manager that is no longer before the request to migrate is made for that migration, ns: `virsh migrate` without `--live`
/// stops the guest right before it (`qemuMigrationSrcSetOffline`, src/qemu/qemu_migration.c, libvirt 9.0 to 11.3).
const STOPPED_FOR_NS: u64 = 5_000_000_000;
/// And it lets the guest run so soon after all is loaded, ns. What its operator had paused stays so.
const RESUMED_WITHIN_NS: u64 = 5_000_000_000;

/// A guest that stands still because of its migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Still {
    /// The end that is to go on.
    pub at: Role,
    /// Since when, `CLOCK_MONOTONIC` ns.
    pub since_ns: u64,
    /// What it waits for.
    pub awaits: Awaited,
}

/// What the state machine needs to know.
#[must_use]
pub fn streams(live: &LiveMigration, now_ns: u64) -> Streams {
    let mut streams = Streams::default();
    for flow in live.flows() {
        let reading = &flow.reading;
        let ended = match (reading.closed_ns(), reading.shut_ns()) {
            (Some(closed), _) if reading.closed => closed,
            (_, Some(shut)) => {
                streams.draining += 1;
                shut
            }
            _ => {
                streams.open += 1;
                continue;
            }
        };
        streams.last_close_ns = streams.last_close_ns.max(ended);
    }
    for end in &live.ends {
        streams.last_close_ns = streams.last_close_ns.max(end.last_folded_close_ns);
        let overflow = end.overflow_here();
        if overflow.flows > overflow.closed && end.exited_ns.is_none() {
            streams.open += u32::try_from(overflow.flows - overflow.closed).unwrap_or(u32::MAX);
        }
    }
    streams.held = is_held(live, streams.last_close_ns, now_ns);
    streams.over_ns = over_ns(live);
    streams.last_close_ns = streams.last_close_ns.max(settled_ns(live));
    streams
}

/// Where the guest of a running migration stands still; `None` while it runs, or where nothing tells.
#[must_use]
pub fn still(live: &LiveMigration) -> Option<Still> {
    if live.life.is_finished() || paused_all_along(live) {
        return None;
    }
    let (source, destination) = (live.end(Role::Source), live.end(Role::Destination));
    if let Some(since_ns) = broken_since(live) {
        return Some(Still { at: Role::Destination, since_ns, awaits: Awaited::Recovery });
    }
    if destination.is_some_and(|end| end.timeline.resumed_ns.is_some())
        || source.is_some_and(|end| end.timeline.ran_on().is_some())
    {
        return None;
    }
    let stopped_ns = source.and_then(|end| end.timeline.stop?.paused_ns);
    if let Some(left_ns) = destination.and_then(|end| end.timeline.left_standing_ns) {
        let since_ns = stopped_ns.unwrap_or(left_ns);
        return Some(Still { at: Role::Destination, since_ns, awaits: Awaited::Resume });
    }
    let at = Role::Source;
    let waits = source.and_then(|end| end.timeline.state()) == Some(MigratorState::PreSwitchover);
    let awaits = if waits { Awaited::MigrateContinue } else { Awaited::SwitchOver };
    stopped_ns.map(|since_ns| Still { at, since_ns, awaits })
}

/// Since when postcopy has had no connection, by the end that noticed first.
fn broken_since(live: &LiveMigration) -> Option<u64> {
    let broken = live.ends.iter().filter(|end| {
        end.exited_ns.is_none()
            && end.timeline.state().is_some_and(MigratorState::is_broken_postcopy)
    });
    broken.filter_map(|end| end.timeline.last_entered(MigratorState::PostcopyPaused)).min()
}

/// Whether the guest was paused when its state was sent: the migration had nothing to stop, and leaves it as it was.
#[must_use]
pub fn paused_all_along(live: &LiveMigration) -> bool {
    let source = live.end(Role::Source).map(|end| &end.timeline);
    match source.filter(|timeline| timeline.entered(MigratorState::Setup).is_some()) {
        Some(timeline) => {
            timeline.state() == Some(MigratorState::Completed)
                && timeline.stop.is_none()
                && timeline.ran_on().is_none()
        }
        None => arrived_paused(live),
    }
}

/// Whether the destination was told that the guest did not run at its source.
fn arrived_paused(live: &LiveMigration) -> bool {
    let destination = live.end(Role::Destination);
    destination.is_some_and(|end| end.timeline.ran_at_source() == Some(false))
}

/// How the guest was stopped by its manager for this migration: shortly before it or meanwhile, and, where that is seen, let run as soon
/// as all was loaded.
#[must_use]
pub fn manager_stop(live: &LiveMigration) -> Option<Stop> {
    let timeline = &live.end(Role::Source)?.timeline;
    let stop = timeline.manager_stop.filter(|_| timeline.stop.is_none())?;
    let requests = [timeline.requested(Request::Migrate), timeline.entered(MigratorState::Setup)];
    let begun_ns = requests.into_iter().flatten().min()?;
    let is_near = stop.paused_ns?.saturating_add(STOPPED_FOR_NS) >= begun_ns;
    let late = live.end(Role::Destination).is_some_and(|end| !is_let_run_at_once(&end.timeline));
    (is_near && !late).then_some(stop)
}

/// Let run as soon as all was loaded, or that may still come.
fn is_let_run_at_once(timeline: &Timeline) -> bool {
    let Some(resumed_ns) = timeline.resumed_ns else { return true };
    timeline.loaded_ns.is_none_or(|loaded_ns| resumed_ns <= loaded_ns + RESUMED_WITHIN_NS)
}

/// Whether the manager that has stopped the guest may be about to let it run at the destination.
fn may_be_resumed(live: &LiveMigration, now_ns: u64) -> bool {
    let Some(end) = live.end(Role::Destination) else { return false };
    let stopped = match live.end(Role::Source) {
        Some(source) if source.timeline.state().is_some() => manager_stop(live).is_some(),
        _ => arrived_paused(live),
    };
    let timeline = &end.timeline;
    let waits = timeline.resumed_ns.is_none() && end.exited_ns.is_none() && completed(end);
    let soon = |loaded_ns| now_ns.saturating_sub(loaded_ns) < RESUMED_WITHIN_NS;
    stopped && waits && timeline.loaded_ns.is_some_and(soon)
}

/// Whether the guest runs, or ran, at the destination before all its pages were there.
#[must_use]
pub fn is_postcopy(live: &LiveMigration) -> bool {
    live.ends.iter().any(|end| {
        end.timeline
            .states
            .iter()
            .any(|(_, state)| state.is_postcopy() && *state != MigratorState::PostcopyDevice)
    })
}

/// Whether the migrator still has to do something though no stream is open. `closed_ns`: the last close, 0 without a stream.
#[must_use]
pub fn is_held(live: &LiveMigration, closed_ns: u64, now_ns: u64) -> bool {
    if let Some(Still { awaits: Awaited::Resume | Awaited::Recovery, .. }) = still(live) {
        return live.ends.iter().all(|end| end.exited_ns.is_none());
    }
    if may_be_resumed(live, now_ns) {
        return true;
    }
    if dump::ends_by_exit(&live.migrator) {
        return dump::is_held(live, closed_ns, now_ns);
    }
    let loads = closed_ns != 0 && now_ns.saturating_sub(closed_ns) < LOADING_NS;
    match (live.end(Role::Source), live.end(Role::Destination)) {
        (Some(source), _) if is_at_work(source) => closed_ns == 0 || loads,
        (Some(source), Some(destination)) if completed(source) => is_at_work(destination) && loads,
        (None, Some(destination)) => is_at_work(destination) && loads,
        _ => false,
    }
}

/// In a state that is not the last one, and alive.
fn is_at_work(end: &EndState) -> bool {
    end.exited_ns.is_none() && end.timeline.state().is_some() && !end.timeline.is_over()
}

fn completed(end: &EndState) -> bool {
    end.timeline.state() == Some(MigratorState::Completed)
}

/// When the migrator said that it is over, ns; 0 while it has not.
#[must_use]
pub fn over_ns(live: &LiveMigration) -> u64 {
    let Some(source) = live.end(Role::Source).filter(|end| end.timeline.is_over()) else {
        return 0;
    };
    let over_ns = source.timeline.since().unwrap_or_default();
    let Some(destination) = live.end(Role::Destination).filter(|_| completed(source)) else {
        return over_ns;
    };
    // It may still read what the source has sent.
    let timeline = &destination.timeline;
    let failed_ns = timeline.since().filter(|_| timeline.is_over());
    let arrived_ns = timeline.resumed_ns.or(destination.exited_ns).or(failed_ns);
    arrived_ns.map_or(0, |arrived_ns| arrived_ns.max(over_ns))
}

/// What settled the guest's fate apart from connections, ns; 0 when nothing did.
#[must_use]
pub fn settled_ns(live: &LiveMigration) -> u64 {
    if dump::ends_by_exit(&live.migrator) {
        return dump::exited_ns(live);
    }
    let of_end = |(role, end): (Role, &EndState)| {
        let timeline = &end.timeline;
        let late = timeline.resumed_ns.filter(|_| timeline.left_standing_ns.is_some());
        let taken_back = timeline.restarted_ns.filter(|_| role == Role::Source);
        let stood = timeline.left_standing_ns.is_some() && timeline.resumed_ns.is_none();
        let broken = timeline.state().is_some_and(MigratorState::is_broken_postcopy);
        let gave_up = end.exited_ns.filter(|_| stood || broken);
        [late, taken_back, gave_up].into_iter().flatten().max()
    };
    let fate = live.roles().filter_map(of_end).max();
    // Without a connection the migrator's word, or its end, is all there is.
    let source = live.end(Role::Source).filter(|_| live.flows().next().is_none());
    let word = source.and_then(|end| {
        let said = end.timeline.since().filter(|_| end.timeline.is_over());
        said.or(end.exited_ns)
    });
    fate.max(word).unwrap_or_default()
}
