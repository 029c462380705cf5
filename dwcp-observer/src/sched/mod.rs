//! Threads of migrating processes: decodes the kernel side's records into plain values.

use std::ptr::NonNull;

use dwcp_observer_ebpf::{
    SLOT_CLOSED,
    sched::{CpuTimes, ROLE_MAIN, ROLE_STREAM, ROLE_VCPU, SchedTotals, Thread},
};

use crate::{
    kernel::sys::{peek, renew},
    model::record::ThreadRole,
};

/// One thread at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct ThreadReading {
    /// Its place in the kernel's array.
    pub slot: u32,
    /// Generation of the slot.
    pub generation: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Process id.
    pub tgid: u32,
    /// Slot of its process.
    pub process: u32,
    /// Role by name.
    pub role: ThreadRole,
    /// Name.
    pub comm: String,
    /// When it started, `CLOCK_BOOTTIME` ns.
    pub start_boottime_ns: u64,
    /// Totals when measuring began.
    pub base: SchedTotals,
    /// Totals now.
    pub now: SchedTotals,
    /// Wake-ups since measuring began.
    pub wakeups: u64,
    /// It has exited.
    pub exited: bool,
    /// It was runnable and not on a CPU at the last sweep: a wait that `run_delay_ns` does not hold yet.
    pub waiting: bool,
    /// Its stays on a CPU; all zero for threads that move migration data.
    pub cpu: CpuTimes,
}

/// The role for a number of the kernel side.
#[must_use]
pub const fn role_of(number: u32) -> ThreadRole {
    match number {
        ROLE_MAIN => ThreadRole::Main,
        ROLE_STREAM => ThreadRole::Stream,
        ROLE_VCPU => ThreadRole::Vcpu,
        _ => ThreadRole::Other,
    }
}

/// The number on the kernel side.
#[must_use]
pub const fn role_number(role: ThreadRole) -> u32 {
    match role {
        ThreadRole::Main => ROLE_MAIN,
        ThreadRole::Stream => ROLE_STREAM,
        ThreadRole::Vcpu => ROLE_VCPU,
        ThreadRole::Other => 0,
    }
}

/// Reads a thread; its totals are those of the later of its last switch and the last sweep.
#[must_use]
pub fn read(slot: u32, record: NonNull<Thread>) -> ThreadReading {
    let (switched, swept) = (peek!(record, switched), peek!(record, swept));
    let role = role_of(peek!(record, role));
    let may_run_guest = matches!(role, ThreadRole::Vcpu | ThreadRole::Other);
    ThreadReading {
        slot,
        generation: peek!(record, generation),
        tid: peek!(record, tid),
        tgid: peek!(record, tgid),
        process: peek!(record, process),
        role,
        comm: comm(&peek!(record, comm)),
        start_boottime_ns: peek!(record, start_boottime),
        base: peek!(record, base),
        now: latest(&switched, &swept),
        wakeups: peek!(record, wakeups),
        exited: peek!(record, state) == SLOT_CLOSED,
        waiting: peek!(record, waiting) != 0,
        cpu: if may_run_guest { peek!(record, cpu) } else { CpuTimes::default() },
    }
}

/// Makes a record ready for its next thread: all zero but the generation, which moves on. A tag that still points here is void
/// from the first write on.
pub fn reset(record: NonNull<Thread>) {
    renew!(record, Thread);
}

/// Field by field the larger: each is a monotone total, and two writers may be a moment apart.
fn latest(left: &SchedTotals, right: &SchedTotals) -> SchedTotals {
    SchedTotals {
        at_ns: left.at_ns.max(right.at_ns),
        on_cpu_ns: left.on_cpu_ns.max(right.on_cpu_ns),
        run_delay_ns: left.run_delay_ns.max(right.run_delay_ns),
        runs: left.runs.max(right.runs),
        voluntary_switches: left.voluntary_switches.max(right.voluntary_switches),
        involuntary_switches: left.involuntary_switches.max(right.involuntary_switches),
        cpu_moves: left.cpu_moves.max(right.cpu_moves),
    }
}

/// A task's name as text.
#[must_use]
pub fn comm(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
