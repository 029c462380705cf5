//! CRIU: its exit tells how a dump went, and what it dumped is named.

use super::*;

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
    let (mut registry, mut world) = (registry(), host());
    let flows = || vec![flow(0, 1, 40000, true, 1 << 20), flow(1, 2, 40000, false, 1 << 20)];
    registry.step(&look(1.0, flows(), [None; 2]), &mut world);
    let closed = || flows().into_iter().map(|flow| close(flow, START + SECOND)).collect();
    let server = Some((1.1, 0));
    let wait = look(2.9, closed(), [None, server]);
    registry.step(&wait, &mut world);
    let found = records(&registry, &wait);
    assert_eq!(found[0].state, State::Active, "it has not exited: {found:#?}");
    let over = look(4.5, Vec::new(), [Some((3.0, code)), server]);
    registry.step(&over, &mut world);
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
    assert_eq!(reason.text, "at the source, criu (pid 1001) exited with status 1");
}
