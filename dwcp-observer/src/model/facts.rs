//! What identification looks at: plain values, gathered elsewhere.

use std::net::SocketAddr;

/// A process that moves data on a candidate flow.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessFacts {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Name of its main thread.
    pub comm: String,
    /// Path of the executable; absent when `/proc` does not give it.
    pub exe: Option<String>,
    /// Arguments; empty when `/proc` does not give them.
    pub cmdline: Vec<String>,
    /// cgroup path (v2, else the longest v1 path).
    pub cgroup: Option<String>,
    /// Whether it holds `/dev/kvm` open.
    pub has_kvm: bool,
    /// Names of its threads now.
    pub threads: Vec<ThreadFacts>,
    /// When its main thread started, `CLOCK_BOOTTIME` ns.
    pub started_boottime_ns: u64,
}

/// `/proc` cuts start times to clock ticks (10 ms), ns.
const START_SLACK_NS: u64 = 20_000_000;

impl ProcessFacts {
    /// Whether these are facts of the process that started at this moment (`task_struct.start_boottime`, `CLOCK_BOOTTIME` ns): its id may be
    /// another one's by now.
    #[must_use]
    pub const fn is_process(&self, start_boottime_ns: u64) -> bool {
        self.started_boottime_ns.abs_diff(start_boottime_ns) <= START_SLACK_NS
    }

    /// Whether it had started by then, `CLOCK_BOOTTIME` ns: who did something at that moment under its id was no other.
    #[must_use]
    pub const fn was_there(&self, at_boottime_ns: u64) -> bool {
        self.started_boottime_ns <= at_boottime_ns.saturating_add(START_SLACK_NS)
    }
}

/// A thread of such a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadFacts {
    /// Thread id.
    pub tid: u32,
    /// Name.
    pub comm: String,
    /// When it started, `CLOCK_BOOTTIME` ns; 0 unknown.
    pub started_boottime_ns: u64,
}

/// One end of a connection of such a process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlowFacts {
    /// Own address.
    pub local: SocketAddr,
    /// Peer's address.
    pub peer: SocketAddr,
    /// `Some(true)`: this end called `connect()`; `None`: not known yet.
    pub active_open: Option<bool>,
    /// Process that called `connect()`, where it is another one (a manager that passed the descriptor on).
    pub opener_pid: Option<u32>,
    /// This end sent the first payload; `None`: not known.
    pub spoke_first: Option<bool>,
    /// Thread that last sent; 0 none.
    pub send_tid: u32,
    /// Thread that last received; 0 none.
    pub recv_tid: u32,
    /// Payload bytes sent and queued by this end.
    pub bytes_queued: u64,
    /// Payload bytes received by this end.
    pub bytes_received: u64,
    /// Age since first sign, ns.
    pub age_ns: u64,
    /// First sign of the connection, `CLOCK_BOOTTIME` ns.
    pub opened_boottime_ns: u64,
    /// A queue pair, no socket.
    pub rdma: bool,
    /// The socket or queue pair is closed: no more will be known.
    pub closed: bool,
}
