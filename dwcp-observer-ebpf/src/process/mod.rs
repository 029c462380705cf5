//! Recognises processes that may migrate, by name and by port, and follows their threads.

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_ktime_get_ns, bpf_probe_read_kernel_str},
    macros::map,
    maps::{Array, HashMap, Stack},
};
use aya_log_ebpf::debug;
use dwcp_observer_ebpf::{
    EVENT_PROCESS, EVENT_PROCESS_EXIT, FIELD_ABSENT, SLOT_CLOSED, SLOT_LIVE, SLOT_LOST,
    counters::Counter,
    freeze::Freeze,
    process::{COMM_LEN, COMM_RULES, CommRule, FlowOverflow, PORT_WORDS, Process, Wanted},
};

use crate::{
    access::{
        self, SIGNAL_EXIT_CODE, SIGNAL_FLAGS, SIGNAL_LIVE, TASK_EXIT_CODE, TASK_LEADER, TASK_PID,
        TASK_SIGNAL, TASK_START, TASK_TGID, comm_bytes, current,
    },
    counters::bump,
    events::emit,
    freeze,
    levels::{self, LEVEL_PROCESSES},
    memory::read,
    sched,
    store::{self, NO_SLOT, TRACED, TaskTag},
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
/// Processes that the agent recognised by other means (executable, cgroup), by thread-group id: adopted by the next sweep.
#[map]
static WANTED: HashMap<u32, Wanted> = HashMap::with_max_entries(1024, 0);

/// `CLONE_THREAD`, include/uapi/linux/sched.h.
const CLONE_THREAD: u64 = 0x10000;
/// `SIGNAL_GROUP_EXIT`, include/linux/sched/signal.h.
const SIGNAL_GROUP_EXIT: u32 = 4;

/// A process by its slot and that slot's generation: the slot alone may be the next process' by now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Slot in `PROCESSES`.
    pub slot: u32,
    /// Its generation.
    pub generation: u32,
}

/// A process without a slot of its own: not recognised, or all slots were taken.
pub const NOBODY: Owner = Owner { slot: 0, generation: 0 };

impl Owner {
    #[inline(always)]
    fn of(tag: &TaskTag) -> Self {
        Self { slot: tag.process, generation: tag.process_generation }
    }

    /// The record, unless its slot was freed since.
    #[inline(always)]
    pub unsafe fn record(self) -> Option<*mut Process> {
        let process = PROCESSES.get_ptr_mut(self.slot)?;
        if (*process).generation == self.generation { Some(process) } else { None }
    }
}

/// Whether every thread of the group has begun to exit: `do_exit` (kernel/exit.c, 5.10 to 7.3) lowers `signal->live` before it fires
/// `sched_process_exit`. A leader alone may exit (`pthread_exit`) and its process live on; a zombie is there until it is waited for.
#[inline(always)]
unsafe fn group_is_dead(task: *const u8, unless_known: bool) -> bool {
    let signal: *const u8 = read(task, TASK_SIGNAL.load());
    if SIGNAL_LIVE.load() == FIELD_ABSENT || signal.is_null() {
        return unless_known;
    }
    read::<u32>(signal, SIGNAL_LIVE.load()) == 0
}

/// As `wait_task_zombie` (kernel/exit.c) gives it.
#[inline(always)]
unsafe fn exit_code(leader: *const u8) -> u32 {
    let signal: *const u8 = read(leader, TASK_SIGNAL.load());
    if !signal.is_null() && read::<u32>(signal, SIGNAL_FLAGS.load()) & SIGNAL_GROUP_EXIT != 0 {
        return read(signal, SIGNAL_EXIT_CODE.load());
    }
    read(leader, TASK_EXIT_CODE.load())
}

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

/// Gives a process a slot and tags its leader. Not one that is gone: nobody would tell of its end.
#[inline(always)]
unsafe fn adopt(leader: *const u8, rule: u32, comm: &[u64; 2]) -> Option<&'static mut TaskTag> {
    if group_is_dead(leader, false) {
        return None;
    }
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
        // SAFETY: the slot has just come from the stack; others who find the tag already may write as well: see `Process`.
        (*process).tgid = tgid;
        (*process).rule = rule;
        (*process).watch = 0;
        (*process).seen = levels::epoch();
        (*process).exited_ns = 0;
        (*process).start_boottime = read(leader, TASK_START.load());
        (*process).comm = comm_bytes(*comm);
        (*process).overflow = FlowOverflow::default();
        (*process).sent_bytes = 0;
        (*process).limited_ns = 0;
        (*process).limited_since_ns = 0;
        (*process).page_requests = 0;
        (*process).page_request_ns = 0;
        (*process).executable = 0;
        (*process).freeze = Freeze::default();
        (*process).remaining_bytes = 0;
        (*process).remaining_ns = 0;
        (*process).remaining_sent_bytes = 0;
        (*process).synced_sent_bytes = 0;
        (*process).pending_at = [0; 3];
        (*process).pending_form = 0;
        (*process).synced = 0;
        (&raw mut (*process).state).write_volatile(SLOT_LIVE);
        levels::raise(LEVEL_PROCESSES, slot);
        emit(EVENT_PROCESS, slot, tgid);
    }
    Some(tag)
}

/// A slot that cannot go back to the stack now is left to the agent.
#[inline(always)]
unsafe fn give_back(slot: u32) {
    if slot != 0
        && PROCESS_FREE.push(slot, 0).is_err()
        && let Some(process) = PROCESSES.get_ptr_mut(slot)
    {
        (&raw mut (*process).state).write_volatile(SLOT_LOST);
        levels::raise(LEVEL_PROCESSES, slot);
    }
}

/// Whether the agent has freed the process slot behind a tag.
#[inline(always)]
unsafe fn stale(tag: &TaskTag) -> bool {
    PROCESSES.get(tag.process).is_none_or(|process| process.generation != tag.process_generation)
}

/// The tag of a thread whose process is tracked; new threads of a tracked process are tagged here.
#[inline(always)]
pub unsafe fn tag_of(task: *const u8) -> Option<&'static mut TaskTag> {
    if let Some(tag) = store::task(task) {
        if tag.process == TRACED {
            return None;
        }
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

/// The recognised process of a thread; [`NOBODY`] where it found no slot.
#[inline(always)]
pub unsafe fn owner_of(task: *const u8) -> Option<Owner> {
    tag_of(task).map(|tag| Owner::of(tag))
}

/// The process whose connection this is going to be; `None` when it is to be left alone. A process that was adopted for what it does
/// on a migration port (no rule) is followed there alone.
#[inline(always)]
pub unsafe fn owner_of_flow(task: *const u8, by_port: bool) -> Option<Owner> {
    match owner_of(task) {
        Some(owner) if by_port || owner.slot == 0 => Some(owner),
        Some(owner) => owner.record().filter(|process| (**process).rule != 0).map(|_| owner),
        None if by_port => Some(NOBODY),
        None => None,
    }
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

/// `sched_process_exit(struct task_struct *p)`. A thread that was never tagged may be the last of its process.
#[inline(always)]
pub unsafe fn on_exit(ctx: &impl EbpfContext, task: *const u8) {
    let leader: *const u8 = read(task, TASK_LEADER.load());
    let own = store::task(task);
    if let Some(tag) = &own
        && tag.process == TRACED
    {
        freeze::on_exit(tag, task);
        return;
    }
    let measured = own.is_some();
    let tag = match own {
        Some(tag) => tag,
        None if leader.is_null() => return,
        None => match store::task(leader) {
            Some(tag) => tag,
            None => return,
        },
    };
    if stale(tag) {
        return;
    }
    let now = bpf_ktime_get_ns();
    if measured {
        sched::exited(tag, task, now);
    }
    if group_is_dead(task, leader == task) {
        let owner = Owner::of(tag);
        end(owner, leader, now);
        debug!(ctx, "process {} is gone", owner.slot);
    }
}

/// A process is gone. Two threads that exit at once may both be the last: the record is ended once.
#[inline(always)]
unsafe fn end(owner: Owner, leader: *const u8, now: u64) {
    if owner.slot == 0 || leader.is_null() {
        return;
    }
    if let Some(process) = owner.record()
        && (*process).state == SLOT_LIVE
    {
        (*process).exited_ns = now;
        (*process).exit_code = exit_code(leader);
        freeze::tracer_exits(process, leader, now);
        (&raw mut (*process).state).write_volatile(SLOT_CLOSED);
        emit(EVENT_PROCESS_EXIT, owner.slot, (*process).tgid);
    }
}

/// The rule by which the agent wants a process to be adopted.
#[inline(always)]
unsafe fn wanted(leader: *const u8, tgid: u32) -> Option<u32> {
    let wanted = WANTED.get(tgid)?;
    let start: u64 = read(leader, TASK_START.load());
    (wanted.from_boottime..wanted.until_boottime).contains(&start).then_some(wanted.rule)
}

/// `iter/task`: finds processes that were there before the observer, threads that were missed, and refreshes totals.
#[inline(always)]
pub unsafe fn on_sweep(task: *const u8) {
    let mut tag = tag_of(task);
    if tag.as_ref().is_some_and(|tag| tag.process == 0) {
        // All slots were taken when it was recognised: it is recognised anew.
        store::delete_task(task);
        tag = tag_of(task).filter(|tag| tag.process != 0);
    }
    if tag.is_none() {
        let tgid = read::<u32>(task, TASK_TGID.load());
        let is_leader = read::<u32>(task, TASK_PID.load()) == tgid;
        let comm = access::comm(task);
        let rule = match_comm(&comm);
        let wanted = if is_leader { wanted(task, tgid) } else { None };
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
        adopt(leader, process, &access::comm(leader));
        tag = tag_of(task);
    }
    let Some(tag) = tag else { return };
    if group_is_dead(task, false) {
        end(Owner::of(tag), read(task, TASK_LEADER.load()), bpf_ktime_get_ns());
    } else if let Some(process) = Owner::of(tag).record() {
        (*process).seen = levels::epoch();
    }
    let comm = access::comm(task);
    let role = match_comm(&comm).map_or(0, |rule| rule.role);
    sched::measure_if_watched(tag, task, role);
    sched::swept(tag, task, &comm);
}
