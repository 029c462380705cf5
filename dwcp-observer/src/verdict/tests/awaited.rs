//! A guest that stands still, and who is to let it go on; a guest that is held back.

use super::{super::inputs::Phase, *};
use crate::model::{
    record::{Awaited, Role},
    verdict::Standing,
};

/// Everything is sent and nothing is to do.
fn done() -> Second {
    plain(0, 0.0, 0.0).streams(|stream| stream.in_flight_bytes = 0)
}

fn standing(awaits: Awaited, at: Role, seconds: f64) -> Second {
    let pid = Some(if at == Role::Source { 7 } else { 9 });
    Second {
        phase: Some(Phase::StopAndCopy),
        standing: Some(Standing { at, pid, seconds, awaits }),
        destination: Some(destination(0.0, 0)),
        ..done()
    }
}

#[test]
fn a_guest_that_nobody_resumes() {
    let mut judge = after(6, &clean());
    let early = judge.judge(&standing(Awaited::Resume, Role::Destination, 0.4));
    assert_eq!((early.state, early.cause), (Health::Healthy, Some(Cause::Manager)));
    let late = judge.judge(&standing(Awaited::Resume, Role::Destination, 12.3));
    assert_eq!((late.state, late.cause), (Health::Stalled, Some(Cause::Manager)));
    has(&late.sentence, &["manager", "destination (pid 9)", "12.3 s", "`cont`", "source"]);
    assert_eq!(late.eta, None);
    let fractions = late.fractions.unwrap();
    assert!((fractions.sum() - 1.0).abs() < 1e-9 && fractions[Cause::Manager] > 0.9);
    // Once it runs nothing is left of it.
    assert_eq!(judge.judge(&clean()).state, Health::Healthy);
}

#[test]
fn at_a_destination_alone_too() {
    let second = Second { source: None, ..standing(Awaited::Resume, Role::Destination, 3.0) };
    let verdict = Judge::new().judge(&second);
    assert_eq!((verdict.state, verdict.cause), (Health::Stalled, Some(Cause::Manager)));
    assert_eq!((verdict.fractions, verdict.standing), (None, second.standing));
}

#[test]
fn a_migration_that_is_held_before_its_switch_over() {
    let mut judge = after(6, &clean());
    for seconds in 0..42 {
        let second = standing(Awaited::MigrateContinue, Role::Source, f64::from(seconds));
        let verdict = judge.judge(&second);
        let expected = if seconds < 2 { Health::Healthy } else { Health::Stalled };
        assert_eq!((verdict.state, verdict.cause), (expected, Some(Cause::Manager)));
        let seconds = format!("{seconds}.0 s");
        has(&verdict.sentence, &["source (pid 7)", &seconds, "`migrate-continue`"]);
    }
}

#[test]
fn a_paused_postcopy_is_a_stall_at_once() {
    let paused = Second {
        phase: Some(Phase::Postcopy),
        ..standing(Awaited::Recovery, Role::Destination, 0.3)
    };
    let verdict = after(6, &clean()).judge(&paused);
    assert_eq!((verdict.state, verdict.cause), (Health::Stalled, Some(Cause::Network)));
    has(&verdict.sentence, &["postcopy", "0.3 s", "`migrate-recover`", "destination (pid 9)"]);
    assert!(verdict.fractions.unwrap()[Cause::Network] > 0.9);
}

#[test]
fn the_migrators_own_switch_over_is_judged_as_ever() {
    let mut judge = after(6, &clean());
    let mut second = standing(Awaited::SwitchOver, Role::Source, 0.1);
    second.phase = None;
    let second = second.streams(|stream| (stream.in_flight_bytes, stream.busy_seconds) = (MB, 1.0));
    let states: Vec<Health> = (0..4).map(|_| judge.judge(&second).state).collect();
    assert_eq!(states[..3], [Health::Healthy; 3]);
    assert_eq!(states[3], Health::Stalled);
}

#[test]
fn what_has_been_tried_is_no_advice() {
    let storm = Second { rounds: rounds(&[260 * MB, 255 * MB], 25 * MB), ..clean() };
    let throttled = Second { throttle_percent: Some(99), ..storm.clone() };
    let said = |second| until(&mut after(4, &clean()), second, Health::NotConverging).1;
    assert!(said(&storm).sentence.contains("auto-converge"));
    let verdict = said(&throttled);
    assert_eq!(verdict.guest_throttle_percent, Some(99));
    let facts = ["guest_dirtying", "99 %", "98.1 MB/s", "100.0 MB/s", "255.0 MB", "postcopy"];
    has(&verdict.sentence, &facts);
    let (_, advice) = verdict.sentence.rsplit_once(": ").unwrap();
    assert!(!advice.contains("auto-converge"), "{advice}");
    // A guest that is held back and converges is healthy, and it is said.
    let held = Second { throttle_percent: Some(40), ..clean() };
    let verdict = after(3, &held).judge(&held);
    assert_eq!(verdict.state, Health::Healthy);
    has(&verdict.sentence, &["auto-converge", "40 %"]);
    // Zero per cent is none.
    let free = Second { throttle_percent: Some(0), ..clean() };
    assert_eq!(after(3, &free).judge(&free).guest_throttle_percent, None);
}
