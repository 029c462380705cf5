//! ABI between the eBPF programs and the agent: record layouts, map and global names, histogram maths.
//!
//! Everything here is plain data with a fixed layout (`repr(C)`, no padding, no `bool`), compiled for the BPF target and for
//! the host. The programs that fill it are in the folder of the same name beside each ABI file.
//!
//! # Who writes, and who reads along
//!
//! Programs write on all CPUs at once and take no lock of their own: those of the probed object may not (`check_map_prog_compatibility`,
//! kernel/bpf/verifier.c, 5.10 to 6.18: no `bpf_spin_lock` in tracing programs), and the agent, which reads the arrays where they are mapped, could
//! not take it. Each record says therefore who writes it, which lock of the kernel keeps its writers apart, which races are left and what they
//! do, and what the agent does with a record that was written while it was read (a torn one). What holds for all:
//!
//! - A field of at most eight bytes is read and written whole. Only what takes several fields can be torn.
//! - `state` is written last when a record is begun or ended. The agent reads it first. On arm64 these stores may be seen in another order,
//!   but for those before the last sequence number of a snapshot (`order.rs`): a look within these few instructions may miss a field, the next
//!   one has it.
//! - A slot has one user at a time. The agent frees it: `generation` moves on before anything else is cleared, and a program compares it with that
//!   in its tag before it writes. A program that is overtaken between the two writes what one event writes into a cleared record, with which its
//!   next user begins.
//! - What travels in a ring buffer (`Event`, `Mark`, `Text`, `CmEvent`) has one writer, and the agent sees it once it is whole
//!   (`BPF_RINGBUF_BUSY_BIT`, kernel/bpf/ringbuf.c, 5.8 to 6.18).
//! - Maps that are no mapped arrays are read by a system call, which copies a value without a lock (`bpf_map_copy_value`, kernel/bpf/syscall.c,
//!   5.10 to 6.18): fields that belong together may be one event apart, until the next look.
#![no_std]

#[path = "counters/abi.rs"]
pub mod counters;
#[path = "freeze/abi.rs"]
pub mod freeze;
pub mod hist;
mod names;
#[path = "netdev/abi.rs"]
pub mod netdev;
#[path = "phase/abi.rs"]
pub mod phase;
#[path = "process/abi.rs"]
pub mod process;
#[path = "rdma/abi.rs"]
pub mod rdma;
#[path = "sched/abi.rs"]
pub mod sched;
#[path = "tcp/abi.rs"]
pub mod tcp;

/// A slot of a record array that holds nothing.
pub const SLOT_FREE: u32 = 0;
/// A slot whose socket, thread or process is alive.
pub const SLOT_LIVE: u32 = 1;
/// A slot whose socket, thread or process is gone; the record is final until the agent frees the slot.
pub const SLOT_CLOSED: u32 = 2;
/// A slot that the kernel side could not put back on the stack of free ones (its lock was held): the agent does.
pub const SLOT_LOST: u32 = 3;

/// The offset of a field that this kernel's BTF does not have: the load is pruned by the verifier.
pub const FIELD_ABSENT: u32 = u32::MAX;

/// Where an [`Event`] comes from.
pub const EVENT_FLOW_OPEN: u32 = 1;
/// A flow reached `TCP_CLOSE`: its record is final.
pub const EVENT_FLOW_CLOSE: u32 = 2;
/// A process matched a comm rule.
pub const EVENT_PROCESS: u32 = 3;
/// The last thread of a tracked process exited.
pub const EVENT_PROCESS_EXIT: u32 = 4;
/// A migrator passed one of its phase functions: a [`phase::Mark`] instead of an [`Event`].
pub const EVENT_MARK: u32 = 5;
/// A migrator said what went wrong: a [`phase::Text`] instead of an [`Event`].
pub const EVENT_TEXT: u32 = 6;
/// A tracked process has stopped another to dump it.
pub const EVENT_FREEZE: u32 = 7;

/// A wake-up for the agent; the record itself is in the array slot.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Event {
    /// One of the `EVENT_*` constants.
    pub kind: u32,
    /// Index into the array that belongs to the kind.
    pub slot: u32,
    /// Thread-group id of the process concerned.
    pub tgid: u32,
    /// Unused; keeps the layout free of padding.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Event>() == 16);

/// Index of the flow array in the level map.
pub const LEVEL_FLOWS: u32 = 0;
/// Index of the thread array.
pub const LEVEL_THREADS: u32 = 1;
/// Index of the process array.
pub const LEVEL_PROCESSES: u32 = 2;
/// Number of levels. Each holds one more than the highest slot ever used: the agent looks no further.
pub const LEVELS: usize = 3;
/// Index of the number of the present task sweep, behind the levels; written by the agent.
pub const SWEEP_EPOCH: usize = LEVELS;
