//! Bumps the named counters and the host-wide histograms.

use core::{
    hint::black_box,
    intrinsics::{AtomicOrdering, atomic_xadd},
};

use aya_ebpf::{macros::map, maps::PerCpuArray};
use dwcp_observer_ebpf::{
    counters::{Counter, CounterBank},
    hist::{HOST_HISTS, HostHist, RUNQ_BUCKETS},
};

#[map]
pub static COUNTERS: PerCpuArray<CounterBank> = PerCpuArray::with_max_entries(1, 0);

/// Host-wide histograms: exact even for flows and threads that found no slot.
#[map]
pub static HOST_HIST: PerCpuArray<HostHist> = PerCpuArray::with_max_entries(HOST_HISTS, 0);

/// Adds without losing updates of a program that interrupts this one on the same CPU.
#[inline(always)]
pub unsafe fn add(cell: *mut u64, value: u64) {
    atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(cell, value);
}

#[inline(always)]
pub fn bump(counter: Counter) {
    if let Some(bank) = COUNTERS.get_ptr_mut(0) {
        unsafe { add(&raw mut (*bank).values[counter as usize], 1) };
    }
}

/// `index` if it is below `limit`, compared right where it is used: LLVM would compare what it was made from, or a copy on the stack,
/// and the verifier (before 6.3 in particular) would not know the bound.
#[inline(always)]
pub fn below(index: usize, limit: usize) -> Option<usize> {
    let index = black_box(index);
    (index < limit).then_some(index)
}

/// Counts a sample in the host-wide histogram `which`; programs in other contexts of this CPU may do so at the same time.
#[inline(always)]
pub unsafe fn host_sample(which: u32, bucket: usize, value: u64) {
    if let Some(hist) = HOST_HIST.get_ptr_mut(which)
        && let Some(bucket) = below(bucket, RUNQ_BUCKETS)
    {
        add(&raw mut (*hist).buckets[bucket], 1);
        add(&raw mut (*hist).sum, value);
    }
}

/// The same for the only program that writes to `which`, which the kernel does not nest on a CPU
/// (`prog->active`, kernel/trace/bpf_trace.c): plain additions.
#[inline(always)]
pub unsafe fn host_sample_exclusive(which: u32, bucket: usize, value: u64) {
    if let Some(hist) = HOST_HIST.get_ptr_mut(which)
        && let Some(bucket) = below(bucket, RUNQ_BUCKETS)
    {
        (*hist).buckets[bucket] += 1;
        (*hist).sum += value;
    }
}
