//! The record of a flow: its slot, its tag and its content.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::map,
    maps::{Array, Stack},
};
use dwcp_observer_ebpf::{
    EVENT_FLOW_OPEN, SLOT_LIVE, SLOT_LOST,
    counters::Counter,
    hist::{HOST_HIST_RTT, Hist, RTT_BUCKETS, bucket_of},
    tcp::{FLOW_ACTIVE_OPEN, FLOW_FOUND_OPEN, FLOW_PASSIVE_OPEN, FLOW_PORT_MATCH, Flow},
};

use super::snapshot;
use crate::{
    access::{
        NET_INUM, SK_DADDR, SK_DPORT, SK_FAMILY, SK_LPORT, SK_NET, SK_PROTOCOL, SK_SADDR,
        SK_V6_DADDR, SK_V6_SADDR, TP_BYTES_ACKED, TP_BYTES_RECEIVED, TP_COPIED_SEQ, TP_DELIVERED,
        TP_RACK_RTT, TP_RCV_NXT, TP_SND_UNA, TP_WRITE_SEQ, tcp_sock,
    },
    atomic::add,
    counters::{below, bump, host_sample},
    events::emit,
    levels::{self, LEVEL_FLOWS},
    memory::read,
    process::Owner,
    store::{self, FlowTag, NO_SLOT, STRANGER},
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

/// Whether `sk` is a TCP socket over IPv4 or IPv6; other protocols share the socket tracepoints.
#[inline(always)]
pub(super) unsafe fn is_tcp(sk: *const u8) -> bool {
    let family: u16 = read(sk, SK_FAMILY.load());
    (family == AF_INET || family == AF_INET6) && read::<u16>(sk, SK_PROTOCOL.load()) == IPPROTO_TCP
}

#[inline(always)]
pub(super) unsafe fn ports(sk: *const u8) -> (u16, u16) {
    (read(sk, SK_LPORT.load()), u16::from_be(read(sk, SK_DPORT.load())))
}

/// The process behind a tag, unless its slot was freed since.
#[inline(always)]
pub(super) fn owner(tag: &FlowTag) -> Owner {
    Owner { slot: tag.process, generation: tag.process_generation }
}

/// The record behind a tag; `None` for a flow that found no slot, was given up by the agent, or has ended.
#[inline(always)]
pub(super) unsafe fn record(tag: &FlowTag) -> Option<*mut Flow> {
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
pub(super) unsafe fn track(
    sk: *const u8,
    owner: Owner,
    flags: u32,
) -> Option<&'static mut FlowTag> {
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
        // SAFETY: the slot has just come from the stack: this program alone has it until a tag names it.
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
pub(super) unsafe fn found_open(sk: *const u8, sent_now: u64, received_now: u64) -> u32 {
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
pub(super) unsafe fn count_overflow_flow(owner: Owner, count: u64) {
    if let Some(process) = owner.record() {
        add(&raw mut (*process).overflow.flows, count);
    }
}

#[inline(always)]
pub(super) unsafe fn count_overflow_close(tag: &FlowTag) {
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
pub(super) unsafe fn addresses(sk: *const u8, flow: *mut Flow) {
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
pub(super) unsafe fn refresh(sk: *const u8, tp: *const u8, tag: &mut FlowTag, at_us: u64) {
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
pub(super) fn opener(snapshot: &dwcp_observer_ebpf::tcp::Snapshot, flags: u32) -> u32 {
    match snapshot.opened_actively(flags) {
        Some(true) => FLOW_ACTIVE_OPEN,
        Some(false) => FLOW_PASSIVE_OPEN,
        None => 0,
    }
}

/// Counts one RTT sample for each ACK that delivered data since the last look. Runs under the socket's lock.
#[inline(always)]
pub(super) unsafe fn sample_rtt(tp: *const u8, tag: &mut FlowTag) {
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
        // SAFETY: under the socket's lock there is no other writer.
        (*rtt).buckets[bucket] += 1;
        (*rtt).sum += rtt_us;
        (*rtt).count += 1;
    }
}
