//! Guests that were stopped before their migration: by their manager for it, or by their operator.

use dwcp_observer_ebpf::phase::MarkKind;

use super::{
    words::{IN, OUT, mark, migrates, probed},
    *,
};
use crate::phase::MarkReading;

/// QEMU's number of the run state `paused`.
const PAUSED: u32 = 4;

/// The guest of the process in slot 1 is stopped so long before its migration begins, at 0.1 s.
fn stop(before_seconds: u64) -> Vec<MarkReading> {
    let at_ns = START + SECOND / 10 - before_seconds * SECOND;
    let kinds = [MarkKind::Halt, MarkKind::RunState, MarkKind::Pause, MarkKind::Paused];
    let mark = |kind| MarkReading { at_ns, ..mark(1, 0.0, kind, [0, 0, PAUSED]) };
    kinds.into_iter().map(mark).collect()
}

/// How a stopped guest leaves.
fn leaves_stopped() -> Vec<MarkReading> {
    vec![
        mark(1, 0.2, MarkKind::State, [OUT, 1, 4]),
        mark(1, 0.9, MarkKind::RunState, [0, 0, 7]),
        mark(1, 1.0, MarkKind::LastPass, [0; 3]),
        mark(1, 1.1, MarkKind::Device, [0; 3]),
        mark(1, 1.1, MarkKind::Sent, [0; 3]),
        mark(1, 1.1, MarkKind::State, [OUT, 4, 8]),
    ]
}

/// How it arrives: told that it did not run at its source.
fn arrives_stopped() -> Vec<MarkReading> {
    vec![
        mark(2, 0.2, MarkKind::State, [IN, 0, 4]),
        mark(2, 1.2, MarkKind::Loaded, [0; 3]),
        mark(2, 1.2, MarkKind::GlobalState, [0, 0, PAUSED]),
        mark(2, 1.2, MarkKind::RunState, [0, 0, PAUSED]),
        mark(2, 1.2, MarkKind::State, [IN, 4, 8]),
    ]
}

fn is_let_run(seconds: f64) -> Vec<MarkReading> {
    let kinds = [MarkKind::Continue, MarkKind::RunState, MarkKind::Resume];
    kinds.into_iter().map(|kind| mark(2, seconds, kind, [0, 0, 9])).collect()
}

/// Both ends on this host; the guest was stopped so long before, and is let run then, if at all. The record while all is loaded and
/// nothing more was said, and the one at last.
fn migrate(stopped_before: u64, let_run: Option<f64>) -> (Migration, Migration) {
    let (mut registry, world) = (registry(), probed(&[1, 2]));
    let mut look = observation(0.0, vec![], &[1, 2]);
    registry.look_at(&look, &world);
    look.marks = stop(stopped_before);
    registry.look_at(&look, &world);
    let flows = migrates(&mut registry, &world);
    let end = START + 3 * SECOND / 2;
    let closed = flows.into_iter().map(|flow| close(flow, end)).collect();
    let mut look = observation(1.6, closed, &[1, 2]);
    look.marks = [leaves_stopped(), arrives_stopped()].concat();
    registry.look_at(&look, &world);
    let loaded = records(&registry, &look).remove(0);
    if let Some(seconds) = let_run {
        let mut look = observation(seconds + 0.1, vec![], &[1, 2]);
        look.marks = is_let_run(seconds);
        registry.look_at(&look, &world);
    }
    for seconds in [20.0, 25.0] {
        registry.look_at(&observation(seconds, vec![], &[1, 2]), &world);
    }
    let look = observation(30.0, vec![], &[1, 2]);
    (loaded, records(&registry, &look).remove(0))
}

#[test]
fn what_its_manager_stops_for_the_migration_and_lets_run_after_it_stood_still_for_it() {
    let (loaded, last) = migrate(1, Some(1.5));
    assert_eq!((loaded.state, loaded.standstill, loaded.blackout), (State::Active, None, None));
    assert_eq!(last.outcome, Some(Outcome::Completed), "{last:#?}");
    let blackout = last.blackout.unwrap();
    // Stopped 1 s before 0.1 s.
    assert!((blackout.seconds.unwrap() - 2.4).abs() < 1e-6, "{blackout:?}");
    let parts = blackout.breakdown.unwrap();
    assert!((parts.stop.unwrap() - 1.9).abs() < 1e-6, "until the last pass: {parts:?}");
    assert!((parts.resume.unwrap() - 0.3).abs() < 1e-6, "{parts:?}");
    assert!(last.evidence.iter().all(|line| line.kind != "pause"), "{:#?}", last.evidence);
}

#[test]
fn what_was_paused_long_before_has_no_blackout_whoever_lets_it_run() {
    for let_run in [None, Some(1.5)] {
        let (loaded, last) = migrate(10, let_run);
        assert_eq!((loaded.standstill, loaded.blackout), (None, None));
        assert_eq!((last.outcome, last.blackout), (Some(Outcome::Completed), None), "{let_run:?}");
    }
}

#[test]
fn what_is_stopped_right_before_and_stays_so_has_no_blackout_and_is_not_waited_for_long() {
    for let_run in [None, Some(15.0)] {
        let (_, last) = migrate(1, let_run);
        assert_eq!((last.outcome, last.standstill), (Some(Outcome::Completed), None));
        assert_eq!((last.blackout, last.state), (None, State::Finished), "{let_run:?}");
        let pauses = last.evidence.iter().filter(|line| line.kind == "pause").count();
        assert_eq!(pauses, usize::from(let_run.is_none()));
    }
}

/// The destination alone: what it was told of the guest, and what it says while nobody lets the guest run.
fn arrives_alone(told: Option<u32>) -> (Migration, Migration) {
    let (mut registry, mut world) = (registry(), probed(&[2]));
    let facts = world.0.get_mut(&1002).unwrap();
    facts.cmdline.extend(["-incoming", "tcp:0:49152"].map(str::to_owned));
    registry.look_at(&observation(0.0, vec![], &[2]), &world);
    let open = flow(1, 2, 40000, false, 1 << 20);
    let mut look = observation(0.5, vec![open.clone()], &[2]);
    look.marks = arrives_stopped()[..1].to_vec();
    registry.look_at(&look, &world);
    let mut look = observation(1.6, vec![close(open, START + 3 * SECOND / 2)], &[2]);
    let told = told.map(|state| mark(2, 1.2, MarkKind::GlobalState, [0, 0, state]));
    look.marks = arrives_stopped()[1..].to_vec();
    look.marks.retain(|mark| mark.kind != MarkKind::GlobalState);
    look.marks.splice(1..1, told);
    registry.look_at(&look, &world);
    let loaded = records(&registry, &look).remove(0);
    for seconds in [20.0, 25.0] {
        registry.look_at(&observation(seconds, vec![], &[2]), &world);
    }
    (loaded, records(&registry, &observation(30.0, vec![], &[2])).remove(0))
}

#[test]
fn a_destination_alone_knows_whether_its_guest_awaits_its_manager() {
    const RUNNING: u32 = 9;
    for told in [None, Some(RUNNING)] {
        let (loaded, last) = arrives_alone(told);
        assert!(loaded.standstill.is_some() && last.standstill.is_some(), "{told:?} {last:#?}");
        assert_eq!(last.state, State::Active);
    }
    let (loaded, last) = arrives_alone(Some(PAUSED));
    assert_eq!((loaded.standstill, last.standstill, &last.blackout), (None, None, &None));
    assert_eq!(
        (last.state, last.outcome),
        (State::Finished, Some(Outcome::Completed)),
        "{last:#?}"
    );
}
