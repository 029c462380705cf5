//! Tags in local storage (Linux 5.11 for tracing programs): a socket or task that nobody has tagged costs one load.
//!
//! SAFETY of what is handed out: the verifier proves that a tag is live memory of its map for as long as the program runs, not that this program
//! alone has it: another CPU, or a program that interrupts this one, may hold the same `&mut`. No program relies on having it alone: each field
//! is read or written once or twice within one run, nothing waits for another's write, and what a compiler may do to memory that is nobody
//! else's (hold a field in a register, join two stores) gives no result that the races of the record do not give. The tag of a running task
//! is reached on other CPUs only by wakers, renames and sweeps.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{
        BPF_F_NO_PREALLOC, BPF_LOCAL_STORAGE_GET_F_CREATE,
        bpf_map_type::{BPF_MAP_TYPE_SK_STORAGE, BPF_MAP_TYPE_TASK_STORAGE},
    },
    helpers::generated::{
        bpf_sk_storage_delete, bpf_sk_storage_get, bpf_task_storage_delete, bpf_task_storage_get,
    },
    macros::btf_map,
};

use super::{FlowTag, TaskTag};
use crate::{
    access::{SK_STORAGE, TASK_STORAGE},
    memory::read,
};

/// Definition of a local storage map for the loader's BTF parser; aya-ebpf has none for tasks (aya#203).
#[repr(C)]
pub struct LocalStorage<T, const TYPE: usize> {
    r#type: *const [i32; TYPE],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; BPF_F_NO_PREALLOC as usize],
}

// SAFETY: a definition for the loader: its pointers are null and no program follows them.
unsafe impl<T, const TYPE: usize> Sync for LocalStorage<T, TYPE> {}

impl<T, const TYPE: usize> LocalStorage<T, TYPE> {
    const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }

    #[inline(always)]
    const fn as_ptr(&self) -> *mut c_void {
        core::ptr::from_ref(self).cast_mut().cast()
    }
}

#[btf_map]
static FLOW_TAGS: LocalStorage<FlowTag, { BPF_MAP_TYPE_SK_STORAGE as usize }> = LocalStorage::new();
#[btf_map]
static TASK_TAGS: LocalStorage<TaskTag, { BPF_MAP_TYPE_TASK_STORAGE as usize }> =
    LocalStorage::new();

/// The tag of a socket.
#[inline(always)]
pub unsafe fn flow(sk: *const u8) -> Option<&'static mut FlowTag> {
    if read::<u64>(sk, SK_STORAGE.load()) == 0 {
        return None;
    }
    bpf_sk_storage_get(FLOW_TAGS.as_ptr(), sk.cast_mut().cast(), core::ptr::null_mut(), 0)
        .cast::<FlowTag>()
        .as_mut()
}

/// Tags a socket; gives back whatever tag it then carries.
#[inline(always)]
pub unsafe fn create_flow(sk: *const u8, tag: &mut FlowTag) -> Option<&'static mut FlowTag> {
    bpf_sk_storage_get(
        FLOW_TAGS.as_ptr(),
        sk.cast_mut().cast(),
        core::ptr::from_mut(tag).cast(),
        BPF_LOCAL_STORAGE_GET_F_CREATE.into(),
    )
    .cast::<FlowTag>()
    .as_mut()
}

/// Takes the tag off a socket.
#[inline(always)]
pub unsafe fn delete_flow(sk: *const u8) {
    bpf_sk_storage_delete(FLOW_TAGS.as_ptr(), sk.cast_mut().cast());
}

/// The tag of a task.
#[inline(always)]
pub unsafe fn task(task: *const u8) -> Option<&'static mut TaskTag> {
    if read::<u64>(task, TASK_STORAGE.load()) == 0 {
        return None;
    }
    bpf_task_storage_get(TASK_TAGS.as_ptr(), task.cast_mut().cast(), core::ptr::null_mut(), 0)
        .cast::<TaskTag>()
        .as_mut()
}

/// Tags a task; gives back whatever tag it then carries.
#[inline(always)]
pub unsafe fn create_task(task: *const u8, tag: &mut TaskTag) -> Option<&'static mut TaskTag> {
    bpf_task_storage_get(
        TASK_TAGS.as_ptr(),
        task.cast_mut().cast(),
        core::ptr::from_mut(tag).cast(),
        BPF_LOCAL_STORAGE_GET_F_CREATE.into(),
    )
    .cast::<TaskTag>()
    .as_mut()
}

/// Takes the tag off a task.
#[inline(always)]
pub unsafe fn delete_task(task: *const u8) {
    bpf_task_storage_delete(TASK_TAGS.as_ptr(), task.cast_mut().cast());
}

/// Local storage dies with its task: a new one at the same address has none.
#[inline(always)]
pub unsafe fn forget_address(_task: *const u8) {}
