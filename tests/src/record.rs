//! What the tests read of a migration's record. A missing field is an error of its own.

pub mod blackout;

use serde::Deserialize;
use std::collections::BTreeMap;

use self::blackout::{Blackout, MigratorState, Phase, Postcopy, Round};
use crate::process::was_started_here;
use crate::temp::TempDir;

/// One migration as `GET /api/v1/migrations` shows it.
#[derive(Clone, Debug, Deserialize)]
pub struct Record {
    /// Identifier.
    pub id: String,
    /// `active` or `finished`.
    pub state: String,
    /// `completed`, `failed`, `cancelled`, `unknown`; `None` while it runs.
    pub outcome: Option<String>,
    /// The virtual machine.
    pub vm: Vm,
    /// `qemu`, `criu`, ...
    pub migrator: String,
    /// `tcp`.
    #[serde(default)]
    pub transport: String,
    /// The ends on this host.
    pub ends: Vec<End>,
    /// The observer came later.
    pub found_under_way: bool,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339; `None` while it runs.
    pub ended_at: Option<String>,
    /// Seconds.
    pub duration_seconds: f64,
    /// Totals, bytes; zeros where no connection was seen.
    #[serde(default)]
    pub bytes: Bytes,
    /// Connections.
    pub streams: Vec<Stream>,
    /// `datacenter`, `internet`, `hybrid`.
    pub mode: Option<String>,
    /// Memory registered with RDMA devices.
    #[serde(default)]
    pub registered_memory: Vec<RegisteredMemory>,
    /// Connections without a slot.
    #[serde(default)]
    pub streams_without_detail: u64,
    /// Threads of the migrators.
    pub threads: Vec<Thread>,
    /// Why.
    pub evidence: Vec<Evidence>,
    /// The main connection, by which the two hosts' records are joined.
    pub connection_key: Option<String>,
    /// How long the guest stood still; `None` if it did not.
    pub blackout: Option<Blackout>,
    /// Phases, in order.
    #[serde(default)]
    pub phases: Vec<Phase>,
    /// Passes over the guest's memory, in order.
    #[serde(default)]
    pub rounds: Vec<Round>,
    /// What is left to send, by QEMU's own count, while it runs.
    pub remaining_bytes: Option<u64>,
    /// The migrator's states, in order.
    #[serde(default)]
    pub migrator_states: Vec<MigratorState>,
    /// Of a migration that went over to postcopy.
    pub postcopy: Option<Postcopy>,
    /// Per-second history; on the single-migration path only.
    pub history: Option<Vec<Sample>>,
}

/// The virtual machine.
#[derive(Clone, Debug, Deserialize)]
pub struct Vm {
    /// Its name.
    pub name: Option<String>,
    /// Its UUID.
    pub uuid: Option<String>,
    /// Its memory.
    pub memory_bytes: Option<u64>,
}

/// A migrator process.
#[derive(Clone, Debug, Deserialize)]
pub struct End {
    /// `source` or `destination`.
    pub role: String,
    /// Process id.
    pub pid: u32,
    /// Path of its executable.
    pub exe: Option<String>,
}

/// Payload totals, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Bytes {
    /// Written by the source.
    pub queued: u64,
    /// Acknowledged.
    pub delivered: u64,
    /// Arrived in order.
    pub received: u64,
    /// Sent again.
    pub retransmitted: u64,
}

/// One connection.
#[derive(Clone, Debug, Deserialize)]
pub struct Stream {
    /// `main`, `multifd`, `preempt`.
    pub role: String,
    /// The source's end.
    pub local: String,
    /// The destination's end.
    pub peer: String,
    /// Payload written, bytes.
    pub bytes_queued: u64,
    /// Payload acknowledged, bytes.
    pub bytes_delivered: u64,
    /// Payload that arrived in order, bytes.
    pub bytes_received: u64,
    /// Payload sent again, bytes.
    #[serde(default)]
    pub bytes_retransmitted: u64,
    /// Segments sent again.
    #[serde(default)]
    pub retransmitted_segments: u64,
    /// `tcpi_busy_time`, seconds.
    #[serde(default)]
    pub busy_seconds: f64,
    /// `tcpi_rwnd_limited`, seconds.
    #[serde(default)]
    pub rwnd_limited_seconds: f64,
    /// `tcpi_sndbuf_limited`, seconds.
    #[serde(default)]
    pub sndbuf_limited_seconds: f64,
    /// RSTs seen.
    #[serde(default)]
    pub resets: u64,
    /// The socket's own counters.
    #[serde(default)]
    pub socket: SocketCounters,
    /// Windowed minimum RTT, seconds.
    pub min_rtt_seconds: Option<f64>,
    /// When the sending end closed.
    pub ended_at: Option<String>,
    /// The queue pair, where it is no socket: then what TCP alone has is zero above.
    pub queue_pair: Option<QueuePair>,
}

/// A queue pair, of a record or of `/api/v1/rdma`.
#[derive(Clone, Debug, Deserialize)]
pub struct QueuePair {
    /// Device.
    pub device: String,
    /// Number.
    pub qpn: u32,
    /// `completions`, `counters`, `none`.
    pub data_path: String,
    /// State.
    pub qp_state: String,
    /// Work by operation.
    pub operations: BTreeMap<String, Operations>,
    /// Doorbell to completion.
    pub completion_latency: Option<Latency>,
    /// Waits for a receive that the peer had not posted; absent where they are not seen.
    pub rnr_waits: Option<u64>,
    /// Failed completions by status.
    #[serde(default)]
    pub completion_errors: BTreeMap<String, u64>,
}

/// Work requests of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Operations {
    /// Posted; absent where the send queue is not readable.
    pub posted: Option<u64>,
    /// Handed to the provider's library; absent where that is not probed.
    pub provider_posted: Option<u64>,
    /// Bytes of those.
    pub provider_posted_bytes: Option<u64>,
    /// Completed.
    pub completed: u64,
    /// Payload of the completions.
    pub bytes: u64,
}

/// Quantiles of a histogram.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Latency {
    /// Samples.
    pub count: u64,
    /// Mean.
    pub mean_seconds: f64,
    /// Median.
    pub p50_seconds: f64,
}

/// Memory that an end has registered.
#[derive(Clone, Debug, Deserialize)]
pub struct RegisteredMemory {
    /// `source` or `destination`.
    pub end: String,
    /// How often.
    pub registrations: u64,
    /// How much.
    pub bytes: u64,
    /// How long that took.
    pub seconds: f64,
    /// Most bytes pinned.
    pub pinned_peak_bytes: u64,
}

/// The socket's own counters, SYN and FIN included, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct SocketCounters {
    /// `tcpi_bytes_acked` of the sending end.
    pub bytes_acked: u64,
    /// `tcpi_bytes_received` of the receiving end.
    pub bytes_received: u64,
}

/// A thread.
#[derive(Clone, Debug, Deserialize)]
pub struct Thread {
    /// `source` or `destination`.
    pub end: String,
    /// Thread id.
    pub tid: u32,
    /// Name.
    pub comm: String,
    /// `main`, `stream`, `vcpu`, `other`.
    pub role: String,
    /// Seconds.
    pub on_cpu_seconds: f64,
    /// Seconds.
    pub runqueue_wait_seconds: f64,
}

/// A reason.
#[derive(Clone, Debug, Deserialize)]
pub struct Evidence {
    /// What was looked at.
    pub kind: String,
    /// What was seen.
    pub detail: String,
}

/// One second.
#[derive(Clone, Debug, Deserialize)]
pub struct Sample {
    /// RFC 3339.
    pub at: String,
    /// Delivered so far, bytes.
    pub bytes_delivered: u64,
    /// Rate, bytes/s.
    pub bytes_per_second: f64,
    /// Open streams.
    pub streams: u32,
}

impl Record {
    /// The process id of the end with this role.
    #[must_use]
    pub fn pid(&self, role: &str) -> Option<u32> {
        self.ends.iter().find(|end| end.role == role).map(|end| end.pid)
    }

    /// Whether it is over, its outcome is settled and the final counters of all its sockets are in.
    #[must_use]
    pub fn is_final(&self) -> bool {
        // How the streams closed is told once the outcome is settled.
        self.state == "finished"
            && self.evidence.iter().any(|line| line.kind == "close")
            && self.streams.iter().all(|stream| stream.ended_at.is_some())
    }

    /// Whether one of its processes was started by this test: directly, or from a copy of a program
    /// in one of its temporary directories.
    #[must_use]
    pub fn is_own(&self) -> bool {
        let directories = TempDir::prefix();
        self.ends.iter().any(|end| {
            was_started_here(end.pid)
                || end.exe.as_ref().is_some_and(|exe| exe.starts_with(&directories))
        })
    }

    /// Threads of one end with one role.
    pub fn threads_of<'a>(
        &'a self,
        end: &'a str,
        role: &'a str,
    ) -> impl Iterator<Item = &'a Thread> {
        self.threads.iter().filter(move |thread| thread.end == end && thread.role == role)
    }
}
