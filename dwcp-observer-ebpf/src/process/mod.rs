//! Recognises processes that may migrate, by name and by port, and follows their threads.

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_ktime_get_ns, bpf_probe_read_kernel_str},
    macros::map,
    maps::{Array, HashMap, Stack},
};
use aya_log_ebpf::debug;
use dwcp_observer_ebpf::{
    EVENT_PROCESS, EVENT_PROCESS_EXIT, SLOT_CLOSED, SLOT_LIVE,
    counters::Counter,
    process::{COMM_LEN, COMM_RULES, CommRule, FlowOverflow, PORT_WORDS, Process},
};

use crate::{
    access::{
        TASK_COMM, TASK_EXIT_CODE, TASK_LEADER, TASK_PID, TASK_START, TASK_TGID, current, read,
    },
    counters::bump,
    events::emit,
    levels::{self, LEVEL_PROCESSES},
    sched,
    store::{self, NO_SLOT, TaskTag},
};

/// Slot 0 holds the overflow of processes that found no slot of their own.
#[map]
pub static PROCESSES: Array<Process> =
    Array::with_max_entries(1, aya_ebpf::bindings::BPF_F_MMAPABLE);
/// Free slots, filled by the agent.
#[map]
static PROCESS_FREE: Stack<u32> = Stack::with_max_entries(1, 0);
#[map]
static COMM_RULE: Array<CommRule> = Array::with_max_entries(COMM_RULES as u32, 0);
#[map]
static PORTS: Array<[u64; PORT_WORDS]> = Array::with_max_entries(1, 0);
/// Thread-group ids that the agent recognised by other means (executable, cgroup): adopted by the next sweep.
#[map]
static WANTED: HashMap<u32, u32> = HashMap::with_max_entries(1024, 0);

/// `CLONE_THREAD`, include/uapi/linux/sched.h.
const CLONE_THREAD: u64 = 0x10000;

/// Whether a port rule matches one of the two ports of a connection.
#[inline(always)]
pub fn port_matches((local, peer): (u16, u16)) -> bool {
    let Some(words) = PORTS.get(0) else { return false };
    let bit = |port: u16| words[(port >> 6) as usize & (PORT_WORDS - 1)] >> (port & 63);
    (bit(local) | bit(peer)) & 1 != 0
}

/// The first comm rule that matches; an empty rule ends the table.
#[inline(always)]
fn match_comm(comm: &[u64; 2]) -> Option<&'static CommRule> {
    for index in 0..COMM_RULES as u32 {
        let rule = COMM_RULE.get(index)?;
        if rule.mask[0] == 0 {
            return None;
        }
        if comm[0] & rule.mask[0] == rule.value[0] && comm[1] & rule.mask[1] == rule.value[1] {
            return Some(rule);
        }
    }
    None
}

/// Gives a process a slot and tags its leader.
#[inline(always)]
pub unsafe fn adopt(leader: *const u8, rule: u32, comm: &[u64; 2]) -> Option<&'static mut TaskTag> {
    let slot = match PROCESS_FREE.pop() {
        Ok(Some(slot)) => slot,
        Ok(None) => {
            bump(Counter::ProcessSlotsFull);
            0
        }
        Err(_) => {
            bump(Counter::HelperBusy);
            return None;
        }
    };
    let process = PROCESSES.get_ptr_mut(slot)?;
    let tgid = read::<u32>(leader, TASK_TGID.load());
    let mut tag = TaskTag {
        process: slot,
        process_generation: (*process).generation,
        thread: NO_SLOT,
        thread_generation: 0,
        run_delay: 0,
        after_migration: 0,
    };
    let Some(tag) = store::create_task(leader, &mut tag) else {
        bump(Counter::TaskTagFailed);
        give_back(slot);
        return None;
    };
    if tag.process != slot {
        give_back(slot);
        return Some(tag);
    }
    if slot != 0 {
        (*process).tgid = tgid;
        (*process).rule = rule;
        (*process).watch = 0;
        (*process).exited_ns = 0;
        (*process).start_boottime = read(leader, TASK_START.load());
        (*process).comm = core::mem::transmute::<[u64; 2], [u8; COMM_LEN]>(*comm);
        (*process).overflow = FlowOverflow::default();
        (*process).sent_bytes = 0;
        (*process).limited_ns = 0;
        (*process).limited_since_ns = 0;
        (*process).page_requests = 0;
        (*process).page_request_ns = 0;
        (*process).executable = 0;
        (&raw mut (*process).state).write_volatile(SLOT_LIVE);
        levels::raise(LEVEL_PROCESSES, slot);
        emit(EVENT_PROCESS, slot, tgid);
    }
    Some(tag)
}

#[inline(always)]
fn give_back(slot: u32) {
    if slot != 0 && PROCESS_FREE.push(slot, 0).is_err() {
        bump(Counter::HelperBusy);
    }
}

/// Whether the agent has freed the process slot behind a tag.
#[inline(always)]
unsafe fn stale(tag: &TaskTag) -> bool {
    PROCESSES.get(tag.process).is_none_or(|process| process.generation != tag.process_generation)
}

#[inline(always)]
unsafe fn comm_of(task: *const u8) -> [u64; 2] {
    let offset = TASK_COMM.load();
    [read(task, offset), read(task, offset + 8)]
}

/// The tag of a thread whose process is tracked; new threads of a tracked process are tagged here.
#[inline(always)]
pub unsafe fn tag_of(task: *const u8) -> Option<&'static mut TaskTag> {
    if let Some(tag) = store::task(task) {
        if !stale(tag) {
            return Some(tag);
        }
        store::delete_task(task);
    }
    let leader: *const u8 = read(task, TASK_LEADER.load());
    if leader.is_null() || leader == task {
        return None;
    }
    let parent = store::task(leader)?;
    if stale(parent) {
        return None;
    }
    let mut tag = TaskTag {
        process: parent.process,
        process_generation: parent.process_generation,
        thread: NO_SLOT,
        thread_generation: 0,
        run_delay: 0,
        after_migration: 0,
    };
    let created = store::create_task(task, &mut tag);
    if created.is_none() {
        bump(Counter::TaskTagFailed);
    }
    created
}

/// The process slot of a thread, taken now if a port rule asks for it.
#[inline(always)]
pub unsafe fn slot_of(task: *const u8, adopt_unknown: bool) -> Option<u32> {
    if let Some(tag) = tag_of(task) {
        return Some(tag.process);
    }
    if !adopt_unknown {
        return None;
    }
    let leader: *const u8 = read(task, TASK_LEADER.load());
    if leader.is_null() {
        return None;
    }
    adopt(leader, 0, &comm_of(leader)).map(|tag| tag.process)
}

/// `task_rename(struct task_struct *task, const char *comm)`: exec, `prctl(PR_SET_NAME)` and thread naming, before the change.
#[inline(always)]
pub unsafe fn on_rename(ctx: &impl EbpfContext, task: *const u8, name: *const u8) {
    let mut comm = [0u64; 2];
    if bpf_probe_read_kernel_str((&raw mut comm).cast(), COMM_LEN as u32, name.cast()) < 0 {
        return;
    }
    let is_leader = read::<u32>(task, TASK_PID.load()) == read::<u32>(task, TASK_TGID.load());
    let tag = tag_of(task);
    let rule = match_comm(&comm);
    if let Some(tag) = tag {
        sched::renamed(tag, &comm, rule.map_or(0, |rule| rule.role));
        return;
    }
    let Some(rule) = rule else { return };
    if rule.process == 0 || (!is_leader && rule.role == 0) {
        return;
    }
    let leader: *const u8 = read(task, TASK_LEADER.load());
    if leader.is_null() {
        return;
    }
    if let Some(tag) = adopt(leader, rule.process, &comm) {
        debug!(ctx, "process {} adopted by name, rule {}", tag.process, rule.process);
    }
}

/// `task_newtask(struct task_struct *task, u64 clone_flags)`: threads inherit the tag of their process.
#[inline(always)]
pub unsafe fn on_newtask(task: *const u8, clone_flags: u64) {
    // A hash may still hold the tag of the task that had this address before.
    store::forget_address(task);
    if clone_flags & CLONE_THREAD == 0 || store::task(current()).is_none() {
        return;
    }
    if let Some(tag) = tag_of(task) {
        sched::measure_if_watched(tag, task, 0);
    }
}

/// `sched_process_exit(struct task_struct *p)`.
#[inline(always)]
pub unsafe fn on_exit(ctx: &impl EbpfContext, task: *const u8) {
    let Some(tag) = store::task(task) else { return };
    if stale(tag) {
        return;
    }
    let now = bpf_ktime_get_ns();
    sched::exited(tag, task, now);
    if read::<u32>(task, TASK_PID.load()) != read::<u32>(task, TASK_TGID.load()) {
        return;
    }
    if let Some(process) = PROCESSES.get_ptr_mut(tag.process)
        && tag.process != 0
    {
        (*process).exited_ns = now;
        (*process).exit_code = read(task, TASK_EXIT_CODE.load());
        (&raw mut (*process).state).write_volatile(SLOT_CLOSED);
        emit(EVENT_PROCESS_EXIT, tag.process, (*process).tgid);
        debug!(ctx, "process {} exited, tgid {}", tag.process, (*process).tgid);
    }
}

/// `iter/task`: finds processes that were there before the observer, threads that were missed, and refreshes totals.
#[inline(always)]
pub unsafe fn on_sweep(task: *const u8) {
    let mut tag = tag_of(task);
    if tag.is_none() {
        let tgid = read::<u32>(task, TASK_TGID.load());
        let is_leader = read::<u32>(task, TASK_PID.load()) == tgid;
        let comm = comm_of(task);
        let rule = match_comm(&comm);
        let wanted = if is_leader { WANTED.get(tgid).copied() } else { None };
        let process = match (wanted, rule) {
            (Some(rule), _) => rule,
            (None, Some(rule)) if rule.process != 0 && (is_leader || rule.role != 0) => {
                rule.process
            }
            _ => return,
        };
        let leader: *const u8 = read(task, TASK_LEADER.load());
        if leader.is_null() {
            return;
        }
        adopt(leader, process, &comm_of(leader));
        tag = tag_of(task);
    }
    let Some(tag) = tag else { return };
    let comm = comm_of(task);
    let role = match_comm(&comm).map_or(0, |rule| rule.role);
    sched::measure_if_watched(tag, task, role);
    sched::swept(tag, task, &comm);
}
