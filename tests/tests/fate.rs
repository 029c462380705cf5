//! How migrations end, and what a guest waits for meanwhile: destinations that their manager resumes (`-S`), postcopy that breaks,
//! connections that are refused, migrators that quit or are killed, a guest that is let run twice. As real hosts do it.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use dwcp_observer_lab::guest::Guest;
use dwcp_observer_lab::migration::{MigrationPlan, QemuFigures};
use dwcp_observer_lab::observer::{Observer, binary};
use dwcp_observer_lab::qemu::{Qemu, QemuSpec, Role};
use dwcp_observer_lab::temp::free_migration_port;
use dwcp_observer_model::record::{Awaited, Migration, Outcome, ReasonClass, State, Transport};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

/// An observer and the two ends of a migration that is yet to begin.
struct Rig {
    observer: Observer,
    source: Qemu,
    destination: Qemu,
    plan: MigrationPlan,
}

impl Rig {
    /// A small guest; `destination_args` are the destination's alone.
    fn start(plan: MigrationPlan, destination_args: &[&str]) -> Self {
        let guest = Guest { memory_mib: 64, working_set_mib: 4, ..Guest::default() };
        let spec = QemuSpec { guest, ..QemuSpec::default() };
        let observer = Observer::start(&binary().unwrap(), &[]).unwrap();
        let mut source = Qemu::start(&spec, Role::Source).unwrap();
        let extra_args = destination_args.iter().map(Into::into).collect();
        let there = QemuSpec { extra_args, ..spec };
        let destination = Qemu::start(&there, Role::Destination).unwrap();
        source.wait_filled(Duration::from_secs(120)).unwrap();
        let plan = MigrationPlan { port: free_migration_port(false).unwrap(), ..plan };
        Self { observer, source, destination, plan }
    }

    fn begin(&mut self) {
        for end in [&mut self.source, &mut self.destination] {
            self.plan.prepare(end).unwrap();
        }
        self.plan.listen(&mut self.destination).unwrap();
        self.plan.begin(&mut self.source).unwrap();
    }

    /// Asks the source to do something at its monitor.
    fn ask(&mut self, role: Role, command: &str, arguments: &Value) {
        let end = match role {
            Role::Source => &mut self.source,
            Role::Destination => &mut self.destination,
        };
        end.qmp().execute(command, arguments).unwrap();
    }

    fn wait_state(&mut self, state: &str) {
        QemuFigures::wait(&mut self.source, LIMIT, |figures| figures.status == state).unwrap();
    }

    /// The one record of this rig's source once it satisfies `condition`.
    fn record(&self, condition: impl Fn(&Migration) -> bool) -> Migration {
        let own = |record: &Migration| record.has_process(self.source.pid());
        let found =
            self.observer.wait_migration(LIMIT, |record| own(record) && condition(record)).unwrap();
        let all = self.observer.migrations().unwrap();
        assert_eq!(all.iter().filter(|record| own(record)).count(), 1, "{all:#?}");
        found
    }

    /// Its final record.
    fn outcome(&self) -> Migration {
        let unknown = Some(Outcome::Unknown);
        self.record(|record| record.state == State::Finished && record.outcome != unknown)
    }
}

/// What its guest stands still for.
fn awaits(record: &Migration) -> Option<Awaited> {
    Some(record.standstill?.standing.awaits)
}

fn reason(record: &Migration) -> Option<ReasonClass> {
    Some(record.reason.as_ref()?.class)
}

fn postcopy() -> MigrationPlan {
    // Slow enough that pages are still to come when the guest runs at the destination.
    MigrationPlan { postcopy: true, max_bandwidth: Some(8 << 20), ..MigrationPlan::default() }
}

/// Breaks the connections of a port, as a network that is cut for long does.
fn break_connections(port: u16) {
    let filter = format!("( sport = :{port} or dport = :{port} )");
    let status = Command::new("ss").args(["-K", "state", "connected", &filter]).output().unwrap();
    assert!(status.status.success(), "{status:?}");
}

#[test]
fn a_guest_that_its_manager_resumes_stands_still_until_then() {
    let mut rig = Rig::start(MigrationPlan::default(), &["-S"]);
    rig.begin();
    rig.wait_state("completed");
    let waits = rig.record(|record| awaits(record) == Some(Awaited::Resume));
    let standing = waits.standstill.unwrap().standing;
    assert_eq!((waits.state, standing.at), (State::Active, Role::Destination));
    assert_eq!(standing.pid, Some(rig.destination.pid()));
    assert_eq!(waits.blackout_seconds(), None, "{waits:#?}");
    // As long as a manager that is busy takes.
    sleep(Duration::from_secs(3));
    rig.record(|record| record.state == State::Active);
    rig.ask(Role::Destination, "cont", &json!({}));
    let record = rig.outcome();
    assert_eq!(record.outcome, Some(Outcome::Completed), "{record:#?}");
    let blackout = record.blackout_seconds().unwrap();
    assert!(blackout > 3.0, "{record:#?}");
    let stood = record.blackout.as_ref().unwrap();
    let resume = stood.breakdown.unwrap().resume.unwrap();
    assert!(resume > 3.0 && resume <= blackout, "{record:#?}");
    // No method passes off as a measurement what is none.
    for found in [stood.by_method.phase_functions, stood.by_method.vcpu_scheduling] {
        assert!(found.is_none_or(|found| (found - blackout).abs() < 0.5), "{record:#?}");
    }
}

#[test]
fn a_guest_that_nobody_resumes_is_lost_with_its_destination() {
    let mut rig = Rig::start(MigrationPlan::default(), &["-S"]);
    rig.begin();
    rig.record(|record| awaits(record) == Some(Awaited::Resume));
    rig.destination.end().unwrap();
    let record = rig.outcome();
    assert_eq!(record.outcome, Some(Outcome::Failed), "{record:#?}");
    assert_eq!(reason(&record), Some(ReasonClass::DestinationExited), "{record:#?}");
}

#[test]
fn a_guest_that_its_manager_takes_back_runs_on_at_the_source() {
    let mut rig = Rig::start(MigrationPlan::default(), &["-S"]);
    rig.begin();
    rig.record(|record| awaits(record) == Some(Awaited::Resume));
    rig.destination.end().unwrap();
    rig.ask(Role::Source, "cont", &json!({}));
    let record = rig.outcome();
    assert_eq!(record.outcome, Some(Outcome::Failed), "{record:#?}");
    assert!(!record.split_brain, "{record:#?}");
}

#[test]
fn a_guest_that_is_let_run_twice_is_told() {
    let mut rig = Rig::start(MigrationPlan::default(), &["-S"]);
    rig.begin();
    rig.record(|record| awaits(record) == Some(Awaited::Resume));
    rig.ask(Role::Source, "cont", &json!({}));
    rig.ask(Role::Destination, "cont", &json!({}));
    rig.record(|record| record.split_brain);
}

#[test]
fn a_guest_that_is_let_run_at_its_source_long_after_is_told() {
    let mut rig = Rig::start(MigrationPlan::default(), &[]);
    rig.begin();
    rig.outcome();
    // The record is final by then.
    sleep(Duration::from_secs(3));
    rig.ask(Role::Source, "cont", &json!({}));
    rig.record(|record| record.split_brain);
}

#[test]
fn a_guest_that_was_paused_before_is_not_waited_for() {
    let mut rig = Rig::start(MigrationPlan::default(), &["-S"]);
    rig.ask(Role::Source, "stop", &json!({}));
    rig.begin();
    let record = rig.outcome();
    assert_eq!(record.outcome, Some(Outcome::Completed), "{record:#?}");
    assert!(record.blackout.is_none(), "{record:#?}");
}

/// `virsh migrate` without `--live`: the manager stops the guest, migrates it, and lets it run at the destination.
#[test]
fn a_guest_that_its_manager_stops_for_the_migration_stood_still_for_it() {
    let mut rig = Rig::start(MigrationPlan::default(), &["-S"]);
    let asked = Instant::now();
    rig.ask(Role::Source, "stop", &json!({}));
    let stopped = Instant::now();
    rig.begin();
    rig.wait_state("completed");
    rig.record(|record| told_paused(record) && record.standstill.is_none());
    let least = stopped.elapsed().as_secs_f64();
    rig.ask(Role::Destination, "cont", &json!({}));
    let most = asked.elapsed().as_secs_f64();
    let record = rig.outcome();
    assert_eq!(record.outcome, Some(Outcome::Completed), "{record:#?}");
    let stood = record.blackout_seconds().unwrap();
    println!("stood still for {stood:.3} s, of {least:.3} to {most:.3}");
    assert!(stood >= least && stood <= most, "{least} {most} {record:#?}");
}

#[test]
fn a_guest_that_was_paused_long_before_has_no_blackout_though_it_is_let_run_after() {
    let mut rig = Rig::start(MigrationPlan::default(), &["-S"]);
    rig.ask(Role::Source, "stop", &json!({}));
    sleep(Duration::from_secs(10));
    rig.begin();
    rig.wait_state("completed");
    rig.record(told_paused);
    rig.ask(Role::Destination, "cont", &json!({}));
    let record = rig.outcome();
    assert_eq!(record.outcome, Some(Outcome::Completed), "{record:#?}");
    assert!(record.blackout.is_none(), "{record:#?}");
}

/// Whether the destination knows that its guest did not run where it came from.
fn told_paused(record: &Migration) -> bool {
    let mut evidence = record.evidence.iter();
    evidence.any(|line| line.kind == "global_state" && line.detail.contains("was paused"))
}

#[test]
fn a_pause_before_the_switch_over_is_seen_while_it_lasts() {
    let mut rig = Rig::start(MigrationPlan::default(), &[]);
    let pause = json!({ "capabilities": [
        { "capability": "pause-before-switchover", "state": true },
    ]});
    for role in [Role::Source, Role::Destination] {
        rig.ask(role, "migrate-set-capabilities", &pause);
    }
    rig.begin();
    rig.wait_state("pre-switchover");
    let waits = rig.record(|record| awaits(record) == Some(Awaited::MigrateContinue));
    assert_eq!(waits.standstill.unwrap().standing.at, Role::Source);
    sleep(Duration::from_secs(3));
    rig.ask(Role::Source, "migrate-continue", &json!({ "state": "pre-switchover" }));
    let record = rig.outcome();
    assert_eq!(record.outcome, Some(Outcome::Completed), "{record:#?}");
    assert!(record.blackout_seconds().unwrap() > 3.0, "{record:#?}");
}

#[test]
fn postcopy_that_breaks_and_is_recovered_is_one_migration() {
    let mut rig = Rig::start(postcopy(), &[]);
    rig.begin();
    rig.wait_state("active");
    rig.ask(Role::Source, "migrate-start-postcopy", &json!({}));
    rig.wait_state("postcopy-active");
    break_connections(rig.plan.port);
    rig.wait_state("postcopy-paused");
    let waits = rig.record(|record| awaits(record) == Some(Awaited::Recovery));
    assert_eq!(waits.state, State::Active, "{waits:#?}");
    sleep(Duration::from_secs(3));
    let uri = format!("tcp:127.0.0.1:{}", free_migration_port(false).unwrap());
    // The destination notices by itself, a moment later.
    let recover = json!({ "uri": uri });
    for _ in 0..50 {
        if rig.destination.qmp().execute("migrate-recover", &recover).is_ok() {
            break;
        }
        sleep(Duration::from_millis(200));
    }
    rig.ask(Role::Source, "migrate-set-parameters", &json!({ "max-bandwidth": 1 << 30 }));
    rig.ask(Role::Source, "migrate", &json!({ "uri": uri, "resume": true }));
    let record = rig.outcome();
    assert_eq!(record.outcome, Some(Outcome::Completed), "{record:#?}");
    let breaks = &record.postcopy.as_ref().unwrap().interruptions;
    assert_eq!(breaks.len(), 1, "{record:#?}");
    let broken = breaks[0].seconds;
    assert!(broken > 3.0 && breaks[0].recovered_at.is_some(), "{record:#?}");
    let blackout = record.blackout_seconds().unwrap();
    assert!(blackout < broken, "the break is no part of it: {record:#?}");
}

#[test]
fn postcopy_whose_destination_is_killed_has_lost_the_guest() {
    let mut rig = Rig::start(postcopy(), &[]);
    rig.begin();
    rig.wait_state("active");
    rig.ask(Role::Source, "migrate-start-postcopy", &json!({}));
    rig.wait_state("postcopy-active");
    rig.destination.end().unwrap();
    let record = rig.outcome();
    assert_eq!(record.outcome, Some(Outcome::Failed), "{record:#?}");
    assert_eq!(reason(&record), Some(ReasonClass::GuestLost), "{record:#?}");
}

#[test]
fn a_connection_that_is_refused_is_a_migration_that_failed() {
    let mut rig = Rig::start(MigrationPlan::default(), &[]);
    rig.plan.prepare(&mut rig.source).unwrap();
    // Nobody listens.
    rig.plan.begin(&mut rig.source).unwrap();
    rig.wait_state("failed");
    let record = rig.outcome();
    assert_eq!(record.outcome, Some(Outcome::Failed), "{record:#?}");
    assert!(record.transport.is_none_or(|carrier| carrier == Transport::Tcp), "{record:#?}");
    assert!(record.reason.is_some(), "{record:#?}");
}

#[test]
fn a_source_that_quits_has_not_been_cancelled() {
    let plan = MigrationPlan { max_bandwidth: Some(4 << 20), ..MigrationPlan::default() };
    let mut rig = Rig::start(plan, &[]);
    rig.begin();
    rig.wait_state("active");
    rig.record(|record| record.state == State::Active);
    rig.ask(Role::Source, "quit", &json!({}));
    let record = rig.outcome();
    assert_eq!(record.outcome, Some(Outcome::Failed), "{record:#?}");
    assert_eq!(reason(&record), Some(ReasonClass::SourceExited), "{record:#?}");
}

#[test]
fn a_migration_that_is_cancelled_says_so() {
    let plan = MigrationPlan { max_bandwidth: Some(4 << 20), ..MigrationPlan::default() };
    let mut rig = Rig::start(plan, &[]);
    rig.begin();
    rig.wait_state("active");
    rig.record(|record| record.state == State::Active);
    rig.ask(Role::Source, "migrate_cancel", &json!({}));
    let record = rig.outcome();
    assert_eq!(record.outcome, Some(Outcome::Cancelled), "{record:#?}");
    let cancelled = [Some(ReasonClass::Cancelled), Some(ReasonClass::CancelledByManager)];
    assert!(cancelled.contains(&reason(&record)), "{record:#?}");
}

#[test]
fn a_load_that_fails_is_a_failure_without_a_guest_at_the_destination() {
    let plan = MigrationPlan::default();
    // Less memory than the source has: the destination refuses what it is sent.
    let mut rig = Rig::start(plan, &["-m", "32"]);
    rig.begin();
    let record = rig.outcome();
    assert_eq!(record.outcome, Some(Outcome::Failed), "{record:#?}");
    let ran = record.evidence.iter().any(|line| line.detail.contains("ran at the destination"));
    assert!(!ran, "{record:#?}");
}

#[test]
fn ends_that_are_killed_at_once_are_on_record() {
    let plan = MigrationPlan { max_bandwidth: Some(4 << 20), ..MigrationPlan::default() };
    let mut rig = Rig::start(plan, &[]);
    rig.begin();
    rig.source.end().unwrap();
    rig.destination.end().unwrap();
    let record = rig.outcome();
    assert_eq!(record.outcome, Some(Outcome::Failed), "{record:#?}");
}
