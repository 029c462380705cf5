//! A guest whose CPU is halted is not a guest that has been stopped. The truth is QEMU's own: from its `STOP` event at the source to
//! its `RESUME` event at the destination.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::time::Duration;

use dwcp_observer_lab::blackout::wait_record;
use dwcp_observer_lab::guest::Guest;
use dwcp_observer_lab::migration::{MigrationPlan, Pair};
use dwcp_observer_lab::observer::{Observer, binary};
use dwcp_observer_lab::qemu::QemuSpec;
use dwcp_observer_lab::qmp::Event;
use dwcp_observer_lab::temp::{TempDir, free_migration_port};
use dwcp_observer_model::record::Migration;

const LIMIT: Duration = Duration::from_secs(60);
/// The guest halts so long before it migrates: far longer than its blackout.
const ASLEEP: Duration = Duration::from_secs(2);
/// Off by more is no noise of the host, seconds.
const GROSS: f64 = 0.1;

/// Migrates a guest that halts for ever; what the observer says, and its blackout by QEMU's events, seconds.
fn migrate(observer: &Observer) -> (Migration, f64) {
    let guest = Guest { memory_mib: 128, working_set_mib: 0, ..Guest::default() };
    let mut pair = Pair::start(&QemuSpec { guest, ..QemuSpec::default() }).unwrap();
    std::thread::sleep(ASLEEP);
    let port = free_migration_port(false).unwrap();
    pair.migrate(&MigrationPlan { port, ..MigrationPlan::default() }).unwrap();
    let figures = pair.wait_end(LIMIT).unwrap();
    assert_eq!(figures.status, "completed", "{figures:?}");
    let record = wait_record(observer, &pair).unwrap();
    let [source, destination] = pair.take_events().unwrap();
    let at = |events: &[Event], name: &str| {
        events.iter().rfind(|event| event.name == name).unwrap().timestamp
    };
    let (stopped, resumed) = (at(&source, "STOP"), at(&destination, "RESUME"));
    (record, resumed.checked_sub(stopped).unwrap().as_secs_f64())
}

#[test]
fn a_halted_cpu_could_run_until_it_was_asked_to_stop() {
    let observer = Observer::start(&binary().unwrap(), &[]).unwrap();
    let (record, truth) = migrate(&observer);
    let blackout = record.blackout.as_ref().unwrap();
    println!("QEMU's events: {truth:.6} s; {blackout:#?}");
    assert!((blackout.seconds.unwrap() - truth).abs() < GROSS, "{truth} {blackout:#?}");
    if let Some(alone) = blackout.by_method.vcpu_scheduling {
        assert!((alone - truth).abs() < GROSS, "{truth} {blackout:#?}");
    }
    assert!(observer.stop().unwrap().status.success());
}

#[test]
fn the_scheduler_alone_is_right_about_it_or_silent() {
    let directory = TempDir::new().unwrap();
    let config = directory.join("config.toml");
    std::fs::write(&config, "[probes]\nphase_functions = false\n").unwrap();
    let arguments = ["--config", config.to_str().unwrap()];
    let observer = Observer::start(&binary().unwrap(), &arguments).unwrap();
    let (record, truth) = migrate(&observer);
    println!("QEMU's events: {truth:.6} s; {:#?}", record.blackout);
    if let Some(seconds) = record.blackout.as_ref().and_then(|blackout| blackout.seconds) {
        assert!((seconds - truth).abs() < GROSS, "{truth} {:#?}", record.blackout);
    }
    assert!(observer.stop().unwrap().status.success());
}
