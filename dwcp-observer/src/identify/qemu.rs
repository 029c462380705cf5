//! Decides which of QEMU's connections are migration channels.
//!
//! At the source QEMU sends migration data from threads that it creates after the connection is open. The main loop, or I/O threads
//! that exist from the start, move all other TCP traffic (VNC, NBD, SPICE, monitors, user networking). At the destination the
//! main loop itself reads the main channel, so the decision needs `-incoming` there.

use super::classify::{Context, Refusal, Sibling, bulk, is_migration_port};
use super::evidence::Case;
use super::flow::{DIRECTION_BYTES, mib, one_way, service_port, thread};
use super::qemu_cmdline::{Incoming, incoming, service_on_cmdline};
use super::rejection::Rejection;
use super::table::MIGRATION_PORTS;
use crate::config::pattern::glob;
use crate::model::facts::{FlowFacts, ProcessFacts};
use crate::model::record::Role;

/// Bytes one way into a process with `-incoming` that make a flow a migration.
const INCOMING_BYTES: u64 = 1 << 20;
/// Bytes sent on a migration port before a thread without a name is taken for a migration thread.
const PORT_BYTES: u64 = 4 << 10;
/// Bytes one way, sent by a thread that was not there from the start, where the connection's opening was not seen.
const BULK_BYTES: u64 = 16 << 20;
/// From here on data that only the main loop moves is something else.
const MAIN_LOOP_BYTES: u64 = 1 << 20;
/// `/proc` cuts start times to clock ticks (10 ms), and kernel and agent read the clock at different places.
const CLOCK_SLACK_NS: u64 = 20_000_000;
/// Threads younger than the process by more than this were not created with it.
const START_UP_NS: u64 = 2_000_000_000;
/// A channel may be recognised before an older one of the same migration.
const SIBLING_SLACK_NS: u64 = 5_000_000_000;

/// Well-known ports of what QEMU calls or offers: VNC and its websockets, NBD, iSCSI, Ceph, Gluster, ssh, NFS.
const SERVICES: &[(u16, u16, &str)] = &[
    (22, 22, "ssh"),
    (2049, 2049, "NFS"),
    (3260, 3260, "iSCSI"),
    (3300, 3300, "Ceph"),
    (5700, 5799, "VNC over websocket"),
    (5900, 5999, "VNC"),
    (6789, 6789, "Ceph"),
    (6800, 7568, "Ceph"),
    (10809, 10809, "NBD"),
    (24007, 24008, "Gluster"),
];

/// NBD's own port.
const NBD_PORT: u16 = 10809;

/// Threads that send only migration data.
const SENDERS: &[&str] = &["live_migration", "mig/src/main", "multifdsend_", "mig/src/send_"];
/// Threads that receive only migration data.
const RECEIVERS: &[&str] = &[
    "multifdrecv_",
    "mig/dst/recv_",
    "mig/src/recv_",
    "mig/dst/preempt",
    "fault-fast",
    "postcopy/listen",
    "mig/dst/listen",
];
/// Threads that read the return path at the source.
const RETURN_PATH: &[&str] = &["return path", "mig/src/return"];
/// Threads that ask for pages at the destination.
const FAULTS: &[&str] = &["fault-default", "mig/dst/fault"];

/// When a thread was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Created {
    /// Once the connection stood: for it.
    ForFlow,
    /// Earlier, but not with the process.
    Later,
    /// With the process.
    AtStart,
    /// Not known.
    Unknown,
}

pub(super) fn gather(
    case: &mut Case,
    process: &ProcessFacts,
    flow: &FlowFacts,
    context: &Context<'_>,
) -> Refusal {
    support(case, process, flow);
    if flow.rdma {
        return queue_pair(case, process, flow);
    }
    if let Some(refusal) = greeted(process, flow) {
        *case = Case::default();
        return refusal;
    }
    by_thread_name(case, process, flow);
    by_sibling(case, flow, context.siblings);
    if case.decided {
        return Refusal::Yet(Rejection::NoSign, String::new());
    }
    if let Some(reason) = service(process, flow) {
        return Refusal::Never(Rejection::Service, reason);
    }
    let incoming = if context.incoming_done { None } else { incoming(&process.cmdline) };
    // With `-incoming`, what was not seen to call was called.
    let called =
        flow.active_open == Some(false) || (flow.active_open.is_none() && incoming.is_some());
    match &incoming {
        Some(incoming) if called => destination(case, process, flow, incoming),
        _ if flow.active_open != Some(false) => source(case, process, flow),
        _ => {}
    }
    refusal(process, flow, called && incoming.is_some())
}

/// The end that is called spoke first. NBD's server greets (`NBDMAGIC`), as those of VNC and ssh do; the destination of a migration waits
/// for the source's header, or for its `ClientHello` (migration/migration.c, `migration_ioc_process_incoming`, 7.2).
fn greeted(process: &ProcessFacts, flow: &FlowFacts) -> Option<Refusal> {
    if flow.active_open? == flow.spoke_first? {
        return None;
    }
    let reason = "the accepting end spoke first, as an NBD server does".to_owned();
    Some(match service(process, flow) {
        Some(reason) if service_port(flow, |port| port == NBD_PORT).is_none() => {
            Refusal::Never(Rejection::Service, reason)
        }
        // A disk may be copied along with a guest: it stays in sight.
        _ => Refusal::Yet(Rejection::Service, reason),
    })
}

/// QEMU itself connects queue pairs for migrations alone. A paravirtual RDMA device would for its guest, a Gluster disk for its data.
fn queue_pair(case: &mut Case, process: &ProcessFacts, flow: &FlowFacts) -> Refusal {
    let other = process.cmdline.iter().find_map(|argument| {
        ["pvrdma", "gluster"].into_iter().find(|name| argument.contains(name))
    });
    if let Some(other) = other {
        let reason = format!("queue pairs of a QEMU with {other} may belong to the device");
        return Refusal::Never(Rejection::QueuePair, reason);
    }
    let role = flow.active_open.map(|calls| if calls { Role::Source } else { Role::Destination });
    case.decide("rdma", "QEMU connected a queue pair".to_owned(), 0.9, role);
    Refusal::Yet(Rejection::NoSign, String::new())
}

/// Evidence about the process.
fn support(case: &mut Case, process: &ProcessFacts, flow: &FlowFacts) {
    case.support("comm", format!("process `{}` is QEMU", process.comm), 0.3);
    if let Some(cgroup) = &process.cgroup
        && ["*machine-qemu*", "*libvirt-qemu*", "*libvirt/qemu*", "*kubepods*"]
            .iter()
            .any(|pattern| glob(pattern, cgroup))
    {
        case.support("cgroup", format!("cgroup {cgroup} belongs to a virtual machine"), 0.1);
    }
    if process.has_kvm {
        case.support("kvm", "holds /dev/kvm".to_owned(), 0.05);
    }
    if let Some(opener) = flow.opener_pid.filter(|&opener| opener != 0 && opener != process.pid) {
        let detail = format!("process {opener} opened the connection and passed it on");
        case.support("opener", detail, 0.1);
    }
}

fn by_thread_name(case: &mut Case, process: &ProcessFacts, flow: &FlowFacts) {
    let name_of = |tid| thread(process, tid).map_or("", |thread| thread.comm.as_str());
    let is = |name: &str, prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    let (sender, receiver) = (name_of(flow.send_tid), name_of(flow.recv_tid));
    if flow.bytes_queued > 0 {
        if is(sender, SENDERS) {
            case.decide("thread", format!("thread `{sender}` sends"), 0.95, Some(Role::Source));
        } else if is(sender, FAULTS) {
            let detail = format!("thread `{sender}` requests pages");
            case.decide("thread", detail, 0.9, Some(Role::Destination));
        }
    }
    if flow.bytes_received > 0 {
        if is(receiver, RECEIVERS) {
            let detail = format!("thread `{receiver}` receives");
            case.decide("thread", detail, 0.95, Some(Role::Destination));
        } else if is(receiver, RETURN_PATH) {
            let detail = format!("thread `{receiver}` reads the return path");
            case.decide("thread", detail, 0.9, Some(Role::Source));
        }
    }
}

/// Further channels go to the same listener as a known one, or come to the same port.
fn by_sibling(case: &mut Case, flow: &FlowFacts, siblings: &[Sibling]) {
    let sibling = siblings.iter().find(|sibling| {
        let same_peer = sibling.peer.ip().to_canonical() == flow.peer.ip().to_canonical();
        let calls = same_peer && sibling.peer.port() == flow.peer.port();
        let called = same_peer && sibling.local.port() == flow.local.port();
        let in_time =
            flow.opened_boottime_ns.saturating_add(SIBLING_SLACK_NS) >= sibling.opened_boottime_ns;
        in_time
            && match flow.active_open {
                Some(true) => calls,
                Some(false) => called,
                None => calls || called,
            }
    });
    if let Some(sibling) = sibling {
        let detail = format!("same end point as stream {} to {}", sibling.local, sibling.peer);
        case.decide("peer", detail, 0.9, Some(sibling.role));
    }
}

/// The service of QEMU that a flow belongs to.
fn service(process: &ProcessFacts, flow: &FlowFacts) -> Option<String> {
    for &(first, last, name) in SERVICES {
        if let Some((port, _)) = service_port(flow, |port| first <= port && port <= last) {
            return Some(format!("port {port} is {name}"));
        }
    }
    let named = |port| service_on_cmdline(&process.cmdline, port);
    if let Some((port, _)) = service_port(flow, named) {
        return Some(format!("port {port} is on QEMU's command line, not for -incoming"));
    }
    let gluster = process.cmdline.iter().any(|argument| argument.contains("gluster"));
    if gluster && let Some((port, true)) = service_port(flow, |port| MIGRATION_PORTS.contains(port))
    {
        return Some(format!("port {port} may belong to a Gluster brick"));
    }
    None
}

fn destination(case: &mut Case, process: &ProcessFacts, flow: &FlowFacts, incoming: &Incoming) {
    if flow.bytes_received == 0 {
        return;
    }
    case.support("cmdline", "started with -incoming, and accepted the connection".to_owned(), 0.4);
    let role = Some(Role::Destination);
    let port = flow.local.port();
    if incoming.port == Some(port) {
        case.decide("cmdline", format!("-incoming names port {port}"), 0.9, role);
    }
    if is_migration_port(port) {
        case.decide("port", format!("port {port} is a migration port"), 0.6, role);
    }
    let receiver = flow.recv_tid;
    if receiver != 0
        && receiver != process.pid
        && flow.bytes_received >= DIRECTION_BYTES
        && created(process, flow, receiver) == Created::ForFlow
    {
        let detail = format!("thread {receiver}, created for this connection, receives");
        case.decide("thread", detail, 0.6, role);
    }
    if one_way(flow, INCOMING_BYTES) == role {
        case.decide("behaviour", bulk(flow, Role::Destination), 0.4, role);
    }
}

fn source(case: &mut Case, process: &ProcessFacts, flow: &FlowFacts) {
    let sender = flow.send_tid;
    if flow.bytes_queued == 0 || sender == 0 || sender == process.pid {
        return;
    }
    let role = Some(Role::Source);
    let created = created(process, flow, sender);
    // An NBD client negotiates in a thread of its own, a few hundred bytes, before its main loop takes over.
    if let Some((port, true)) = service_port(flow, is_migration_port)
        && created != Created::AtStart
        && flow.bytes_queued >= PORT_BYTES
    {
        let detail = format!("connects to migration port {port}, and not from QEMU's main loop");
        case.decide("port", detail, 0.6, role);
    }
    if created == Created::ForFlow && flow.bytes_queued >= DIRECTION_BYTES {
        let detail = format!("thread {sender}, created for this connection, sends");
        case.decide("thread", detail, 0.6, role);
    } else if created == Created::Later && one_way(flow, BULK_BYTES) == role {
        let detail = format!("{} by thread {sender}, younger than QEMU", bulk(flow, Role::Source));
        case.decide("behaviour", detail, 0.5, role);
    }
}

fn created(process: &ProcessFacts, flow: &FlowFacts, tid: u32) -> Created {
    let Some(started) = thread(process, tid).map(|thread| thread.started_boottime_ns) else {
        return Created::Unknown;
    };
    if started == 0 {
        Created::Unknown
    } else if flow.opened_boottime_ns != 0
        && started.saturating_add(CLOCK_SLACK_NS) >= flow.opened_boottime_ns
    {
        Created::ForFlow
    } else if started.saturating_sub(process.started_boottime_ns) > START_UP_NS {
        Created::Later
    } else {
        Created::AtStart
    }
}

/// What to say when nothing decides.
fn refusal(process: &ProcessFacts, flow: &FlowFacts, may_be_destination: bool) -> Refusal {
    let main_loop = |tid, bytes| bytes == 0 || tid == process.pid;
    let moved = flow.bytes_queued.max(flow.bytes_received);
    if moved == 0 {
        return Refusal::Yet(Rejection::NoData, "no data has moved".to_owned());
    }
    if !may_be_destination
        && moved >= MAIN_LOOP_BYTES
        && main_loop(flow.send_tid, flow.bytes_queued)
        && main_loop(flow.recv_tid, flow.bytes_received)
    {
        let reason = format!(
            "QEMU's main loop moves it ({}), as it does for user networking, displays and disks",
            mib(moved)
        );
        return Refusal::Never(Rejection::MainLoop, reason);
    }
    let reason = "no migration thread, migration port or -incoming explains it";
    Refusal::Yet(Rejection::NoSign, reason.to_owned())
}
