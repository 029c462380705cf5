//! A queue pair at one moment.

use std::net::{IpAddr, SocketAddr};

use dwcp_observer_ebpf::{
    hist::{Hist, RUNQ_BUCKETS},
    rdma::{Count, OPERATIONS, Operation, STATUSES},
};

/// `WR_FLUSH_ERR`: work that was still queued when the queue pair went down; it follows an end, good or bad, and is no cause.
pub const STATUS_FLUSHED: usize = 5;

crate::named! {
    /// State of a queue pair (`enum ib_qp_state`).
    pub enum QpState {
        /// Created, or reset.
        Reset = "RESET",
        /// Initialised.
        Init = "INIT",
        /// Ready to receive.
        ReadyToReceive = "RTR",
        /// Ready to send: connected.
        ReadyToSend = "RTS",
        /// Send queue drained.
        SendQueueDrained = "SQD",
        /// Send queue in error.
        SendQueueError = "SQE",
        /// In error: all work is flushed.
        Error = "ERR",
        /// A number, or in JSON a name, that this version does not know.
        #[serde(other)]
        Unknown = "UNKNOWN",
    }
}

impl QpState {
    /// The state of a number of `enum ib_qp_state`.
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Reset,
            1 => Self::Init,
            2 => Self::ReadyToReceive,
            3 => Self::ReadyToSend,
            4 => Self::SendQueueDrained,
            5 => Self::SendQueueError,
            6 => Self::Error,
            _ => Self::Unknown,
        }
    }
}

crate::named! {
    /// What can be known of a queue pair's data.
    pub enum DataPath {
        /// Every completion passes through the kernel and is counted: operations and bytes are exact.
        Completions = "completions",
        /// Requests are seen as their process hands them to its provider, and nothing of what becomes of them: operations and bytes are
        /// what was posted.
        Posts = "posts",
        /// The device moves data without the kernel; its port counters are all there is.
        Counters = "counters",
        /// Neither.
        None = "none",
    }
}

crate::named! {
    /// Why a queue pair's record ended.
    pub enum CloseReason {
        /// Its owner destroyed it.
        Destroyed = "destroyed",
        /// Its owner ended with it open.
        ProcessEnded = "process_ended",
        /// Somebody else destroyed it: the device or its driver was removed.
        DeviceRemoved = "device_removed",
        /// Its number was given out again before its end was seen.
        Replaced = "replaced",
        /// It is no longer there, and its end was not seen.
        Vanished = "vanished",
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
    /// Failed completions by status number; see `rdma::verbs::status_name`.
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
}
