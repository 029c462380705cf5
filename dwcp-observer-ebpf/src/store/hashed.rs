//! Tags in hashes, by address. On kernels without `bpf_mem_alloc` (before 6.1) the loader takes `BPF_F_NO_PREALLOC` away.
//!
//! SAFETY of what is handed out: as in local storage, the verifier does not prove that this program alone has a tag. Nor does it prove that the tag is
//! still that of the same socket or task: an element that another CPU deletes may be the next one's at once (`htab_map_delete_elem`,
//! kernel/bpf/hashtab.c, 5.10 to 6.18). Tags are deleted when their socket is destroyed or their task exits, after which none of its own events comes,
//! and by a sweep that finds a tag void: a program on another CPU that holds it then writes what one event writes into another's tag.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    macros::map,
    maps::HashMap,
};

use super::{FlowTag, TaskTag};

/// Sized by the loader, as the one below.
#[map]
static FLOW_HASH: HashMap<u64, FlowTag> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);
#[map]
static TASK_HASH: HashMap<u64, TaskTag> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// The tag of a socket.
#[inline(always)]
pub unsafe fn flow(sk: *const u8) -> Option<&'static mut FlowTag> {
    FLOW_HASH.get_ptr_mut(sk as u64).map(|tag| &mut *tag)
}

/// Tags a socket; gives back whatever tag it then carries.
#[inline(always)]
pub unsafe fn create_flow(sk: *const u8, tag: &mut FlowTag) -> Option<&'static mut FlowTag> {
    let _ = FLOW_HASH.insert(sk as u64, &*tag, BPF_NOEXIST.into());
    flow(sk)
}

/// Takes the tag off a socket.
#[inline(always)]
pub unsafe fn delete_flow(sk: *const u8) {
    let _ = FLOW_HASH.remove(sk as u64);
}

/// The tag of a task.
#[inline(always)]
pub unsafe fn task(task: *const u8) -> Option<&'static mut TaskTag> {
    TASK_HASH.get_ptr_mut(task as u64).map(|tag| &mut *tag)
}

/// Tags a task; gives back whatever tag it then carries.
#[inline(always)]
pub unsafe fn create_task(address: *const u8, tag: &mut TaskTag) -> Option<&'static mut TaskTag> {
    let _ = TASK_HASH.insert(address as u64, &*tag, BPF_NOEXIST.into());
    task(address)
}

/// Takes the tag off a task.
#[inline(always)]
pub unsafe fn delete_task(task: *const u8) {
    let _ = TASK_HASH.remove(task as u64);
}

/// Drops what is held for the address of a new task.
#[inline(always)]
pub unsafe fn forget_address(task: *const u8) {
    delete_task(task);
}
