//! Threads of watched processes: the scheduler's own totals, and a histogram of each wait for a CPU.

use core::hint::black_box;

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    helpers::generated::bpf_ktime_get_ns,
    macros::map,
    maps::{Array, Stack},
};
use dwcp_observer_ebpf::{
    SLOT_CLOSED, SLOT_LIVE,
    counters::Counter,
    hist::{HOST_HIST_RUNQ, Hist, RUNQ_BUCKETS, bucket_of},
    process::COMM_LEN,
    sched::{ROLES, SchedTotals, Thread},
};

use crate::{
    access::{
        Access, TASK_COMM, TASK_EXEC, TASK_MOVES, TASK_NIVCSW, TASK_NVCSW, TASK_PCOUNT, TASK_PID,
        TASK_RUN_DELAY, TASK_START, TASK_TGID,
    },
    counters::{add, bump, host_sample_exclusive},
    levels::{self, LEVEL_THREADS},
    process::PROCESSES,
    store::{self, NO_SLOT, TaskTag},
};

#[map]
static THREADS: Array<Thread> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Run-queue waits of each thread since it got its slot, ns. Apart from the records, which the agent keeps mapped.
#[map]
static THREAD_WAITS: Array<Hist<RUNQ_BUCKETS>> = Array::with_max_entries(1, 0);
/// Free slots, filled by the agent.
#[map]
static THREAD_FREE: Stack<u32> = Stack::with_max_entries(1, 0);

#[inline(always)]
unsafe fn read_totals<A: Access>(task: *const u8, now: u64, to: *mut SchedTotals) {
    (*to).on_cpu_ns = A::read(task, TASK_EXEC.load());
    (*to).run_delay_ns = A::read(task, TASK_RUN_DELAY.load());
    (*to).runs = A::read(task, TASK_PCOUNT.load());
    (*to).voluntary_switches = A::read(task, TASK_NVCSW.load());
    (*to).involuntary_switches = A::read(task, TASK_NIVCSW.load());
    (*to).cpu_moves = A::read(task, TASK_MOVES.load());
    (*to).at_ns = now;
}

/// The record behind a tag, unless the agent has freed its slot since.
#[inline(always)]
unsafe fn record(tag: &TaskTag) -> Option<*mut Thread> {
    if tag.thread == NO_SLOT {
        return None;
    }
    let thread = THREADS.get_ptr_mut(tag.thread)?;
    if (*thread).generation == tag.thread_generation { Some(thread) } else { None }
}

/// Gives the thread of a watched process a record, if it has none.
#[inline(always)]
pub unsafe fn measure_if_watched<A: Access>(tag: &mut TaskTag, task: *const u8, role: u32) {
    if record(tag).is_some() || PROCESSES.get(tag.process).is_none_or(|process| process.watch == 0)
    {
        return;
    }
    let slot = match THREAD_FREE.pop() {
        Ok(Some(slot)) => slot,
        Ok(None) => {
            bump(Counter::ThreadSlotsFull);
            return;
        }
        Err(_) => {
            bump(Counter::HelperBusy);
            return;
        }
    };
    let Some(thread) = THREADS.get_ptr_mut(slot) else { return };
    (*thread).tid = A::read(task, TASK_PID.load());
    (*thread).tgid = A::read(task, TASK_TGID.load());
    (*thread).process = tag.process;
    (*thread).role = role;
    (*thread).start_boottime = A::read(task, TASK_START.load());
    let comm = TASK_COMM.load();
    let name: [u64; 2] = [A::read(task, comm), A::read(task, comm + 8)];
    (*thread).comm = core::mem::transmute::<[u64; 2], [u8; COMM_LEN]>(name);
    read_totals::<A>(task, bpf_ktime_get_ns(), &raw mut (*thread).base);
    (*thread).switched = (*thread).base;
    (*thread).swept = (*thread).base;
    tag.run_delay = (*thread).base.run_delay_ns;
    tag.thread_generation = (*thread).generation;
    tag.thread = slot;
    (&raw mut (*thread).state).write_volatile(SLOT_LIVE);
    levels::raise(LEVEL_THREADS, slot);
}

/// The name of a thread changes.
#[inline(always)]
pub unsafe fn renamed(tag: &TaskTag, comm: &[u64; 2], role: u32) {
    let Some(thread) = record(tag) else { return };
    (*thread).comm = core::mem::transmute::<[u64; 2], [u8; COMM_LEN]>(*comm);
    if role != 0 {
        (*thread).role = role;
    }
}

/// Totals of the last moments, at exit.
#[inline(always)]
pub unsafe fn exited<A: Access>(tag: &TaskTag, task: *const u8, now: u64) {
    let Some(thread) = record(tag) else { return };
    read_totals::<A>(task, now, &raw mut (*thread).swept);
    (*thread).exited_ns = now;
    (&raw mut (*thread).state).write_volatile(SLOT_CLOSED);
}

/// Totals by the task iterator.
#[inline(always)]
pub unsafe fn swept<A: Access>(tag: &TaskTag, task: *const u8, comm: &[u64; 2]) {
    let Some(thread) = record(tag) else { return };
    if (*thread).state != SLOT_LIVE {
        return;
    }
    (*thread).comm = core::mem::transmute::<[u64; 2], [u8; COMM_LEN]>(*comm);
    read_totals::<A>(task, bpf_ktime_get_ns(), &raw mut (*thread).swept);
}

/// `sched_switch(bool preempt, struct task_struct *prev, struct task_struct *next)`, under the run queue's lock.
///
/// The wait of `prev` before it ran is in its own `sched_info.run_delay` by now (`sched_info_arrive`, kernel/sched/stats.h),
/// so neither a wake-up stamp nor a lookup for `next` is needed.
#[inline(always)]
pub unsafe fn on_switch<A: Access>(prev: *const u8) {
    let Some(tag) = store::task::<A>(prev) else { return };
    let Some(thread) = record(tag) else { return };
    // No clock: the sweep stamps totals, and a switch would double its cost by it.
    read_totals::<A>(prev, 0, &raw mut (*thread).switched);
    let run_delay = (*thread).switched.run_delay_ns;
    let waited = run_delay.wrapping_sub(tag.run_delay);
    tag.run_delay = run_delay;
    // Hides the arithmetic from LLVM, which would otherwise compare `waited` and leave the index unbounded to the verifier.
    let bucket = black_box(bucket_of(waited));
    if bucket >= RUNQ_BUCKETS {
        bump(Counter::RunqDiscarded);
        return;
    }
    if let Some(waits) = THREAD_WAITS.get_ptr_mut(tag.thread) {
        (*waits).buckets[bucket] += 1;
        (*waits).sum += waited;
        (*waits).count += 1;
    }
    let role = (*thread).role;
    if (role as usize) < ROLES {
        host_sample_exclusive(HOST_HIST_RUNQ + role, bucket, waited);
    }
}

/// `sched_wakeup(struct task_struct *p)` and `sched_wakeup_new`.
#[inline(always)]
pub unsafe fn on_wakeup<A: Access>(task: *const u8) {
    let Some(tag) = store::task::<A>(task) else { return };
    if let Some(thread) = record(tag) {
        add(&raw mut (*thread).wakeups, 1);
    }
}
