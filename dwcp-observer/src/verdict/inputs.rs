//! Input of the verdict: one second of one migration, as plain values.
//!
//! Times are seconds within this second, bytes are payload. `None` means not measured, never zero.

pub use crate::model::record::{Awaited, PhaseName as Phase, Role, StreamRole, ThreadRole};
use crate::model::verdict::Standing;

/// One second of a migration, as far as this host sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Second {
    /// Its true length, seconds; a value that is not above 0 is no second and changes nothing.
    pub seconds: f64,
    /// The phase at its end; `None` where the migrator's phases are not known.
    pub phase: Option<Phase>,
    /// Bytes delivered (source) or received (destination alone) in this second, all streams.
    pub delivered_bytes: u64,
    /// The same since the migration began.
    pub delivered_total: u64,
    /// Size of the guest's memory.
    pub guest_memory_bytes: Option<u64>,
    /// Passes over the guest's memory, oldest first, the running one last: all of them, or at least the last 256. Empty for a
    /// migrator whose rounds are not known.
    pub rounds: Vec<Round>,
    /// What is left to send, as the migrator itself counts it, bytes of pages.
    pub remaining_bytes: Option<u64>,
    /// The sending end; `None` when it is on another host.
    pub source: Option<Source>,
    /// The receiving end; `None` when it is on another host.
    pub destination: Option<Destination>,
    /// The guest stands still: where, since when and for what. `None`: it runs, or nothing tells.
    pub standing: Option<Standing>,
    /// The migrator holds the guest's CPUs back to make the rounds shrink (auto-converge), per cent of their time; `None`: it does not.
    pub throttle_percent: Option<u32>,
    /// Other running migrations of this host over the same path.
    pub neighbours: Vec<Neighbour>,
    /// The part of the guest CPUs' run-queue wait that ended when a migration thread left the CPU.
    pub guest_cpu_stolen_seconds: Option<f64>,
}

impl Second {
    /// How much the guest is held back, per cent; `None` when it is not.
    #[must_use]
    pub fn throttle(&self) -> Option<u32> {
        self.throttle_percent.filter(|percent| *percent > 0)
    }
}

/// Another migration over the same path.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbour {
    /// Name of its VM, or its id.
    pub name: String,
    /// What it moves, bytes per second.
    pub bytes_per_second: f64,
}

/// One pass over the guest's memory, from one dirty-bitmap sync to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Round {
    /// 1 is the pass over all memory.
    pub number: u64,
    /// Bytes sent in it, so far if it is running.
    pub bytes: u64,
    /// Its length, so far if it is running.
    pub seconds: f64,
    /// The next sync has come.
    pub finished: bool,
    /// What was left to send when it began, as the migrator counts it, bytes of pages.
    pub left_at_begin: Option<u64>,
    /// What the guest dirtied in it, as the migrator counts it, bytes of pages.
    pub dirtied: Option<u64>,
}

/// The sending end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Source {
    /// Its process, for the sentence.
    pub pid: u32,
    /// Open streams that carry the guest (a return path is none).
    pub streams: Vec<Stream>,
    /// The migrator's main thread and all sending threads. One that is missing here has not run: it counts as asleep.
    pub threads: Vec<Thread>,
    /// Time that the main thread spent in the migrator's own rate limiter (`migration_rate_limit`).
    pub throttled_seconds: Option<f64>,
    /// Time in registrations of memory with an RDMA device: pages are pinned, in the registering thread.
    pub registration_seconds: Option<f64>,
    /// Time in which the CPU quota of its cgroup was used up (`throttled_usec`).
    pub quota_throttled_seconds: Option<f64>,
}

/// The sending end of one connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// Its place in the migration.
    pub role: StreamRole,
    /// The thread that sends on it; 0 when it has not sent yet.
    pub tid: u32,
    /// Bytes acknowledged in this second.
    pub delivered_bytes: u64,
    /// The same since the connection was made.
    pub delivered_total: u64,
    /// Bytes that the thread wrote into the socket in this second.
    pub queued_bytes: u64,
    /// Queued but not acknowledged at the end of the second.
    pub in_flight_bytes: u64,
    /// Time with data outstanding (`tcpi_busy_time`, the three chronographs together). One jiffy coarse.
    pub busy_seconds: f64,
    /// Of that, limited by the receiver's window (`tcpi_rwnd_limited`).
    pub rwnd_limited_seconds: f64,
    /// Time in fast retransmit.
    pub recovery_seconds: f64,
    /// Time after a retransmission timeout.
    pub loss_seconds: f64,
    /// Segments sent again.
    pub retransmitted_segments: u64,
    /// The same since the connection was made.
    pub retransmitted_total: u64,
    /// Segments sent, these included.
    pub sent_segments: u64,
    /// Payload of a full segment (`mss_cache`), bytes; 0 not known.
    pub segment_bytes: u64,
    /// Smoothed RTT.
    pub srtt_seconds: Option<f64>,
    /// Lowest RTT.
    pub min_rtt_seconds: Option<f64>,
    /// The receiver's window (`snd_wnd`), bytes.
    pub peer_window_bytes: u64,
}

/// A thread of a migrator. What is neither on a CPU nor runnable is sleep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thread {
    /// Its id in the initial pid namespace.
    pub tid: u32,
    /// What it does.
    pub role: ThreadRole,
    /// Time on a CPU.
    pub on_cpu_seconds: f64,
    /// Time on a run queue. The kernel adds a wait when it ends, so one that lasts must be added by the reader, or a starved
    /// thread looks asleep.
    pub run_queue_wait_seconds: f64,
    /// Time off the CPU though runnable: the run-queue wait and what a CPU quota adds.
    pub runnable_off_cpu_seconds: Option<f64>,
}

impl Thread {
    /// Time in which it wanted a CPU and had none.
    #[must_use]
    pub fn cpu_wait_seconds(&self) -> f64 {
        self.runnable_off_cpu_seconds.map_or(self.run_queue_wait_seconds, |runnable| {
            runnable.max(self.run_queue_wait_seconds)
        })
    }
}

/// The receiving end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Destination {
    /// Its process, for the sentence.
    pub pid: u32,
    /// The threads that read the streams.
    pub threads: Vec<Thread>,
    /// Bytes in its sockets that nobody has read, at the end of the second.
    pub unread_bytes: Option<u64>,
    /// The process is stopped by a signal (state `T`).
    pub stopped: bool,
    /// Time in which the CPU quota of its cgroup was used up (`throttled_usec`).
    pub quota_throttled_seconds: Option<f64>,
    /// Time in registrations of memory with an RDMA device.
    pub registration_seconds: Option<f64>,
}
