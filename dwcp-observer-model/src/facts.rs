//! What identification looks at: plain values, gathered elsewhere.

use std::net::SocketAddr;

/// A process for ever: its id may be another one's tomorrow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// When its main thread started, `CLOCK_BOOTTIME` in clock ticks, as `/proc/PID/stat` gives it.
    pub start_ticks: u64,
}

/// What `/proc` counts start times in, ns: `USER_HZ` is 100 on x86-64 and arm64.
pub const TICK_NS: u64 = 10_000_000;

impl ProcessId {
    /// From `task_struct.start_boottime`, or from a start time of `/proc` in ns.
    #[must_use]
    pub const fn new(pid: u32, start_boottime_ns: u64) -> Self {
        Self { pid, start_ticks: start_boottime_ns / TICK_NS }
    }
}

/// Why the arguments of a process are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// They are being read.
    Awaited,
    /// Its memory does not answer.
    Silent,
    /// Too many other processes do not answer.
    Crowded,
}

impl Unread {
    /// In words, after "its command line".
    #[must_use]
    pub const fn why(self) -> &'static str {
        match self {
            Self::Awaited => "is being read",
            Self::Silent => "cannot be read: its memory does not answer",
            Self::Crowded => "was not read: too many other processes do not answer",
        }
    }
}

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
    /// Why they are not known; `None` when they are.
    pub unread: Option<Unread>,
    /// cgroup path (v2, else the longest v1 path).
    pub cgroup: Option<String>,
    /// Whether it holds `/dev/kvm` open.
    pub has_kvm: bool,
    /// Names of its threads now.
    pub threads: Vec<ThreadFacts>,
    /// When its main thread started, `CLOCK_BOOTTIME` ns.
    pub started_boottime_ns: u64,
}

/// Two clocks are read one after the other, ns.
const CLOCK_SLACK_NS: u64 = 1_000_000;

impl ProcessFacts {
    /// Which process these are facts of.
    #[must_use]
    pub const fn id(&self) -> ProcessId {
        ProcessId::new(self.pid, self.started_boottime_ns)
    }

    /// Whether it had started by then, `CLOCK_BOOTTIME` ns: who did something at that moment under its id was no other.
    #[must_use]
    pub const fn was_there(&self, at_boottime_ns: u64) -> bool {
        self.started_boottime_ns <= at_boottime_ns.saturating_add(CLOCK_SLACK_NS)
    }

    /// Takes in its arguments, or why they are not known.
    pub fn learn(&mut self, cmdline: Result<Vec<String>, Unread>) {
        self.unread = cmdline.as_ref().err().copied();
        self.cmdline = cmdline.unwrap_or_default();
    }

    /// Whether its arguments may be known soon.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.unread == Some(Unread::Awaited)
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
    /// First sign of the connection, `CLOCK_BOOTTIME` ns.
    pub opened_boottime_ns: u64,
    /// A queue pair, no socket.
    pub rdma: bool,
    /// The socket or queue pair is closed: no more will be known.
    pub closed: bool,
}
