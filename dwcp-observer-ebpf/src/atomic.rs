//! Sums that several CPUs add to, and claims that one of them holds at a time.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::maps::PerCpuArray;

/// Adds without losing updates of another CPU, or of a program that interrupts this one (`BPF_XADD`).
#[inline(always)]
pub unsafe fn add<T: Copy>(cell: *mut T, value: T) {
    atomic_xadd::<T, T, { AtomicOrdering::Relaxed }>(cell, value);
}

/// Adds one to a counter of this CPU's bank.
#[inline(always)]
pub fn count<const N: usize>(banks: &PerCpuArray<[u64; N]>, index: usize) {
    if let Some(bank) = banks.get_ptr_mut(0) {
        // SAFETY: programs that interrupt this one on its CPU add to the same bank: the addition is atomic. The agent only reads.
        unsafe { add(&raw mut (*bank)[index], 1) };
    }
}

/// True for one writer at a time, which gives the claim up afterwards. `BPF_XCHG` came with 5.12 (arm64: 5.18).
#[cfg(feature = "typed")]
#[inline(always)]
pub unsafe fn claim(cell: *mut u64) -> bool {
    core::intrinsics::atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(cell, 1) == 0
}

/// Gives a claim up.
#[cfg(feature = "typed")]
#[inline(always)]
pub unsafe fn give_up(cell: *mut u64) {
    let before = core::intrinsics::atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(cell, 0);
    core::hint::black_box(before);
}

/// The same with additions alone: each counts itself in, and only one that is alone then goes on.
#[cfg(not(feature = "typed"))]
#[inline(always)]
pub unsafe fn claim(cell: *mut u64) -> bool {
    add(cell, 1);
    let alone = cell.read_volatile() == 1;
    if !alone {
        give_up(cell);
    }
    alone
}

/// Gives a claim up.
#[cfg(not(feature = "typed"))]
#[inline(always)]
pub unsafe fn give_up(cell: *mut u64) {
    add(cell, u64::MAX);
}
