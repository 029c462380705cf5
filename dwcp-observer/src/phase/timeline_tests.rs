//! Orders of marks as QEMU 7.2 makes them (recorded on real migrations), and impossible ones.

use dwcp_observer_ebpf::phase::{NOT_TOLD, PENDING_OF_THREE};
use proptest::prelude::*;

use super::*;
use crate::{model::qemu::Version, phase::remaining::Unsent};

fn mark(kind: MarkKind, at_ns: u64, [object, old, new]: [u32; 3]) -> MarkReading {
    MarkReading {
        process: 1,
        generation: 0,
        tid: 1,
        at_ns,
        sent_bytes: 1000 + at_ns,
        kind,
        old,
        new,
        object,
        remaining: [0; 3],
    }
}

fn timeline(version: Option<Version>, marks: &[(MarkKind, u64, [u32; 3])]) -> Timeline {
    let mut timeline = Timeline::new(Arc::new(Names::of_version(version)));
    for (kind, at_ns, numbers) in marks {
        timeline.push(&mark(*kind, *at_ns, *numbers));
    }
    timeline
}

const V7_2: Option<Version> = Some(Version { major: 7, minor: 2 });
const OUT: u32 = 1;
const IN: u32 = 2;

/// A precopy source of QEMU 7.2.
const SOURCE: &[(MarkKind, u64, [u32; 3])] = &[
    (MarkKind::RunState, 1, [0, 0, 9]),
    (MarkKind::Resume, 2, [0; 3]),
    (MarkKind::State, 10, [OUT, 0, 1]),
    (MarkKind::Sync, 11, [0; 3]),
    (MarkKind::State, 12, [OUT, 1, 4]),
    (MarkKind::Sync, 50, [0; 3]),
    (MarkKind::RunState, 60, [0, 0, 7]),
    (MarkKind::Pause, 61, [0; 3]),
    (MarkKind::Paused, 62, [0; 3]),
    (MarkKind::LastPass, 63, [0; 3]),
    (MarkKind::Sync, 64, [0; 3]),
    (MarkKind::Device, 70, [0; 3]),
    (MarkKind::Sent, 75, [0; 3]),
    (MarkKind::State, 76, [OUT, 4, 8]),
    (MarkKind::RunState, 77, [0, 0, 5]),
];

#[test]
fn a_precopy_source_stops_its_guest_once() {
    let found = timeline(V7_2, SOURCE);
    assert_eq!(
        found.states,
        [(10, MigratorState::Setup), (12, MigratorState::Active), (76, MigratorState::Completed)]
    );
    assert_eq!(found.syncs, 3);
    let stop = found.stop.unwrap();
    assert_eq!((stop.asked.at_ns, stop.paused_ns), (61, Some(62)));
    // Bytes count from the begin of the attempt.
    assert_eq!(found.device, Some(Moment { at_ns: 70, sent_bytes: 60 }));
    assert_eq!(found.sent.map(|sent| sent.at_ns), Some(75));
}

/// Recorded: QEMU 11.1.3 said `dirty-sync-count` 2.
#[test]
fn the_sync_after_the_stop_is_no_round_where_the_loop_counts() {
    let marks = [
        (MarkKind::State, 10, [OUT, 0, 1]),
        (MarkKind::Sync, 11, [0; 3]),
        (MarkKind::State, 12, [OUT, 1, 4]),
        (MarkKind::Sync, 50, [0; 3]),
        (MarkKind::RunState, 60, [0, 0, 7]),
        (MarkKind::Pause, 61, [0; 3]),
        (MarkKind::Paused, 62, [0; 3]),
        (MarkKind::State, 63, [OUT, 4, 15]),
        (MarkKind::Sync, 64, [0; 3]),
        (MarkKind::LastPass, 65, [0; 3]),
    ];
    let names = Names::of_version(Some(Version { major: 11, minor: 1 })).with_rounds_in_loop(true);
    let mut found = Timeline::new(Arc::new(names));
    for (kind, at_ns, numbers) in marks {
        found.push(&mark(kind, at_ns, numbers));
    }
    assert_eq!((found.syncs, found.rounds.len()), (2, 2));
}

#[test]
fn a_destination_loads_and_lets_the_guest_run() {
    let found = timeline(
        V7_2,
        &[
            (MarkKind::RunState, 1, [0, 0, 1]),
            // QEMU calls it for its own start, too.
            (MarkKind::Loaded, 2, [0; 3]),
            (MarkKind::State, 10, [IN, 0, 4]),
            (MarkKind::Loaded, 50, [0; 3]),
            (MarkKind::RunState, 51, [0, 0, 9]),
            (MarkKind::Resume, 52, [0; 3]),
            (MarkKind::State, 53, [IN, 4, 8]),
        ],
    );
    assert_eq!((found.loaded_ns, found.resumed_ns), (Some(50), Some(52)));
    assert_eq!(found.state(), Some(MigratorState::Completed));
    assert_eq!(found.stop, None);
}

#[test]
fn a_cancel_after_the_stop_lets_the_guest_run_on() {
    let mut marks = SOURCE[..9].to_vec();
    marks.push((MarkKind::State, 63, [OUT, 4, 2]));
    marks.push((MarkKind::RunState, 64, [0, 0, 9]));
    marks.push((MarkKind::Resume, 65, [0; 3]));
    marks.push((MarkKind::State, 66, [OUT, 2, 3]));
    let found = timeline(V7_2, &marks);
    assert_eq!(found.stop, None);
    assert_eq!(found.ran_on.map(|(stop, at)| (stop.asked.at_ns, at)), Some((61, 65)));
    assert_eq!(found.state(), Some(MigratorState::Cancelled));
}

#[test]
fn an_operators_pause_is_no_stop_of_a_migration() {
    // `stop`, whichever way round the version does it, then a migration of the paused guest.
    for pause in [
        [
            (MarkKind::RunState, 3, [0, 0, 4]),
            (MarkKind::Pause, 4, [0; 3]),
            (MarkKind::Paused, 5, [0; 3]),
        ],
        [
            (MarkKind::Pause, 3, [0; 3]),
            (MarkKind::Paused, 4, [0; 3]),
            (MarkKind::RunState, 5, [0, 0, 4]),
        ],
    ] {
        let mut marks = SOURCE[..2].to_vec();
        marks.extend(pause);
        marks.extend([
            (MarkKind::State, 10, [OUT, 0, 1]),
            (MarkKind::State, 12, [OUT, 1, 4]),
            (MarkKind::RunState, 60, [0, 0, 7]),
            (MarkKind::LastPass, 63, [0; 3]),
            (MarkKind::Sent, 75, [0; 3]),
        ]);
        let found = timeline(V7_2, &marks);
        assert_eq!(found.stop, None);
        assert!(found.paused_by_operator);
        let stopped = found.manager_stop.unwrap();
        assert!(stopped.asked.at_ns < 10 && stopped.paused_ns.is_some_and(|at| at < 10));
        // The last pass is known of a guest that stood before, too.
        assert_eq!(found.last_pass.map(|moment| moment.at_ns), Some(63));
        assert_eq!(found.sent.map(|moment| moment.at_ns), Some(75));
    }
}

#[test]
fn an_operators_pause_while_it_migrates_is_no_stop_of_the_migration_and_ends_with_the_next_start() {
    let mut marks = SOURCE[..5].to_vec();
    marks.extend([
        (MarkKind::RunState, 20, [0, 0, 4]),
        (MarkKind::Pause, 21, [0; 3]),
        (MarkKind::Paused, 22, [0; 3]),
    ]);
    let found = timeline(V7_2, &marks);
    assert_eq!(found.manager_stop.and_then(|stop| stop.paused_ns), Some(22));
    marks.push((MarkKind::RunState, 60, [0, 0, 7]));
    assert_eq!(timeline(V7_2, &marks).stop, None);
    marks.pop();
    marks.push((MarkKind::Resume, 30, [0; 3]));
    assert_eq!(timeline(V7_2, &marks).manager_stop, None);
}

#[test]
fn a_destination_is_told_what_the_guest_did_at_its_source() {
    let marks =
        |state| [(MarkKind::State, 10, [IN, 0, 4]), (MarkKind::GlobalState, 51, [0, 0, state])];
    assert_eq!(timeline(V7_2, &marks(9)).ran_at_source(), Some(true));
    assert_eq!(timeline(V7_2, &marks(4)).ran_at_source(), Some(false));
    assert_eq!(timeline(V7_2, &marks(99)).ran_at_source(), None);
    assert_eq!(timeline(V7_2, &marks(9)[..1]).ran_at_source(), None);
}

#[test]
fn a_pause_whose_reason_comes_later_is_told_apart() {
    let found = timeline(
        V7_2,
        &[
            (MarkKind::State, 10, [OUT, 0, 1]),
            (MarkKind::Pause, 61, [0; 3]),
            (MarkKind::Paused, 62, [0; 3]),
            (MarkKind::RunState, 63, [0, 0, 7]),
        ],
    );
    assert_eq!(found.stop.and_then(|stop| stop.paused_ns), Some(62));
}

#[test]
fn a_second_attempt_starts_afresh() {
    let mut marks = SOURCE.to_vec();
    marks.push((MarkKind::State, 100, [OUT, 0, 1]));
    let found = timeline(V7_2, &marks);
    assert_eq!(found.attempt, 2);
    assert_eq!((found.syncs, found.stop), (0, None));
}

#[test]
fn a_destination_that_migrates_onwards_starts_afresh() {
    let found = timeline(
        V7_2,
        &[
            (MarkKind::State, 10, [IN, 0, 4]),
            (MarkKind::Loaded, 50, [0; 3]),
            (MarkKind::Resume, 52, [0; 3]),
            (MarkKind::State, 100, [OUT, 0, 1]),
        ],
    );
    assert_eq!((found.attempt, found.resumed_ns), (2, None));
}

#[test]
fn a_change_that_does_not_happen_is_not_recorded() {
    let found =
        timeline(V7_2, &[(MarkKind::State, 10, [OUT, 0, 1]), (MarkKind::State, 11, [OUT, 4, 8])]);
    assert_eq!(found.state(), Some(MigratorState::Setup));
}

#[test]
fn a_destination_under_s_is_left_standing_until_its_manager_lets_it_run() {
    let marks = [
        (MarkKind::State, 10, [IN, 0, 4]),
        (MarkKind::Loaded, 50, [0; 3]),
        (MarkKind::RunState, 51, [0, 0, 4]),
        (MarkKind::State, 53, [IN, 4, 8]),
        (MarkKind::Continue, 900, [0; 3]),
        (MarkKind::RunState, 901, [0, 0, 9]),
        (MarkKind::Resume, 902, [0; 3]),
    ];
    let waits = timeline(V7_2, &marks[..4]);
    assert_eq!((waits.left_standing_ns, waits.resumed_ns), (Some(51), None));
    assert!(!waits.paused_by_operator);
    let runs = timeline(V7_2, &marks);
    assert_eq!((runs.resumed_ns, runs.requested(Request::Cont)), (Some(902), Some(900)));
}

#[test]
fn a_source_that_is_let_run_after_it_completed_keeps_its_stop() {
    let mut marks = SOURCE.to_vec();
    marks.push((MarkKind::Resume, 500, [0; 3]));
    let found = timeline(V7_2, &marks);
    assert_eq!(found.restarted_ns, Some(500));
    assert_eq!(found.ran_on().map(|(stop, at)| (stop.paused_ns, at)), Some((Some(62), 500)));
}

#[test]
fn the_request_that_an_attempt_follows_from_is_its_own() {
    let mut marks = vec![(MarkKind::Migrate, 9, [0; 3])];
    marks.extend_from_slice(SOURCE);
    let first = timeline(V7_2, &marks);
    assert_eq!(first.requested(Request::Migrate), Some(9));
    // A snapshot passes the same states, and nobody asked for a migration.
    marks.push((MarkKind::State, 100, [OUT, 0, 1]));
    assert_eq!(timeline(V7_2, &marks).requested(Request::Migrate), None);
    marks.insert(marks.len() - 1, (MarkKind::Migrate, 99, [0; 3]));
    assert_eq!(timeline(V7_2, &marks).requested(Request::Migrate), Some(99));
}

#[test]
fn the_throttle_is_the_last_one() {
    let steps = [(MarkKind::Throttle, 20, [0, 0, 20]), (MarkKind::Throttle, 30, [0, 0, 99])];
    assert_eq!(timeline(V7_2, &steps).throttle_percent(), Some(99));
    assert_eq!(timeline(V7_2, &[]).throttle_percent(), None);
    let stopped = [steps[0], (MarkKind::Throttle, 30, [0; 3])];
    assert_eq!(timeline(V7_2, &stopped).throttle_percent(), None);
}

#[test]
fn what_is_heard_first_belongs_to_the_attempt_that_is_under_way() {
    let found = timeline(V7_2, &SOURCE[6..]);
    assert_eq!((found.attempt, found.state()), (1, Some(MigratorState::Completed)));
    assert_eq!(found.stop.and_then(|stop| stop.paused_ns), Some(62));
}

#[test]
fn a_destination_whose_probes_came_in_the_middle_is_heard_to_let_its_guest_run() {
    let marks = [
        (MarkKind::Loaded, 50, [0; 3]),
        (MarkKind::Resume, 52, [0; 3]),
        (MarkKind::State, 53, [IN, 4, 8]),
    ];
    let late = timeline(V7_2, &marks);
    assert_eq!((late.loaded_ns, late.resumed_ns, late.is_whole), (Some(50), Some(52), false));
    // At its own start QEMU passes the same functions.
    let own = timeline(V7_2, &[marks[0], marks[1], (MarkKind::State, 60, [IN, 0, 4])]);
    assert_eq!((own.loaded_ns, own.resumed_ns, own.is_whole), (None, None, true));
}

#[test]
fn the_first_look_after_a_fetch_tells_what_a_pass_begins_with() {
    let names = Names::of_version(V7_2).with_pending_form(PENDING_OF_THREE);
    let mut found = Timeline::new(Arc::new(names));
    let mut pass = |kind, at_ns, remaining| {
        found.push(&MarkReading { remaining, ..mark(kind, at_ns, [0; 3]) });
    };
    pass(MarkKind::Pending, 5, [1, 2, 3]);
    pass(MarkKind::Sync, 10, [0; 3]);
    pass(MarkKind::Pending, 11, [90, NOT_TOLD, 0]);
    pass(MarkKind::Sync, 100, [0; 3]);
    pass(MarkKind::Pending, 101, [60, 25, 15]);
    // Nobody has counted another pass.
    pass(MarkKind::Pending, 102, [50, 60, 10]);
    let left: Vec<_> = found.rounds.iter().filter_map(|pass| pass.left).collect();
    let unsent = Some(Unsent { bytes: 10, reported: false });
    assert_eq!(left, [Left { bytes: 90, unsent: None }, Left { bytes: 60, unsent }]);
    assert_eq!(found.rounds[0].dirtied(&found.rounds[1]), Some(50));
}

#[test]
fn without_a_version_the_order_tells_completed_from_failed() {
    let completed = timeline(None, SOURCE);
    assert_eq!(completed.state(), Some(MigratorState::Completed));
    let failed = timeline(
        None,
        &[
            (MarkKind::State, 10, [OUT, 0, 1]),
            (MarkKind::State, 12, [OUT, 1, 4]),
            (MarkKind::State, 30, [OUT, 4, 9]),
        ],
    );
    assert_eq!(failed.state(), Some(MigratorState::Failed));
}

proptest! {
    #[test]
    fn any_order_of_marks_is_survived_and_bounded(
        marks in proptest::collection::vec((1u32..24, 0u32..4, 0u32..16, 0u32..16), 0..400),
    ) {
        let mut timeline = Timeline::new(Arc::new(Names::of_version(V7_2)));
        let mut before = 0;
        for (at, (kind, object, old, new)) in (1u64..).zip(marks) {
            let Some(kind) = MarkKind::from_number(kind) else { continue };
            timeline.push(&mark(kind, at, [object, old, new]));
            prop_assert!(timeline.attempt >= before);
            before = timeline.attempt;
            prop_assert!(timeline.states.len() <= 64 && timeline.rounds.len() <= MAX_ROUNDS);
            prop_assert!(timeline.states.is_sorted_by_key(|(at, _)| *at));
            if let Some(stop) = timeline.stop {
                prop_assert!(stop.paused_ns.is_none_or(|paused| paused >= stop.asked.at_ns));
            }
        }
    }
}
