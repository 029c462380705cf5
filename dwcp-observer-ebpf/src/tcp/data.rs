//! Data that an application moves: it shows which process a flow belongs to.

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
};
use aya_log_ebpf::debug;
use dwcp_observer_ebpf::{
    EVENT_FLOW_OPEN,
    tcp::{FLOW_FOUND_OPEN, FLOW_PORT_MATCH, FLOW_RECEIVED_FIRST, FLOW_SENT_FIRST},
};

use super::{
    flow::{count_overflow_flow, found_open, is_tcp, owner, ports, record, track},
    snapshot,
};
use crate::{
    access::{CALL_SPLICE, current, tcp_sock},
    atomic::add,
    events::emit,
    process::{self, NOBODY, Owner},
    sched,
    store::{self, ENDED, FlowTag, NO_SLOT},
};

/// Most that one `splice` takes: what a pipe holds (`/proc/sys/fs/pipe-max-size` as it comes). How much it took is not told.
const SPLICED: u64 = 1 << 20;

/// `MSG_PEEK`: the data stay in the queue.
const MSG_PEEK: i32 = 2;
/// `sock_send_length(struct sock *sk, int ret, int flags)` and `sock_recv_length`: process context, so the running thread is the
/// one that moves the data. A socket is tagged here, since a manager may open it and pass the descriptor on.
#[inline(always)]
pub unsafe fn on_data(ctx: &impl EbpfContext, sk: *const u8, moved: i32, flags: i32, sent: bool) {
    if moved <= 0 || (!sent && flags & MSG_PEEK != 0) {
        return;
    }
    let moved = moved as u64;
    if !sent {
        move_data(ctx, sk, [0, moved], false);
    } else if let Some(tag) = move_data(ctx, sk, [moved, 0], true) {
        count_sent(tag, moved);
    }
}

/// `tcp_rcv_space_adjust(struct sock *sk)`: data were taken out of the socket's queue, by a receive call, of which `sock_recv_length` tells
/// more, or by `splice`, of which it tells nothing (`tcp_splice_read`, net/ipv4/tcp.c, 5.10 to 7.3). Some are taken by no call at all.
#[inline(always)]
pub unsafe fn on_read(ctx: &impl EbpfContext, sk: *const u8) {
    match store::flow(sk) {
        Some(tag) => {
            let tid = bpf_get_current_pid_tgid() as u32;
            let known = record(tag).is_some_and(|flow| (*flow).recv_tid == tid);
            if known && tag.data_seen != 0 {
                return;
            }
        }
        // On a migration port it is tagged when it opens.
        None if process::owner_of(current()).is_none() => return,
        None => {}
    }
    if sched::is_in_call(CALL_SPLICE.load()) {
        move_data(ctx, sk, [0, SPLICED], false);
    }
}

#[inline(always)]
unsafe fn count_sent(tag: &FlowTag, bytes: u64) {
    if let Some(process) = owner(tag).record() {
        add(&raw mut (*process).sent_bytes, bytes);
    }
}

/// The running thread moves data on a socket: so much sent and received just now.
#[inline(always)]
unsafe fn move_data(
    ctx: &impl EbpfContext,
    sk: *const u8,
    [sent_now, received_now]: [u64; 2],
    sent: bool,
) -> Option<&'static mut FlowTag> {
    if !is_tcp(sk) {
        return None;
    }
    let known = match store::flow(sk) {
        Some(tag) if tag.slot == ENDED => return None,
        Some(tag) if tag.slot == NO_SLOT || record(tag).is_some() => Some(tag),
        Some(tag) => {
            if !begins_again(tag) {
                return None;
            }
            store::delete_flow(sk);
            None
        }
        None => None,
    };
    let tag = match known {
        Some(tag) => tag,
        None => {
            let by_port = process::port_matches(ports(sk));
            let owner = process::owner_of_flow(current(), by_port)?;
            let flags =
                if by_port { FLOW_PORT_MATCH } else { 0 } | found_open(sk, sent_now, received_now);
            let tag = track(sk, owner, flags)?;
            debug!(ctx, "flow {} tagged at first data, process {}", tag.slot, owner.slot);
            tag
        }
    };
    if tag.data_seen == 0 {
        first_data(sk, tag, [sent_now, received_now]);
    } else if tag.process == 0 {
        find_owner(tag, process::owner_of(current()).unwrap_or(NOBODY));
    }
    if let Some(flow) = record(tag) {
        let tid = bpf_get_current_pid_tgid() as u32;
        let cell = if sent { &raw mut (*flow).send_tid } else { &raw mut (*flow).recv_tid };
        if *cell != tid {
            *cell = tid;
        }
    }
    Some(tag)
}

/// Whether data on a flow that has no record make it one again: the first data on it at all, or those of a recognised process which is
/// not the one that it was given up for.
#[inline(always)]
unsafe fn begins_again(tag: &FlowTag) -> bool {
    if tag.data_seen == 0 {
        return true;
    }
    let mover = process::owner_of(current()).unwrap_or(NOBODY);
    mover.slot != 0 && mover != owner(tag)
}

/// The first data that an application moves: the socket is its process' from now on, whoever opened it.
#[inline(always)]
unsafe fn first_data(sk: *const u8, tag: &mut FlowTag, [sent_now, received_now]: [u64; 2]) {
    let mover = process::owner_of(current()).unwrap_or(NOBODY);
    tag.data_seen = 1;
    // A sweep that came in the middle of this very call took its data for older ones.
    if tag.flags & FLOW_FOUND_OPEN != 0 && found_open(sk, sent_now, received_now) == 0 {
        tag.flags &= !FLOW_FOUND_OPEN;
    }
    if tag.flags & FLOW_FOUND_OPEN == 0 {
        tag.flags |= if received_now == 0 { FLOW_SENT_FIRST } else { FLOW_RECEIVED_FIRST };
    }
    set_owner(tag, mover);
    let Some(flow) = record(tag) else { return };
    (*flow).flags = tag.flags;
    (*flow).tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let now = bpf_ktime_get_ns();
    (*flow).first_data_ns = now;
    // The segment may already have been answered: without this look, a first byte that nothing follows stays unseen.
    let tp = tcp_sock(sk);
    if !tp.is_null() {
        snapshot::take_claimed(sk, tp, flow, now / 1000);
    }
    emit(EVENT_FLOW_OPEN, tag.slot, (*flow).tgid);
}

/// The process of a flow becomes known after its data: it was adopted for them.
#[inline(always)]
pub(super) unsafe fn find_owner(tag: &mut FlowTag, mover: Owner) {
    if mover.slot != 0 {
        set_owner(tag, mover);
    }
}

#[inline(always)]
unsafe fn set_owner(tag: &mut FlowTag, mover: Owner) {
    if tag.slot == NO_SLOT && owner(tag) != mover {
        // It was counted where it was opened; it belongs where its data are.
        count_overflow_flow(mover, 1);
        count_overflow_flow(owner(tag), 1u64.wrapping_neg());
    }
    tag.process = mover.slot;
    tag.process_generation = mover.generation;
    if let Some(flow) = record(tag) {
        (*flow).process = mover.slot;
    }
}

/// `tcp_sendmsg(struct sock *sk, ...)` and `tcp_sendpage`, at their entry, where a probe of what they return would lose calls.
/// What a call queues is counted when the next one begins.
#[cfg(not(feature = "typed"))]
#[inline(always)]
pub unsafe fn on_send_call(ctx: &impl EbpfContext, sk: *const u8) {
    use crate::{access::TP_WRITE_SEQ, memory::read};
    let Some(tag) = move_data(ctx, sk, [0, 0], true) else { return };
    let write_seq: u32 = read(sk, TP_WRITE_SEQ.load());
    if tag.write_seq != 0 {
        count_sent(tag, write_seq.wrapping_sub(tag.write_seq).into());
    }
    tag.write_seq = write_seq;
}
