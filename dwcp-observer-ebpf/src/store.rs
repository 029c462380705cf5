//! Tags on sockets and tasks: local storage where the kernel offers it to the program, a bounded hash elsewhere.

use core::ffi::c_void;

use aya_ebpf::{
    Global,
    bindings::{
        BPF_F_NO_PREALLOC, BPF_LOCAL_STORAGE_GET_F_CREATE, BPF_NOEXIST,
        bpf_map_type::{BPF_MAP_TYPE_SK_STORAGE, BPF_MAP_TYPE_TASK_STORAGE},
    },
    helpers::generated::{
        bpf_sk_storage_delete, bpf_sk_storage_get, bpf_task_storage_delete, bpf_task_storage_get,
    },
    macros::{btf_map, map},
    maps::HashMap,
};

use crate::access::{Access, SK_STORAGE, TASK_STORAGE};

/// Marks a tag without a slot of its own.
pub const NO_SLOT: u32 = u32::MAX;

/// What a tracked socket carries.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct FlowTag {
    /// Slot in `FLOWS`; [`NO_SLOT`] when all were taken.
    pub slot: u32,
    /// Generation of the slot when it was taken.
    pub generation: u32,
    /// Slot in `PROCESSES` of the process that moves the data.
    pub process: u32,
    /// `FLOW_*` bits.
    pub flags: u32,
    /// Tells the creator of the tag from a racing one.
    pub token: u64,
    /// `tcp_mstamp` of the last snapshot.
    pub snapshot_us: u64,
    /// `tcp_sock.delivered` at the last RTT sample.
    pub delivered: u32,
    /// Non-zero once the process has moved data on it.
    pub data_seen: u32,
    /// `tcp_sock.rcv_nxt` at the last segment.
    pub rcv_nxt: u32,
    /// Unused; keeps the layout free of padding.
    pub reserved: u32,
    /// When the last segment arrived, `tcp_mstamp`.
    pub segment_us: u64,
    /// When the last segment with payload arrived, `tcp_mstamp`.
    pub arrived_us: u64,
    /// What the overflow totals of the process already hold of this flow.
    pub counted: [u64; 5],
}

/// What a thread of a process that may migrate carries.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct TaskTag {
    /// Slot in `PROCESSES`.
    pub process: u32,
    /// Generation of that slot.
    pub process_generation: u32,
    /// Slot in `THREADS`; [`NO_SLOT`] while not measured.
    pub thread: u32,
    /// Generation of that slot.
    pub thread_generation: u32,
    /// `sched_info.run_delay` at the last switch.
    pub run_delay: u64,
    /// Non-zero: it got its CPU from a migration thread.
    pub after_migration: u64,
}

/// Definition of a local storage map for the loader's BTF parser; aya-ebpf has none for tasks (aya#203).
#[repr(C)]
pub struct LocalStorage<T, const TYPE: usize> {
    r#type: *const [i32; TYPE],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; BPF_F_NO_PREALLOC as usize],
}

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

/// Used only while some hook is on a rung without typed pointers; sized by the loader.
#[map]
static FLOW_HASH: HashMap<u64, FlowTag> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);
#[map]
static TASK_HASH: HashMap<u64, TaskTag> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// Non-zero: all programs tag in the hash, because one of them has to.
#[unsafe(no_mangle)]
static TAGS_IN_HASH: Global<u32> = Global::new(0);

#[inline(always)]
fn hashed<A: Access>() -> bool {
    !A::TYPED || TAGS_IN_HASH.load() != 0
}

/// The tag of a socket; a socket that nobody has tagged costs one load.
#[inline(always)]
pub unsafe fn flow<A: Access>(sk: *const u8) -> Option<&'static mut FlowTag> {
    if hashed::<A>() {
        return FLOW_HASH.get_ptr_mut(sk as u64).map(|tag| &mut *tag);
    }
    if A::read::<u64>(sk, SK_STORAGE.load()) == 0 {
        return None;
    }
    bpf_sk_storage_get(FLOW_TAGS.as_ptr(), sk.cast_mut().cast(), core::ptr::null_mut(), 0)
        .cast::<FlowTag>()
        .as_mut()
}

/// Tags a socket; gives back whatever tag it then carries.
#[inline(always)]
pub unsafe fn create_flow<A: Access>(
    sk: *const u8,
    tag: &mut FlowTag,
) -> Option<&'static mut FlowTag> {
    if hashed::<A>() {
        let _ = FLOW_HASH.insert(sk as u64, &*tag, BPF_NOEXIST.into());
        return FLOW_HASH.get_ptr_mut(sk as u64).map(|tag| &mut *tag);
    }
    bpf_sk_storage_get(
        FLOW_TAGS.as_ptr(),
        sk.cast_mut().cast(),
        core::ptr::from_mut(tag).cast(),
        BPF_LOCAL_STORAGE_GET_F_CREATE.into(),
    )
    .cast::<FlowTag>()
    .as_mut()
}

#[inline(always)]
pub unsafe fn delete_flow<A: Access>(sk: *const u8) {
    if hashed::<A>() {
        let _ = FLOW_HASH.remove(sk as u64);
    } else {
        bpf_sk_storage_delete(FLOW_TAGS.as_ptr(), sk.cast_mut().cast());
    }
}

/// The tag of a task; a task that nobody has tagged costs one load.
#[inline(always)]
pub unsafe fn task<A: Access>(task: *const u8) -> Option<&'static mut TaskTag> {
    if hashed::<A>() {
        return TASK_HASH.get_ptr_mut(task as u64).map(|tag| &mut *tag);
    }
    if A::read::<u64>(task, TASK_STORAGE.load()) == 0 {
        return None;
    }
    bpf_task_storage_get(TASK_TAGS.as_ptr(), task.cast_mut().cast(), core::ptr::null_mut(), 0)
        .cast::<TaskTag>()
        .as_mut()
}

/// Tags a task; gives back whatever tag it then carries.
#[inline(always)]
pub unsafe fn create_task<A: Access>(
    task: *const u8,
    tag: &mut TaskTag,
) -> Option<&'static mut TaskTag> {
    if hashed::<A>() {
        let _ = TASK_HASH.insert(task as u64, &*tag, BPF_NOEXIST.into());
        return TASK_HASH.get_ptr_mut(task as u64).map(|tag| &mut *tag);
    }
    bpf_task_storage_get(
        TASK_TAGS.as_ptr(),
        task.cast_mut().cast(),
        core::ptr::from_mut(tag).cast(),
        BPF_LOCAL_STORAGE_GET_F_CREATE.into(),
    )
    .cast::<TaskTag>()
    .as_mut()
}

#[inline(always)]
pub unsafe fn delete_task<A: Access>(task: *const u8) {
    if hashed::<A>() {
        let _ = TASK_HASH.remove(task as u64);
    } else {
        bpf_task_storage_delete(TASK_TAGS.as_ptr(), task.cast_mut().cast());
    }
}

/// Drops what a hash holds for the address of a new task; local storage dies with its task.
#[inline(always)]
pub unsafe fn forget_address<A: Access>(task: *const u8) {
    if hashed::<A>() {
        let _ = TASK_HASH.remove(task as u64);
    }
}
