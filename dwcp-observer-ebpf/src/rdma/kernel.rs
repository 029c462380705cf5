//! Reading kernel memory, and the counters of what is lost.

use core::{
    intrinsics::{AtomicOrdering, atomic_xadd},
    mem::{MaybeUninit, zeroed},
};

use aya_ebpf::{
    helpers::generated::{
        bpf_get_current_pid_tgid, bpf_get_current_task, bpf_probe_read_kernel, bpf_probe_read_user,
    },
    macros::map,
    maps::{Array, PerCpuArray},
};
use dwcp_observer_ebpf::{
    FIELD_ABSENT,
    rdma::{COMM_LEN, LOSSES, Loss, Offsets, ProcessKey},
};

/// Filled by the agent, before anything is attached and again when a module comes.
#[map]
static OFFSETS: Array<Offsets> = Array::with_max_entries(1, 0);

#[inline(always)]
pub fn offsets() -> Option<&'static Offsets> {
    OFFSETS.get(0)
}

#[map]
static RDMA_LOSSES: PerCpuArray<[u64; LOSSES]> = PerCpuArray::with_max_entries(1, 0);

/// Adds without losing updates of another CPU or of a program that interrupts this one.
#[inline(always)]
pub unsafe fn add(cell: *mut u64, value: u64) {
    atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(cell, value);
}

#[inline(always)]
pub fn bump(loss: Loss) {
    if let Some(bank) = RDMA_LOSSES.get_ptr_mut(0) {
        unsafe { add(&raw mut (*bank)[loss as usize], 1) };
    }
}

/// Reads a value at an address; zero when it cannot be read.
#[inline(always)]
pub unsafe fn fetch<T: Copy>(address: *const u8) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    if bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, address.cast()) == 0
    {
        value.assume_init()
    } else {
        zeroed()
    }
}

/// Reads a value of the running process; `None` when it cannot be read.
#[inline(always)]
pub unsafe fn fetch_user<T: Copy>(address: *const u8) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    let read =
        bpf_probe_read_user(value.as_mut_ptr().cast(), size_of::<T>() as u32, address.cast());
    if read == 0 { Some(value.assume_init()) } else { None }
}

/// Reads a field; zero when this kernel does not have it.
#[inline(always)]
pub unsafe fn read<T: Copy>(base: *const u8, offset: u32) -> T {
    if offset == FIELD_ABSENT {
        return zeroed();
    }
    fetch(base.wrapping_add(offset as usize))
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
