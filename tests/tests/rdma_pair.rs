//! A QEMU migration over RDMA between two hosts, with an observer on each: what each half holds, and both together. Needs two hosts
//! with RDMA and a cable between them: `cargo xtask vm-test --test rdma-pair` runs its two halves in two VMs.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use dwcp_observer_lab::guest::Guest;
use dwcp_observer_lab::hosts::clocks::{self, Apart};
use dwcp_observer_lab::hosts::{INTERFACE, Peer, address, role};
use dwcp_observer_lab::migration::{MigrationPlan, QemuFigures, Transport, wait_running};
use dwcp_observer_lab::observer::{Observer, binary};
use dwcp_observer_lab::qemu::{Qemu, QemuSpec, Role};
use dwcp_observer_lab::rdma::SoftDevice;
use dwcp_observer_lab::record::RecordExt as _;
use dwcp_observer_model::queue_pair::DataPath;
use dwcp_observer_model::record::{Migration, Mode, Outcome, Transport as Carrier};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(300);
/// A VM whose processor is translated moves some thousand packets a second: the fewer, the sooner it is done.
const PACKET_BYTES: u16 = 4500;
/// What a device with such packets puts into one of them, bytes.
const RDMA_MTU: u64 = 4096;
const CASES: [(&str, Transport, u16); 2] =
    [("rdma", Transport::Rdma, 4445), ("rdma-pin-all", Transport::RdmaPinAll, 4446)];

/// What the destination's half has seen.
#[derive(Serialize, Deserialize)]
struct Theirs {
    record: String,
    key: Option<String>,
    registered_bytes: u64,
    /// `RESUME` of QEMU, ns since 1970 by the destination's clock.
    resumed_ns: u64,
    /// What its device took in meanwhile.
    packets: u64,
}

/// What `dwcp-observer join --json` prints of one migration.
#[derive(Deserialize)]
struct Joined {
    connection_key: String,
    source_id: String,
    destination_id: String,
    seconds: f64,
    bound_seconds: Option<f64>,
}

fn spec() -> QemuSpec {
    let guest = Guest { memory_mib: 64, working_set_mib: 1, ..Guest::default() };
    QemuSpec { guest, ..QemuSpec::default() }
}

fn observer_at(role: Role) -> SocketAddr {
    (address(role), 8080).into()
}

/// One half at one host.
struct Half {
    // Order of drop: a device waits for those that use it.
    qemu: Qemu,
    device: SoftDevice,
    observer: Observer,
    peer: Peer,
    role: Role,
}

impl Half {
    fn counters<const N: usize>(&self, names: [&str; N]) -> [u64; N] {
        names.map(|name| self.device.counter(name).unwrap())
    }

    /// When QEMU said so, ns since 1970.
    fn event(&mut self, name: &str) -> u64 {
        self.qemu.qmp().execute("query-status", &Value::Null).unwrap();
        let events = self.qemu.qmp().take_events();
        let event = events.iter().rfind(|event| event.name == name);
        assert!(event.is_some(), "no {name} in {events:?}");
        u64::try_from(event.unwrap().timestamp.as_nanos()).unwrap()
    }

    /// What holds for the record of either half.
    fn check(&self, record: &Migration) {
        assert_eq!((record.transport, record.migrator.as_str()), (Some(Carrier::Rdma), "qemu"));
        let ends: Vec<(Role, u32)> = record.ends.iter().map(|end| (end.role, end.pid)).collect();
        assert_eq!(ends, [(self.role, self.qemu.pid())]);
        assert_eq!(record.streams.len(), 1, "{:?}", record.streams);
        let queue_pair = record.streams[0].queue_pair.as_ref().unwrap();
        assert_eq!(queue_pair.device, self.device.name());
        assert_eq!(queue_pair.data_path, DataPath::Completions);
        let blackout = record.blackout.as_ref().unwrap();
        assert_eq!(blackout.half, Some(self.role), "{blackout:?}");
        assert!(!blackout.complete && blackout.seconds.is_none(), "{blackout:?}");
        let known = (blackout.stopped_at.is_some(), blackout.started_at.is_some());
        assert_eq!(known, (self.role == Role::Source, self.role == Role::Destination));
    }
}

fn registered(record: &Migration) -> u64 {
    record.registered_memory.iter().map(|memory| memory.bytes).sum()
}

fn destination(mut half: Half, plan: &MigrationPlan) {
    plan.listen(&mut half.qemu).unwrap();
    let before = half.counters(["rcvd_pkts"])[0];
    half.peer.together("listening").unwrap();
    clocks::confirm(half.role, &mut half.peer).unwrap();
    half.peer.together("migrated").unwrap();
    wait_running(&mut half.qemu, LIMIT).unwrap();
    let record = half.observer.wait_finished(1).unwrap().remove(0);
    half.check(&record);
    let packets = half.counters(["rcvd_pkts"])[0] - before;
    let resumed_ns = half.event("RESUME");
    println!("outcome {:?}, bytes {:?}, {:?}", record.outcome, record.bytes, record.streams);
    let theirs = Theirs {
        registered_bytes: registered(&record),
        record: record.id,
        key: record.connection_key,
        resumed_ns,
        packets,
    };
    half.peer.tell(&theirs).unwrap();
    clocks::compare(half.role, &mut half.peer).unwrap();
    half.peer.together("compared").unwrap();
    assert!(half.observer.stop().unwrap().status.success());
}

/// Counters of a device that sends something again.
const ERRORS: [&str; 4] =
    ["duplicate_request", "out_of_seq_request", "rcvd_seq_err", "completer_retry_err"];

fn source(mut half: Half, name: &str, plan: &MigrationPlan) -> String {
    half.qemu.wait_filled(LIMIT).unwrap();
    half.peer.together("listening").unwrap();
    let sent = half.counters(["sent_pkts"])[0];
    let errors = half.counters(ERRORS);
    clocks::confirm(half.role, &mut half.peer).unwrap();
    plan.begin(&mut half.qemu).unwrap();
    let figures = QemuFigures::wait(&mut half.qemu, LIMIT, QemuFigures::is_final).unwrap();
    assert_eq!(figures.status, "completed", "{:?}", figures.error);
    half.peer.together("migrated").unwrap();
    let record = half.observer.wait_finished(1).unwrap().remove(0);
    half.check(&record);
    assert_eq!(record.outcome, Some(Outcome::Completed), "{:?}", record.evidence);
    assert_eq!(record.mode, Some(Mode::Datacenter));
    let sent = half.counters(["sent_pkts"])[0] - sent;
    let repeated = errors != half.counters(ERRORS);
    let stopped_ns = half.event("STOP");
    let theirs: Theirs = half.peer.hear().unwrap();
    let joined = join(&record, &theirs);
    let apart = clocks::compare(half.role, &mut half.peer).unwrap().unwrap();
    half.peer.together("compared").unwrap();

    let qmp = (theirs.resumed_ns as f64 - stopped_ns as f64) / 1e9;
    println!("{name}: {:?} {:?}", record.streams, record.registered_memory);
    let least = check_packets(&record, sent, repeated, theirs.packets);
    check_blackout(&joined, apart, qmp, record.duration_seconds);
    let off = record.totals().delivered.abs_diff(figures.transferred) as f64;
    assert!(off <= 0.02 * figures.transferred as f64, "{:?} {figures:?}", record.bytes);
    let qemu_seconds = figures.total_time_ms.unwrap() as f64 / 1e3;
    let late = record.duration_seconds - qemu_seconds;
    assert!(late.abs() <= late_limit().as_secs_f64(), "{late} s off QEMU's");
    assert!(half.observer.stop().unwrap().status.success());
    format!(
        "{name:<12} | {:>6.2} | {:>6.2} | {:>10} | {:>10} | {:+.2} % | {sent} of {least} | {:.1} +- {:.1} | {:.1} | {}",
        record.duration_seconds,
        qemu_seconds,
        record.totals().delivered,
        figures.transferred,
        100.0 * (record.totals().delivered as f64 / figures.transferred as f64 - 1.0),
        joined.seconds * 1e3,
        joined.bound_seconds.unwrap() * 1e3,
        qmp * 1e3,
        figures.downtime_ms.unwrap(),
    )
}

/// Packets of the devices beside what the record says that they carried; returns the least that it takes.
fn check_packets(record: &Migration, sent: u64, repeated: bool, arrived: u64) -> u64 {
    let operations = &record.streams[0].queue_pair.as_ref().unwrap().operations;
    let completed = |name: &str| operations.get(name).map_or(0, |operation| operation.completed);
    let least = record.totals().delivered.div_ceil(RDMA_MTU);
    // Each message may end in a packet that is not full, each that came is acknowledged, and the connection is made and taken
    // down.
    let messages = completed("send") + completed("rdma_write") + completed("rdma_read");
    let most = least + messages + completed("recv") + 16;
    println!(
        "packets: {sent} sent, {arrived} arrived, by the record {least} to {most}; sent again: {repeated}"
    );
    assert!(sent >= least && arrived >= least, "{sent} sent, {arrived} arrived of {least}");
    // What a busy machine has lost was sent again.
    assert!(repeated || sent <= most, "{sent} sent of {most}");
    least
}

/// How far the record's duration may be off QEMU's: it closes its connection some time after it took its own.
fn late_limit() -> Duration {
    let milliseconds = std::env::var("DWCP_LATE_MS").map_or(1000, |limit| limit.parse().unwrap());
    Duration::from_millis(milliseconds)
}

/// Asks the command that an operator asks.
fn join(record: &Migration, theirs: &Theirs) -> Joined {
    let [here, there] =
        [Role::Source, Role::Destination].map(|role| format!("http://{}", observer_at(role)));
    let output =
        Command::new(binary().unwrap()).args(["join", &there, &here, "--json"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let mut all: Vec<Joined> = serde_json::from_str(&text).unwrap();
    assert_eq!(all.len(), 1, "{text}");
    let joined = all.remove(0);
    assert_eq!(Some(&joined.connection_key), record.connection_key.as_ref());
    assert_eq!(record.connection_key, theirs.key);
    assert_eq!((&joined.source_id, &joined.destination_id), (&record.id, &theirs.record));
    joined
}

/// `qmp` is `RESUME` less `STOP`, by the same two clocks.
fn check_blackout(joined: &Joined, apart: Apart, qmp: f64, total: f64) {
    let bound = joined.bound_seconds.unwrap();
    // Both were told that they are synchronised, and how well: now that is measured again.
    assert!(apart.seconds.abs() <= bound + apart.bound_seconds, "{apart:?}, bound {bound}");
    // QEMU says STOP once its CPUs stand still, and RESUME before they run.
    assert!(joined.seconds >= qmp - 1e-3, "{} s, by QMP {qmp} s", joined.seconds);
    assert!(joined.seconds <= total + bound, "{} s of {total} s", joined.seconds);
    println!("clocks: {:.3} ms apart (+- {:.3})", apart.seconds * 1e3, apart.bound_seconds * 1e3);
}

#[test]
#[ignore = "needs two hosts with RDMA: cargo xtask vm-test --test rdma-pair"]
fn each_host_holds_its_half_and_both_make_one_blackout() {
    let role = role().unwrap();
    let mut rows = Vec::new();
    for (name, transport, port) in CASES {
        let device = SoftDevice::on(INTERFACE, address(role), PACKET_BYTES, "pair").unwrap();
        let mut peer = Peer::meet(role, LIMIT).unwrap();
        clocks::synchronise(role, &mut peer).unwrap();
        let observer = Observer::start_at(&binary().unwrap(), observer_at(role), &[]).unwrap();
        let plan = MigrationPlan {
            transport,
            port,
            host: Some(address(Role::Destination).into()),
            ..MigrationPlan::default()
        };
        let mut qemu = Qemu::start(&spec(), role).unwrap();
        plan.prepare(&mut qemu).unwrap();
        let half = Half { role, peer, device, observer, qemu };
        match role {
            Role::Source => rows.push(source(half, name, &plan)),
            Role::Destination => destination(half, &plan),
        }
    }
    if role == Role::Source {
        println!(
            "pair: migration | total s | QEMU s | bytes | QEMU bytes | off | packets sent of least | \
             blackout ms | QMP RESUME-STOP ms | QEMU downtime ms"
        );
        for row in rows {
            println!("pair: {row}");
        }
    }
}
