//! The highest used slot of each record array.

use aya_ebpf::{bindings::BPF_F_MMAPABLE, macros::map, maps::Array};
pub use dwcp_observer_ebpf::{LEVEL_FLOWS, LEVEL_PROCESSES, LEVEL_THREADS};
use dwcp_observer_ebpf::{LEVELS, SWEEP_EPOCH};

#[map]
static LEVEL: Array<[u32; LEVELS + 1]> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// A racing raise may be lost; the next one on a higher slot repairs it, and the agent learns each slot from its event as well.
#[inline(always)]
pub unsafe fn raise(which: u32, slot: u32) {
    if let Some(levels) = LEVEL.get_ptr_mut(0) {
        // SAFETY: `which` is one of the `LEVEL_*`; all CPUs write here, and the agent reads and writes its own word.
        let level = (&raw mut *levels).cast::<u32>().add(which as usize);
        if *level <= slot {
            level.write_volatile(slot + 1);
        }
    }
}

/// The number of the task sweep that runs, or that ran last.
#[inline(always)]
pub fn epoch() -> u32 {
    LEVEL.get(0).map_or(0, |levels| levels[SWEEP_EPOCH])
}
