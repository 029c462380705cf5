//! Reading memory of the kernel and of the running process: typed loads where the verifier knows the pointer (feature `typed`),
//! `bpf_probe_read_kernel` where it does not.
//!
//! What is read may change at the same time: a program sees each field as it was at some moment of its run, and two fields at two moments,
//! unless it runs under the lock that guards them. Where that matters, the record's definition says so.

use core::mem::{MaybeUninit, zeroed};

#[cfg(not(feature = "typed"))]
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::bpf_probe_read_user;
use dwcp_observer_ebpf::FIELD_ABSENT;

/// Reads a field; zero when this kernel does not have it. A direct, fault-handled load; an offset outside the struct does not load.
#[cfg(feature = "typed")]
#[inline(always)]
pub unsafe fn read<T: Copy>(base: *const u8, offset: u32) -> T {
    if offset == FIELD_ABSENT {
        return zeroed();
    }
    // SAFETY: the verifier proves that the field lies within the struct, and not that it has type `T`: offset and type come from the same
    // path in the agent's `kernel/layout.rs`, and all types read here are plain integers, pointers or arrays of them.
    *base.add(offset as usize).cast::<T>()
}

/// Reads a field; zero when this kernel does not have it or when the address is none.
#[cfg(not(feature = "typed"))]
#[inline(always)]
pub unsafe fn read<T: Copy>(base: *const u8, offset: u32) -> T {
    if offset == FIELD_ABSENT {
        return zeroed();
    }
    let mut value = MaybeUninit::<T>::uninit();
    let source = base.wrapping_add(offset as usize);
    let to = value.as_mut_ptr().cast();
    if bpf_probe_read_kernel(to, size_of::<T>() as u32, source.cast()) == 0 {
        // SAFETY: the helper has filled all of it; any bit pattern is one of `T`: plain integers, pointers, arrays and `repr(C)` structs of them.
        value.assume_init()
    } else {
        zeroed()
    }
}

/// Reads a value of the running process; `None` when it cannot be read.
#[inline(always)]
pub unsafe fn fetch_user<T: Copy>(address: *const u8) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    let to = value.as_mut_ptr().cast();
    let read = bpf_probe_read_user(to, size_of::<T>() as u32, address.cast());
    // SAFETY: as above.
    if read == 0 { Some(value.assume_init()) } else { None }
}
