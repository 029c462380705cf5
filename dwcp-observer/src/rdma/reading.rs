//! What one look at RDMA gives: plain values, no kernel behind them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use dwcp_observer_ebpf::{
    hist::{Hist, RUNQ_BUCKETS},
    rdma::{Count, OPERATIONS, Operation, STATUSES},
};

use super::verbs::{QpState, STATUS_FLUSHED};
use crate::model::status::ProbeStatus;

/// Everything of one poll.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// RDMA devices of the host.
    pub devices: Vec<Device>,
    /// Queue pairs of processes, the closed ones once more with their final values.
    pub qps: Vec<Arc<QpReading>>,
    /// Sum of the queue pairs that found no slot; all zero while none did.
    pub overflow: Overflow,
    /// Connections made through the connection manager, the ended ones once more with their final values.
    pub connections: Vec<Connection>,
    /// Processes that have registered memory.
    pub memory: Vec<Arc<MemoryReading>>,
    /// One per hook.
    pub probes: Vec<ProbeStatus>,
    /// Named loss counters, `map:reason`.
    pub losses: Vec<(&'static str, u64)>,
}

/// What can be known of a queue pair's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DataPath {
    /// Every completion passes through the kernel and is counted: operations and bytes are exact.
    Completions,
    /// Requests are seen as their process hands them to its provider, and nothing of what becomes of them: operations and bytes are
    /// what was posted.
    Posts,
    /// The device moves data without the kernel; its port counters are all there is.
    Counters,
    /// Neither.
    None,
}

impl DataPath {
    /// The name in metrics and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completions => "completions",
            Self::Posts => "posts",
            Self::Counters => "counters",
            Self::None => "none",
        }
    }
}

/// Why a queue pair's record ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CloseReason {
    /// Its owner destroyed it.
    Destroyed,
    /// Its owner ended with it open.
    ProcessEnded,
    /// Somebody else destroyed it: the device or its driver was removed.
    DeviceRemoved,
    /// Its number was given out again before its end was seen.
    Replaced,
    /// It is no longer there, and its end was not seen.
    Vanished,
}

impl CloseReason {
    /// The name in records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Destroyed => "destroyed",
            Self::ProcessEnded => "process_ended",
            Self::DeviceRemoved => "device_removed",
            Self::Replaced => "replaced",
            Self::Vanished => "vanished",
        }
    }
}

/// One queue pair.
#[derive(Clone, Debug)]
pub struct QpReading {
    /// Its place in the kernel's array.
    pub slot: u32,
    /// Generation of the slot: with `slot` it names this queue pair for ever.
    pub generation: u32,
    /// Name of the device; `ibN` with its index when its name was never known.
    pub device: String,
    /// Index of the device, as netlink has it.
    pub device_index: u32,
    /// Name of the driver.
    pub driver: &'static str,
    /// Queue pair number.
    pub qpn: u32,
    /// The peer's queue pair number, once connected.
    pub remote_qpn: Option<u32>,
    /// Process that created it, in the initial pid namespace.
    pub tgid: u32,
    /// Name of that process.
    pub comm: String,
    /// When that process started, `CLOCK_BOOTTIME` ns; `None` for a queue pair that was open before the observer.
    pub start_boottime_ns: Option<u64>,
    /// `RC`, `UD`...
    pub kind: &'static str,
    /// Its state, as its owner last set it.
    pub state: QpState,
    /// Own address and port, when the connection manager made the connection.
    pub local: Option<SocketAddr>,
    /// Peer's address and port, when the connection manager made the connection.
    pub peer: Option<SocketAddr>,
    /// Address behind the peer's GID: known also without the connection manager. `None` on InfiniBand proper.
    pub remote_address: Option<IpAddr>,
    /// Whether this side asked for the connection.
    pub active_open: Option<bool>,
    /// Whether it was there before the observer: its totals begin in the middle.
    pub found_open: bool,
    /// When it was created, or found, `CLOCK_MONOTONIC` ns.
    pub opened_ns: u64,
    /// When it became ready to send, or was found so, `CLOCK_MONOTONIC` ns.
    pub connected_ns: Option<u64>,
    /// From the request to the established connection, seconds.
    pub connect_seconds: Option<f64>,
    /// When its owner put it into the error state, `CLOCK_MONOTONIC` ns: what QEMU does first when a migration fails.
    pub error_ns: Option<u64>,
    /// When the connection manager ended the connection, `CLOCK_MONOTONIC` ns.
    pub disconnected_ns: Option<u64>,
    /// When it was destroyed, `CLOCK_MONOTONIC` ns.
    pub closed_ns: Option<u64>,
    /// Why the record ended.
    pub close_reason: Option<CloseReason>,
    /// What is behind the figures below.
    pub visible: DataPath,
    /// Work requests by operation, in index order of [`Operation`]; `None` where the send queue cannot be read.
    pub posted: Option<[Count; OPERATIONS]>,
    /// Completions by operation; only those that the owner asked for exist. `None` unless the data path is visible.
    pub completed: Option<[Count; OPERATIONS]>,
    /// Work requests by operation as the process handed them to its provider's library; `None` where its post function is not probed
    /// or has not been called. What the provider refused, for a full queue, is in it.
    pub provider_posted: Option<[Count; OPERATIONS]>,
    /// Payload of sends and RDMA writes that are done, bytes; with [`DataPath::Posts`], that were posted. Requests without a completion of their own count when a later one
    /// completes, where the send queue can be read; elsewhere they are missing and `posted` is `None`.
    pub bytes_sent: Option<u64>,
    /// Payload received by receive completions, bytes. The target of RDMA writes sees no completion: what they wrote is not in it.
    pub bytes_received: Option<u64>,
    /// Payload fetched by RDMA reads, bytes; with [`DataPath::Posts`], asked for.
    pub bytes_read: Option<u64>,
    /// Failed completions by status number; see [`super::verbs::status_name`].
    pub errors: [u32; STATUSES],
    /// Doorbells that reached the kernel; `None` where they do not.
    pub doorbells: Option<u64>,
    /// When the last doorbell rang, `CLOCK_MONOTONIC` ns.
    pub last_post_ns: Option<u64>,
    /// When the last completion was written, `CLOCK_MONOTONIC` ns.
    pub last_completion_ns: Option<u64>,
    /// Thread that last rang the doorbell.
    pub last_send_tid: Option<u32>,
    /// Requests posted and not done; `None` where the send queue cannot be read, and in error, when all that was left is flushed.
    pub outstanding: Option<u64>,
    /// Doorbell to completion, ns; `None` where the send queue cannot be read.
    pub latency: Option<Box<Hist<RUNQ_BUCKETS>>>,
    /// Completions that came before their doorbell was seen and have no latency.
    pub late_doorbells: u64,
    /// Waits for the peer to post a receive (RNR) that ended; `None` where no function tells.
    pub rnr_waits: Option<u64>,
}

impl QpReading {
    /// Completions of one operation.
    #[must_use]
    pub fn completed(&self, operation: Operation) -> Option<Count> {
        self.completed.map(|counts| counts[operation as usize])
    }

    /// Work requests of one operation.
    #[must_use]
    pub fn posted(&self, operation: Operation) -> Option<Count> {
        self.posted.map(|counts| counts[operation as usize])
    }

    /// Failed completions that are a cause: all but flushed work, which only follows an end.
    #[must_use]
    pub fn failures(&self) -> u64 {
        let all = self.errors.iter().enumerate();
        all.filter(|(status, _)| *status != STATUS_FLUSHED)
            .map(|(_, count)| u64::from(*count))
            .sum()
    }

    /// Work requests of one operation, as the process handed them to its provider's library.
    #[must_use]
    pub fn provider_posted(&self, operation: Operation) -> Option<Count> {
        self.provider_posted.map(|counts| counts[operation as usize])
    }

    /// The address of the other end, from wherever it is known.
    #[must_use]
    pub fn peer_ip(&self) -> Option<IpAddr> {
        self.peer.map(|peer| peer.ip()).or(self.remote_address)
    }
}

/// Totals of queue pairs without a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overflow {
    /// Completions by operation.
    pub completed: [Count; OPERATIONS],
    /// Failed completions by status number.
    pub errors: [u32; STATUSES],
    /// Doorbells.
    pub doorbells: u64,
}

/// How far a connection got, and how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// Requested, not answered.
    Connecting,
    /// Both sides are ready.
    Established,
    /// The peer refused, with the reason of the connection manager (`enum ib_cm_rej_reason`) or an errno.
    Rejected(i32),
    /// Nobody answered, or the network could not be reached: negative errno.
    Unreachable(i32),
    /// It failed while connecting, with a negative errno.
    Failed(i32),
    /// It ended in order.
    Disconnected,
    /// The device went away.
    DeviceRemoved,
}

impl ConnectionState {
    /// The name in records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Established => "established",
            Self::Rejected(_) => "rejected",
            Self::Unreachable(_) => "unreachable",
            Self::Failed(_) => "failed",
            Self::Disconnected => "disconnected",
            Self::DeviceRemoved => "device_removed",
        }
    }
}

/// One connection of the connection manager, seen from one end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Kernel's number of the identifier, as in `rdma resource show cm_id`.
    pub cm_id: u32,
    /// Own address and port.
    pub local: SocketAddr,
    /// Peer's address and port.
    pub peer: SocketAddr,
    /// Whether this side asked.
    pub active_open: Option<bool>,
    /// Own queue pair number, once the request or the reply has gone out.
    pub qpn: Option<u32>,
    /// Process that asked or accepted; `None` while only the wire was seen.
    pub tgid: Option<u32>,
    /// Private data that this side's application attached, bytes.
    pub private_data: Option<u32>,
    /// How far it got.
    pub state: ConnectionState,
    /// First sign of it, `CLOCK_MONOTONIC` ns.
    pub first_ns: u64,
    /// When the request went out or came in, `CLOCK_MONOTONIC` ns.
    pub requested_ns: Option<u64>,
    /// When this side knew that it is established, `CLOCK_MONOTONIC` ns.
    pub established_ns: Option<u64>,
    /// When it was disconnected, rejected or failed, `CLOCK_MONOTONIC` ns.
    pub ended_ns: Option<u64>,
    /// Whether this side ended it.
    pub ended_here: bool,
    /// When the identifier was destroyed, `CLOCK_MONOTONIC` ns: the record is final.
    pub destroyed_ns: Option<u64>,
}

impl Connection {
    /// From the request to the established connection, seconds.
    #[must_use]
    pub fn connect_seconds(&self) -> Option<f64> {
        Some(self.established_ns?.saturating_sub(self.requested_ns?) as f64 / 1e9)
    }
}

/// What one process has registered with RDMA devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryReading {
    /// Process id in the initial pid namespace.
    pub tgid: u32,
    /// When it started, `CLOCK_BOOTTIME` ns.
    pub start_boottime_ns: u64,
    /// Its name.
    pub comm: String,
    /// Registrations that succeeded.
    pub registrations: u64,
    /// Registrations that failed or are under way.
    pub unfinished: u64,
    /// Deregistrations.
    pub deregistrations: u64,
    /// Time in successful registrations, ns.
    pub nanoseconds: u64,
    /// When the last registration ended, `CLOCK_MONOTONIC` ns.
    pub last_ns: u64,
    /// Bytes registered since it was first seen.
    pub bytes_registered: u64,
    /// Bytes registered now; what overlaps counts as often as it is registered.
    pub bytes_registered_now: u64,
    /// Most bytes registered at a time.
    pub bytes_registered_peak: u64,
    /// Bytes pinned now, the kernel's own figure (`VmPin`); `None` when the process is gone or ending.
    pub bytes_pinned_now: Option<u64>,
    /// Most bytes that were found pinned at a poll.
    pub bytes_pinned_peak: u64,
    /// Completion events read: wake-ups of threads that wait for completions.
    pub completion_events: u64,
    /// The process has ended; the record is final.
    pub ended: bool,
}

impl MemoryReading {
    /// Time in successful registrations, seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.nanoseconds as f64 / 1e9
    }
}

/// One RDMA device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Index, as netlink has it.
    pub index: u32,
    /// Name, as in `/sys/class/infiniband`.
    pub name: String,
    /// Name of the driver; `unknown` when nobody has opened it through verbs.
    pub driver: &'static str,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// One port of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// Number, from 1.
    pub number: u32,
    /// State, as sysfs has it: `ACTIVE`, `DOWN`...
    pub state: String,
    /// Payload sent by all queue pairs, bytes (`port_xmit_data` x 4); `None` where the device does not count it.
    pub sent_bytes: Option<u64>,
    /// Payload received by all queue pairs, bytes (`port_rcv_data` x 4).
    pub received_bytes: Option<u64>,
    /// Packets sent (`port_xmit_packets`, or `sent_pkts` of Soft-RoCE).
    pub sent_packets: Option<u64>,
    /// Packets received (`port_rcv_packets`, or `rcvd_pkts` of Soft-RoCE).
    pub received_packets: Option<u64>,
    /// The driver's own counters by name: RNR, retries, sequence errors.
    pub hardware: Vec<(String, u64)>,
}

impl Port {
    /// One of the driver's own counters.
    #[must_use]
    pub fn counter(&self, name: &str) -> Option<u64> {
        self.hardware.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }
}

/// What `check` says about RDMA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// No device and no module: nothing is loaded, nothing costs.
    Absent,
    /// Programs are in place.
    Active {
        /// Devices.
        devices: usize,
        /// Hooks that are attached.
        attached: usize,
        /// Hooks there are.
        hooks: usize,
    },
    /// There is RDMA, but it cannot be measured: why.
    Failed(String),
}

impl std::fmt::Display for Status {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent => write!(out, "none: no RDMA device or module on this host"),
            Self::Active { devices, attached, hooks } => {
                let plural = if *devices == 1 { "" } else { "s" };
                write!(out, "{devices} device{plural}, {attached} of {hooks} hooks attached")
            }
            Self::Failed(reason) => write!(out, "not measured: {reason}"),
        }
    }
}
