//! The observer comes late, leaves early, or is killed.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use dwcp_observer_lab::kernel_objects::{KernelObject, objects_of, still_there};
use dwcp_observer_lab::migration::{MigrationPlan, Pair};
use dwcp_observer_lab::observer::{Observer, binary};
use dwcp_observer_lab::qemu::QemuSpec;
use dwcp_observer_lab::record::RecordExt as _;
use dwcp_observer_lab::socket_totals::SocketWatch;
use dwcp_observer_lab::temp::free_migration_port;
use dwcp_observer_lab::watched::Watched;
use dwcp_observer_model::record::{Outcome, Role, State};

const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

fn start() -> Observer {
    Observer::start(&binary().unwrap(), &[]).unwrap()
}

/// A migration that runs slowly and has sent some already.
fn slow_migration(multifd_channels: Option<u8>) -> (Pair, MigrationPlan) {
    let plan = MigrationPlan {
        multifd_channels,
        max_bandwidth: Some(20 * MIB),
        port: free_migration_port(false).unwrap(),
        ..MigrationPlan::default()
    };
    let mut pair = Pair::start(&QemuSpec::default()).unwrap();
    pair.migrate(&plan).unwrap();
    pair.wait_until(LIMIT, |figures| figures.transferred > 30 * MIB).unwrap();
    (pair, plan)
}

/// What the observer holds in the kernel: one program per hook and its link, and maps.
fn held(observer: &Observer) -> BTreeSet<KernelObject> {
    let objects = objects_of(observer.pid()).unwrap();
    for kind in ["prog", "map", "link"] {
        let count = objects.iter().filter(|(found, _)| *found == kind).count();
        assert!(count >= 5, "{count} {kind}s: {objects:?}");
    }
    assert_eq!(still_there(&objects).unwrap().len(), objects.len(), "bpftool sees them too");
    objects
}

/// The kernel frees some objects in a worker thread and after a grace period.
fn assert_gone(objects: &BTreeSet<KernelObject>) {
    let start = Instant::now();
    loop {
        let left = still_there(objects).unwrap();
        if left.is_empty() {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "left in the kernel: {left:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn found_in_the_middle(multifd_channels: Option<u8>) {
    let (mut pair, plan) = slow_migration(multifd_channels);
    let mut sockets = SocketWatch::start().unwrap();
    let observer = start();
    let since = Instant::now();
    let record = observer
        .wait_records(Duration::from_secs(30), |records| {
            records.len() == 1
                && records[0].streams.len() == plan.connections()
                && records[0].ends.len() == 2
        })
        .unwrap()
        .remove(0);
    let found_after = since.elapsed();
    assert_eq!(record.state, State::Active);
    assert!(record.found_under_way, "{record:#?}");
    assert_eq!(record.pid(Role::Source), Some(pair.source.pid()));
    assert_eq!(record.pid(Role::Destination), Some(pair.destination.pid()));
    // The sockets' own counters go back to their beginning.
    assert!(record.totals().delivered >= 30 * MIB - MIB, "{:?}", record.bytes);
    pair.set_max_bandwidth(0).unwrap();
    let watched = Watched::finish(&observer, &mut pair, &plan, &mut sockets).unwrap();
    watched.check_sockets(&plan).unwrap();
    let share = watched.check_transferred().unwrap();
    assert!(watched.record.found_under_way);
    assert_eq!(watched.record.outcome, Some(Outcome::Completed), "{:#?}", watched.record);
    assert!(observer.stop().unwrap().status.success());
    println!(
        "found {:.0} ms after the observer was ready, {} streams, {} B, 0 B off the sockets, {:+.3} % off QEMU",
        found_after.as_secs_f64() * 1e3,
        watched.record.streams.len(),
        watched.record.totals().delivered,
        100.0 * share,
    );
}

#[test]
fn a_migration_under_way_is_found() {
    found_in_the_middle(None);
}

#[test]
fn a_multifd_migration_under_way_is_found() {
    found_in_the_middle(Some(4));
}

#[test]
fn sigterm_leaves_nothing_in_the_kernel() {
    let observer = start();
    let objects = held(&observer);
    let stopped = observer.stop().unwrap();
    assert_eq!(stopped.status.code(), Some(0), "{stopped:?}");
    assert_gone(&objects);
    println!("SIGTERM: exit 0 after {:?}, {} objects gone", stopped.took, objects.len());
}

#[test]
fn sigterm_during_a_migration_leaves_nothing_and_does_not_disturb_it() {
    let (mut pair, _) = slow_migration(Some(4));
    let observer = start();
    observer
        .wait_records(LIMIT, |records| records.iter().any(|record| record.streams.len() == 5))
        .unwrap();
    let objects = held(&observer);
    let stopped = observer.stop().unwrap();
    assert_eq!(stopped.status.code(), Some(0), "{stopped:?}");
    assert_gone(&objects);
    assert_eq!(pair.figures().unwrap().status, "active");
    pair.set_max_bandwidth(0).unwrap();
    assert_eq!(pair.wait_end(LIMIT).unwrap().status, "completed");
    println!(
        "SIGTERM during a migration: exit 0 after {:?}, {} objects gone",
        stopped.took,
        objects.len()
    );
}

#[test]
fn kill_leaves_nothing_in_the_kernel() {
    let observer = start();
    let objects = held(&observer);
    observer.kill();
    assert_gone(&objects);
    // Nothing pinned or locked keeps the next one from starting.
    let again = start();
    assert!(again.stop().unwrap().status.success());
    println!("SIGKILL: {} objects gone", objects.len());
}
