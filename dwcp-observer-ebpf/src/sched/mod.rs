//! Threads of watched processes: the scheduler's own totals, and a histogram of each wait for a CPU.

mod departure;

pub use departure::is_in_call;

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
    sched::{
        ACTIVITIES, ACTIVITY_GAP_NS, Activity, BURSTS, Burst, CpuTimes, GUEST_BURST_NS, LEFT_GUEST,
        LEFT_HALTED, ROLE_MAIN, ROLE_OTHER, ROLE_STREAM, ROLE_VCPU, ROLES, SchedTotals, Thread,
        WOKEN_MAIN_LOOP, WOKEN_MIGRATION, WOKEN_OTHER, WOKEN_UNKNOWN,
    },
};

use crate::{
    access::{
        self, TASK_EXEC, TASK_MOVES, TASK_NIVCSW, TASK_NVCSW, TASK_ON_CPU, TASK_PCOUNT, TASK_PID,
        TASK_RUN_DELAY, TASK_START, TASK_STATE, TASK_TGID, comm_bytes, current,
    },
    atomic::add,
    counters::{below, bump, host_sample_exclusive},
    freeze,
    levels::{self, LEVEL_THREADS},
    memory::read,
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
unsafe fn read_totals(task: *const u8, now: u64, to: *mut SchedTotals) {
    (*to).on_cpu_ns = read(task, TASK_EXEC.load());
    (*to).run_delay_ns = read(task, TASK_RUN_DELAY.load());
    (*to).runs = read(task, TASK_PCOUNT.load());
    (*to).voluntary_switches = read(task, TASK_NVCSW.load());
    (*to).involuntary_switches = read(task, TASK_NIVCSW.load());
    (*to).cpu_moves = read(task, TASK_MOVES.load());
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
pub unsafe fn measure_if_watched(tag: &mut TaskTag, task: *const u8, role: u32) {
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
    // SAFETY: the slot has just come from the stack: this program alone has it until the tag names it.
    (*thread).tid = read(task, TASK_PID.load());
    (*thread).tgid = read(task, TASK_TGID.load());
    (*thread).process = tag.process;
    (*thread).role = role;
    (*thread).start_boottime = read(task, TASK_START.load());
    (*thread).comm = comm_bytes(access::comm(task));
    read_totals(task, bpf_ktime_get_ns(), &raw mut (*thread).base);
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
    (*thread).comm = comm_bytes(*comm);
    if role != 0 {
        (*thread).role = role;
    }
}

/// Totals of the last moments, at exit.
#[inline(always)]
pub unsafe fn exited(tag: &TaskTag, task: *const u8, now: u64) {
    let Some(thread) = record(tag) else { return };
    read_totals(task, now, &raw mut (*thread).swept);
    (*thread).exited_ns = now;
    (&raw mut (*thread).state).write_volatile(SLOT_CLOSED);
}

/// Totals by the task iterator.
#[inline(always)]
pub unsafe fn swept(tag: &TaskTag, task: *const u8, comm: &[u64; 2]) {
    let Some(thread) = record(tag) else { return };
    if (*thread).state != SLOT_LIVE {
        return;
    }
    (*thread).comm = comm_bytes(*comm);
    read_totals(task, bpf_ktime_get_ns(), &raw mut (*thread).swept);
    let runnable = read::<u32>(task, TASK_STATE.load()) == 0;
    // An int until it became a byte (7.3): the low one tells.
    let on_cpu = read::<u8>(task, TASK_ON_CPU.load()) != 0;
    (*thread).waiting = u64::from(runnable && !on_cpu);
}

/// `sched_switch(bool preempt, struct task_struct *prev, struct task_struct *next)`, under the run queue's lock; `prev` still is
/// the running task.
#[inline(always)]
pub unsafe fn on_switch(preempted: bool, prev: *const u8, next: *const u8) {
    let mut clock = Clock { now_ns: 0 };
    let migrates = departs(preempted, prev, &mut clock);
    arrives(next, migrates, &mut clock);
}

/// The time of an event, read once and only if something needs it.
struct Clock {
    now_ns: u64,
}

impl Clock {
    #[inline(always)]
    unsafe fn now(&mut self) -> u64 {
        if self.now_ns == 0 {
            self.now_ns = bpf_ktime_get_ns();
        }
        self.now_ns
    }
}

/// Whether a thread may run a guest CPU: only for these are stays on a CPU stamped, which takes a clock reading.
#[inline(always)]
fn may_run_guest(role: u32) -> bool {
    role == ROLE_OTHER || role == ROLE_VCPU
}

/// A thread leaves its CPU. True when it works for a migration.
///
/// The wait of `prev` before it ran is in its own `sched_info.run_delay` by now (`sched_info_arrive`, kernel/sched/stats.h).
#[inline(always)]
unsafe fn departs(preempted: bool, prev: *const u8, clock: &mut Clock) -> bool {
    let Some(tag) = store::task(prev) else { return false };
    let Some(thread) = record(tag) else { return false };
    // SAFETY: `prev` still is on this CPU, under the lock of its run queue: no other CPU writes `switched` or the stays in `cpu`.
    // No clock: the sweep stamps totals, and a switch would double its cost by it.
    read_totals(prev, 0, &raw mut (*thread).switched);
    let run_delay = (*thread).switched.run_delay_ns;
    let waited = run_delay.wrapping_sub(tag.run_delay);
    tag.run_delay = run_delay;
    let role = (*thread).role;
    if may_run_guest(role) {
        let left = departure::reason(prev, preempted);
        leave_cpu(&raw mut (*thread).cpu, left, clock.now());
        if tag.after_migration != 0 {
            (*thread).cpu.stolen_ns += waited;
        }
    }
    count_wait(tag.thread, role, waited);
    role == ROLE_MAIN || role == ROLE_STREAM
}

#[inline(always)]
unsafe fn count_wait(slot: u32, role: u32, waited: u64) {
    let bucket = bucket_of(waited);
    if bucket >= RUNQ_BUCKETS {
        bump(Counter::RunqDiscarded);
        return;
    }
    if let Some(waits) = THREAD_WAITS.get_ptr_mut(slot)
        && let Some(bucket) = below(bucket, RUNQ_BUCKETS)
    {
        // SAFETY: as in `departs`.
        (*waits).buckets[bucket] += 1;
        (*waits).sum += waited;
        (*waits).count += 1;
    }
    if (role as usize) < ROLES {
        host_sample_exclusive(HOST_HIST_RUNQ + role, bucket, waited);
    }
}

/// A thread is given a CPU, `after_migration`: by a thread that works for a migration.
#[inline(always)]
unsafe fn arrives(next: *const u8, after_migration: bool, clock: &mut Clock) {
    let Some(tag) = store::task(next) else { return };
    let Some(thread) = record(tag) else { return };
    if !may_run_guest((*thread).role) {
        return;
    }
    tag.after_migration = u64::from(after_migration);
    // SAFETY: `next` is off its former CPU (`p->on_cpu`) and not yet on this one: its departure is written, and it wakes nobody.
    let cpu = &raw mut (*thread).cpu;
    let now = clock.now();
    let last = last_burst(cpu);
    let off_ns = (*last).off_ns;
    (*cpu).on_ns = now;
    if now.wrapping_sub(off_ns) >= ACTIVITY_GAP_NS && (*cpu).activities <= ACTIVITIES as u64 {
        if let Some(activity) = activity(cpu, (*cpu).activities) {
            let woken_by = (*cpu).woken_by as u32;
            *activity =
                Activity { began_ns: now, guest_ns: 0, off_ns: 0, cpu_ns: 0, left: 0, woken_by };
        }
        (*cpu).activities += 1;
    }
    if let Some(process) = PROCESSES.get(tag.process)
        && process.page_request_ns > off_ns
        && off_ns != 0
    {
        (*cpu).page_waits += 1;
        (*cpu).page_wait_ns += now.wrapping_sub(off_ns);
    }
}

#[inline(always)]
unsafe fn activity(cpu: *mut CpuTimes, number: u64) -> Option<*mut Activity> {
    below(number as usize, ACTIVITIES)
        .map(|index| (&raw mut (*cpu).first).cast::<Activity>().add(index))
}

#[inline(always)]
unsafe fn last_burst(cpu: *mut CpuTimes) -> *mut Burst {
    let index = black_box((*cpu).bursts.wrapping_sub(1) as usize) & (BURSTS - 1);
    (&raw mut (*cpu).recent).cast::<Burst>().add(index)
}

#[inline(always)]
unsafe fn leave_cpu(cpu: *mut CpuTimes, left: u32, now: u64) {
    let on_ns = (*cpu).on_ns;
    let (woken_ns, woken_by) = ((*cpu).woken_ns, (*cpu).woken_by as u32);
    ((*cpu).woken_ns, (*cpu).woken_by) = (0, WOKEN_UNKNOWN.into());
    // It was running already when it was first measured: when that began is not known.
    if on_ns == 0 {
        return;
    }
    if (*cpu).kvm_began_ns == 0 && (left == LEFT_GUEST || left == LEFT_HALTED) {
        (*cpu).kvm_began_ns = on_ns;
    }
    let within = |at: u64| if at >= on_ns { at } else { 0 };
    let kvm_exit_ns = within((*cpu).kvm_exit_ns);
    let kvm_work_ns = within((*cpu).kvm_work_ns);
    let index = black_box((*cpu).bursts as usize) & (BURSTS - 1);
    let burst = (&raw mut (*cpu).recent).cast::<Burst>().add(index);
    // The agent reads along: the burst is whole before it counts.
    burst.write_volatile(Burst {
        woken_ns,
        on_ns,
        off_ns: now,
        kvm_exit_ns,
        kvm_work_ns,
        left,
        woken_by,
    });
    (&raw mut (*cpu).bursts).write_volatile((*cpu).bursts + 1);
    (*cpu).on_ns = 0;
    if let Some(activity) = activity(cpu, (*cpu).activities.wrapping_sub(1)) {
        let length = now.wrapping_sub(on_ns);
        if (*activity).guest_ns == 0 && length >= GUEST_BURST_NS {
            (*activity).guest_ns = on_ns;
        }
        (*activity).off_ns = now;
        (*activity).left = left;
        (*activity).cpu_ns += length;
    }
}

/// `kvm_userspace_exit(u32 reason, int errno)`: the running thread is a guest CPU, whatever its name, and has just left the guest,
/// with an error where a signal called it back (`kvm_vcpu_ioctl`, virt/kvm/kvm_main.c).
#[inline(always)]
pub unsafe fn on_kvm_exit(called_back: bool) {
    let Some(tag) = store::task(current()) else { return };
    let Some(thread) = record(tag) else { return };
    if (*thread).role == ROLE_OTHER {
        (*thread).role = ROLE_VCPU;
    }
    if (*thread).role != ROLE_VCPU {
        return;
    }
    let cpu = &raw mut (*thread).cpu;
    let now = bpf_ktime_get_ns();
    // SAFETY: the thread itself writes these; `sched_switch` may come in between on its CPU and reads them, each for itself.
    (*cpu).kvm_exit_ns = now;
    if !called_back {
        (*cpu).kvm_work_ns = now;
    }
    if (*cpu).kvm_began_ns == 0 {
        (*cpu).kvm_began_ns = if (*cpu).on_ns != 0 { (*cpu).on_ns } else { now };
    }
}

/// `sched_waking(struct task_struct *p)`, in the waker's context, and `sched_wakeup_new`.
#[inline(always)]
pub unsafe fn on_wakeup(task: *const u8) {
    let Some(tag) = store::task(task) else { return };
    let Some(thread) = record(tag) else {
        freeze::on_wakeup(tag, task);
        return;
    };
    add(&raw mut (*thread).wakeups, 1);
    let cpu = &raw mut (*thread).cpu;
    // SAFETY: wakers come one at a time (`p->pi_lock`); a departure that is written at the same moment clears these or does not.
    // The first to wake it counts: another may come before it has its CPU. While it is on a CPU it need not be woken.
    if may_run_guest((*thread).role) && (*cpu).woken_ns == 0 && (*cpu).on_ns == 0 {
        (*cpu).woken_by = waker((*thread).tgid).into();
        (*cpu).woken_ns = bpf_ktime_get_ns();
    }
}

/// `WOKEN_*` for the running thread, if it is of the process `tgid`.
#[inline(always)]
unsafe fn waker(tgid: u32) -> u32 {
    let Some(tag) = store::task(current()) else { return WOKEN_UNKNOWN };
    let Some(thread) = record(tag) else { return WOKEN_UNKNOWN };
    match ((*thread).tgid == tgid, (*thread).role) {
        (false, _) => WOKEN_UNKNOWN,
        (_, ROLE_MAIN | ROLE_STREAM) => WOKEN_MIGRATION,
        _ if (*thread).tid == tgid => WOKEN_MAIN_LOOP,
        _ => WOKEN_OTHER,
    }
}
