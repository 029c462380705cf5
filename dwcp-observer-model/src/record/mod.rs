//! What the observer says about one migration: the record of the API, of `dwcp-observer migrations` and of the metrics.
//!
//! Absent is not zero: what was not measured is `None` and is missing from the JSON.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

mod dump;
mod guest;
mod rdma;
mod reason;
#[cfg(test)]
#[path = "tests/samples.rs"]
mod samples;
mod storage;
mod stream;
#[cfg(test)]
mod tests;
mod thread;
mod version;

pub use self::dump::{DumpedProcess, FreezeEnd, FreezeMethod, Frozen};
pub use self::guest::{
    Awaited, Blackout, BlackoutParts, ByMethod, FirstPacket, Interruption, ManagerRequest, Method,
    MigratorStateChange, NetworkBlackout, Phase, PhaseName, Postcopy, Round, Standstill,
};
pub use self::rdma::{Operations, QueuePair, RegisteredMemory};
pub use self::reason::{Reason, ReasonClass};
pub use self::storage::{Storage, StorageStream};
pub use self::stream::{
    CongestionTimes, SocketCounters, StateChange, Stream, StreamBytes, StreamRole, TcpStream,
};
pub use self::thread::{Thread, ThreadRole};
pub use self::version::Version;
use super::verdict::{Cause, Fractions, Health, Verdict};

/// A name that the kernel or a specification gives: where it is written, one out of a fixed list; where it is read, any.
pub type Name = Cow<'static, str>;

/// What `/api/v1/migrations` answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct List<M = Migration> {
    /// Running migrations, and finished ones that are still held.
    pub migrations: Vec<M>,
}

/// One live migration, running or finished.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Migration {
    /// Unique for ever: start time in ms since 1970, the migrator's pid, and a number that no other run of the observer gives, as
    /// `1795350000123-4711-3f9a0c1`.
    pub id: String,
    /// Whether streams are open.
    pub state: State,
    /// How it ended; null while it runs.
    pub outcome: Option<Outcome>,
    /// Why it did not complete; absent while it runs and when it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The guest was let run at both ends: two of it write to the same disks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub split_brain: bool,
    /// The virtual machine, as far as its command line tells.
    #[serde(default)]
    pub vm: Vm,
    /// The process that is dumped; absent with a guest, and where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dumped_process: Option<DumpedProcess>,
    /// Kind of migrator: `qemu`, `cloud-hypervisor`, `criu`, `dwcp`, or the name of a rule of the configuration.
    pub migrator: String,
    /// `tcp` or `rdma`; absent while no connection is seen (another carrier, or none was made).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
    /// `datacenter`, `internet`, `hybrid`; absent until there is an RTT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// `v1` or `v3`; absent where the configuration does not tell them apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// 0 to 1: how sure it is that this is a migration.
    pub confidence: f64,
    /// The ends on this host: source, destination or both.
    pub ends: Vec<End>,
    /// The migrator's first word or the first connection, whichever was first.
    pub started_at: Timestamp,
    /// True when the observer came later: totals count from the first connection, times, rates and histograms from `observed_from`.
    pub found_under_way: bool,
    /// When measuring began.
    pub observed_from: Timestamp,
    /// Last close, or when the guest's fate was settled if that was later; null while it runs.
    pub ended_at: Option<Timestamp>,
    /// From `started_at` to `ended_at`, or to now.
    pub duration_seconds: f64,
    /// Names the main connection, source end first: the observers of both hosts derive the same key, unless the path between them
    /// translates addresses. Absent until there is a stream with both roles known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_key: Option<String>,
    /// How long the guest stood still; absent while it has not been stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blackout: Option<Blackout>,
    /// The guest stands still now; absent while it runs, and after the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standstill: Option<Standstill>,
    /// How long nothing came out of the guest; absent where it has no tap device at the destination, or nothing came yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_blackout: Option<NetworkBlackout>,
    /// The phases it passed, in order, without gaps.
    #[serde(default)]
    pub phases: Vec<Phase>,
    /// How the last second went, and why; absent before the first and after the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Passes over RAM; empty when the migrator's functions are not probed or its source is not on this host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rounds: Vec<Round>,
    /// What is left to send, by QEMU's own count at its last look: memory, and what else it sends in rounds. Absent after the end,
    /// from the guest's stop on unless QEMU goes on to look (postcopy), and where QEMU does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_bytes: Option<u64>,
    /// States that the migrator went through, as QEMU's `MIGRATION` events name them: the source's, else the destination's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub migrator_states: Vec<MigratorStateChange>,
    /// What the manager asked the migrators for, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<ManagerRequest>,
    /// Share of their time that the migrator keeps the guest's CPUs from running so that rounds shrink (auto-converge), %; absent
    /// while it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_throttle_percent: Option<u32>,
    /// The destination began to announce the guest to the network: begin of the network's switch-over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub announced_at: Option<Timestamp>,
    /// The time after the switch-over of a postcopy; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postcopy: Option<Postcopy>,
    /// Sums over all streams; absent where a device moves their data without the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Bytes>,
    /// Rate of delivered (source) or received (destination) bytes over the last cycle; absent when not running, and without `bytes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput_bytes_per_second: Option<f64>,
    /// Mean rate over the whole migration, or since it was found under way; absent while it runs, and without `bytes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_throughput_bytes_per_second: Option<f64>,
    /// One per connection, in order of opening.
    #[serde(default)]
    pub streams: Vec<Stream>,
    /// Local disks that are copied along; absent where there are none. They are in none of the figures above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// Memory that the migrators have registered with RDMA devices; empty without queue pairs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub registered_memory: Vec<RegisteredMemory>,
    /// Streams that found no slot in the kernel: they count in `bytes` only.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub streams_without_detail: u64,
    /// Threads of the migrators on this host.
    #[serde(default)]
    pub threads: Vec<Thread>,
    /// Why this is called a migration, and what is known of its end.
    #[serde(default)]
    pub evidence: Vec<Evidence>,
    /// One entry per second, oldest first; only on the single-migration path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<Vec<Sample>>,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl Migration {
    /// The end of this role, where it is on this host.
    #[must_use]
    pub fn end(&self, role: Role) -> Option<&End> {
        self.ends.iter().find(|end| end.role == role)
    }

    /// Whether a process of this host is at one of its ends.
    #[must_use]
    pub fn has_process(&self, pid: u32) -> bool {
        self.ends.iter().any(|end| end.pid == pid)
    }

    /// Its VM's name, else its id.
    #[must_use]
    pub fn name(&self) -> &str {
        self.vm.name.as_deref().unwrap_or(&self.id)
    }

    /// Delivered bytes where the source is on this host, else what the destination received; `None` where neither was seen.
    #[must_use]
    pub fn transferred(&self) -> Option<u64> {
        let bytes = self.bytes?;
        Some(if self.end(Role::Source).is_some() { bytes.delivered } else { bytes.received })
    }

    /// How many connections it has, those without detail included.
    #[must_use]
    pub fn stream_count(&self) -> u64 {
        self.streams.len() as u64 + self.streams_without_detail
    }

    /// Without what is large: its streams count as streams without detail.
    #[must_use]
    pub fn without_detail(self) -> Self {
        let streams_without_detail = self.stream_count();
        Self {
            streams_without_detail,
            streams: Vec::new(),
            threads: Vec::new(),
            history: None,
            ..self
        }
    }

    /// Length of the blackout, seconds; `None` while one of its instants is not known.
    #[must_use]
    pub fn blackout_seconds(&self) -> Option<f64> {
        self.blackout.as_ref()?.seconds
    }

    /// Whether it runs DWCP v1: no part of v3's figures.
    #[must_use]
    pub fn is_v1(&self) -> bool {
        self.version == Some(Version::V1)
    }
}

crate::named! {
    /// Whether a migration is running.
    pub enum State {
        /// At least one stream is open.
        Active = "active",
        /// The last stream has closed.
        Finished = "finished",
    }
}

crate::named! {
    /// How a migration ended; rests on the record's evidence.
    pub enum Outcome {
        /// The guest runs at the destination.
        Completed = "completed",
        /// An end died, or a connection was reset or timed out.
        Failed = "failed",
        /// Given up on purpose: the guest runs on at the source.
        Cancelled = "cancelled",
        /// The evidence does not tell.
        #[serde(other)]
        Unknown = "unknown",
    }
}

crate::named! {
    /// What carries the streams.
    pub enum Transport {
        /// TCP over IPv4 or IPv6.
        Tcp = "tcp",
        /// RDMA verbs: InfiniBand, RoCE or iWARP.
        Rdma = "rdma",
    }
}

crate::named! {
    /// The path a migration takes (contract: `datacenter`, `internet`, `hybrid`).
    pub enum Mode {
        /// Short RTT and a high rate.
        Datacenter = "datacenter",
        /// Long RTT.
        Internet = "internet",
        /// Neither.
        Hybrid = "hybrid",
    }
}

/// The virtual machine, from the migrator's command line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// `-name guest=`; absent when the command line has none.
    pub name: Option<String>,
    /// `-uuid`.
    pub uuid: Option<String>,
    /// `-m`, bytes.
    pub memory_bytes: Option<u64>,
}

crate::named! {
    /// Which side of a migration a process or a flow is on.
    pub enum Role {
        /// Sends the guest.
        Source = "source",
        /// Receives the guest.
        Destination = "destination",
    }
}

/// A migrator process on this host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct End {
    /// Source or destination.
    pub role: Role,
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Name of its main thread.
    pub comm: String,
    /// Path of its executable, as `/proc/PID/exe` gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Its cgroup (v2 path, else the longest v1 path).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
}

/// Byte totals of a migration. With both ends on this host each byte counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// Payload that the source wrote into its sockets.
    pub queued: u64,
    /// Payload acknowledged by the destination's kernel.
    pub delivered: u64,
    /// Payload that arrived in order at the destination's socket; as seen by a source alone: what came back.
    pub received: u64,
    /// Payload sent more than once.
    pub retransmitted: u64,
}

/// Quantiles of a kernel histogram, seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Number of samples.
    pub count: u64,
    /// Arithmetic mean.
    pub mean_seconds: f64,
    /// Median.
    pub p50_seconds: f64,
    /// 99th percentile, nearest rank.
    pub p99_seconds: f64,
    /// Upper bound of the highest bucket used.
    pub max_seconds: f64,
}

/// One reason for what the record says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// What was looked at: `comm`, `thread`, `port`, `cmdline`, `cgroup`, `exe`, `peer`, `behaviour`, `config`, `close`, ...
    pub kind: String,
    /// What was seen, for a reader.
    pub detail: String,
    /// What it adds to the confidence, 0 to 1; absent where it speaks of the outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
}

/// Payload of one second of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleBytes {
    /// Delivered bytes so far.
    pub bytes_delivered: u64,
    /// Rate of delivery over the second.
    pub bytes_per_second: f64,
    /// Queued but not yet acknowledged at the end of the second.
    pub bytes_in_flight: u64,
}

/// One second of a migration.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// End of the second.
    pub at: Timestamp,
    /// Its payload; these fields stand beside those here. Absent where a device moves it without the kernel.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<SampleBytes>,
    /// Segments retransmitted in this second.
    pub retransmitted_segments: u64,
    /// Mean smoothed RTT over the open streams; absent without a sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub srtt_seconds: Option<f64>,
    /// Sum of the congestion windows, bytes.
    pub cwnd_bytes: u64,
    /// Open streams.
    pub streams: u32,
    /// CPU seconds used by the migration's main and stream threads in this second.
    pub migration_cpu_seconds: f64,
    /// Seconds that these threads waited for a CPU.
    pub migration_runqueue_wait_seconds: f64,
    /// CPU seconds used by guest CPUs.
    pub vcpu_cpu_seconds: f64,
    /// Seconds that guest CPUs waited for a CPU.
    pub vcpu_runqueue_wait_seconds: f64,
    /// Share of their time that the migrator kept them from running (auto-converge), %.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_throttle_percent: Option<u32>,
    /// How it went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Health>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Wall time of the sending side by cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fractions: Option<Fractions>,
}
