//! Threads of migrating processes.

use crate::process::COMM_LEN;

/// A thread that is none of the others.
pub const ROLE_OTHER: u32 = 0;
/// The thread that drives the migration (`live_migration`, `mig/src/main`).
pub const ROLE_MAIN: u32 = 1;
/// A thread that moves migration data (`multifdsend_N`, `mig/dst/recv_N`).
pub const ROLE_STREAM: u32 = 2;
/// A thread that runs a guest CPU.
pub const ROLE_VCPU: u32 = 3;
/// Number of roles.
pub const ROLES: usize = 4;

/// The scheduler's own totals of a thread since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SchedTotals {
    /// When the totals were read, `CLOCK_MONOTONIC` ns; 0 for those of a switch, which reads no clock.
    pub at_ns: u64,
    /// `task_struct.se.sum_exec_runtime`: ns on a CPU.
    pub on_cpu_ns: u64,
    /// `task_struct.sched_info.run_delay`: ns runnable but waiting for a CPU.
    pub run_delay_ns: u64,
    /// `task_struct.sched_info.pcount`: times it was given a CPU.
    pub runs: u64,
    /// `task_struct.nvcsw`: context switches by blocking.
    pub voluntary_switches: u64,
    /// `task_struct.nivcsw`: context switches by preemption.
    pub involuntary_switches: u64,
    /// `task_struct.se.nr_migrations`: moves to another CPU.
    pub cpu_moves: u64,
}

/// What the kernel keeps of a thread.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Thread {
    /// `SLOT_*`.
    pub state: u32,
    /// Bumped by the agent when it frees the slot; tags of an older generation are void.
    pub generation: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Thread-group id.
    pub tgid: u32,
    /// Slot of its [`Process`](crate::process::Process).
    pub process: u32,
    /// `ROLE_*` by comm rule; the agent overwrites it when it knows better.
    pub role: u32,
    /// `task_struct.start_boottime`: ns since boot.
    pub start_boottime: u64,
    /// Current name.
    pub comm: [u8; COMM_LEN],
    /// Totals when the thread got this slot: what it did before it was measured.
    pub base: SchedTotals,
    /// Totals at the last switch away from a CPU; written under the run queue's lock.
    pub switched: SchedTotals,
    /// Totals at the last sweep of the task iterator: right each second, also for a thread that never switches.
    pub swept: SchedTotals,
    /// Wake-ups since it got this slot.
    pub wakeups: u64,
    /// When it exited, `CLOCK_MONOTONIC` ns; 0 while it lives.
    pub exited_ns: u64,
}
