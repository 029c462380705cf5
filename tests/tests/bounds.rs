//! What the observer holds is bounded, and given back: beside a busy server, and through hundreds of QEMUs that start and die in every
//! order.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use dwcp_observer_lab::flows::FlowHelper;
use dwcp_observer_lab::guest::Guest;
use dwcp_observer_lab::migration::{MigrationPlan, Pair};
use dwcp_observer_lab::observer::{Observer, binary};
use dwcp_observer_lab::qemu::{Qemu, QemuSpec};
use dwcp_observer_lab::record::RecordExt as _;
use dwcp_observer_lab::temp::free_migration_port;
use dwcp_observer_model::record::{Outcome, Role};
use serde_json::Value;

fn small() -> QemuSpec {
    let guest = Guest { memory_mib: 64, working_set_mib: 4, ..Guest::default() };
    QemuSpec { guest, ..QemuSpec::default() }
}

fn plan() -> MigrationPlan {
    MigrationPlan { port: free_migration_port(false).unwrap(), ..MigrationPlan::default() }
}

fn used(observer: &Observer, map: &str) -> u64 {
    let metrics = observer.metrics().unwrap();
    metrics.sum("dwcp_observer_map_slots_used", &[("map", map)]).unwrap() as u64
}

#[test]
fn a_busy_server_on_a_migration_port_does_not_hide_a_migration() {
    let observer = Observer::start(&binary().unwrap(), &[]).unwrap();
    let connections: u32 =
        std::env::var("DWCP_CROWD").map_or(20_000, |count| count.parse().unwrap());
    // Some hosts let one process open no more than 20,000 files.
    let half = (connections / 2).to_string();
    let program = Path::new(env!("CARGO_BIN_EXE_lab-flows"));
    let serve = || {
        let port = free_migration_port(false).unwrap().to_string();
        let args = ["steady", "--connections", &half, "--first-bytes", "1000", "--port", &port];
        let mut server = FlowHelper::start(program, "nginx", &args).unwrap();
        println!("{}", server.line::<Value>().unwrap());
        server
    };
    let mut servers = [serve(), serve()];
    for round in 0..3 {
        let mut pair = Pair::start(&small()).unwrap();
        let plan = plan();
        pair.migrate(&plan).unwrap();
        let figures = pair.wait_end(Duration::from_secs(60)).unwrap();
        assert_eq!(figures.status, "completed");
        let source = pair.source.pid();
        let record = observer
            .wait_records(Duration::from_secs(30), |records| {
                records
                    .iter()
                    .any(|it| it.pid(Role::Source) == Some(source) && it.outcome.is_some())
            })
            .unwrap()
            .into_iter()
            .find(|it| it.pid(Role::Source) == Some(source))
            .unwrap();
        assert_eq!(record.outcome, Some(Outcome::Completed), "{record:#?}");
        assert_eq!((record.ends.len(), record.streams.len()), (2, 1), "{record:#?}");
        assert_eq!(record.streams_without_detail, 0);
        assert!(record.totals().delivered >= figures.transferred, "{record:#?}");
        let (flows, strangers) = (used(&observer, "flows"), used(&observer, "flows_by_port"));
        println!(
            "migration {round}: whole, {flows} slots of flows in use, {strangers} of strangers"
        );
    }
    let health = observer.json("/health").unwrap();
    let reason = health["reason"].as_str().unwrap_or_default();
    assert!(!reason.contains("slots of"), "{health}");
    for server in &mut servers {
        server.tell_stop().unwrap();
    }
}

/// Names of processes that the observer gives a slot.
const RECOGNISED: [&str; 8] =
    ["qemu-system-", "qemu-kvm", "kvm", ".qemu", "cloud-hyperviso", "criu", "dwcp", "novacron"];

/// Living processes of this host that are to hold a slot: others' too, where the host is shared.
fn recognised() -> u64 {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let alive = |pid: &u32| {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
        let Some((start, rest)) = stat.rsplit_once(')') else { return false };
        let name = start.split_once('(').map_or("", |(_, name)| name);
        let ours = name == "dwcp-observer";
        !ours && !rest.starts_with(" Z") && RECOGNISED.iter().any(|known| name.starts_with(known))
    };
    pids.filter(alive).count() as u64
}

/// Resident memory of a process, KiB.
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Two real QEMUs: one is killed, or both, in one of six orders; the other goes with the pair.
/// `linger`: the killed are waited for after 2 s.
fn migrate_and_kill(order: usize, linger: bool) {
    let mut pair = Pair::start(&small()).unwrap();
    let slow = MigrationPlan { max_bandwidth: Some(20 << 20), ..plan() };
    if order != 0 {
        pair.migrate(&slow).unwrap();
    }
    let Pair { source, destination, .. } = &mut pair;
    let kill = |qemu: &Qemu| qemu.process().signal(libc::SIGKILL).unwrap();
    match order {
        1 => kill(source),
        2 => kill(destination),
        3 => (kill(source), kill(destination)).0,
        4 => (kill(destination), kill(source)).0,
        5 => {
            pair.wait_end(Duration::from_secs(60)).unwrap();
        }
        _ => {}
    }
    if linger {
        std::thread::sleep(Duration::from_secs(2));
    }
}

/// Ten pairs of real QEMUs, three at a time. Each is killed in an order of its own, and in every
/// fourth batch stays a zombie over a sweep of the idle tasks.
fn churn(batch: usize) -> usize {
    let orders = Mutex::new((0..10).map(|pair| batch + pair));
    let next = || orders.lock().unwrap().next();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(order) = next() {
                    migrate_and_kill(order % 6, batch.is_multiple_of(4));
                }
            });
        }
    });
    20
}

#[test]
fn slots_and_memory_return_to_where_they_were_whatever_the_order_in_which_qemus_die() {
    let count: usize = std::env::var("DWCP_CHURN").map_or(60, |count| count.parse().unwrap());
    let observer = Observer::start(&binary().unwrap(), &[]).unwrap();
    let (mut done, mut batch, mut warm_kib) = (0, 0, None);
    println!(
        "before: {} slots of processes, {} of flows, {} recognised processes alive",
        used(&observer, "processes"),
        used(&observer, "flows"),
        recognised()
    );
    while done < count {
        done += churn(batch);
        batch += 1;
        if done * 4 >= count && warm_kib.is_none() {
            warm_kib = Some(resident_kib(observer.pid()));
        }
        if batch.is_multiple_of(10) {
            println!(
                "{done}: {} slots of processes, {} KiB",
                used(&observer, "processes"),
                resident_kib(observer.pid())
            );
        }
    }
    // Idle tasks are swept every tenth second; records are settled before.
    let begun = Instant::now();
    loop {
        let (held, alive) = (used(&observer, "processes"), recognised());
        if held <= alive {
            println!("after {done}: {held} slots of processes, {alive} recognised processes alive");
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(90), "{held} slots, {alive} processes alive");
        std::thread::sleep(Duration::from_secs(1));
    }
    let (warm, end) = (warm_kib.unwrap_or_default(), resident_kib(observer.pid()));
    println!(
        "after {done}: {} slots of flows, {} of threads; {warm} KiB resident after a quarter, {end} KiB at the end",
        used(&observer, "flows"),
        used(&observer, "threads")
    );
    let metrics = observer.metrics().unwrap();
    for map in ["processes", "helpers"] {
        let lost = metrics.sum("dwcp_observer_lost_total", &[("map", map)]).unwrap();
        println!("lost: {map} {lost}");
    }
    assert!(end < warm + 4096, "{warm} KiB, then {end} KiB");
}
