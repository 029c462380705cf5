//! Real CRIU: what it dumps, and how that ends.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::time::Duration;

use dwcp_observer_lab::criu::{Criu, Dump, Plan};
use dwcp_observer_lab::observer::{Observer, binary};
use dwcp_observer_lab::temp::free_port;
use dwcp_observer_model::record::{
    FreezeEnd, FreezeMethod, Migration, Outcome, PhaseName, ReasonClass,
};
use jiff::Timestamp;

const LIMIT: Duration = Duration::from_secs(60);

/// The finished record of a dump.
fn record(observer: &Observer, dump: &Dump) -> Migration {
    let of_dump = |record: &Migration| record.has_process(dump.dump.0) && record.outcome.is_some();
    observer.wait_migration(LIMIT, of_dump).unwrap()
}

/// Nanoseconds since 1970 of a time of the record.
fn ns(at: Option<Timestamp>) -> u64 {
    at.unwrap().as_nanosecond().try_into().unwrap()
}

/// What the record says of the time in which the process stood still, against the process' own beats and what CRIU says.
fn check_freeze(found: &Migration, dump: &Dump, ended_by: FreezeEnd) {
    /// The record's clock is read once per look.
    const CLOCKS_NS: u64 = 1_000_000;
    let frozen = &found.dumped_process.as_ref().unwrap().frozen;
    assert_eq!(frozen.ended_by, Some(ended_by), "{found:#?}");
    assert_eq!((frozen.method, frozen.tasks), (Some(FreezeMethod::PtraceStop), Some(2)));
    let (from, to) = (ns(frozen.started_at), ns(frozen.ended_at));
    let inside = |beat: &&u64| **beat > from + CLOCKS_NS && **beat + CLOCKS_NS < to;
    let seconds = frozen.seconds.unwrap();
    assert_eq!(dump.beats.iter().find(inside), None, "{frozen:#?}");
    let last = dump.beats.iter().filter(|beat| **beat <= from + CLOCKS_NS).max().unwrap();
    let next = dump.beats.iter().find(|beat| *beat > last);
    println!(
        "frozen {seconds:.6} s until its {ended_by:?}, {:?}; last beat {} us before",
        dump.stats,
        (from.saturating_sub(*last)) / 1000
    );
    if let Some(next) = next {
        println!("first beat {} us after", next.saturating_sub(to) / 1000);
    }
    if let Some(stats) = dump.stats {
        assert!(seconds > stats.reading_memory, "{stats:?}, {frozen:#?}");
    }
    let phases: Vec<PhaseName> = found.phases.iter().map(|phase| phase.phase).collect();
    let all = [PhaseName::Setup, PhaseName::Freeze, PhaseName::Dump, PhaseName::Completion];
    assert_eq!(phases, all, "{found:#?}");
    assert!(found.blackout.is_none(), "{found:#?}");
}

#[test]
fn a_process_that_is_left_running_stands_still_meanwhile() {
    let criu = Criu::get().unwrap();
    let observer = Observer::start(&binary().unwrap(), &[]).unwrap();
    let plan = Plan { leave_running: true, ..Plan::default() };
    let dump = criu.dump(free_port().unwrap(), plan).unwrap();
    assert!(dump.dump.1.success() && dump.server.1.success(), "{dump:?}");
    let found = record(&observer, &dump);
    assert_eq!(found.outcome, Some(Outcome::Completed), "{found:#?}");
    check_freeze(&found, &dump, FreezeEnd::Resume);
    assert!(observer.stop().unwrap().status.success());
}

#[test]
fn a_dump_that_succeeds_and_one_that_fails() {
    let criu = Criu::get().unwrap();
    let observer = Observer::start(&binary().unwrap(), &[]).unwrap();

    let good = criu.dump(free_port().unwrap(), Plan::default()).unwrap();
    assert!(good.dump.1.success() && good.server.1.success(), "{good:?}");
    let found = record(&observer, &good);
    assert_eq!(found.outcome, Some(Outcome::Completed), "{found:#?}");
    let process = found.dumped_process.as_ref().unwrap();
    assert_eq!((process.pid, process.name.as_str()), (good.dumped, "python3"), "{found:#?}");
    let pids: Vec<u32> = found.ends.iter().map(|end| end.pid).collect();
    assert_eq!(pids, [good.dump.0, good.server.0], "{found:#?}");
    assert!(found.bytes.unwrap().received > 64 << 20, "{found:#?}");

    check_freeze(&found, &good, FreezeEnd::Exit);

    let dies = Plan { server_dies: true, ..Plan::default() };
    let bad = criu.dump(free_port().unwrap(), dies).unwrap();
    assert!(!bad.dump.1.success(), "{bad:?}");
    let found = record(&observer, &bad);
    assert_eq!(found.outcome, Some(Outcome::Failed), "{found:#?}");
    assert_eq!(found.reason.as_ref().unwrap().class, ReasonClass::SourceExited, "{found:#?}");
    check_freeze(&found, &bad, FreezeEnd::Resume);
    for evidence in &found.evidence {
        assert!(!evidence.detail.contains("guest CPU"), "{found:#?}");
    }
    assert!(observer.stop().unwrap().status.success());
}
