//! Work requests as a process hands them to its provider's library: seen in the process, where the kernel sees nothing.

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use dwcp_observer_ebpf::rdma::{Loss, OPERATIONS, Operation};

use super::{
    kernel::{bump, thread},
    qp,
};
use crate::{atomic::add, memory::fetch_user};

/// Requests of one call that are read.
const LIST: u32 = 32;
/// Buffers of one request that are read.
const BUFFERS: usize = 8;

/// `qp_num` of `struct ibv_qp` (infiniband/verbs.h, unchanged since libibverbs 1.0).
const QP_NUMBER: usize = 52;

/// The beginning of `struct ibv_send_wr`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Request {
    wr_id: u64,
    next: *const u8,
    sg_list: *const u8,
    num_sge: u32,
    opcode: u32,
}

/// `struct ibv_sge`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Buffer {
    addr: u64,
    length: u32,
    lkey: u32,
}

const NO_BUFFER: Buffer = Buffer { addr: 0, length: 0, lkey: 0 };

/// Operation of each opcode, four bits each.
const REQUESTS: u64 = {
    let mut table = 0;
    let mut opcode = 0;
    while opcode < 16 {
        table |= (Operation::of_provider_request(opcode) as u64) << (opcode * 4);
        opcode += 1;
    }
    table
};

/// Counts the requests of one call. What the provider then refuses, for a full queue, is counted as well: the call is seen, and not
/// its result.
#[inline(always)]
pub unsafe fn on_post(user_qp: *const u8, first: *const u8) {
    let Some(qpn) = fetch_user::<u32>(user_qp.wrapping_add(QP_NUMBER)) else {
        bump(Loss::ProviderPostUnreadable);
        return;
    };
    let Some(qp) = qp::record_of_process(thread().0, qpn) else {
        bump(Loss::ProviderPostUnknown);
        return;
    };
    add(&raw mut (*qp).provider_calls, 1);
    let mut next = first;
    for _ in 0..LIST {
        if next.is_null() {
            return;
        }
        let Some(request) = fetch_user::<Request>(next) else {
            bump(Loss::ProviderPostUnreadable);
            return;
        };
        let length = length(&request);
        let operation = if request.opcode < 16 {
            (REQUESTS >> (request.opcode * 4) & 15) as usize
        } else {
            Operation::Other as usize
        };
        if operation < OPERATIONS {
            // Several threads may post to one queue pair at once.
            add(&raw mut (*qp).provider_posted[operation].operations, 1);
            add(&raw mut (*qp).provider_posted[operation].bytes, length);
        }
        next = request.next;
    }
    if !next.is_null() {
        bump(Loss::ProviderPostCut);
    }
}

/// Payload of a request: the sum of its buffers.
#[inline(always)]
unsafe fn length(request: &Request) -> u64 {
    let mut buffers = [NO_BUFFER; BUFFERS];
    let count = request.num_sge as usize;
    let size = if count >= BUFFERS { size_of_val(&buffers) } else { count * size_of::<Buffer>() };
    if count > BUFFERS {
        bump(Loss::ProviderBuffersCut);
    }
    if size == 0 {
        return 0;
    }
    if bpf_probe_read_user(buffers.as_mut_ptr().cast(), size as u32, request.sg_list.cast()) != 0 {
        bump(Loss::ProviderPostUnreadable);
        return 0;
    }
    let mut length = 0;
    for buffer in buffers {
        length += u64::from(buffer.length);
    }
    length
}
