//! Increments the named counters and the host-wide histograms.

use core::hint::black_box;

use aya_ebpf::{macros::map, maps::PerCpuArray};
use dwcp_observer_ebpf::{
    counters::{COUNTERS as NUMBER, Counter},
    hist::{HOST_HISTS, HostHist, RUNQ_BUCKETS},
};

use crate::atomic::{add, count};

/// Indexed by [`Counter`].
#[map]
static COUNTERS: PerCpuArray<[u64; NUMBER]> = PerCpuArray::with_max_entries(1, 0);

/// Host-wide histograms: exact even for flows and threads that found no slot.
#[map]
static HOST_HIST: PerCpuArray<HostHist> = PerCpuArray::with_max_entries(HOST_HISTS, 0);

/// Counts a loss.
#[inline(always)]
pub fn bump(counter: Counter) {
    count(&COUNTERS, counter as usize);
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
        // SAFETY: this CPU's own bank, and no other program writes to this histogram: nothing comes between load and store.
        (*hist).buckets[bucket] += 1;
        (*hist).sum += value;
    }
}
