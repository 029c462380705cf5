//! TCP flows: tagged at first data, measured from the socket's own counters.

mod data;
mod flow;
mod snapshot;

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
};
use aya_log_ebpf::debug;
use dwcp_observer_ebpf::{
    EVENT_FLOW_CLOSE, SLOT_CLOSED,
    counters::Counter,
    tcp::{
        CA_STATES, FLOW_ACTIVE_OPEN, FLOW_FIN_SENT, FLOW_PASSIVE_OPEN, FLOW_PORT_MATCH, Flow,
        TCP_CLOSE, TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_LAST_ACK, TCP_LISTEN,
        TCP_STATES, TCP_SYN_RECV, TCP_SYN_SENT,
    },
};

use self::data::find_owner;
#[cfg(not(feature = "typed"))]
pub use self::data::on_send_call;
pub use self::data::{on_data, on_read};
use self::flow::{
    addresses, count_overflow_close, found_open, is_tcp, owner, ports, record, refresh, sample_rtt,
    track,
};
use crate::{
    access::{SK_ERR, SK_STATE, SOCKET_SK, TASK_TGID, TP_MSTAMP, TP_RCV_NXT, current, tcp_sock},
    counters::{below, bump},
    events::emit,
    memory::read,
    process::{self, NOBODY},
    store::{self, ENDED, FlowTag},
};

/// Least time between two snapshots of a flow by packets: totals are read each second, so 1 ms is fine enough.
const SNAPSHOT_EVERY_US: u64 = 1000;

/// Keeps when payload last arrived. `tcp_probe` comes before the segment is processed, so a sequence number that has moved was moved
/// by the segment before.
#[inline(always)]
unsafe fn note_arrival(tp: *const u8, tag: &mut FlowTag, now_us: u64) {
    let rcv_nxt: u32 = read(tp, TP_RCV_NXT.load());
    if rcv_nxt != tag.rcv_nxt {
        tag.rcv_nxt = rcv_nxt;
        tag.arrived_us = tag.segment_us;
    }
    tag.segment_us = now_us;
}

/// `tcp_probe(struct sock *sk, struct sk_buff *skb)`: each segment on an established connection, before it is processed.
#[inline(always)]
pub unsafe fn on_segment(sk: *const u8) {
    let Some(tag) = store::flow(sk) else { return };
    let tp = tcp_sock(sk);
    if tp.is_null() {
        return;
    }
    sample_rtt(tp, tag);
    let now_us: u64 = read(tp, TP_MSTAMP.load());
    note_arrival(tp, tag, now_us);
    if now_us.wrapping_sub(tag.snapshot_us) >= SNAPSHOT_EVERY_US {
        refresh(sk, tp, tag, now_us);
    }
}

/// A new connection on a socket that still carries a tag. If it has not ended, that was kept from all programs: it ends where it was
/// last seen.
#[inline(always)]
unsafe fn begin_anew(sk: *const u8, tag: &FlowTag) {
    if tag.slot != ENDED {
        end_unseen(tag);
    }
    store::delete_flow(sk);
}

#[inline(always)]
unsafe fn end_unseen(tag: &FlowTag) {
    bump(Counter::CloseUnseen);
    match record(tag) {
        Some(flow) => {
            let seen_ns = tag.snapshot_us * 1000;
            (*flow).state_ns[TCP_CLOSE as usize] = seen_ns.max((*flow).tagged_ns);
            (&raw mut (*flow).state).write_volatile(SLOT_CLOSED);
            emit(EVENT_FLOW_CLOSE, tag.slot, (*flow).tgid);
        }
        None => count_overflow_close(tag),
    }
}

/// `inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`.
#[inline(always)]
pub unsafe fn on_state(ctx: &impl EbpfContext, sk: *const u8, old: u32, new: u32) {
    let begins =
        (old == TCP_CLOSE && new == TCP_SYN_SENT) || (old == TCP_LISTEN && new == TCP_SYN_RECV);
    if begins && let Some(tag) = store::flow(sk) {
        begin_anew(sk, tag);
    }
    let tag = match store::flow(sk) {
        Some(tag) if tag.slot == ENDED => return,
        Some(tag) => tag,
        None => match track_at_open(sk, old, new) {
            Some(tag) => tag,
            None => return,
        },
    };
    let tp = tcp_sock(sk);
    if tp.is_null() {
        return;
    }
    let now = bpf_ktime_get_ns();
    if new == TCP_CLOSE {
        sample_rtt(tp, tag);
    }
    refresh(sk, tp, tag, now / 1000);
    // The FIN is queued after this event, in the same locked section: the snapshot above does not hold it yet.
    if new == TCP_FIN_WAIT1 || new == TCP_LAST_ACK {
        tag.flags |= FLOW_FIN_SENT;
    }
    let Some(flow) = record(tag) else {
        if new == TCP_CLOSE {
            count_overflow_close(tag);
            tag.slot = ENDED;
        }
        return;
    };
    (*flow).flags = tag.flags;
    if new == TCP_ESTABLISHED {
        addresses(sk, flow);
    }
    if let Some(new) = below(new as usize, TCP_STATES) {
        (*flow).state_ns[new] = now;
    }
    if new == TCP_CLOSE {
        enter_ca_state(flow, (*flow).ca_state, now);
        let slot = core::mem::replace(&mut tag.slot, ENDED);
        (&raw mut (*flow).state).write_volatile(SLOT_CLOSED);
        emit(EVENT_FLOW_CLOSE, slot, (*flow).tgid);
        debug!(ctx, "flow {} closed, from state {}", slot, old);
    }
}

/// `tcp_destroy_sock(struct sock *sk)`: takes the tag off, and ends a record whose change to `TCP_CLOSE` was missed, because its program interrupted
/// itself on this CPU (`prog->active`). The counters still stand, unless the socket was disconnected.
#[inline(always)]
pub unsafe fn on_destroy(ctx: &impl EbpfContext, sk: *const u8) {
    if store::flow(sk).is_some() {
        on_state(ctx, sk, TCP_CLOSE, TCP_CLOSE);
        store::delete_flow(sk);
    }
}

/// Tags at `connect()` by a tracked process, and both opens on a port that a rule names.
#[inline(always)]
unsafe fn track_at_open(sk: *const u8, old: u32, new: u32) -> Option<&'static mut FlowTag> {
    let active = new == TCP_SYN_SENT;
    let passive = old == TCP_SYN_RECV && new == TCP_ESTABLISHED;
    if !(active || passive) || !is_tcp(sk) {
        return None;
    }
    let by_port = process::port_matches(ports(sk));
    let matched = if by_port { FLOW_PORT_MATCH } else { 0 };
    if passive {
        // Softirq: the running thread has nothing to do with this socket.
        return if by_port { track(sk, NOBODY, FLOW_PASSIVE_OPEN | matched) } else { None };
    }
    let owner = process::owner_of_flow(current(), by_port)?;
    let tag = track(sk, owner, FLOW_ACTIVE_OPEN | matched)?;
    if let Some(flow) = record(tag) {
        (*flow).opener_tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    }
    Some(tag)
}

/// `tcp_retransmit_skb(const struct sock *sk, const struct sk_buff *skb)`.
#[inline(always)]
pub unsafe fn on_retransmit(sk: *const u8) {
    let Some(tag) = store::flow(sk) else { return };
    let tp = tcp_sock(sk);
    if tp.is_null() {
        return;
    }
    refresh(sk, tp, tag, read(tp, TP_MSTAMP.load()));
    if let Some(flow) = record(tag) {
        (*flow).retransmit_events += 1;
    }
}

/// `tcp_cong_state_set(struct sock *sk, const u8 ca_state)`: before the change.
#[inline(always)]
pub unsafe fn on_ca_state(sk: *const u8, new: u32) {
    let Some(tag) = store::flow(sk) else { return };
    if let Some(flow) = record(tag) {
        enter_ca_state(flow, new, bpf_ktime_get_ns());
    }
}

#[inline(always)]
unsafe fn enter_ca_state(flow: *mut Flow, new: u32, now: u64) {
    let since = if (*flow).ca_since_ns == 0 { (*flow).tagged_ns } else { (*flow).ca_since_ns };
    if let Some(old) = below((*flow).ca_state as usize, CA_STATES) {
        (*flow).ca_ns[old] += now.wrapping_sub(since);
    }
    (*flow).ca_since_ns = now;
    (*flow).ca_state = new;
}

/// `tcp_send_reset` (its `sk` may be null or not a full socket) and `tcp_receive_reset`.
#[inline(always)]
pub unsafe fn on_reset(sk: *const u8, sent: bool) {
    if sk.is_null() {
        return;
    }
    let Some(tag) = store::flow(sk) else { return };
    if let Some(flow) = record(tag) {
        if sent {
            (*flow).resets_sent += 1;
        } else {
            (*flow).resets_received += 1;
        }
    }
}

/// `inet_sk_error_report(const struct sock *sk)`.
#[inline(always)]
pub unsafe fn on_error(sk: *const u8) {
    let Some(tag) = store::flow(sk) else { return };
    if let Some(flow) = record(tag) {
        (*flow).errors += 1;
        (*flow).last_error = read(sk, SK_ERR.load());
    }
}

/// `iter/task_file`: finds flows that were open before the observer, and reads tracked ones without waiting for a packet.
#[inline(always)]
pub unsafe fn on_sweep(task: *const u8, socket: *const u8) {
    let sk: *const u8 = read(socket, SOCKET_SK.load());
    if sk.is_null() || !is_tcp(sk) {
        return;
    }
    let tp = tcp_sock(sk);
    let state = u32::from(read::<u8>(sk, SK_STATE.load()));
    if tp.is_null() || state == TCP_CLOSE || state == TCP_LISTEN {
        return;
    }
    let by_port = process::port_matches(ports(sk));
    if let Some(tag) = store::flow(sk) {
        if let Some(flow) = record(tag) {
            if tag.process == 0 {
                find_owner(tag, process::owner_of(task).unwrap_or(NOBODY));
            }
            snapshot::take_unlocked(sk, tp, flow);
        }
        return;
    }
    let Some(owner) = process::owner_of_flow(task, by_port) else { return };
    let matched = if by_port { FLOW_PORT_MATCH } else { 0 };
    let flags = matched | found_open(sk, 0, 0);
    let Some(tag) = track(sk, owner, flags) else { return };
    if state != TCP_ESTABLISHED && state != TCP_SYN_SENT && state != TCP_CLOSE_WAIT {
        tag.flags |= FLOW_FIN_SENT;
    }
    if let Some(flow) = record(tag) {
        (*flow).flags = tag.flags;
        if owner.slot == 0 && (*flow).tgid == 0 {
            // Whoever holds it is asked what it is.
            (*flow).tgid = read(task, TASK_TGID.load());
        }
    }
}
