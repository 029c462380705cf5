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
    fn record(&self, condition: impl Fn(&Value) -> bool) -> Value {
        let pid = self.source.pid();
        let own = |record: &Value| {
            let ends = record["ends"].as_array();
            ends.is_some_and(|ends| ends.iter().any(|end| end["pid"] == pid))
        };
        let found =
            self.observer.wait_migration(LIMIT, |record| own(record) && condition(record)).unwrap();
        let all = self.observer.migrations().unwrap();
        assert_eq!(all.iter().filter(|record| own(record)).count(), 1, "{all:#?}");
        found
    }

    /// Its final record.
    fn outcome(&self) -> Value {
        self.record(|record| record["state"] == "finished" && record["outcome"] != "unknown")
    }
}

fn seconds(record: &Value, pointer: &str) -> Option<f64> {
    record.pointer(pointer).and_then(Value::as_f64)
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
    let waits = rig.record(|record| record["standstill"]["awaits"] == "resume");
    assert_eq!(
        (&waits["state"], &waits["standstill"]["at"]),
        (&json!("active"), &json!("destination"))
    );
    assert_eq!(waits["standstill"]["pid"], rig.destination.pid());
    assert_eq!(waits["blackout"]["seconds"], Value::Null, "{waits:#}");
    // As long as a manager that is busy takes.
    sleep(Duration::from_secs(3));
    rig.record(|record| record["state"] == "active");
    rig.ask(Role::Destination, "cont", &json!({}));
    let record = rig.outcome();
    assert_eq!(record["outcome"], "completed", "{record:#}");
    let blackout = seconds(&record, "/blackout/seconds").unwrap();
    assert!(blackout > 3.0, "{record:#}");
    let resume = seconds(&record, "/blackout/breakdown/resume").unwrap();
    assert!(resume > 3.0 && resume <= blackout, "{record:#}");
    // No method passes off as a measurement what is none.
    for method in ["phase_functions", "vcpu_scheduling"] {
        let found = seconds(&record, &format!("/blackout/by_method/{method}"));
        assert!(found.is_none_or(|found| (found - blackout).abs() < 0.5), "{method}: {record:#}");
    }
}

#[test]
fn a_guest_that_nobody_resumes_is_lost_with_its_destination() {
    let mut rig = Rig::start(MigrationPlan::default(), &["-S"]);
    rig.begin();
    rig.record(|record| record["standstill"]["awaits"] == "resume");
    rig.destination.end().unwrap();
    let record = rig.outcome();
    assert_eq!(record["outcome"], "failed", "{record:#}");
    assert_eq!(record["reason"]["class"], "destination_exited", "{record:#}");
}

#[test]
fn a_guest_that_its_manager_takes_back_runs_on_at_the_source() {
    let mut rig = Rig::start(MigrationPlan::default(), &["-S"]);
    rig.begin();
    rig.record(|record| record["standstill"]["awaits"] == "resume");
    rig.destination.end().unwrap();
    rig.ask(Role::Source, "cont", &json!({}));
    let record = rig.outcome();
    assert_eq!(record["outcome"], "failed", "{record:#}");
    assert_eq!(record["split_brain"], Value::Null, "{record:#}");
}

#[test]
fn a_guest_that_is_let_run_twice_is_told() {
    let mut rig = Rig::start(MigrationPlan::default(), &["-S"]);
    rig.begin();
    rig.record(|record| record["standstill"]["awaits"] == "resume");
    rig.ask(Role::Source, "cont", &json!({}));
    rig.ask(Role::Destination, "cont", &json!({}));
    rig.record(|record| record["split_brain"] == true);
}

#[test]
fn a_guest_that_is_let_run_at_its_source_long_after_is_told() {
    let mut rig = Rig::start(MigrationPlan::default(), &[]);
    rig.begin();
    rig.outcome();
    // The record is final by then.
    sleep(Duration::from_secs(3));
    rig.ask(Role::Source, "cont", &json!({}));
    rig.record(|record| record["split_brain"] == true);
}

#[test]
fn a_guest_that_was_paused_before_is_not_waited_for() {
    let mut rig = Rig::start(MigrationPlan::default(), &["-S"]);
    rig.ask(Role::Source, "stop", &json!({}));
    rig.begin();
    let record = rig.outcome();
    assert_eq!(record["outcome"], "completed", "{record:#}");
    assert_eq!(record["blackout"], Value::Null, "{record:#}");
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
    rig.record(|record| told_paused(record) && record["standstill"].is_null());
    let least = stopped.elapsed().as_secs_f64();
    rig.ask(Role::Destination, "cont", &json!({}));
    let most = asked.elapsed().as_secs_f64();
    let record = rig.outcome();
    assert_eq!(record["outcome"], "completed", "{record:#}");
    let stood = seconds(&record, "/blackout/seconds").unwrap();
    println!("stood still for {stood:.3} s, of {least:.3} to {most:.3}");
    assert!(stood >= least && stood <= most, "{least} {most} {record:#}");
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
    assert_eq!(record["outcome"], "completed", "{record:#}");
    assert_eq!(record["blackout"], Value::Null, "{record:#}");
}

/// Whether the destination knows that its guest did not run where it came from.
fn told_paused(record: &Value) -> bool {
    let mut evidence = record["evidence"].as_array().into_iter().flatten();
    evidence.any(|line| {
        line["kind"] == "global_state" && line["detail"].to_string().contains("was paused")
    })
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
    let waits = rig.record(|record| record["standstill"]["awaits"] == "migrate_continue");
    assert_eq!(waits["standstill"]["at"], "source");
    sleep(Duration::from_secs(3));
    rig.ask(Role::Source, "migrate-continue", &json!({ "state": "pre-switchover" }));
    let record = rig.outcome();
    assert_eq!(record["outcome"], "completed", "{record:#}");
    assert!(seconds(&record, "/blackout/seconds").unwrap() > 3.0, "{record:#}");
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
    let waits = rig.record(|record| record["standstill"]["awaits"] == "recovery");
    assert_eq!(waits["state"], "active", "{waits:#}");
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
    assert_eq!(record["outcome"], "completed", "{record:#}");
    let breaks = record["postcopy"]["interruptions"].as_array().unwrap();
    assert_eq!(breaks.len(), 1, "{record:#}");
    let broken = breaks[0]["seconds"].as_f64().unwrap();
    assert!(broken > 3.0 && breaks[0]["recovered_at"].is_string(), "{record:#}");
    let blackout = seconds(&record, "/blackout/seconds").unwrap();
    assert!(blackout < broken, "the break is no part of it: {record:#}");
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
    assert_eq!(record["outcome"], "failed", "{record:#}");
    assert_eq!(record["reason"]["class"], "guest_lost", "{record:#}");
}

#[test]
fn a_connection_that_is_refused_is_a_migration_that_failed() {
    let mut rig = Rig::start(MigrationPlan::default(), &[]);
    rig.plan.prepare(&mut rig.source).unwrap();
    // Nobody listens.
    rig.plan.begin(&mut rig.source).unwrap();
    rig.wait_state("failed");
    let record = rig.outcome();
    assert_eq!(record["outcome"], "failed", "{record:#}");
    assert!(record.get("transport").is_none() || record["transport"] == "tcp", "{record:#}");
    assert!(record["reason"]["text"].is_string(), "{record:#}");
}

#[test]
fn a_source_that_quits_has_not_been_cancelled() {
    let plan = MigrationPlan { max_bandwidth: Some(4 << 20), ..MigrationPlan::default() };
    let mut rig = Rig::start(plan, &[]);
    rig.begin();
    rig.wait_state("active");
    rig.record(|record| record["state"] == "active");
    rig.ask(Role::Source, "quit", &json!({}));
    let record = rig.outcome();
    assert_eq!(record["outcome"], "failed", "{record:#}");
    assert_eq!(record["reason"]["class"], "source_exited", "{record:#}");
}

#[test]
fn a_migration_that_is_cancelled_says_so() {
    let plan = MigrationPlan { max_bandwidth: Some(4 << 20), ..MigrationPlan::default() };
    let mut rig = Rig::start(plan, &[]);
    rig.begin();
    rig.wait_state("active");
    rig.record(|record| record["state"] == "active");
    rig.ask(Role::Source, "migrate_cancel", &json!({}));
    let record = rig.outcome();
    assert_eq!(record["outcome"], "cancelled", "{record:#}");
    let class = record["reason"]["class"].as_str().unwrap();
    assert!(class.starts_with("cancelled"), "{record:#}");
}

#[test]
fn a_load_that_fails_is_a_failure_without_a_guest_at_the_destination() {
    let plan = MigrationPlan::default();
    // Less memory than the source has: the destination refuses what it is sent.
    let mut rig = Rig::start(plan, &["-m", "32"]);
    rig.begin();
    let record = rig.outcome();
    assert_eq!(record["outcome"], "failed", "{record:#}");
    let evidence = record["evidence"].to_string();
    assert!(!evidence.contains("ran at the destination"), "{record:#}");
}

#[test]
fn ends_that_are_killed_at_once_are_on_record() {
    let plan = MigrationPlan { max_bandwidth: Some(4 << 20), ..MigrationPlan::default() };
    let mut rig = Rig::start(plan, &[]);
    rig.begin();
    rig.source.end().unwrap();
    rig.destination.end().unwrap();
    let record = rig.outcome();
    assert_eq!(record["outcome"], "failed", "{record:#}");
}
