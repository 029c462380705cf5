//! RDMA: queue pairs, registered memory and connection events. A separate object with its own maps: nothing here is shared with TCP.

pub mod holder;

use crate::{
    hist::{Hist, RUNQ_BUCKETS},
    names::{labelled, numbered},
    process::COMM_LEN,
};

labelled! {
    /// What a work request or a completion does, without the variants (immediate data, invalidate) of each.
    Operation:
    /// Send, into a buffer that the peer has posted.
    Send = "send",
    /// RDMA write, into the peer's memory.
    Write = "rdma_write",
    /// RDMA read, from the peer's memory.
    Read = "rdma_read",
    /// Compare and swap, fetch and add, atomic write.
    Atomic = "atomic",
    /// A message received.
    Recv = "recv",
    /// The peer's RDMA write with immediate data has arrived.
    RecvWrite = "recv_rdma_with_imm",
    /// Anything else: memory windows, invalidation.
    Other = "other",
}

/// Number of operations.
pub const OPERATIONS: usize = Operation::ALL.len();

impl Operation {
    /// The operation of a work request (`enum ib_uverbs_wr_opcode`).
    #[inline(always)]
    #[must_use]
    pub const fn of_request(opcode: u32) -> Self {
        match opcode {
            0 | 1 => Self::Write,
            2 | 3 | 9 | 10 => Self::Send,
            4 | 11 => Self::Read,
            5 | 6 | 12 | 13 | 15 => Self::Atomic,
            _ => Self::Other,
        }
    }

    /// The operation of a work request as a process hands it to its provider (`enum ibv_wr_opcode`): the same numbers but for 11,
    /// which is the driver's own there.
    #[inline(always)]
    #[must_use]
    pub const fn of_provider_request(opcode: u32) -> Self {
        match opcode {
            11..=13 => Self::Other,
            known => Self::of_request(known),
        }
    }

    /// The operation of a successful completion (`enum ib_uverbs_wc_opcode`, and the receive bit of `enum ib_wc_opcode`).
    #[inline(always)]
    #[must_use]
    pub const fn of_completion(opcode: u32) -> Self {
        match opcode {
            0 | 7 => Self::Send,
            1 => Self::Write,
            2 => Self::Read,
            3 | 4 | 9 => Self::Atomic,
            128 => Self::Recv,
            129 => Self::RecvWrite,
            _ => Self::Other,
        }
    }
}

/// Completion statuses that are told apart (`enum ib_wc_status`); the last holds all that are unknown here.
pub const STATUSES: usize = 24;

/// How many and how much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Count {
    /// Operations.
    pub operations: u64,
    /// Payload, bytes.
    pub bytes: u64,
}

impl Count {
    /// The larger of each. Two counts of the same that may each lack something: what both have is no more than the truth.
    #[must_use]
    pub fn or_more(self, other: Self) -> Self {
        Self {
            operations: self.operations.max(other.operations),
            bytes: self.bytes.max(other.bytes),
        }
    }
}

/// Where a queue pair stands in one of its completion queues. Written by who holds `busy`; another leaves the work to the next look. The agent does not
/// read it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CqCursor {
    /// The `rxe_queue`; 0 none.
    pub head: u64,
    /// Its shared buffer: another one after the queue was resized.
    pub buffer: u64,
    /// Non-zero while somebody reads it.
    pub busy: u64,
    /// Index of the next entry.
    pub next: u32,
    /// Index mask of the queue.
    pub mask: u32,
    /// Shift from an index to a byte position.
    pub shift: u32,
    /// Unused; keeps the layout free of padding.
    pub reserved: u32,
}

/// The record began with `rdma_restrack_add`: it holds everything since the queue pair was created.
pub const QP_FROM_CREATION: u32 = 1 << 0;
/// The send queue can be read: posts are counted by operation, and completions find their post.
pub const QP_SEND_QUEUE: u32 = 1 << 1;
/// The process was exiting when the queue pair was destroyed.
pub const QP_CLOSER_EXITING: u32 = 1 << 2;
/// The number came back before its end was seen.
pub const QP_REPLACED: u32 = 1 << 3;

/// What the kernel keeps of a queue pair. Slot 0 holds the sum of all that found no slot.
///
/// All fields that are named nowhere below are written in the context of its owner: alone when it is created or destroyed, under a shared lock when it is
/// modified (`uverbs_try_lock_object`, drivers/infiniband/core/rdma_core.c, 5.10 to 6.18), and of two modifications at once the later one counts.
/// Without a lock:
/// - Doorbells, by any thread of the owner: `doorbells` and `shared_doorbells` atomically; `doorbell_ns` and `send_tid` are the last one's.
/// - `posted`, `produced` and the ring of post times by the doorbell that holds `busy`; another leaves the work to the next one.
/// - Completions of sends and of receives, on two CPUs at once: `completed` and `statuses` atomically, `found` and `found_statuses` by who holds the
///   queue's [`CqCursor`], but atomically, since both queues count there. `completion_ns` is the last one's.
/// - `consumed`, `sent_bytes` by the completer, which runs once at a time ([`Latency`]). A doorbell writes `sent_bytes` as well, for requests that were
///   done before it was seen: of the two the later stays, and the next completion puts it right.
/// - `provider_*` and `rnr_waits` atomically.
/// - Slot 0 is written by all: only what is added atomically means something there.
///
/// The agent copies all of it at once. Operations and bytes of a [`Count`], or two counts, may then be one event apart, until the next look; a
/// destroyed queue pair is written no more. The agent itself begins records of those that it finds in the kernel's list.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Qp {
    /// `SLOT_*`; written last when a record is begun or finished.
    pub state: u32,
    /// Bumped by the agent when it frees the slot.
    pub generation: u32,
    /// `ib_device.index`, as in netlink's `RDMA_NLDEV_ATTR_DEV_INDEX`.
    pub device: u32,
    /// Queue pair number.
    pub qpn: u32,
    /// Queue pair number of the peer, once set; 0 before.
    pub remote_qpn: u32,
    /// `enum ib_qp_type`.
    pub kind: u32,
    /// `enum ib_qp_state` last set by the owner.
    pub qp_state: u32,
    /// `enum rdma_driver_id`.
    pub driver: u32,
    /// Process that created it, in the initial pid namespace.
    pub tgid: u32,
    /// Process that destroyed it: the owner, or the one that removed the device.
    pub closer_tgid: u32,
    /// Thread that last rang the doorbell; 0 none.
    pub send_tid: u32,
    /// `QP_*` bits.
    pub flags: u32,
    /// `task_struct.start_boottime` of the process: ns since boot.
    pub start_boottime: u64,
    /// Name of the process when it created the queue pair.
    pub comm: [u8; COMM_LEN],
    /// GID of the peer, once set: for RoCE v2 its address, IPv4-mapped or IPv6.
    pub remote_gid: [u8; 16],
    /// When it was created, `CLOCK_MONOTONIC` ns.
    pub opened_ns: u64,
    /// When it became ready to send, `CLOCK_MONOTONIC` ns; 0 not yet.
    pub ready_ns: u64,
    /// When its owner put it into the error state, `CLOCK_MONOTONIC` ns; 0 not.
    pub error_ns: u64,
    /// When it was destroyed, `CLOCK_MONOTONIC` ns; 0 while it lives.
    pub closed_ns: u64,
    /// Doorbells: `rxe_post_send`, or `ib_uverbs_post_send` for other providers.
    pub doorbells: u64,
    /// When the last doorbell rang, `CLOCK_MONOTONIC` ns.
    pub doorbell_ns: u64,
    /// When the last completion was written, `CLOCK_MONOTONIC` ns.
    pub completion_ns: u64,
    /// Work requests seen in the send queue.
    pub posted: [Count; OPERATIONS],
    /// Completions whose writing was seen, by operation; only those that the owner asked for. One may be missing: a kprobe is left
    /// out on a CPU that is in bpf(2) (`bpf_prog_active`, Linux 5.10 to 7.3).
    pub completed: [Count; OPERATIONS],
    /// Completions with an error whose writing was seen, by status; index 0 unused.
    pub statuses: [u32; STATUSES],
    /// Completions found in the completion queues: the last one is found at the next, or at the end of the queue pair.
    pub found: [Count; OPERATIONS],
    /// Completions with an error found there, by status.
    pub found_statuses: [u32; STATUSES],
    /// Completion queues, of sends and of receives; one alone where both are the same.
    pub cqs: [CqCursor; 2],
    /// Payload of sends and RDMA writes known to be done, whether or not their completions were asked for.
    pub sent_bytes: u64,
    /// Signalled requests whose completion came before their doorbell was seen: without a latency.
    pub late_doorbells: u64,
    /// Requests that were in the queue while another thread of the process rang: seen by the next doorbell.
    pub shared_doorbells: u64,
    /// Waits after `RNR NAK` that ended: the peer had no receive posted.
    pub rnr_waits: u64,
    /// Work requests handed to the provider's post function, seen in the process: only where that function is probed.
    pub provider_posted: [Count; OPERATIONS],
    /// Calls of it.
    pub provider_calls: u64,
    /// Requests ever seen in the send queue; modulo the queue's length the producer's index.
    pub produced: u64,
    /// Number of the last request that is done, plus one.
    pub consumed: u64,
    /// Non-zero while a doorbell reads the queue.
    pub busy: u64,
    /// `ib_qp`'s address, while it lives.
    pub address: u64,
    /// Address of the shared buffer of the send queue.
    pub queue: u64,
    /// Its `rxe_queue`.
    pub queue_head: u64,
    /// Index mask of the send queue.
    pub queue_mask: u32,
    /// Shift from an index to a byte position in the send queue.
    pub queue_shift: u32,
    /// Slot of the send queue's post times; 0 none.
    pub ring: u32,
    /// Unused; keeps the layout free of padding.
    pub reserved: u32,
}

impl Qp {
    /// Successful completions, by operation.
    #[must_use]
    pub fn completions(&self) -> [Count; OPERATIONS] {
        core::array::from_fn(|index| self.completed[index].or_more(self.found[index]))
    }

    /// Completions with an error, by status.
    #[must_use]
    pub fn errors(&self) -> [u32; STATUSES] {
        core::array::from_fn(|status| self.statuses[status].max(self.found_statuses[status]))
    }
}

/// Requests whose post time is remembered per queue pair.
pub const RING: usize = 1024;

/// One request in the send queue. Written by the doorbell that holds the queue pair's `busy`, `number` last; read by its completer, for which an entry
/// with another number, or from before the queue pair, is none. The agent does not read it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Posted {
    /// Its number, plus one; 0 none.
    pub number: u64,
    /// When its doorbell was seen, `CLOCK_MONOTONIC` ns.
    pub at_ns: u64,
    /// Payload of sends and RDMA writes up to and including this one.
    pub sent_bytes: u64,
}

/// Which request has just completed, counted from 1, and whether it was done before its doorbell was seen.
///
/// `produced` requests were seen in a queue of `mask + 1` places, `consumer` is the queue's index behind the completed one, and
/// `before` was the last to complete. Requests complete in the order of the queue: a number that would not go up is one round further.
#[inline(always)]
#[must_use]
pub const fn completed_number(produced: u64, consumer: u32, mask: u32, before: u64) -> (u64, bool) {
    let waiting = ((produced as u32).wrapping_sub(consumer) & mask) as u64;
    if waiting <= produced && produced - waiting > before {
        (produced - waiting, false)
    } else {
        (produced.wrapping_sub(waiting).wrapping_add(mask as u64 + 1), true)
    }
}

/// Doorbell to completion, ns, of the signalled requests of one queue pair.
pub type Latency = Hist<RUNQ_BUCKETS>;

/// Who owns memory and waits for completions: a process for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct ProcessKey {
    /// `task_struct.start_boottime` of the process: ns since boot.
    pub start_boottime: u64,
    /// Process id in the initial pid namespace.
    pub tgid: u32,
    /// Zero.
    pub reserved: u32,
}

/// What one process has registered, and how often it was woken.
///
/// Written by all threads of the process, and by whoever ends its regions, without a lock: atomic additions. `last_ns` is the last one's;
/// `bytes_peak` may miss a peak that two registrations make at once. The agent reads it by a system call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Memory {
    /// Registrations begun.
    pub started: u64,
    /// Registrations that succeeded.
    pub registrations: u64,
    /// Deregistrations.
    pub deregistrations: u64,
    /// Bytes registered since the beginning.
    pub bytes: u64,
    /// Bytes registered now.
    pub bytes_now: u64,
    /// Most bytes registered at a time.
    pub bytes_peak: u64,
    /// Time in successful registrations, ns.
    pub ns: u64,
    /// When the last registration ended, `CLOCK_MONOTONIC` ns.
    pub last_ns: u64,
    /// Completion events read: wake-ups of threads that wait on a completion channel.
    pub completion_events: u64,
    /// Name of the process.
    pub comm: [u8; COMM_LEN],
}

numbered! {
    /// What a [`CmEvent`] tells.
    CmKind:
    /// `cm_send_req`: the active side asks.
    SendRequest = 1,
    /// `cm_send_rep`: the passive side accepts.
    SendReply = 2,
    /// `cm_send_rtu`: the active side is ready.
    SendReady = 3,
    /// `cm_send_rej`: this side refuses.
    SendReject = 4,
    /// `cm_event_handler`: `event` is an `enum rdma_cm_event_type`.
    Event = 5,
    /// `cm_disconnect`: this side ends the connection.
    Disconnect = 6,
    /// `cm_sent_dreq`: the request to disconnect has gone out.
    SentDisconnect = 7,
    /// `cm_id_destroy`.
    Destroy = 8,
}

/// One step in the life of a connection. Travels in the ring buffer: about thirty per migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CmEvent {
    /// Number of the [`CmKind`].
    pub kind: u32,
    /// Kernel's number of the connection identifier; unique per device only.
    pub cm_id: u32,
    /// `CLOCK_MONOTONIC` ns.
    pub at_ns: u64,
    /// Process in whose context it happened; a kernel worker for events from the wire.
    pub tgid: u32,
    /// Thread.
    pub tid: u32,
    /// Queue pair number, where the event has one.
    pub qpn: u32,
    /// `enum rdma_cm_event_type`, for [`CmKind::Event`].
    pub event: u32,
    /// Negative errno, or the reason of a rejection.
    pub status: i32,
    /// Bytes of private data that the application gave, plus one; 0 not seen.
    pub private_data: u32,
    /// `struct sockaddr_in6` of this side, or the start of it.
    pub source: [u8; 28],
    /// The same of the peer.
    pub destination: [u8; 28],
}

const _: () = assert!(size_of::<CmEvent>() == 96);

macro_rules! offsets {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Where fields lie: from the BTF of the kernel and of its modules, and from tracefs. In a map and not in frozen globals,
        /// because modules come and go while the object is loaded; the programs read through a helper, which takes any offset.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(C)]
        pub struct Offsets { $($(#[$doc])* pub $name: u32,)* }

        impl Offsets {
            /// Nothing is known.
            pub const ABSENT: Self = Self { $($name: crate::FIELD_ABSENT,)* };
        }
    };
}

offsets! {
    /// `rdma_restrack_entry.type`.
    res_type,
    /// `rdma_restrack_entry.task`.
    res_task,
    /// `RDMA_RESTRACK_QP`.
    restrack_qp,
    /// `RDMA_RESTRACK_MR`.
    restrack_mr,
    /// `ib_qp.device`.
    qp_device,
    /// `ib_qp.qp_num`.
    qp_number,
    /// `ib_qp.qp_type`.
    qp_type,
    /// `ib_qp.res`.
    qp_res,
    /// `ib_qp.uobject`.
    qp_uobject,
    /// `ib_qp_attr.qp_state`.
    attr_state,
    /// `ib_qp_attr.dest_qp_num`.
    attr_dest,
    /// `ib_qp_attr.ah_attr.grh.dgid`.
    attr_gid,
    /// `ib_qp.send_cq`.
    qp_send_cq,
    /// `ib_qp.recv_cq`.
    qp_recv_cq,
    /// `ib_cq.device`.
    cq_device,
    /// `ib_cq.uobject`.
    cq_uobject,
    /// `ib_mr.res`.
    mr_res,
    /// `ib_mr.length`.
    mr_length,
    /// `ib_device.index`.
    dev_index,
    /// `ib_device.ops.driver_id`.
    dev_driver,
    /// `rdma_conn_param.private_data_len`.
    private_len,
    /// `task_struct.group_leader`.
    task_leader,
    /// `task_struct.start_boottime`.
    task_start,
    /// `task_struct.comm`.
    task_comm,
    /// `task_struct.flags`.
    task_flags,
    /// `rxe_qp.ibqp`.
    rxe_ibqp,
    /// `rxe_qp.sq.queue`.
    rxe_queue,
    /// `rxe_qp.rnr_nak_timer`.
    rxe_rnr_timer,
    /// `rxe_cq.queue`.
    rxe_cq_queue,
    /// `rxe_queue.buf`.
    queue_buf,
    /// `rxe_queue.index_mask`.
    queue_mask,
    /// `rxe_queue.log2_elem_size`.
    queue_shift,
    /// `rxe_queue.index`.
    queue_index,
    /// `rxe_queue_buf.producer_index`.
    buf_producer,
    /// `rxe_queue_buf.data`.
    buf_data,
    /// `rxe_send_wqe.wr.opcode`.
    wqe_opcode,
    /// `rxe_send_wqe.dma.length`.
    wqe_length,
    /// `cm_id` of the tracepoint class `cma_fsm_class`.
    step_id,
    /// Its `srcaddr`.
    step_source,
    /// Its `dstaddr`.
    step_destination,
    /// `cm_id` of the tracepoint class `cma_qp_class`.
    pair_id,
    /// Its `qp_num`.
    pair_qpn,
    /// Its `srcaddr`.
    pair_source,
    /// Its `dstaddr`.
    pair_destination,
    /// `cm_id` of `cm_event_handler`.
    event_id,
    /// Its `event`.
    event_type,
    /// Its `status`.
    event_status,
    /// Its `srcaddr`.
    event_source,
    /// Its `dstaddr`.
    event_destination,
}

labelled! {
    /// Index of a loss counter in the bank of its CPU, as [`crate::counters::Counter`].
    Loss:
    /// No free slot: the queue pair counts in slot 0 only.
    QpsFull = "rdma_qps:full",
    /// No room in the index of queue pairs.
    QpIndexFull = "rdma_qp_index:full",
    /// No free ring: the queue pair's posts are counted as doorbells only.
    RingsFull = "rdma_rings:full",
    /// No room for another process with registered memory.
    ProcessesFull = "rdma_processes:full",
    /// No room to remember a memory region: its end is not seen.
    RegionsFull = "rdma_regions:full",
    /// No room to remember a call until it returns.
    CallsFull = "rdma_calls:full",
    /// The ring buffer was full: a step of a connection is missing.
    EventsFull = "rdma_events:full",
    /// More requests behind one doorbell than are read at a time: the next doorbell reads the rest.
    BatchCut = "rdma_posts:batch",
    /// A call of a probed post function for a queue pair without a record, or with a number that the process has on two devices.
    ProviderPostUnknown = "rdma_provider_posts:unknown",
    /// A list of more requests than are read in one call of a probed post function: the rest is not counted.
    ProviderPostCut = "rdma_provider_posts:list",
    /// A request of more buffers than are read: the rest's bytes are missing.
    ProviderBuffersCut = "rdma_provider_posts:buffers",
    /// Memory of the process that could not be read: the call or the request is not counted.
    ProviderPostUnreadable = "rdma_provider_posts:unreadable",
    /// A latency below zero or beyond the histogram.
    LatencyDiscarded = "rdma_latency:discarded",
    /// A signalled request whose post was no longer in the ring.
    PostForgotten = "rdma_posts:forgotten",
    /// A helper refused: nested on the same CPU, or a map's lock was taken.
    HelperBusy = "rdma_helpers:busy",
}

/// Number of loss counters.
pub const LOSSES: usize = Loss::ALL.len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_fall_under_the_operation_that_the_specification_gives_them() {
        for (opcode, operation) in [
            (0, Operation::Write),
            (1, Operation::Write),
            (2, Operation::Send),
            (3, Operation::Send),
            (4, Operation::Read),
            (5, Operation::Atomic),
            (7, Operation::Other),
            (9, Operation::Send),
            (15, Operation::Atomic),
        ] {
            assert_eq!(Operation::of_request(opcode), operation, "request {opcode}");
            assert_eq!(Operation::of_provider_request(opcode), operation, "request {opcode}");
        }
        assert_eq!(Operation::of_request(11), Operation::Read);
        assert_eq!(Operation::of_provider_request(11), Operation::Other);
        for (opcode, operation) in [
            (0, Operation::Send),
            (1, Operation::Write),
            (2, Operation::Read),
            (4, Operation::Atomic),
            (128, Operation::Recv),
            (129, Operation::RecvWrite),
            (5, Operation::Other),
        ] {
            assert_eq!(Operation::of_completion(opcode), operation, "completion {opcode}");
        }
    }

    #[test]
    fn completions_find_their_request_over_many_rounds_of_the_queue() {
        const MASK: u32 = 15;
        let (mut posted, mut done) = (0u64, 0u64);
        // Of up to 15 requests in the queue, some are done; between 0 and 3 were not seen at a doorbell yet.
        for round in 0..10_000u64 {
            posted += (round * 7 % 5).min(15 - (posted - done));
            let unseen = (round % 4).min(posted - done);
            let seen = posted - unseen;
            let step = (round * 3 % 4).min(posted - done);
            if step == 0 {
                continue;
            }
            let before = done;
            done += step;
            let (number, late) = completed_number(seen, done as u32 & MASK, MASK, before);
            assert_eq!(
                (number, late),
                (done, done > seen),
                "round {round}: {seen} of {posted} seen"
            );
        }
        assert!(done > 10 * u64::from(MASK));
    }

    #[test]
    fn losses_have_names_of_their_own() {
        for (index, loss) in Loss::ALL.iter().enumerate() {
            assert_eq!(*loss as usize, index);
            assert!(Loss::ALL[..index].iter().all(|other| other.label() != loss.label()));
        }
    }
}
