//! Registered memory and completion channels, by process.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::generated::bpf_ktime_get_ns,
    macros::map,
    maps::{HashMap, LruHashMap},
};
use dwcp_observer_ebpf::rdma::{Loss, Memory, Offsets, ProcessKey};

use super::kernel::{bump, owner, process_key, thread};
use crate::{atomic::add, memory::read};

#[map]
static MEMORY: HashMap<ProcessKey, Memory> = HashMap::with_max_entries(1, 0);
/// Regions by address of their `ib_mr`.
#[map]
static REGIONS: HashMap<u64, Region> = HashMap::with_max_entries(1, 0);
/// When a thread began to register; a failed registration leaves its entry behind, which the next one overwrites.
#[map]
static REGISTERING: LruHashMap<u32, u64> = LruHashMap::with_max_entries(1024, 0);

/// Whose a region is, and how long.
#[derive(Clone, Copy)]
#[repr(C)]
struct Region {
    process: ProcessKey,
    length: u64,
}

/// The record of the running process.
#[inline(always)]
unsafe fn own(o: &Offsets) -> Option<(*mut Memory, ProcessKey)> {
    let key = process_key(o);
    if let Some(memory) = MEMORY.get_ptr_mut(key) {
        return Some((memory, key));
    }
    let fresh = Memory { comm: owner(o).comm, ..ZERO };
    // A racing thread's entry is as good.
    let _ = MEMORY.insert(key, &fresh, BPF_NOEXIST.into());
    let memory = MEMORY.get_ptr_mut(key);
    if memory.is_none() {
        bump(Loss::ProcessesFull);
    }
    memory.map(|memory| (memory, key))
}

const ZERO: Memory = Memory {
    started: 0,
    registrations: 0,
    deregistrations: 0,
    bytes: 0,
    bytes_now: 0,
    bytes_peak: 0,
    ns: 0,
    last_ns: 0,
    completion_events: 0,
    comm: [0; 16],
};

/// `ib_uverbs_reg_mr`: a registration begins.
#[inline(always)]
pub unsafe fn on_register(o: &Offsets) {
    let now = bpf_ktime_get_ns();
    if let Some((memory, _)) = own(o) {
        add(&raw mut (*memory).started, 1);
    }
    let _ = REGISTERING.insert(thread().1, now, BPF_ANY.into());
}

/// A memory region exists: the memory is pinned and the device knows it.
#[inline(always)]
pub unsafe fn on_registered(o: &Offsets, res: *const u8) {
    let now = bpf_ktime_get_ns();
    let Some((memory, process)) = own(o) else { return };
    let region = res.wrapping_sub(o.mr_res as usize);
    let length: u64 = read(region, o.mr_length);
    let thread = thread().1;
    if let Some(begun) = REGISTERING.get(thread) {
        add(&raw mut (*memory).ns, now.wrapping_sub(*begun));
        let _ = REGISTERING.remove(thread);
    } else {
        // By a method that is not probed at its entry.
        add(&raw mut (*memory).started, 1);
    }
    // SAFETY: other threads of the process register at the same time: see `Memory`.
    (*memory).last_ns = now;
    add(&raw mut (*memory).registrations, 1);
    add(&raw mut (*memory).bytes, length);
    if REGIONS.insert(region as u64, Region { process, length }, BPF_ANY.into()).is_err() {
        bump(Loss::RegionsFull);
        return;
    }
    add(&raw mut (*memory).bytes_now, length);
    let bytes_now = (&raw const (*memory).bytes_now).read_volatile();
    if bytes_now > (*memory).bytes_peak {
        (*memory).bytes_peak = bytes_now;
    }
}

/// `ib_dereg_mr_user(struct ib_mr *mr, struct ib_udata *udata)`: by its owner, or when the owner or the device goes.
#[inline(always)]
pub unsafe fn on_deregister(region: *const u8) {
    let Some(found) = REGIONS.get(region as u64) else { return };
    let Region { process, length } = *found;
    let _ = REGIONS.remove(region as u64);
    if let Some(memory) = MEMORY.get_ptr_mut(process) {
        add(&raw mut (*memory).deregistrations, 1);
        add(&raw mut (*memory).bytes_now, length.wrapping_neg());
    }
}

/// `ib_uverbs_comp_event_read`: a thread has been woken, or has asked in vain.
#[inline(always)]
pub unsafe fn on_completion_event(o: &Offsets) {
    if let Some((memory, _)) = own(o) {
        add(&raw mut (*memory).completion_events, 1);
    }
}
