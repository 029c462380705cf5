//! One reading of RDMA, as plain values.

use std::{net::SocketAddr, sync::Arc};

use dwcp_observer_ebpf::rdma::{Count, OPERATIONS, STATUSES};

use crate::model::queue_pair::QpReading;
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
