//! Copies a socket's counters.

use core::sync::atomic::{Ordering, compiler_fence};

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns};
use dwcp_observer_ebpf::tcp::{FLOW_ACTIVE_OPEN, FLOW_PASSIVE_OPEN, Snapshot};

use crate::{
    access::{
        CHRONO_MASK, CHRONO_SHIFT, SK_FLAGS, SK_STATE, SOCK_DONE_BIT, TP_BYTES_ACKED,
        TP_BYTES_RECEIVED, TP_BYTES_RETRANS, TP_BYTES_SENT, TP_CHRONO_START, TP_CHRONO_STAT,
        TP_CHRONO_TYPE, TP_COPIED_SEQ, TP_CWND, TP_DATA_IN, TP_DATA_OUT, TP_DELIVERED, TP_LOST,
        TP_MDEV, TP_MIN_RTT, TP_MSS, TP_RCV_NXT, TP_RCV_WND, TP_SEGS_IN, TP_SEGS_OUT, TP_SND_NXT,
        TP_SND_UNA, TP_SND_WND, TP_SRTT, TP_SSTHRESH, TP_TOTAL_RETRANS, TP_WRITE_SEQ, read,
    },
    counters::add,
    process::PROCESSES,
    store::FlowTag,
};

/// Copies all counters; the reader retries while `sequence` is odd or has changed.
#[inline(always)]
pub unsafe fn take(sk: *const u8, tp: *const u8, to: *mut Snapshot, at_us: u64) {
    let sequence = (*to).sequence;
    (&raw mut (*to).sequence).write_volatile(sequence.wrapping_add(1));
    compiler_fence(Ordering::SeqCst);
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
    compiler_fence(Ordering::SeqCst);
    (&raw mut (*to).sequence).write_volatile(sequence.wrapping_add(2));
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

/// Copies without the socket's lock. A socket that moves while it is read is left to its own events, which are fresh then.
#[inline(always)]
pub unsafe fn take_unlocked(sk: *const u8, tp: *const u8, to: *mut Snapshot) {
    let una_before: u32 = read(tp, TP_SND_UNA.load());
    let acked_before: u64 = read(tp, TP_BYTES_ACKED.load());
    let write_before: u32 = read(tp, TP_WRITE_SEQ.load());
    take(sk, tp, to, bpf_ktime_get_ns() / 1000);
    compiler_fence(Ordering::SeqCst);
    let una_after: u32 = read(tp, TP_SND_UNA.load());
    let acked_after: u64 = read(tp, TP_BYTES_ACKED.load());
    if una_before != una_after || acked_before != acked_after || write_before != (*to).write_seq {
        (*to).at_us = 0;
    }
}

/// Adds what is new since the last event to the totals of flows without a slot. Runs under the socket's lock.
#[inline(always)]
pub unsafe fn count_overflow(sk: *const u8, tp: *const u8, tag: &mut FlowTag) {
    let mut now =
        Snapshot { tcp_state: u32::from(read::<u8>(sk, SK_STATE.load())), ..Snapshot::default() };
    now.fin_received = fin_received(sk);
    totals(tp, &raw mut now);
    if tag.flags & (FLOW_ACTIVE_OPEN | FLOW_PASSIVE_OPEN) == 0 {
        tag.flags |= super::opener(&now, tag.flags);
    }
    let payload = now.payload(tag.flags);
    let Some(process) = PROCESSES.get_ptr_mut(tag.process) else { return };
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
