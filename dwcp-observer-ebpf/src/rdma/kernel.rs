//! Where fields lie, the running process, and the counters of what is lost.

use aya_ebpf::{
    helpers::generated::{bpf_get_current_pid_tgid, bpf_get_current_task},
    macros::map,
    maps::{Array, PerCpuArray},
};
use dwcp_observer_ebpf::{
    process::COMM_LEN,
    rdma::{LOSSES, Loss, Offsets, ProcessKey},
};

use crate::{atomic::count, memory::read};

/// Filled by the agent, before anything is attached and again when a module comes.
#[map]
static OFFSETS: Array<Offsets> = Array::with_max_entries(1, 0);

#[inline(always)]
pub fn offsets() -> Option<&'static Offsets> {
    OFFSETS.get(0)
}

/// Indexed by [`Loss`].
#[map]
static RDMA_LOSSES: PerCpuArray<[u64; LOSSES]> = PerCpuArray::with_max_entries(1, 0);

/// Counts a loss.
#[inline(always)]
pub fn bump(loss: Loss) {
    count(&RDMA_LOSSES, loss as usize);
}

/// The running process.
pub struct Owner {
    pub key: ProcessKey,
    pub comm: [u8; COMM_LEN],
}

#[inline(always)]
pub fn thread() -> (u32, u32) {
    let both = unsafe { bpf_get_current_pid_tgid() };
    ((both >> 32) as u32, both as u32)
}

#[inline(always)]
pub unsafe fn process_key(o: &Offsets) -> ProcessKey {
    let leader = leader(o);
    ProcessKey { start_boottime: read(leader, o.task_start), tgid: thread().0, reserved: 0 }
}

#[inline(always)]
unsafe fn leader(o: &Offsets) -> *const u8 {
    read(bpf_get_current_task() as *const u8, o.task_leader)
}

#[inline(always)]
pub unsafe fn owner(o: &Offsets) -> Owner {
    Owner { key: process_key(o), comm: read(leader(o), o.task_comm) }
}

/// `PF_EXITING`, include/linux/sched.h.
const PF_EXITING: u32 = 4;

/// Whether the running process is ending.
#[inline(always)]
pub unsafe fn exiting(o: &Offsets) -> bool {
    read::<u32>(bpf_get_current_task() as *const u8, o.task_flags) & PF_EXITING != 0
}
