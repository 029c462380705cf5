//! What migrators say themselves: migrations without a connection, guests that wait for their manager, ends that nobody else tells.

use std::sync::Arc;

use dwcp_observer_ebpf::phase::{MarkKind, NOT_TOLD};

use super::*;
use crate::{
    model::record::{Awaited, ReasonClass, Round},
    phase::{MarkReading, TextReading, remaining::Remaining, states::Names},
};

/// Object of the outgoing and of the incoming state.
pub(super) const OUT: u32 = 1;
pub(super) const IN: u32 = 2;

/// QEMU 7.2, probed from the start.
pub(super) fn probed(processes: &[u32]) -> Proc {
    let mut world = world(processes);
    world.1 = Some(Coverage::Probed {
        version: None,
        names: Arc::new(Names::of_version(crate::model::qemu::Version::parse("7.2"))),
        since_ns: 0,
        missing: Vec::new(),
    });
    world
}

pub(super) fn mark(
    process: u32,
    seconds: f64,
    kind: MarkKind,
    [object, old, new]: [u32; 3],
) -> MarkReading {
    MarkReading {
        process,
        generation: 0,
        tid: 0,
        at_ns: START + (seconds * SECOND as f64) as u64,
        sent_bytes: 0,
        kind,
        old,
        new,
        object,
        remaining: [0; 3],
    }
}

pub(super) fn begin(process: u32) -> Vec<MarkReading> {
    vec![
        mark(process, 0.1, MarkKind::Migrate, [0; 3]),
        mark(process, 0.1, MarkKind::State, [OUT, 0, 1]),
    ]
}

/// The source's way from the begin to `completed`, and its guest's stop at 1.0 s.
fn leaves(process: u32) -> Vec<MarkReading> {
    let mut marks = begin(process);
    marks.extend([
        mark(process, 0.2, MarkKind::State, [OUT, 1, 4]),
        mark(process, 1.0, MarkKind::RunState, [0, 0, 7]),
        mark(process, 1.0, MarkKind::Pause, [0; 3]),
        mark(process, 1.0, MarkKind::Paused, [0; 3]),
        mark(process, 1.1, MarkKind::State, [OUT, 4, 8]),
    ]);
    marks
}

/// The destination's, which is left standing.
fn is_left_standing(process: u32) -> Vec<MarkReading> {
    vec![
        mark(process, 0.2, MarkKind::State, [IN, 0, 4]),
        mark(process, 1.2, MarkKind::Loaded, [0; 3]),
        mark(process, 1.2, MarkKind::RunState, [0, 0, 4]),
        mark(process, 1.2, MarkKind::State, [IN, 4, 8]),
    ]
}

#[test]
fn a_connection_that_was_refused_leaves_a_record_with_the_reason() {
    let (mut registry, world) = (registry(), probed(&[1]));
    registry.look_at(&observation(0.0, vec![], &[1]), &world);
    let mut look = observation(0.2, vec![], &[1]);
    look.marks = begin(1);
    let actions = registry.look_at(&look, &world);
    let found = records(&registry, &look);
    assert_eq!((found.len(), found[0].state), (1, State::Active));
    assert_eq!((found[0].transport, found[0].bytes), (None, None), "absent is not zero");
    assert_eq!(actions.watch, [(1, true)]);
    let mut look = observation(0.4, vec![], &[1]);
    look.marks = vec![mark(1, 0.3, MarkKind::State, [OUT, 1, 9])];
    look.texts = vec![TextReading {
        process: 1,
        generation: 0,
        at_ns: START,
        text: "Failed to connect to '10.0.0.2:49152': Connection refused".to_owned(),
    }];
    registry.look_at(&look, &world);
    let look = observation(2.0, vec![], &[1]);
    registry.look_at(&look, &world);
    let found = records(&registry, &look);
    assert_eq!((found.len(), found[0].outcome), (1, Some(Outcome::Failed)), "{found:#?}");
    let reason = found[0].reason.clone().unwrap();
    assert_eq!(reason.class, ReasonClass::ConnectionRefused);
    assert!(reason.text.contains("10.0.0.2"), "{}", reason.text);
    assert_eq!(registry.totals().reasons[&ReasonClass::ConnectionRefused], 1);
    // It is over: the same words do not make another one.
    let look = observation(9.0, vec![], &[1]);
    registry.look_at(&look, &world);
    assert_eq!(records(&registry, &look).len(), 1);
}

#[test]
fn a_snapshot_passes_the_same_states_and_is_no_migration() {
    let (mut registry, world) = (registry(), probed(&[1]));
    registry.look_at(&observation(0.0, vec![], &[1]), &world);
    let mut look = observation(0.2, vec![], &[1]);
    look.marks = vec![mark(1, 0.1, MarkKind::State, [OUT, 0, 1])];
    registry.look_at(&look, &world);
    assert!(records(&registry, &look).is_empty());
}

pub(super) fn migrates(registry: &mut Registry, world: &Proc) -> Vec<FlowReading> {
    registry.look_at(&observation(0.0, vec![], &[1, 2]), world);
    let flows = vec![flow(0, 1, 40000, true, 1 << 20), flow(1, 2, 40000, false, 1 << 20)];
    let mut look = observation(0.5, flows.clone(), &[1, 2]);
    look.marks = begin(1);
    registry.look_at(&look, world);
    flows
}

#[test]
fn what_is_left_is_in_the_record_until_the_guest_stops() {
    let (mut registry, world) = (registry(), probed(&[1, 2]));
    let flows = migrates(&mut registry, &world);
    let sync = |seconds| mark(1, seconds, MarkKind::Sync, [0; 3]);
    let pending = |seconds, remaining: [u64; 3]| MarkReading {
        remaining: remaining.map(|mb| if mb == NOT_TOLD { mb } else { mb * 1_000_000 }),
        ..mark(1, seconds, MarkKind::Pending, [0; 3])
    };
    let mut look = observation(0.9, flows.clone(), &[1, 2]);
    look.marks = vec![sync(0.25), pending(0.25, [200, NOT_TOLD, 0])];
    look.marks.extend([sync(0.75), pending(0.75, [60, 20, 0])]);
    for process in &mut look.processes {
        let own = process.slot == 1;
        process.remaining = own.then_some(Remaining { bytes: 50, at_ns: START + 4 * SECOND / 5 });
    }
    registry.look_at(&look, &world);
    let found = &records(&registry, &look)[0];
    assert_eq!(found.remaining_bytes, Some(50));
    let told = |round: &Round| (round.remaining_bytes, round.dirty_bytes_per_second);
    let rounds: Vec<_> = found.rounds.iter().map(told).collect();
    assert_eq!(rounds, [(Some(60_000_000), Some(80e6)), (None, None)]);
    look.now_ns += SECOND / 2;
    look.marks = leaves(1)[2..5].to_vec();
    registry.look_at(&look, &world);
    let found = &records(&registry, &look)[0];
    assert_eq!((found.state, found.remaining_bytes), (State::Active, None), "it was told before");
}

#[test]
fn a_guest_that_awaits_its_manager_keeps_its_migration_active() {
    let (mut registry, world) = (registry(), probed(&[1, 2]));
    let flows = migrates(&mut registry, &world);
    let end = START + 3 * SECOND / 2;
    let closed = flows.into_iter().map(|flow| close(flow, end)).collect();
    let mut look = observation(1.6, closed, &[1, 2]);
    look.marks = leaves(1)[2..].to_vec();
    look.marks.extend(is_left_standing(2));
    registry.look_at(&look, &world);
    let look = observation(40.0, vec![], &[1, 2]);
    registry.look_at(&look, &world);
    let found = records(&registry, &look);
    assert_eq!((found.len(), found[0].state), (1, State::Active), "{found:#?}");
    let still = found[0].standstill.unwrap().standing;
    assert_eq!(
        (still.at, still.pid, still.awaits),
        (Role::Destination, Some(1002), Awaited::Resume)
    );
    assert!((still.seconds - 39.0).abs() < 1e-6, "{still:?}");
    let blackout = found[0].blackout.clone().unwrap();
    assert_eq!((blackout.seconds, blackout.half), (None, None), "both ends are here");
    let mut look = observation(46.2, vec![], &[1, 2]);
    look.marks =
        vec![mark(2, 46.0, MarkKind::Continue, [0; 3]), mark(2, 46.1, MarkKind::Resume, [0; 3])];
    registry.look_at(&look, &world);
    let look = observation(48.0, vec![], &[1, 2]);
    registry.look_at(&look, &world);
    let found = records(&registry, &look);
    assert_eq!((found.len(), found[0].outcome), (1, Some(Outcome::Completed)), "{found:#?}");
    let blackout = found[0].blackout.clone().unwrap();
    assert!((blackout.seconds.unwrap() - 45.1).abs() < 1e-6, "{blackout:?}");
    let resume = blackout.breakdown.unwrap().resume.unwrap();
    assert!((resume - 44.8).abs() < 1e-6, "{resume}");
    assert!((found[0].duration_seconds - 46.1).abs() < 1e-6, "its fate was settled then");
}

#[test]
fn a_source_that_gave_up_ends_a_migration_whose_destination_is_never_told() {
    let (mut registry, world) = (registry(), probed(&[1, 2]));
    let flows = migrates(&mut registry, &world);
    let mut look = observation(
        5.0,
        vec![close(flows[0].clone(), START + 4 * SECOND), flows[1].clone()],
        &[1, 2],
    );
    look.marks = vec![
        mark(1, 0.2, MarkKind::State, [OUT, 1, 4]),
        mark(2, 0.2, MarkKind::State, [IN, 0, 4]),
        mark(1, 4.0, MarkKind::State, [OUT, 4, 9]),
    ];
    registry.look_at(&look, &world);
    let look = observation(8.0, vec![flows[1].clone()], &[1, 2]);
    registry.look_at(&look, &world);
    let found = records(&registry, &look);
    assert_eq!((found[0].state, found[0].outcome), (State::Finished, Some(Outcome::Failed)));
    assert!((found[0].duration_seconds - 4.0).abs() < 1e-6, "{}", found[0].duration_seconds);
}

#[test]
fn a_guest_that_is_let_run_at_its_source_long_after_the_end_is_told() {
    let (mut registry, world) = (registry(), probed(&[1, 2]));
    let flows = migrates(&mut registry, &world);
    let end = START + 3 * SECOND / 2;
    let closed = flows.into_iter().map(|flow| close(flow, end)).collect();
    let mut look = observation(1.6, closed, &[1, 2]);
    look.marks = leaves(1)[2..].to_vec();
    look.marks.extend([
        mark(2, 0.2, MarkKind::State, [IN, 0, 4]),
        mark(2, 1.2, MarkKind::Loaded, [0; 3]),
        mark(2, 1.3, MarkKind::Resume, [0; 3]),
        mark(2, 1.3, MarkKind::State, [IN, 4, 8]),
    ]);
    registry.look_at(&look, &world);
    let look = observation(10.0, vec![], &[1, 2]);
    registry.look_at(&look, &world);
    assert_eq!(registry.live.len(), 0, "it is final");
    let mut look = observation(600.0, vec![], &[1, 2]);
    look.marks = vec![mark(1, 599.0, MarkKind::Resume, [0; 3])];
    registry.look_at(&look, &world);
    let found = records(&registry, &look);
    assert!(found[0].split_brain, "{found:#?}");
    assert_eq!(registry.totals().split_brains, 1);
}

#[test]
fn what_was_found_under_way_has_no_duration_and_no_mode() {
    let (mut registry, world) = (registry(), world(&[1]));
    let mut open = flow(0, 1, 40000, true, 500 << 20);
    open.flags |= FLOW_FOUND_OPEN;
    registry.look_at(&observation(1.0, vec![open.clone()], &[1]), &world);
    open.payload = Payload { queued: 510 << 20, delivered: 510 << 20, received: 0 };
    registry.look_at(&observation(2.0, vec![open.clone()], &[1]), &world);
    registry.look_at(&observation(2.5, vec![close(open, START + 2 * SECOND)], &[1]), &world);
    let look = observation(5.0, vec![], &[1]);
    registry.look_at(&look, &world);
    let found = records(&registry, &look);
    assert!(found[0].found_under_way);
    assert_eq!(found[0].mode, None);
    let rate = found[0].mean_throughput_bytes_per_second.unwrap();
    assert!((rate - f64::from(10 << 20)).abs() < 1.0, "{rate}");
    assert!(registry.totals().durations.is_empty());
}

#[test]
fn a_guest_that_is_written_to_a_file_between_two_looks_is_no_migration() {
    let (mut registry, world) = (registry(), probed(&[1]));
    registry.look_at(&observation(0.0, vec![], &[1]), &world);
    let mut look = observation(0.2, vec![], &[1]);
    look.marks = begin(1);
    registry.look_at(&look, &world);
    assert_eq!(records(&registry, &look).len(), 1);
    let mut look = observation(0.4, vec![], &[1]);
    look.marks = vec![
        mark(1, 0.25, MarkKind::State, [OUT, 1, 4]),
        mark(1, 0.35, MarkKind::State, [OUT, 4, 8]),
    ];
    registry.look_at(&look, &world);
    assert!(records(&registry, &look).is_empty());
    let totals = registry.totals();
    assert!(totals.finished.is_empty() && totals.durations.is_empty());
}

#[test]
fn a_guest_that_is_written_to_a_file_is_no_migration() {
    let (mut registry, world) = (registry(), probed(&[1]));
    registry.look_at(&observation(0.0, vec![], &[1]), &world);
    let mut look = observation(0.2, vec![], &[1]);
    look.marks = begin(1);
    registry.look_at(&look, &world);
    let mut look = observation(3.0, vec![], &[1]);
    look.marks = vec![mark(1, 0.5, MarkKind::State, [OUT, 1, 4])];
    let actions = registry.look_at(&look, &world);
    assert!(records(&registry, &look).is_empty());
    assert!(actions.watch.contains(&(1, false)));
    // Seen late, it never was one.
    let mut look = observation(9.0, vec![], &[1]);
    look.marks = leaves(1);
    registry.look_at(&look, &world);
    assert!(records(&registry, &look).is_empty());
}
