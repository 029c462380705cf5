//! Order between a writer and the agent, on every CPU.
//!
//! BPF has no barrier instruction. An atomic operation that returns the old value is fully ordered on every CPU (`BPF_XCHG`; atomic_t.txt,
//! "ORDERING"), one that returns none is so on x86 and not on arm64. The former came with 5.12 (arm64: 5.18): the typed object uses it,
//! and does not load before. The probed object, which 5.10 has to take, makes do with the latter.

use core::hint::black_box;

/// Writes a sequence number: what was written before is there before it, what is written after comes after it.
#[cfg(feature = "typed")]
#[inline(always)]
pub unsafe fn set(cell: *mut u64, value: u64) {
    use core::intrinsics::{AtomicOrdering, atomic_xchg};

    black_box(atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(cell, value));
}

/// The same, on arm64 as far as an addition orders. LLVM makes `lock or` of an addition that it knows to be of nothing.
#[cfg(not(feature = "typed"))]
#[inline(always)]
pub unsafe fn set(cell: *mut u64, value: u64) {
    use crate::atomic::add;

    add(cell, black_box(0));
    cell.write_volatile(value);
    add(cell, black_box(0));
}
