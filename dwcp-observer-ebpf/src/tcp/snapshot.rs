//! Copies a socket's counters.

use core::sync::atomic::{Ordering, compiler_fence};

use aya_ebpf::{
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns},
    macros::map,
    maps::PerCpuArray,
};
use dwcp_observer_ebpf::{
    counters::Counter,
    tcp::{FLOW_ACTIVE_OPEN, FLOW_PASSIVE_OPEN, Flow, Snapshot},
};

use crate::{
    access::{
        CHRONO_MASK, CHRONO_SHIFT, SK_FLAGS, SK_STATE, SOCK_DONE_BIT, TP_BYTES_ACKED,
        TP_BYTES_RECEIVED, TP_BYTES_RETRANS, TP_BYTES_SENT, TP_CHRONO_START, TP_CHRONO_STAT,
        TP_CHRONO_TYPE, TP_COPIED_SEQ, TP_CWND, TP_DATA_IN, TP_DATA_OUT, TP_DELIVERED, TP_LOST,
        TP_MDEV, TP_MIN_RTT, TP_MSS, TP_RCV_NXT, TP_RCV_WND, TP_SEGS_IN, TP_SEGS_OUT, TP_SND_NXT,
        TP_SND_UNA, TP_SND_WND, TP_SRTT, TP_SSTHRESH, TP_TOTAL_RETRANS, TP_WRITE_SEQ,
    },
    atomic::{add, claim, give_up},
    counters::bump,
    memory::read,
    order,
    store::FlowTag,
};

/// Copies all counters, for one writer at a time.
#[inline(always)]
pub unsafe fn take(sk: *const u8, tp: *const u8, to: *mut Snapshot, at_us: u64) {
    let sequence = begin(to);
    fill(sk, tp, to, at_us);
    order::set(&raw mut (*to).sequence, sequence);
}

/// Begins to write; the sequence number that ends it. The reader retries while it is odd or has changed. It is even at the end whatever it
/// was before: a writer that the agent's clearing of the record overtook leaves no odd one behind.
#[inline(always)]
unsafe fn begin(to: *mut Snapshot) -> u64 {
    let odd = (*to).sequence | 1;
    order::set(&raw mut (*to).sequence, odd);
    odd.wrapping_add(1)
}

#[inline(always)]
unsafe fn fill(sk: *const u8, tp: *const u8, to: *mut Snapshot, at_us: u64) {
    (*to).tcp_state = u32::from(read::<u8>(sk, SK_STATE.load()));
    (*to).at_us = at_us;
    totals(tp, to);
    (*to).fin_received = fin_received(sk);
    (*to).rcv_nxt = read(tp, TP_RCV_NXT.load());
    (*to).copied_seq = read(tp, TP_COPIED_SEQ.load());
    (*to).segs_out = read(tp, TP_SEGS_OUT.load());
    (*to).segs_in = read(tp, TP_SEGS_IN.load());
    (*to).data_segs_out = read(tp, TP_DATA_OUT.load());
    (*to).data_segs_in = read(tp, TP_DATA_IN.load());
    (*to).delivered = read(tp, TP_DELIVERED.load());
    (*to).lost = read(tp, TP_LOST.load());
    (*to).srtt_us8 = read(tp, TP_SRTT.load());
    (*to).mdev_us4 = read(tp, TP_MDEV.load());
    (*to).min_rtt_us = read(tp, TP_MIN_RTT.load());
    (*to).snd_cwnd = read(tp, TP_CWND.load());
    (*to).snd_ssthresh = read(tp, TP_SSTHRESH.load());
    (*to).mss = read(tp, TP_MSS.load());
    (*to).snd_wnd = read(tp, TP_SND_WND.load());
    (*to).rcv_wnd = read(tp, TP_RCV_WND.load());
    let chrono: u8 = read(tp, TP_CHRONO_TYPE.load());
    (*to).chrono_type = u32::from(chrono) >> CHRONO_SHIFT.load() & CHRONO_MASK.load();
    (*to).chrono_start = read(tp, TP_CHRONO_START.load());
    (*to).chrono_stat = read(tp, TP_CHRONO_STAT.load());
    (*to).jiffies = bpf_jiffies64() as u32;
}

#[inline(always)]
unsafe fn fin_received(sk: *const u8) -> u32 {
    let done = SOCK_DONE_BIT.load();
    u32::from(done < 64 && read::<u64>(sk, SK_FLAGS.load()) >> done & 1 != 0)
}

#[inline(always)]
unsafe fn totals(tp: *const u8, to: *mut Snapshot) {
    (*to).bytes_acked = read(tp, TP_BYTES_ACKED.load());
    (*to).bytes_received = read(tp, TP_BYTES_RECEIVED.load());
    (*to).bytes_sent = read(tp, TP_BYTES_SENT.load());
    (*to).bytes_retrans = read(tp, TP_BYTES_RETRANS.load());
    (*to).total_retrans = read(tp, TP_TOTAL_RETRANS.load());
    (*to).write_seq = read(tp, TP_WRITE_SEQ.load());
    (*to).snd_una = read(tp, TP_SND_UNA.load());
    (*to).snd_nxt = read(tp, TP_SND_NXT.load());
}

/// Copies into `swept` without the socket's lock, unless somebody else does so at this moment: the sweep and the first data of two threads
/// may come at once.
#[inline(always)]
pub unsafe fn take_claimed(sk: *const u8, tp: *const u8, flow: *mut Flow, at_us: u64) {
    if claim(&raw mut (*flow).swept_claims) {
        // SAFETY: nobody else writes `swept` until the claim is given up, but for the agent, which clears a freed record: see `begin`.
        take(sk, tp, &raw mut (*flow).swept, at_us);
        give_up(&raw mut (*flow).swept_claims);
    } else {
        bump(Counter::SnapshotRaced);
    }
}

/// The same by the sweep. A socket that moves meanwhile is left to its own events, which are fresh then: what was swept before stays.
#[inline(always)]
pub unsafe fn take_unlocked(sk: *const u8, tp: *const u8, flow: *mut Flow) {
    if !claim(&raw mut (*flow).swept_claims) {
        bump(Counter::SnapshotRaced);
        return;
    }
    // SAFETY: this CPU's own, and a sweep is not interrupted by another: one runs at a time, in the agent's own context.
    if let Some(seen) = SEEN.get_ptr_mut(0) {
        let before = moving(tp);
        fill(sk, tp, seen, bpf_ktime_get_ns() / 1000);
        compiler_fence(Ordering::SeqCst);
        if before == moving(tp) {
            let to = &raw mut (*flow).swept;
            let sequence = begin(to);
            (*seen).sequence = (*to).sequence;
            *to = *seen;
            order::set(&raw mut (*to).sequence, sequence);
        } else {
            bump(Counter::SnapshotRaced);
        }
    }
    give_up(&raw mut (*flow).swept_claims);
}

/// What a sweep sees of a socket until it is known to have stood still; a sweep stays on its CPU. On the stack the verifier (6.1 and before)
/// would follow each field that can and that cannot be read, and give up.
#[map]
static SEEN: PerCpuArray<Snapshot> = PerCpuArray::with_max_entries(1, 0);

/// What moves with each segment and each write.
#[inline(always)]
unsafe fn moving(tp: *const u8) -> [u64; 3] {
    [
        read::<u32>(tp, TP_SND_UNA.load()).into(),
        read(tp, TP_BYTES_ACKED.load()),
        read::<u32>(tp, TP_WRITE_SEQ.load()).into(),
    ]
}

/// Adds what is new since the last event to the totals of flows without a slot. Runs under the socket's lock.
#[inline(always)]
pub unsafe fn count_overflow(sk: *const u8, tp: *const u8, tag: &mut FlowTag) {
    let mut now =
        Snapshot { tcp_state: u32::from(read::<u8>(sk, SK_STATE.load())), ..Snapshot::default() };
    now.fin_received = fin_received(sk);
    totals(tp, &raw mut now);
    if tag.flags & (FLOW_ACTIVE_OPEN | FLOW_PASSIVE_OPEN) == 0 {
        tag.flags |= super::flow::opener(&now, tag.flags);
    }
    let payload = now.payload(tag.flags);
    let Some(process) = super::owner(tag).record() else { return };
    let totals = [
        payload.queued,
        payload.delivered,
        payload.received,
        now.bytes_retrans,
        u64::from(now.total_retrans),
    ];
    let cells = [
        &raw mut (*process).overflow.bytes_queued,
        &raw mut (*process).overflow.bytes_delivered,
        &raw mut (*process).overflow.bytes_received,
        &raw mut (*process).overflow.bytes_retrans,
        &raw mut (*process).overflow.segs_retrans,
    ];
    for index in 0..totals.len() {
        // A FIN on its way lowers `queued` by nothing and an unknown opener by one: never count backwards.
        add(cells[index], totals[index].wrapping_sub(tag.counted[index]));
        tag.counted[index] = totals[index];
    }
}
