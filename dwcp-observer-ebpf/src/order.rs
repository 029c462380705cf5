//! Order between writers, and between a writer and the agent, on every CPU.
//!
//! BPF has no barrier instruction. An atomic operation that returns the old value is fully ordered on every CPU (`BPF_XCHG`; atomic_t.txt,
//! "ORDERING"), one that returns none is so on x86 and not on arm64. The former came with 5.12 (arm64: 5.18): the typed object uses it,
//! and does not load before. The probed object, which 5.10 has to take, makes do with the latter.

#[cfg(feature = "typed")]
mod with {
    use core::{
        hint::black_box,
        intrinsics::{AtomicOrdering, atomic_xchg},
    };

    /// Writes a sequence number: what was written before is there before it, what is written after comes after it.
    #[inline(always)]
    pub unsafe fn set(cell: *mut u64, value: u64) {
        black_box(atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(cell, value));
    }

    /// True for one writer at a time, which gives the claim up afterwards.
    #[inline(always)]
    pub unsafe fn claim(cell: *mut u64) -> bool {
        atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(cell, 1) == 0
    }

    /// Gives a claim up.
    #[inline(always)]
    pub unsafe fn give_up(cell: *mut u64) {
        set(cell, 0);
    }
}

#[cfg(not(feature = "typed"))]
mod with {
    use core::{
        hint::black_box,
        intrinsics::{AtomicOrdering, atomic_xadd},
    };

    /// `BPF_XADD`, the only atomic operation before 5.12. LLVM makes `lock or` of an addition that it knows to be of nothing.
    #[inline(always)]
    unsafe fn add(cell: *mut u64, value: u64) {
        atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(cell, value);
    }

    /// As in the other object.
    #[inline(always)]
    pub unsafe fn set(cell: *mut u64, value: u64) {
        add(cell, black_box(0));
        cell.write_volatile(value);
        add(cell, black_box(0));
    }

    /// As in the other object: each counts itself in, and only one that is alone then goes on.
    #[inline(always)]
    pub unsafe fn claim(cell: *mut u64) -> bool {
        add(cell, 1);
        let alone = cell.read_volatile() == 1;
        if !alone {
            give_up(cell);
        }
        alone
    }

    /// As in the other object.
    #[inline(always)]
    pub unsafe fn give_up(cell: *mut u64) {
        add(cell, u64::MAX);
    }
}

pub use with::{claim, give_up, set};
