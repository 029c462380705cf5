//! Process trees that a recognised process stops with ptrace to dump them (CRIU): from the first stop to the end.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use dwcp_observer_ebpf::{
    EVENT_FREEZE, FIELD_ABSENT,
    counters::Counter,
    freeze::{FREEZE_EXIT, FREEZE_OPEN, FREEZE_RESUME, FREEZE_TRACER_EXIT, Freeze},
    process::Process,
};

use crate::{
    access::{
        TASK_EXIT_CODE, TASK_LEADER, TASK_PTRACE, TASK_PTRACED, TASK_REAL_PARENT, TASK_TGID, comm,
        comm_bytes, current,
    },
    atomic::add,
    counters::bump,
    events::emit,
    memory::read,
    process::{self, Owner},
    store::{self, TRACED, TaskTag},
};

const SIGCHLD: i32 = 17;
/// How what CRIU runs within a task ends: a breakpoint (`parasite_trap`, compel/src/lib/infect.c).
const SIGTRAP: u32 = 5;
/// `PTRACE_EVENT_STOP`, include/uapi/linux/ptrace.h.
const EVENT_STOP: u32 = 128;

/// `signal_generate(int sig, struct kernel_siginfo *info, struct task_struct *task, ...)`, in the context of the sender. A task that
/// stops for the `PTRACE_INTERRUPT` of the process that has seized it tells it so by SIGCHLD: `do_jobctl_trap`, `ptrace_stop`,
/// `do_notify_parent_cldstop` (kernel/signal.c, 5.10 to 7.3); `exit_code` holds the reason by then. What CRIU runs within the task stops
/// by signals, and in the end by another interrupt. A tracer that ignores SIGCHLD is not told.
#[inline(always)]
pub unsafe fn on_signal(signal: i32, tracer: *const u8) {
    if signal != SIGCHLD || tracer.is_null() {
        return;
    }
    let tracee = current();
    let reason: u32 = read(tracee, TASK_EXIT_CODE.load());
    // The low byte is the signal: of a task that exits with status 128 it is none.
    let interrupted = reason >> 8 == EVENT_STOP && reason & 0xff != 0;
    if !interrupted && reason != SIGTRAP {
        return;
    }
    // CRIU tries what the kernel can on children of its own (criu/kerndat.c).
    if read::<*const u8>(tracee, TASK_REAL_PARENT.load()) == tracer {
        return;
    }
    if let Some(owner) = process::owner_of(tracer)
        && owner.slot != 0
        && let Some(process) = owner.record()
    {
        let freeze = &raw mut (*process).freeze;
        if !interrupted {
            (*freeze).injected = 1;
        } else {
            stopped(owner, process, tracee);
        }
    }
}

#[inline(always)]
unsafe fn stopped(owner: Owner, process: *mut Process, tracee: *const u8) {
    let freeze = &raw mut (*process).freeze;
    let now = bpf_ktime_get_ns();
    // SAFETY: two tasks that stop at once may both begin: see `Freeze`.
    if (*freeze).stopped_ns == 0 || (*freeze).end != FREEZE_OPEN {
        begin(freeze, tracee, now);
        follow(owner, tracee);
        emit(EVENT_FREEZE, owner.slot, (*process).tgid);
    }
    if (*freeze).injected == 0 {
        (*freeze).all_stopped_ns = now;
        add(&raw mut (*freeze).stops, 1);
    }
}

#[inline(always)]
unsafe fn begin(freeze: *mut Freeze, tracee: *const u8, now: u64) {
    (*freeze).tgid = read(tracee, TASK_TGID.load());
    let leader: *const u8 = read(tracee, TASK_LEADER.load());
    if !leader.is_null() {
        (*freeze).comm = comm_bytes(comm(leader));
    }
    (*freeze).end = FREEZE_OPEN;
    (*freeze).ended_ns = 0;
    (*freeze).stops = 0;
    (*freeze).injected = 0;
    (*freeze).stopped_ns = now;
}

/// Tags the task by which the end of the freeze is seen.
#[inline(always)]
unsafe fn follow(owner: Owner, tracee: *const u8) {
    let mut tag = TaskTag::of_traced(owner.slot, owner.generation);
    match store::create_task(tracee, &mut tag) {
        // It may have been dumped before.
        Some(tag) if tag.process == TRACED => {
            tag.trace_by(owner.slot, owner.generation);
        }
        // A migrator itself: its end is seen, its resume is not.
        Some(_) => {}
        None => bump(Counter::TaskTagFailed),
    }
}

/// The freeze that a tag belongs to, while it is open.
#[inline(always)]
unsafe fn of(tag: &TaskTag, task: *const u8) -> Option<*mut Freeze> {
    let (slot, generation) = tag.tracer()?;
    let process = Owner { slot, generation }.record()?;
    let freeze = &raw mut (*process).freeze;
    let own = (*freeze).tgid == read(task, TASK_TGID.load());
    let open = (*freeze).end == FREEZE_OPEN || (*freeze).end == FREEZE_TRACER_EXIT;
    if own && open && (*freeze).stopped_ns != 0 { Some(freeze) } else { None }
}

#[inline(always)]
unsafe fn end(freeze: *mut Freeze, how: u32, now: u64) {
    (*freeze).ended_ns = now;
    (*freeze).end = how;
}

/// A traced task is woken: let run if its tracer has detached (`__ptrace_unlink`, kernel/ptrace.c, clears `ptrace` first), else for what
/// CRIU runs within it, or to die.
#[inline(always)]
pub unsafe fn on_wakeup(tag: &TaskTag, task: *const u8) {
    if TASK_PTRACE.load() == FIELD_ABSENT || read::<u32>(task, TASK_PTRACE.load()) != 0 {
        return;
    }
    if let Some(freeze) = of(tag, task) {
        end(freeze, FREEZE_RESUME, bpf_ktime_get_ns());
    }
}

/// A traced task exits.
#[inline(always)]
pub unsafe fn on_exit(tag: &TaskTag, task: *const u8) {
    if let Some(freeze) = of(tag, task) {
        end(freeze, FREEZE_EXIT, bpf_ktime_get_ns());
    }
    store::delete_task(task);
}

/// The tracer exits. What it traces yet runs on: `exit_ptrace` (kernel/ptrace.c) lets it, just after.
#[inline(always)]
pub unsafe fn tracer_exits(process: *mut Process, tracer: *const u8, now: u64) {
    let freeze = &raw mut (*process).freeze;
    if (*freeze).stopped_ns == 0
        || (*freeze).end != FREEZE_OPEN
        || TASK_PTRACED.load() == FIELD_ABSENT
    {
        return;
    }
    let first: *const u8 = read(tracer, TASK_PTRACED.load());
    if first != tracer.wrapping_add(TASK_PTRACED.load() as usize) {
        end(freeze, FREEZE_TRACER_EXIT, now);
    }
}

/// `cgroup_freeze(struct cgroup *cgrp, const char *path)`, in the context of whoever writes to `cgroup.freeze`; of each cgroup below it
/// as well.
#[inline(always)]
pub unsafe fn on_cgroup_freeze() {
    let Some(owner) = process::owner_of(current()) else { return };
    if owner.slot != 0
        && let Some(process) = owner.record()
        && (*process).freeze.cgroup_ns == 0
    {
        (*process).freeze.cgroup_ns = bpf_ktime_get_ns();
    }
}
