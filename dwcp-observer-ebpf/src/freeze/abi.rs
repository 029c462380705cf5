//! Process trees that a checkpoint tool (CRIU) stops to dump them.

use crate::process::COMM_LEN;

/// Stopped, or nothing is known of the end.
pub const FREEZE_OPEN: u32 = 0;
/// The dumped process exited: it was killed when its dump was whole.
pub const FREEZE_EXIT: u32 = 1;
/// Its tracer let it run again.
pub const FREEZE_RESUME: u32 = 2;
/// Its tracer exited while it still traced it: the kernel lets it run, unless it is to be killed.
pub const FREEZE_TRACER_EXIT: u32 = 3;

/// What a process has stopped with ptrace, last. Part of the tracer's [`Process`](crate::process::Process).
///
/// Written without a lock in the context of the tasks that stop, of the tracer that lets them run, and of their exit. A tracer waits for each of
/// these; where two tasks stop at once (a thawed cgroup), the first stop is off by what lies between them. The agent copies it as it is: `end` is
/// written after `ended_ns`. Torn, it shows the begin or the number of stops of the freeze before, until the next look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Freeze {
    /// Thread-group id of the first task that stopped; 0 none yet.
    pub tgid: u32,
    /// `FREEZE_*`: how it ended.
    pub end: u32,
    /// Name of the main thread of that task's process.
    pub comm: [u8; COMM_LEN],
    /// The tracer froze a cgroup (v2), `CLOCK_MONOTONIC` ns; 0 it did not.
    pub cgroup_ns: u64,
    /// The first task stopped, `CLOCK_MONOTONIC` ns; 0 none yet.
    pub stopped_ns: u64,
    /// The last task stopped: all of them stand since.
    pub all_stopped_ns: u64,
    /// Tasks that stopped.
    pub stops: u64,
    /// Non-zero: the tracer runs code of its own within a stopped task. All of them stand by then, and what it stops now is that.
    pub injected: u64,
    /// The first of them ended or ran again, `CLOCK_MONOTONIC` ns; 0 not yet, or unseen.
    pub ended_ns: u64,
}
