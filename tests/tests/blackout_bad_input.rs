//! What a blackout is to be told from, and where one of the ways to measure it is missing.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use dwcp_observer_lab::blackout::{
    Comparison, TICK, cases, render, run_with, wait_record, wait_ticks,
};
use dwcp_observer_lab::clock::{GuestClock, Standstill};
use dwcp_observer_lab::guest::Guest;
use dwcp_observer_lab::migration::{MigrationPlan, Pair, QemuFigures};
use dwcp_observer_lab::nameless::{copy_without_names, is_phase_function};
use dwcp_observer_lab::observer::{Observer, binary, shared_host};
use dwcp_observer_lab::process::ChildGuard;
use dwcp_observer_lab::qemu::{QEMU, Qemu, QemuSpec, Role};
use dwcp_observer_lab::temp::{TempDir, free_migration_port};
use dwcp_observer_model::record::{Method, Migration, Outcome};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);
/// An operator's pause: far longer than any of these migrations' blackouts.
const PAUSE: Duration = Duration::from_secs(2);

fn observer() -> Observer {
    Observer::start(&binary().unwrap(), &[]).unwrap()
}

/// Ends well, and had nothing to complain about.
fn stop(observer: Observer) {
    let stopped = observer.stop().unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
    assert_eq!(stopped.complaints(), Vec::<&str>::new());
}

/// No blackout was counted since the observer's start.
fn assert_none_counted(observer: &Observer) {
    if shared_host() {
        println!("counters are not compared: other migrations may run on this host");
        return;
    }
    let metrics = observer.metrics().unwrap();
    let counted = metrics.sum("dwcp_v3_blackout_seconds_count", &[]).unwrap();
    assert_eq!(counted, 0.0);
}

/// A guest of 128 MiB that ticks.
fn spec(clock: &GuestClock) -> QemuSpec {
    let guest = Guest { memory_mib: 128, tick: Some(TICK), ..Guest::default() };
    QemuSpec { guest, clock: Some(clock.ports()), ..QemuSpec::default() }
}

fn plan(bandwidth_mib: u64) -> MigrationPlan {
    MigrationPlan {
        max_bandwidth: Some(bandwidth_mib * MIB),
        port: free_migration_port(false).unwrap(),
        ..MigrationPlan::default()
    }
}

/// The operator stops the guest for a while.
fn pause(qemu: &mut Qemu) {
    qemu.qmp().execute("stop", &Value::Null).unwrap();
    std::thread::sleep(PAUSE);
    qemu.qmp().execute("cont", &Value::Null).unwrap();
}

fn assert_no_blackout(record: &Migration) {
    assert!(record.blackout.is_none(), "{record:#?}");
}

/// QEMU without the names of its phase functions, in a tree in which it finds its modules and its
/// BIOS as it does where it is installed.
fn nameless_qemu(directory: &TempDir) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let mut candidates = std::env::split_paths(&path).map(|directory| directory.join(QEMU));
    let program = candidates.find(|path| path.is_file()).unwrap();
    let prefix = program.parent().and_then(Path::parent).unwrap();
    for name in ["lib", "share"] {
        std::os::unix::fs::symlink(prefix.join(name), directory.join(name)).unwrap();
    }
    std::fs::create_dir(directory.join("bin")).unwrap();
    let copy = directory.join("bin").join(QEMU);
    let names = copy_without_names(&program, &copy, is_phase_function).unwrap();
    println!("{names} functions of {} have lost their names", program.display());
    copy
}

#[test]
fn without_symbols_the_scheduler_measures_and_says_so() {
    let directory = TempDir::new().unwrap();
    let program = nameless_qemu(&directory);
    let observer = observer();
    let case = cases()[0];
    let run = run_with(&case, &observer, |spec| spec.program = program.into()).unwrap();
    let comparison = Comparison::of(&run);
    print!("{}", render(std::slice::from_ref(&comparison)));
    let blackout = run.record.blackout.as_ref().unwrap();
    assert_eq!(blackout.method, Method::VcpuScheduling, "{blackout:#?}");
    assert_eq!(blackout.by_method.phase_functions, None, "{blackout:#?}");
    assert!(blackout.complete && blackout.seconds == blackout.by_method.vcpu_scheduling);
    // Only the clock can tell whether a busy host came between: far less than a pass over the RAM.
    let error = comparison.error().unwrap();
    assert!(error.abs() < 0.05, "{comparison:#?}");
    assert_eq!(run.record.outcome, Some(Outcome::Completed), "{:#?}", run.record.evidence);
    for end in ["source", "destination"] {
        let says_so = run.record.evidence.iter().any(|line| {
            line.kind == "vcpu_scheduling"
                && line.detail.contains(end)
                && line.detail.contains("exports none of QEMU's phase functions")
        });
        assert!(says_so, "{end}: {:#?}", run.record.evidence);
    }
    stop(observer);
}

#[test]
fn a_pause_is_no_blackout() {
    let observer = observer();
    let clock = GuestClock::start().unwrap();
    let mut qemu = Qemu::start(&spec(&clock), Role::Source).unwrap();
    qemu.wait_filled(LIMIT).unwrap();
    wait_ticks(&clock, Role::Source).unwrap();
    pause(&mut qemu);
    observer.wait_cycles().unwrap();
    let records = observer.records().unwrap();
    assert!(records.is_empty(), "{records:#?}");
    assert_none_counted(&observer);
    stop(observer);
}

#[test]
fn a_pause_during_a_migration_is_not_its_blackout() {
    let observer = observer();
    let clock = GuestClock::start().unwrap();
    let mut pair = Pair::start(&spec(&clock)).unwrap();
    wait_ticks(&clock, Role::Source).unwrap();
    pair.migrate(&plan(25)).unwrap();
    pair.wait_until(LIMIT, |figures| figures.transferred > 5 * MIB).unwrap();
    pause(&mut pair.source);
    let figures = pair.wait_end(LIMIT).unwrap();
    assert_eq!(figures.status, "completed", "{figures:?}");
    wait_ticks(&clock, Role::Destination).unwrap();
    let record = wait_record(&observer, &pair).unwrap();
    drop(pair);
    let truth = Standstill::between(&clock.finish().unwrap()).unwrap();
    assert!(truth.largest_other >= PAUSE.as_secs_f64(), "it was paused: {truth:#?}");
    assert!(truth.seconds < 1.0, "{truth:#?}");
    let blackout = record.blackout.unwrap();
    println!("paused for {:.3} s; {blackout:#?}, {truth:#?}", truth.largest_other);
    let seconds = blackout.seconds.unwrap();
    assert!((seconds - truth.seconds).abs() < 0.05, "{blackout:#?} {truth:#?}");
    stop(observer);
}

#[test]
fn a_paused_guest_that_migrates_has_no_blackout() {
    let observer = observer();
    let clock = GuestClock::start().unwrap();
    let mut pair = Pair::start(&spec(&clock)).unwrap();
    pair.source.qmp().execute("stop", &Value::Null).unwrap();
    // Longer than a manager takes from its own `stop` to `migrate`.
    std::thread::sleep(Duration::from_secs(6));
    pair.migrate(&plan(100)).unwrap();
    let figures = pair.wait_until(LIMIT, QemuFigures::is_final).unwrap();
    assert_eq!(figures.status, "completed", "{figures:?}");
    let record = wait_record(&observer, &pair).unwrap();
    assert_no_blackout(&record);
    assert_eq!(record.outcome, Some(Outcome::Completed), "{:#?}", record.evidence);
    // The operator lets it run at last.
    pair.destination.qmp().execute("cont", &Value::Null).unwrap();
    wait_ticks(&clock, Role::Destination).unwrap();
    observer.wait_cycles().unwrap();
    assert_no_blackout(&observer.record(&record.id).unwrap());
    assert_none_counted(&observer);
    stop(observer);
}

#[test]
fn saving_a_guest_to_a_file_is_no_migration() {
    let observer = observer();
    let clock = GuestClock::start().unwrap();
    let mut qemu = Qemu::start(&spec(&clock), Role::Source).unwrap();
    qemu.wait_filled(LIMIT).unwrap();
    let directory = TempDir::new().unwrap();
    let file = directory.join("state");
    let target = json!({ "uri": format!("exec:cat > {}", file.display()) });
    qemu.qmp().execute("migrate-set-parameters", &json!({ "max-bandwidth": 0 })).unwrap();
    qemu.qmp().execute("migrate", &target).unwrap();
    let start = std::time::Instant::now();
    loop {
        let answer = qemu.qmp().execute("query-migrate", &Value::Null).unwrap();
        if answer["status"] == "completed" {
            break;
        }
        assert!(start.elapsed() < LIMIT && answer["status"] != "failed", "{answer}");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(std::fs::metadata(&file).unwrap().len() > 100 * MIB);
    observer.wait_cycles().unwrap();
    for record in &observer.records().unwrap() {
        assert_no_blackout(record);
    }
    assert_none_counted(&observer);
    // It runs again here, as after a snapshot; that is no blackout of a migration either.
    qemu.qmp().execute("cont", &Value::Null).unwrap();
    observer.wait_cycles().unwrap();
    for record in &observer.records().unwrap() {
        assert_no_blackout(record);
    }
    assert_none_counted(&observer);
    stop(observer);
}

#[test]
fn a_qemu_that_is_killed_while_it_is_looked_at_is_no_error() {
    const PROCESSES: u64 = 40;
    let observer = observer();
    for number in 0..PROCESSES {
        let mut command = Command::new(QEMU);
        command
            .args(["-nodefaults", "-display", "none", "-machine", "pc,accel=tcg", "-S"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = ChildGuard::spawn(&mut command).unwrap();
        // From before its first instruction to after its start.
        std::thread::sleep(Duration::from_millis(5 * number));
        drop(process);
    }
    observer.wait_cycles().unwrap();
    assert_eq!(observer.get("/health").unwrap().status, 200);
    let records = observer.records().unwrap();
    assert!(records.is_empty(), "{records:#?}");
    assert_none_counted(&observer);
    // It still measures.
    let run = run_with(&cases()[0], &observer, |_| ()).unwrap();
    let comparison = Comparison::of(&run);
    assert!(comparison.faults.is_empty(), "{comparison:#?} {:#?}", run.record.evidence);
    assert!(comparison.phase_functions.is_some(), "{comparison:#?}");
    stop(observer);
}
