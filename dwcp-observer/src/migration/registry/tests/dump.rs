//! CRIU: its exit tells how a dump went, and what it dumped is named.

use super::*;
use crate::{
    freeze::FreezeReading,
    model::record::{FreezeEnd, FreezeMethod},
};

/// `criu dump` in slot 1 and `criu page-server` in slot 2.
fn host() -> Proc {
    let mut world = world(&[1, 2]);
    for (pid, line) in [
        (1001, "criu dump -t 77 --page-server --address 10.0.0.1 --port 49152"),
        (1002, "criu page-server --port 49152"),
        (DUMPED, "postgres -D data"),
    ] {
        let facts = ProcessFacts {
            pid,
            comm: line.split(' ').next().unwrap_or_default().to_owned(),
            cmdline: line.split(' ').map(str::to_owned).collect(),
            ..ProcessFacts::default()
        };
        world.0.insert(pid, facts);
    }
    world
}

fn look(seconds: f64, flows: Vec<FlowReading>, exits: [Option<(f64, u32)>; 2]) -> Observation {
    let mut look = observation(seconds, flows, &[1, 2]);
    for (reading, exit) in look.processes.iter_mut().zip(exits) {
        reading.rule = 3;
        reading.comm = "criu".to_owned();
        if let Some((seconds, code)) = exit {
            reading.exited_ns = Some(START + (seconds * SECOND as f64) as u64);
            reading.exit_code = code;
        }
    }
    look
}

/// A dump that exits so, 2 s after it has sent its pages.
fn dump(code: u32) -> Vec<Migration> {
    let (mut registry, world) = (registry(), host());
    let flows = || vec![flow(0, 1, 40000, true, 1 << 20), flow(1, 2, 40000, false, 1 << 20)];
    registry.look_at(&look(1.0, flows(), [None; 2]), &world);
    let closed = || flows().into_iter().map(|flow| close(flow, START + SECOND)).collect();
    let server = Some((1.1, 0));
    let wait = look(2.9, closed(), [None, server]);
    registry.look_at(&wait, &world);
    let found = records(&registry, &wait);
    assert_eq!(found[0].state, State::Active, "it has not exited: {found:#?}");
    let over = look(4.5, Vec::new(), [Some((3.0, code)), server]);
    registry.look_at(&over, &world);
    records(&registry, &over)
}

#[test]
fn a_dump_is_over_with_its_programs_exit() {
    let found = dump(0);
    let record = &found[0];
    assert_eq!((found.len(), record.outcome), (1, Some(Outcome::Completed)), "{record:#?}");
    let dumped = record.dumped_process.as_ref().unwrap();
    assert_eq!((dumped.pid, dumped.name.as_str()), (77, "postgres"));
    assert!((record.duration_seconds - 3.0).abs() < 1e-9);
    assert!(record.evidence.iter().all(|line| !line.detail.contains("guest CPU")), "{record:#?}");
}

#[test]
fn a_dump_that_exits_with_an_error_has_failed_and_its_page_server_has_not() {
    let record = &dump(1 << 8)[0];
    assert_eq!(record.outcome, Some(Outcome::Failed));
    let reason = record.reason.as_ref().unwrap();
    for fact in ["source", "criu (pid 1001)", "status 1"] {
        assert!(reason.text.contains(fact), "no {fact:?} in: {}", reason.text);
    }
}

/// When tasks stopped and what ended that, in seconds from the start.
fn freeze(ended: Option<(f64, FreezeEnd)>) -> FreezeReading {
    let ns = |seconds: f64| START + (seconds * SECOND as f64) as u64;
    FreezeReading {
        tgid: DUMPED,
        comm: "postgres".to_owned(),
        cgroup_ns: None,
        stopped_ns: ns(0.25),
        all_stopped_ns: ns(0.5),
        stops: 3,
        ended: ended.map(|(seconds, how)| (ns(seconds), how)),
    }
}

/// The record of a dump that exits so, 3 s after its begin, of the process that this is known of.
fn frozen(command: &str, seen: Option<FreezeReading>, code: u32) -> Migration {
    let (mut registry, mut world) = (registry(), host());
    if let Some(facts) = world.0.get_mut(&1001) {
        facts.cmdline = command.split(' ').map(str::to_owned).collect();
    }
    let flows = || vec![flow(0, 1, 40000, true, 1 << 20), flow(1, 2, 40000, false, 1 << 20)];
    registry.look_at(&look(1.0, flows(), [None; 2]), &world);
    let closed = || flows().into_iter().map(|flow| close(flow, START + SECOND)).collect();
    let mut over = look(4.5, closed(), [Some((3.0, code)), Some((1.1, 0))]);
    over.processes[0].freeze = seen;
    registry.look_at(&over, &world);
    records(&registry, &over).remove(0)
}

fn spans(record: &Migration) -> Vec<(&'static str, f64)> {
    record.phases.iter().map(|span| (span.phase.as_str(), span.seconds)).collect()
}

#[test]
fn a_dumped_process_is_frozen_from_its_first_stop_to_its_end() {
    for (how, code) in
        [(FreezeEnd::Exit, 0), (FreezeEnd::Resume, 0), (FreezeEnd::TracerExit, 1 << 8)]
    {
        let record = frozen("criu dump -t 77", Some(freeze(Some((2.25, how)))), code);
        let found = &record.dumped_process.as_ref().unwrap().frozen;
        assert_eq!((found.seconds, found.ended_by), (Some(2.0), Some(how)), "{record:#?}");
        assert_eq!((found.method, found.tasks), (Some(FreezeMethod::PtraceStop), Some(3)));
        assert_eq!(
            spans(&record),
            [("setup", 0.25), ("freeze", 0.25), ("dump", 1.75), ("completion", 0.75)]
        );
        assert!(record.blackout.is_none(), "where it is restored is not known");
    }
}

#[test]
fn what_a_manager_has_dumped_is_named_by_the_kernel() {
    let seen = Some(freeze(Some((2.25, FreezeEnd::Exit))));
    let record = frozen("criu swrk 3", seen, 0);
    let dumped = record.dumped_process.as_ref().unwrap();
    assert_eq!((dumped.pid, dumped.name.as_str()), (DUMPED, "postgres"));
    assert!(frozen("criu swrk 3", None, 0).dumped_process.is_none());
}

#[test]
fn a_cgroup_is_frozen_before_its_tasks_stop() {
    let by_cgroup = "criu dump -t 77 --freeze-cgroup /sys/fs/cgroup/x";
    let mut seen = freeze(Some((2.25, FreezeEnd::Exit)));
    let record = frozen(by_cgroup, Some(seen.clone()), 0);
    let found = &record.dumped_process.as_ref().unwrap().frozen;
    assert_eq!((found.seconds, found.started_at), (None, None), "version 1 does not tell when");
    assert!(found.incomplete.as_ref().unwrap().contains("cgroup"));
    assert!(record.phases.is_empty());
    seen.cgroup_ns = Some(START + SECOND / 10);
    let record = frozen(by_cgroup, Some(seen), 0);
    let found = &record.dumped_process.as_ref().unwrap().frozen;
    assert_eq!(found.method, Some(FreezeMethod::CgroupFreezer));
    assert!((found.seconds.unwrap() - 2.15).abs() < 1e-9);
}

#[test]
fn an_end_of_a_freeze_that_was_not_seen_gives_no_length() {
    let cases = [
        (None, "its stop"),
        (Some(freeze(None)), "ran again"),
        (Some(freeze(Some((2.9, FreezeEnd::TracerExit)))), "its exit"),
    ];
    for (seen, why) in cases {
        let record = frozen("criu dump -t 77", seen, 0);
        let found = &record.dumped_process.as_ref().unwrap().frozen;
        assert_eq!((found.seconds, found.ended_at), (None, None));
        assert!(found.incomplete.as_ref().unwrap().contains(why), "{found:?}");
    }
}
