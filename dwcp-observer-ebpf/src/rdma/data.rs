//! The data path of Soft-RoCE: doorbells, the send queue behind them, completions. Other providers' doorbells are only counted.

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns,
    macros::map,
    maps::{Array, Stack},
};
use dwcp_observer_ebpf::{
    FIELD_ABSENT,
    hist::{RUNQ_BUCKETS, bucket_of},
    rdma::{
        Count, CqCursor, Latency, Loss, OPERATIONS, Offsets, Operation, Posted, QP_SEND_QUEUE, Qp,
        RING, STATUSES, completed_number,
    },
};

use super::{
    kernel::{bump, thread},
    qp::{self, QPS},
};
use crate::{
    atomic::{add, claim, give_up},
    memory::read,
};

/// Post times of the requests of each Soft-RoCE queue pair; ring 0 is not used.
#[map]
static RINGS: Array<[Posted; RING]> = Array::with_max_entries(1, 0);
/// Free rings, filled by the agent.
#[map]
static RING_FREE: Stack<u32> = Stack::with_max_entries(1, 0);
/// Doorbell to completion, by slot.
#[map]
static QP_LATENCY: Array<Latency> = Array::with_max_entries(1, 0);

/// `RDMA_DRIVER_RXE`, include/uapi/rdma/ib_user_ioctl_verbs.h.
const DRIVER_RXE: u32 = 14;
/// Requests that one doorbell reads; what is left, the next one does.
const BATCH: u32 = 256;
/// Completions that one look into a completion queue reads. One is the rule.
const CQ_BATCH: u32 = 32;

/// Operation of each request opcode, four bits each: [`Operation::of_request`] without a branch.
const REQUESTS: u64 = {
    let mut table = 0;
    let mut opcode = 0;
    while opcode < 16 {
        table |= (Operation::of_request(opcode) as u64) << (opcode * 4);
        opcode += 1;
    }
    table
};

/// Whether the send queue of Soft-RoCE can be read: its structs are in the BTF of its module only.
#[inline(always)]
fn readable(o: &Offsets) -> bool {
    o.rxe_queue != FIELD_ABSENT
        && o.rxe_ibqp != FIELD_ABSENT
        && o.queue_index != FIELD_ABSENT
        && o.buf_producer != FIELD_ABSENT
        && o.wqe_length != FIELD_ABSENT
}

/// Finds the send queue of a new queue pair.
#[inline(always)]
pub unsafe fn prepare(o: &Offsets, qp: *mut Qp, ib_qp: *const u8) {
    (*qp).address = ib_qp as u64;
    if (*qp).driver != DRIVER_RXE || !readable(o) {
        return;
    }
    prepare_completions(o, qp, ib_qp);
    let rxe_qp = ib_qp.wrapping_sub(o.rxe_ibqp as usize);
    let head: *const u8 = read(rxe_qp, o.rxe_queue);
    if head.is_null() {
        return;
    }
    let Ok(Some(ring)) = RING_FREE.pop() else {
        bump(Loss::RingsFull);
        return;
    };
    (*qp).ring = ring;
    (*qp).queue_head = head as u64;
    (*qp).queue = read(head, o.queue_buf);
    (*qp).queue_mask = read(head, o.queue_mask);
    (*qp).queue_shift = read(head, o.queue_shift);
    (*qp).flags |= QP_SEND_QUEUE;
}

#[inline(always)]
unsafe fn prepare_completions(o: &Offsets, qp: *mut Qp, ib_qp: *const u8) {
    if o.qp_send_cq == FIELD_ABSENT
        || o.qp_recv_cq == FIELD_ABSENT
        || o.rxe_cq_queue == FIELD_ABSENT
    {
        return;
    }
    let of_sends: *const u8 = read(ib_qp, o.qp_send_cq);
    let of_receives: *const u8 = read(ib_qp, o.qp_recv_cq);
    watch(o, &raw mut (*qp).cqs[0], of_sends);
    if of_receives != of_sends {
        watch(o, &raw mut (*qp).cqs[1], of_receives);
    }
}

/// Begins with what comes next into a completion queue; `cq` begins with its `ib_cq`.
#[inline(always)]
unsafe fn watch(o: &Offsets, cursor: *mut CqCursor, cq: *const u8) {
    if cq.is_null() {
        return;
    }
    let head: *const u8 = read(cq, o.rxe_cq_queue);
    if head.is_null() {
        return;
    }
    (*cursor).head = head as u64;
    begin_at_producer(o, cursor, read(head, o.queue_buf));
}

#[inline(always)]
unsafe fn begin_at_producer(o: &Offsets, cursor: *mut CqCursor, buffer: *const u8) {
    let head = (*cursor).head as *const u8;
    (*cursor).buffer = buffer as u64;
    (*cursor).mask = read(head, o.queue_mask);
    (*cursor).shift = read(head, o.queue_shift);
    (*cursor).next = read(buffer, o.buf_producer);
}

/// `rxe_post_send` and `siw_post_send`: `(struct ib_qp *qp, wr, bad_wr)`. A process has written requests into the queue that it
/// shares with the kernel; the call itself carries none.
#[inline(always)]
pub unsafe fn on_doorbell(o: &Offsets, ib_qp: *const u8) {
    let Some((_, qp)) = qp::record(qp::key_of(o, ib_qp)) else {
        // Queue pairs of the kernel's own users have no object in user space.
        if read::<u64>(ib_qp, o.qp_uobject) != 0
            && let Some(overflow) = QPS.get_ptr_mut(0)
        {
            add(&raw mut (*overflow).doorbells, 1);
        }
        return;
    };
    let now = bpf_ktime_get_ns();
    add(&raw mut (*qp).doorbells, 1);
    (*qp).doorbell_ns = now;
    (*qp).send_tid = thread().1;
    absorb(o, qp, now);
}

/// Counts the requests that have come into the send queue since the last look.
#[inline(always)]
pub unsafe fn absorb(o: &Offsets, qp: *mut Qp, now: u64) {
    if (*qp).ring == 0 || (*qp).queue == 0 {
        return;
    }
    let Some(ring) = RINGS.get_ptr_mut((*qp).ring) else { return };
    // Two threads of one process may ring at once. Who finds the other leaves the work to the next doorbell, at the latest to the
    // end of the queue pair.
    if claim(&raw mut (*qp).busy) {
        // SAFETY: until the claim is given up no other CPU writes `posted`, `produced` or the ring.
        absorb_alone(o, qp, ring, now);
        give_up(&raw mut (*qp).busy);
    } else {
        add(&raw mut (*qp).shared_doorbells, 1);
    }
}

#[inline(always)]
unsafe fn absorb_alone(o: &Offsets, qp: *mut Qp, ring: *mut [Posted; RING], now: u64) {
    let queue = (*qp).queue as *const u8;
    let (mask, shift) = ((*qp).queue_mask, (*qp).queue_shift & 31);
    let mut number = (*qp).produced;
    let producer: u32 = read(queue, o.buf_producer);
    let fresh = producer.wrapping_sub(number as u32) & mask;
    let mut sent = (*qp).posted[Operation::Send as usize].bytes
        + (*qp).posted[Operation::Write as usize].bytes;
    let data = queue.wrapping_add(o.buf_data as usize);
    for index in 0..BATCH {
        if index >= fresh {
            break;
        }
        let at = u64::from(number as u32 & mask) << shift;
        let request = data.wrapping_add(at as usize);
        let opcode: u32 = read(request, o.wqe_opcode);
        let length = u64::from(read::<u32>(request, o.wqe_length));
        let operation = (REQUESTS >> ((opcode & 15) * 4) & 15) as usize;
        if operation < OPERATIONS {
            (*qp).posted[operation].operations += 1;
            (*qp).posted[operation].bytes += length;
        }
        if operation <= Operation::Write as usize {
            sent += length;
        }
        number += 1;
        let entry = &raw mut (*ring)[(number - 1) as usize & (RING - 1)];
        (*entry).at_ns = now;
        (*entry).sent_bytes = sent;
        (*entry).number = number;
    }
    if fresh > BATCH {
        bump(Loss::BatchCut);
    }
    (&raw mut (*qp).produced).write_volatile(number);
    // Requests may be done before their doorbell is seen: the kernel looks into the queue on its own, too.
    let consumed = (&raw const (*qp).consumed).read_volatile();
    if consumed != 0 && consumed <= number {
        settle(qp, ring, consumed);
    }
}

/// Everything up to a request is done.
#[inline(always)]
unsafe fn settle(qp: *mut Qp, ring: *mut [Posted; RING], number: u64) -> Option<u64> {
    let entry = &raw const (*ring)[(number - 1) as usize & (RING - 1)];
    // An entry from before this queue pair is the ring's former owner's.
    if (*entry).number != number || (*entry).at_ns < (*qp).opened_ns {
        return None;
    }
    (*qp).sent_bytes = (*entry).sent_bytes;
    Some((*entry).at_ns)
}

/// `struct ib_uverbs_wc` (include/uapi/rdma/ib_user_verbs.h) up to the queue pair number.
#[derive(Clone, Copy)]
#[repr(C)]
struct Completion {
    wr_id: u64,
    status: u32,
    opcode: u32,
    vendor_err: u32,
    byte_len: u32,
    ex: u32,
    qp_num: u32,
}

/// Counts what was written into a completion queue of this queue pair since the last look, whether or not the writing was seen.
#[inline(always)]
unsafe fn find_written(o: &Offsets, qp: *mut Qp, cursor: *mut CqCursor) {
    if (*cursor).head == 0 {
        return;
    }
    // Sends and receives may share the queue. Who finds the other leaves the work to the next look.
    if claim(&raw mut (*cursor).busy) {
        // SAFETY: until the claim is given up no other CPU moves this cursor.
        find_written_alone(o, qp, cursor);
        give_up(&raw mut (*cursor).busy);
    }
}

#[inline(always)]
unsafe fn find_written_alone(o: &Offsets, qp: *mut Qp, cursor: *mut CqCursor) {
    let buffer: *const u8 = read((*cursor).head as *const u8, o.queue_buf);
    if buffer as u64 != (*cursor).buffer {
        begin_at_producer(o, cursor, buffer);
        return;
    }
    let (mask, shift) = ((*cursor).mask, (*cursor).shift & 31);
    let data = buffer.wrapping_add(o.buf_data as usize);
    let producer: u32 = read(buffer, o.buf_producer);
    let mut next = (*cursor).next;
    for _ in 0..CQ_BATCH {
        if (producer.wrapping_sub(next)) & mask == 0 {
            break;
        }
        let at = u64::from(next & mask) << shift;
        let completion: Completion = read(data.wrapping_add(at as usize), 0);
        // Other queue pairs may share the queue; each counts its own.
        if completion.qp_num == (*qp).qpn {
            count(&completion, &raw mut (*qp).found, &raw mut (*qp).found_statuses);
        }
        next = next.wrapping_add(1);
    }
    (&raw mut (*cursor).next).write_volatile(next);
}

/// What is left in the completion queues of a queue pair that has been destroyed: nothing is written for it any more.
#[inline(always)]
pub unsafe fn find_last(o: &Offsets, qp: *mut Qp) {
    find_written(o, qp, &raw mut (*qp).cqs[0]);
    find_written(o, qp, &raw mut (*qp).cqs[1]);
}

#[inline(always)]
unsafe fn count(
    completion: &Completion,
    counts: *mut [Count; OPERATIONS],
    statuses: *mut [u32; STATUSES],
) {
    if completion.status != 0 {
        add(&raw mut (*statuses)[(completion.status as usize).min(STATUSES - 1)], 1);
        return;
    }
    let operation = Operation::of_completion(completion.opcode) as usize;
    if operation < OPERATIONS {
        add(&raw mut (*counts)[operation].operations, 1);
        add(&raw mut (*counts)[operation].bytes, u64::from(completion.byte_len));
    }
}

/// `rxe_cq_post(struct rxe_cq *cq, struct rxe_cqe *cqe, int solicited)`; `cq` begins with its `ib_cq`.
#[inline(always)]
pub unsafe fn on_completion(o: &Offsets, cq: *const u8, cqe: *const u8) {
    // Completions of the kernel's own users have another layout.
    if read::<u64>(cq, o.cq_uobject) == 0 {
        return;
    }
    let completion: Completion = read(cqe, 0);
    let key = qp::key(o, read(cq, o.cq_device), completion.qp_num);
    let (slot, qp) = match qp::record(key) {
        Some(found) => found,
        None => match QPS.get_ptr_mut(0) {
            Some(overflow) => (0, overflow),
            None => return,
        },
    };
    let now = bpf_ktime_get_ns();
    (*qp).completion_ns = now;
    if slot != 0 && o.rxe_cq_queue != FIELD_ABSENT {
        let head: u64 = read(cq, o.rxe_cq_queue);
        let second = (*qp).cqs[1].head == head;
        find_written(o, qp, if second { &raw mut (*qp).cqs[1] } else { &raw mut (*qp).cqs[0] });
    }
    // Sends and receives end on different CPUs at the same time, as do queue pairs that share slot 0: the sums are atomic.
    count(&completion, &raw mut (*qp).completed, &raw mut (*qp).statuses);
    if completion.status != 0 {
        return;
    }
    // Bit 7 of an opcode marks receives.
    if slot != 0 && completion.opcode & 128 == 0 {
        on_sent(o, slot, qp, now);
    }
}

/// A request's completion: which request it was follows from the queue, whose consumer has just moved past it.
#[inline(always)]
unsafe fn on_sent(o: &Offsets, slot: u32, qp: *mut Qp, now: u64) {
    if (*qp).ring == 0 || (*qp).queue_head == 0 {
        return;
    }
    let Some(ring) = RINGS.get_ptr_mut((*qp).ring) else { return };
    let consumer: u32 = read((*qp).queue_head as *const u8, o.queue_index);
    let produced = (&raw const (*qp).produced).read_volatile();
    let (number, late) = completed_number(produced, consumer, (*qp).queue_mask, (*qp).consumed);
    (*qp).consumed = number;
    if late {
        add(&raw mut (*qp).late_doorbells, 1);
        return;
    }
    let Some(at_ns) = settle(qp, ring, number) else {
        bump(Loss::PostForgotten);
        return;
    };
    let latency = now.wrapping_sub(at_ns);
    let bucket = bucket_of(latency);
    let Some(histogram) = QP_LATENCY.get_ptr_mut(slot) else { return };
    if bucket < RUNQ_BUCKETS {
        // SAFETY: the completer of a queue pair runs once at a time: there is no other writer.
        (*histogram).sum += latency;
        (*histogram).count += 1;
        (*histogram).buckets[bucket] += 1;
    } else {
        bump(Loss::LatencyDiscarded);
    }
}

/// `rnr_nak_timer(struct timer_list *t)`: a wait that the peer asked for, because it had no receive posted, is over.
#[inline(always)]
pub unsafe fn on_rnr_timer(o: &Offsets, timer: *const u8) {
    if o.rxe_rnr_timer == FIELD_ABSENT || o.rxe_ibqp == FIELD_ABSENT {
        return;
    }
    let rxe_qp = timer.wrapping_sub(o.rxe_rnr_timer as usize);
    let ib_qp = rxe_qp.wrapping_add(o.rxe_ibqp as usize);
    if let Some((_, qp)) = qp::record(qp::key_of(o, ib_qp)) {
        add(&raw mut (*qp).rnr_waits, 1);
    }
}
