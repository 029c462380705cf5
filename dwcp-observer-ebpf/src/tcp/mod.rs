//! TCP flows: tagged at first data, measured from the socket's own counters.

mod snapshot;

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_F_MMAPABLE,
    helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::map,
    maps::{Array, Stack},
};
use aya_log_ebpf::debug;
use dwcp_observer_ebpf::{
    EVENT_FLOW_CLOSE, EVENT_FLOW_OPEN, SLOT_CLOSED, SLOT_LIVE, SLOT_LOST,
    counters::Counter,
    hist::{HOST_HIST_RTT, Hist, RTT_BUCKETS, bucket_of},
    tcp::{
        CA_STATES, FLOW_ACTIVE_OPEN, FLOW_FIN_SENT, FLOW_FOUND_OPEN, FLOW_PASSIVE_OPEN,
        FLOW_PORT_MATCH, FLOW_RECEIVED_FIRST, FLOW_SENT_FIRST, Flow, TCP_CLOSE, TCP_CLOSE_WAIT,
        TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_LAST_ACK, TCP_LISTEN, TCP_STATES, TCP_SYN_RECV,
        TCP_SYN_SENT,
    },
};

use crate::{
    access::{
        CALL_SPLICE, NET_INUM, SK_DADDR, SK_DPORT, SK_ERR, SK_FAMILY, SK_LPORT, SK_NET,
        SK_PROTOCOL, SK_SADDR, SK_STATE, SK_V6_DADDR, SK_V6_SADDR, SOCKET_SK, TASK_TGID,
        TP_BYTES_ACKED, TP_BYTES_RECEIVED, TP_COPIED_SEQ, TP_DELIVERED, TP_MSTAMP, TP_RACK_RTT,
        TP_RCV_NXT, TP_SND_UNA, TP_WRITE_SEQ, current, read, tcp_sock,
    },
    counters::{add, below, bump, host_sample},
    events::emit,
    levels::{self, LEVEL_FLOWS},
    process::{self, NOBODY, Owner},
    sched,
    store::{self, ENDED, FlowTag, NO_SLOT, STRANGER},
};

#[map]
static FLOWS: Array<Flow> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// RTT samples of each flow, us: `tcp_sock.rack.rtt_us` of each ACK that delivered data. Apart from the records, which the
/// agent keeps mapped, so that they do not count in its memory.
#[map]
static FLOW_RTT: Array<Hist<RTT_BUCKETS>> = Array::with_max_entries(1, 0);
/// Free slots, filled by the agent: for recognised processes,
#[map]
static FLOW_FREE: Stack<u32> = Stack::with_max_entries(1, 0);
/// kept for those of them that migrate or speak on a migration port,
#[map]
static FLOW_KEPT: Stack<u32> = Stack::with_max_entries(1, 0);
/// and for whoever else speaks on a migration port: a busy server there takes none of the others.
#[map]
static FLOW_BY_PORT: Stack<u32> = Stack::with_max_entries(1, 0);

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;
/// `MSG_PEEK`: the data stay in the queue.
const MSG_PEEK: i32 = 2;
/// Most that one `splice` takes: what a pipe holds (`/proc/sys/fs/pipe-max-size` as it comes). How much it took is not told.
const SPLICED: u64 = 1 << 20;
/// Least time between two snapshots of a flow by packets: totals are read each second, so 1 ms is fine enough.
const SNAPSHOT_EVERY_US: u64 = 1000;

/// Whether `sk` is a TCP socket over IPv4 or IPv6; other protocols share the socket tracepoints.
#[inline(always)]
unsafe fn is_tcp(sk: *const u8) -> bool {
    let family: u16 = read(sk, SK_FAMILY.load());
    (family == AF_INET || family == AF_INET6) && read::<u16>(sk, SK_PROTOCOL.load()) == IPPROTO_TCP
}

#[inline(always)]
unsafe fn ports(sk: *const u8) -> (u16, u16) {
    (read(sk, SK_LPORT.load()), u16::from_be(read(sk, SK_DPORT.load())))
}

/// The process behind a tag, unless its slot was freed since.
#[inline(always)]
fn owner(tag: &FlowTag) -> Owner {
    Owner { slot: tag.process, generation: tag.process_generation }
}

/// The record behind a tag; `None` for a flow that found no slot, was given up by the agent, or has ended.
#[inline(always)]
unsafe fn record(tag: &FlowTag) -> Option<*mut Flow> {
    if tag.slot >= STRANGER {
        return None;
    }
    let flow = FLOWS.get_ptr_mut(tag.slot)?;
    if (*flow).generation == tag.generation { Some(flow) } else { None }
}

/// What a pop of a stack of free slots says.
enum Popped {
    Slot(u32),
    Empty,
    Busy,
}

#[inline(always)]
fn pop(stack: &Stack<u32>) -> Popped {
    match stack.pop() {
        Ok(Some(slot)) => Popped::Slot(slot),
        Ok(None) => Popped::Empty,
        Err(_) => Popped::Busy,
    }
}

/// A free slot for a flow of `owner`; [`NO_SLOT`] or [`STRANGER`] when there is none, `None` when the stack is busy.
#[inline(always)]
unsafe fn take_slot(owner: Owner, flags: u32) -> Option<u32> {
    if owner.slot == 0 {
        return match pop(&FLOW_BY_PORT) {
            Popped::Slot(slot) => Some(slot),
            Popped::Empty => {
                bump(Counter::StrangerSlotsFull);
                Some(STRANGER)
            }
            Popped::Busy => None,
        };
    }
    match pop(&FLOW_FREE) {
        Popped::Slot(slot) => return Some(slot),
        Popped::Empty => {}
        Popped::Busy => return None,
    }
    let migrates =
        flags & FLOW_PORT_MATCH != 0 || owner.record().is_some_and(|process| (*process).watch != 0);
    match if migrates { pop(&FLOW_KEPT) } else { Popped::Empty } {
        Popped::Slot(slot) => Some(slot),
        Popped::Empty => Some(NO_SLOT),
        Popped::Busy => None,
    }
}

/// Tags a socket and begins its record.
#[inline(always)]
unsafe fn track(sk: *const u8, owner: Owner, flags: u32) -> Option<&'static mut FlowTag> {
    let Some(slot) = take_slot(owner, flags) else {
        bump(Counter::HelperBusy);
        return None;
    };
    let token = bpf_get_current_pid_tgid();
    let mut tag = FlowTag {
        slot,
        generation: 0,
        process: owner.slot,
        process_generation: owner.generation,
        flags,
        reserved: 0,
        token,
        snapshot_us: 0,
        delivered: 0,
        data_seen: 0,
        rcv_nxt: 0,
        write_seq: 0,
        segment_us: 0,
        arrived_us: 0,
        counted: [0; 5],
    };
    let flow = if slot >= STRANGER { None } else { FLOWS.get_ptr_mut(slot) };
    if let Some(flow) = flow {
        tag.generation = (*flow).generation;
        begin(sk, flow, owner.slot, flags);
        // Before anybody can find the record: there is no other writer yet.
        let tp = tcp_sock(sk);
        if !tp.is_null() {
            snapshot::take(sk, tp, &raw mut (*flow).swept, (*flow).tagged_ns / 1000);
        }
    }
    let Some(tag) = store::create_flow(sk, &mut tag) else {
        bump(Counter::FlowTagFailed);
        give_back(slot);
        return None;
    };
    if tag.slot != slot || tag.token != token {
        give_back(slot);
        return Some(tag);
    }
    match flow {
        Some(flow) => {
            (&raw mut (*flow).state).write_volatile(SLOT_LIVE);
            levels::raise(LEVEL_FLOWS, slot);
            emit(EVENT_FLOW_OPEN, slot, (*flow).tgid);
        }
        None if slot == NO_SLOT => {
            bump(Counter::FlowSlotsFull);
            count_overflow_flow(owner, 1);
        }
        None => {}
    }
    Some(tag)
}

/// [`FLOW_FOUND_OPEN`] if the application had moved data before: more than what it has moved just now, a SYN and a FIN.
///
/// Read without the socket's lock: each total before what is still in flight of it, so that a packet in between makes the
/// result smaller, not larger.
#[inline(always)]
unsafe fn found_open(sk: *const u8, sent_now: u64, received_now: u64) -> u32 {
    let tp = tcp_sock(sk);
    if tp.is_null() {
        return 0;
    }
    let acked: u64 = read(tp, TP_BYTES_ACKED.load());
    let (write_seq, snd_una): (u32, u32) =
        (read(tp, TP_WRITE_SEQ.load()), read(tp, TP_SND_UNA.load()));
    let sent = acked.wrapping_add(u64::from(write_seq.wrapping_sub(snd_una)));
    let received: u64 = read(tp, TP_BYTES_RECEIVED.load());
    let (rcv_nxt, copied): (u32, u32) =
        (read(tp, TP_RCV_NXT.load()), read(tp, TP_COPIED_SEQ.load()));
    let read = received.wrapping_sub(u64::from(rcv_nxt.wrapping_sub(copied)));
    let before = |total: u64, now: u64| total.wrapping_sub(now + 2) as i64 > 0;
    if before(sent, sent_now) || before(read, received_now) { FLOW_FOUND_OPEN } else { 0 }
}

/// To the agent, which knows the stack that the slot belongs to: a race for a new socket is rare.
#[inline(always)]
unsafe fn give_back(slot: u32) {
    if slot < STRANGER
        && let Some(flow) = FLOWS.get_ptr_mut(slot)
    {
        (&raw mut (*flow).state).write_volatile(SLOT_LOST);
        levels::raise(LEVEL_FLOWS, slot);
    }
}

#[inline(always)]
unsafe fn count_overflow_flow(owner: Owner, count: u64) {
    if let Some(process) = owner.record() {
        add(&raw mut (*process).overflow.flows, count);
    }
}

#[inline(always)]
unsafe fn count_overflow_close(tag: &FlowTag) {
    if tag.slot == NO_SLOT
        && let Some(process) = owner(tag).record()
    {
        add(&raw mut (*process).overflow.closed, 1);
    }
}

/// Fills in who the flow is. The agent hands out zeroed slots.
#[inline(always)]
unsafe fn begin(sk: *const u8, flow: *mut Flow, process: u32, flags: u32) {
    (*flow).process = process;
    (*flow).flags = flags;
    (*flow).family = read(sk, SK_FAMILY.load());
    addresses(sk, flow);
    let net: *const u8 = read(sk, SK_NET.load());
    if !net.is_null() {
        (*flow).netns = read(net, NET_INUM.load());
    }
    (*flow).tagged_ns = bpf_ktime_get_ns();
}

/// An active opener gets its port and address after `TCP_SYN_SENT` is set (tcp_v4_connect), so this runs again later.
#[inline(always)]
unsafe fn addresses(sk: *const u8, flow: *mut Flow) {
    let (local_port, peer_port) = ports(sk);
    (*flow).local_port = local_port;
    (*flow).peer_port = peer_port;
    if (*flow).family == AF_INET6 {
        (*flow).local_addr = read(sk, SK_V6_SADDR.load());
        (*flow).peer_addr = read(sk, SK_V6_DADDR.load());
    } else {
        set_v4(&raw mut (*flow).local_addr, read(sk, SK_SADDR.load()));
        set_v4(&raw mut (*flow).peer_addr, read(sk, SK_DADDR.load()));
    }
}

#[inline(always)]
unsafe fn set_v4(to: *mut [u8; 16], addr: [u8; 4]) {
    to.cast::<[u8; 4]>().write(addr);
}

/// Reads the socket into the flow's record, or into its process' overflow totals. Runs under the socket's lock.
#[inline(always)]
unsafe fn refresh(sk: *const u8, tp: *const u8, tag: &mut FlowTag, at_us: u64) {
    tag.snapshot_us = at_us;
    let Some(flow) = record(tag) else {
        if tag.slot == NO_SLOT {
            snapshot::count_overflow(sk, tp, tag);
        }
        return;
    };
    snapshot::take(sk, tp, &raw mut (*flow).event, at_us);
    if tag.flags & (FLOW_ACTIVE_OPEN | FLOW_PASSIVE_OPEN) == 0 {
        tag.flags |= opener(&(*flow).event, tag.flags);
    }
    (*flow).flags = tag.flags;
    (*flow).arrived_us = tag.arrived_us;
}

#[inline(always)]
fn opener(snapshot: &dwcp_observer_ebpf::tcp::Snapshot, flags: u32) -> u32 {
    match snapshot.opened_actively(flags) {
        Some(true) => FLOW_ACTIVE_OPEN,
        Some(false) => FLOW_PASSIVE_OPEN,
        None => 0,
    }
}

/// Counts one RTT sample for each ACK that delivered data since the last look. Runs under the socket's lock.
#[inline(always)]
unsafe fn sample_rtt(tp: *const u8, tag: &mut FlowTag) {
    let delivered: u32 = read(tp, TP_DELIVERED.load());
    if delivered == tag.delivered {
        return;
    }
    tag.delivered = delivered;
    let rtt_us = u64::from(read::<u32>(tp, TP_RACK_RTT.load()));
    let bucket = bucket_of(rtt_us);
    if rtt_us == 0 || bucket >= RTT_BUCKETS {
        bump(Counter::RttDiscarded);
        return;
    }
    let found = record(tag).is_some();
    if !found && tag.slot != NO_SLOT {
        return;
    }
    host_sample(HOST_HIST_RTT, bucket, rtt_us);
    if let Some(rtt) = FLOW_RTT.get_ptr_mut(tag.slot)
        && found
        && let Some(bucket) = below(bucket, RTT_BUCKETS)
    {
        (*rtt).buckets[bucket] += 1;
        (*rtt).sum += rtt_us;
        (*rtt).count += 1;
    }
}

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
unsafe fn find_owner(tag: &mut FlowTag, mover: Owner) {
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
    let Some(tag) = move_data(ctx, sk, [0, 0], true) else { return };
    let write_seq: u32 = read(sk, TP_WRITE_SEQ.load());
    if tag.write_seq != 0 {
        count_sent(tag, write_seq.wrapping_sub(tag.write_seq).into());
    }
    tag.write_seq = write_seq;
}

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
