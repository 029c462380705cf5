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

/// The scheduler's own totals of a thread since it was created. Each is a total that only grows: of two copies the agent takes the larger field by
/// field, and so a torn one does no harm.
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

/// Last bursts that are kept of a thread that may run a guest CPU; a power of two.
pub const BURSTS: usize = 32;
/// First activities that are kept of such a thread.
pub const ACTIVITIES: usize = 8;
/// Time off CPU that separates two activities, ns.
pub const ACTIVITY_GAP_NS: u64 = 500_000;

/// Left its CPU blocked, in no system call that tells why.
pub const LEFT_UNKNOWN: u32 = 0;
/// Lost its CPU, or gave it up, and could have gone on.
pub const LEFT_RUNNABLE: u32 = 1;
/// The same within `ioctl(KVM_RUN)`: the guest could have gone on.
pub const LEFT_GUEST: u32 = 2;
/// Waits for a lock: `futex(FUTEX_WAIT)` as the slow path of glibc's mutex calls it.
pub const LEFT_LOCK: u32 = 3;
/// Waits on a condition: `futex` as glibc's `pthread_cond_wait` calls it. QEMU's vCPU threads do so whose CPU is halted or stopped (`qemu_wait_io_event`, softmmu/cpus.c, 5.2 to 11.1).
pub const LEFT_CONDITION: u32 = 4;
/// Blocked within `ioctl(KVM_RUN)`: the kernel halts the guest's CPU.
pub const LEFT_HALTED: u32 = 5;

/// Woken by nobody that is known.
pub const WOKEN_UNKNOWN: u32 = 0;
/// By the main thread of its process.
pub const WOKEN_MAIN_LOOP: u32 = 1;
/// By the thread that drives the migration, or one that moves its data.
pub const WOKEN_MIGRATION: u32 = 2;
/// By another thread of its process.
pub const WOKEN_OTHER: u32 = 3;

/// One stay on a CPU, `CLOCK_MONOTONIC` ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Burst {
    /// Woken for it; 0 when it had only lost its CPU.
    pub woken_ns: u64,
    /// Given the CPU.
    pub on_ns: u64,
    /// Left the CPU.
    pub off_ns: u64,
    /// Last return from `ioctl(KVM_RUN)` during the stay; 0 none.
    pub kvm_exit_ns: u64,
    /// Last such return during the stay for something that the guest did, not for a signal; 0 none.
    pub kvm_work_ns: u64,
    /// `LEFT_*`: how it left the CPU.
    pub left: u32,
    /// `WOKEN_*`: who woke it.
    pub woken_by: u32,
}

/// A burst that is shorter only wakes up for a lock, handles a request to stop, or sets registers: no guest code to speak of.
pub const GUEST_BURST_NS: u64 = 100_000;

/// Bursts that follow each other closely.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Activity {
    /// Begin of the first burst, `CLOCK_MONOTONIC` ns.
    pub began_ns: u64,
    /// Begin of the first finished burst of at least [`GUEST_BURST_NS`]; 0 none yet.
    pub guest_ns: u64,
    /// End of the last finished burst; 0 while the first runs.
    pub off_ns: u64,
    /// Sum of the finished bursts, ns.
    pub cpu_ns: u64,
    /// `LEFT_*` of the last finished burst.
    pub left: u32,
    /// `WOKEN_*` of the first burst.
    pub woken_by: u32,
}

/// When a thread that may run a guest CPU was on a CPU: what a blackout is measured by.
///
/// Stays are written at `sched_switch`, under the lock of the run queue (`__schedule`, kernel/sched/core.c, 5.10 to 6.18): by the CPU that the thread leaves,
/// then by the one that it is given, which waits until it has left the former (`p->on_cpu`, `try_to_wake_up`). `kvm_*` is written by the thread itself.
/// `woken_*` is written by wakers, one at a time (`p->pi_lock`, `try_to_wake_up`), but not under the lock of the run queue: a thread that is woken
/// before its departure is written has no time of waking in its next stay, as if it had only lost its CPU.
///
/// The agent copies all of it while it goes on. A burst is whole before `bursts` counts it; the oldest ones may be overwritten meanwhile, so
/// that what is read far back is of a later stay. The stop is looked for in the newest ones, and once the thread stands still nothing moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CpuTimes {
    /// When the running burst began; 0 while off CPU.
    pub on_ns: u64,
    /// Finished bursts; the last is at `(bursts - 1) % BURSTS`.
    pub bursts: u64,
    /// The last bursts.
    pub recent: [Burst; BURSTS],
    /// Activities so far; beyond `ACTIVITIES` they are not kept.
    pub activities: u64,
    /// The first activities since the thread is measured.
    pub first: [Activity; ACTIVITIES],
    /// When it was last woken; 0 since it has left its CPU again.
    pub woken_ns: u64,
    /// Who woke it, `WOKEN_*`.
    pub woken_by: u64,
    /// Begin of the first burst in which it was within `ioctl(KVM_RUN)`; 0 none yet.
    pub kvm_began_ns: u64,
    /// Last return from `ioctl(KVM_RUN)`; 0 none yet.
    pub kvm_exit_ns: u64,
    /// Last such return for something that the guest did; 0 none yet.
    pub kvm_work_ns: u64,
    /// Waits for a CPU that a thread of a migration held, ns; part of `run_delay_ns`.
    pub stolen_ns: u64,
    /// Time blocked, not waiting for a CPU, in stays during which the process asked for a page (postcopy), ns and number.
    pub page_wait_ns: u64,
    /// Number of these stays.
    pub page_waits: u64,
}

/// What the kernel keeps of a thread.
///
/// Begun by whoever first meets the thread of a watched process: its creator, a rename, the sweep. Then `switched` and `cpu` are written under the
/// lock of the run queue ([`CpuTimes`]), `swept` and `waiting` by the agent's sweep, one of which runs at a time, `comm` and `role` by renames, the sweep
/// and the agent, `exited_ns` and `state` by the thread itself, `wakeups` atomically by its wakers.
///
/// Races that are left:
/// - Two that meet a thread at once each begin a record. The tag keeps one; the other stays as it was begun, and is freed with the threads of
///   its process.
/// - The sweep and the exit may write `swept` at once: the values are moments apart.
/// - A name that was torn is read again at the next sweep. The last `role` counts: the agent sets its own again as long as it knows better.
///
/// The agent reads each field for itself.
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
    /// Non-zero: at the last sweep it was runnable and not on a CPU. `run_delay` has a wait only once it is over.
    pub waiting: u64,
    /// Stays on a CPU; kept for guest CPUs and for threads whose role is not known.
    pub cpu: CpuTimes,
}
