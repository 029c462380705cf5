//! Tags on sockets and tasks: in local storage, or in a bounded hash for kernels and rungs without typed pointers.

#[cfg_attr(feature = "typed", path = "store/local.rs")]
#[cfg_attr(not(feature = "typed"), path = "store/hashed.rs")]
mod tags;

pub use tags::{create_flow, create_task, delete_flow, delete_task, flow, forget_address, task};

/// Marks a tag without a slot of its own.
pub const NO_SLOT: u32 = u32::MAX;

/// Marks the tag of a closed socket, until the socket is destroyed: what arrived before a reset can still be read from it, and is
/// in its record already.
pub const ENDED: u32 = u32::MAX - 1;

/// Marks the tag of a socket on a migration port for which no slot was free, and on which no recognised process has moved data.
pub const STRANGER: u32 = u32::MAX - 2;

/// Marks the tag of a task that a recognised process has stopped to dump it: it belongs to no process of ours.
pub const TRACED: u32 = u32::MAX;

/// What a tracked socket carries. The agent does not see it.
///
/// Written as its [`Flow`](dwcp_observer_ebpf::tcp::Flow) is: what segments leave (`snapshot_us` to `counted`, but for `data_seen` and `write_seq`) under the
/// socket's lock, whose it is in the context of a thread that moves data. Two of these may find its first data at once: if one sends and one receives, this end
/// has spoken first.
/// `process` and `process_generation` are two stores: in between they name a process that is none, and what is added then is added nowhere.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct FlowTag {
    /// Slot in `FLOWS`; [`NO_SLOT`] or [`STRANGER`] when all were taken, [`ENDED`] once it closed.
    pub slot: u32,
    /// Generation of the slot when it was taken.
    pub generation: u32,
    /// Slot in `PROCESSES` of the process that moves the data.
    pub process: u32,
    /// Generation of that slot.
    pub process_generation: u32,
    /// `FLOW_*` bits.
    pub flags: u32,
    /// Unused; keeps the layout free of padding.
    pub reserved: u32,
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
    /// `tcp_sock.write_seq` when the last send began; used where only the beginnings of sends are seen.
    pub write_seq: u32,
    /// When the last segment arrived, `tcp_mstamp`.
    pub segment_us: u64,
    /// When the last segment with payload arrived, `tcp_mstamp`.
    pub arrived_us: u64,
    /// What the overflow totals of the process already hold of this flow.
    pub counted: [u64; 5],
}

/// What a thread of a process that may migrate carries. The agent does not see it.
///
/// `run_delay` and `after_migration` are written at `sched_switch`, under the lock of the run queue; the rest by whoever gives the thread a record
/// ([`Thread`](dwcp_observer_ebpf::sched::Thread)), `thread` last: before, it has none.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct TaskTag {
    /// Slot in `PROCESSES`, or [`TRACED`].
    pub process: u32,
    /// Generation of that slot; of a [`TRACED`] task that of its tracer's.
    pub process_generation: u32,
    /// Slot in `THREADS`; [`NO_SLOT`] while not measured.
    pub thread: u32,
    /// Generation of that slot; of a [`TRACED`] task the slot of its tracer in `PROCESSES`.
    pub thread_generation: u32,
    /// `sched_info.run_delay` at the last switch.
    pub run_delay: u64,
    /// Non-zero: it got its CPU from a migration thread.
    pub after_migration: u64,
}

impl TaskTag {
    /// The tag of a task that the process in this slot, of this generation, traces.
    #[inline(always)]
    pub const fn of_traced(slot: u32, generation: u32) -> Self {
        Self {
            process: TRACED,
            process_generation: generation,
            thread: NO_SLOT,
            thread_generation: slot,
            run_delay: 0,
            after_migration: 0,
        }
    }

    /// Another process traces it now.
    #[inline(always)]
    pub const fn trace_by(&mut self, slot: u32, generation: u32) {
        self.thread_generation = slot;
        self.process_generation = generation;
    }

    /// Slot and generation of the process that traces it; `None` for the tag of a migrator's thread.
    #[inline(always)]
    pub const fn tracer(&self) -> Option<(u32, u32)> {
        if self.process == TRACED {
            Some((self.thread_generation, self.process_generation))
        } else {
            None
        }
    }
}
