//! Wakes the agent: lifecycle only, never a measurement.

use core::ffi::c_void;

use aya_ebpf::{helpers::generated::bpf_probe_read_user_str, macros::map, maps::RingBuf};
use dwcp_observer_ebpf::{
    EVENT_TEXT, Event,
    counters::Counter,
    phase::{Mark, TEXT_LEN, Text},
};

use crate::{counters::bump, ring};

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

#[inline(always)]
pub fn emit(kind: u32, slot: u32, tgid: u32) {
    send(Event { kind, slot, tgid, reserved: 0 });
}

#[inline(always)]
pub fn emit_mark(mark: Mark) {
    send(mark);
}

#[inline(always)]
fn send<T: 'static>(record: T) {
    if !ring::send(&EVENTS, record) {
        bump(Counter::EventsFull);
    }
}

/// Hands a text of the running process on; `text` is an address in its memory.
#[inline(always)]
pub unsafe fn emit_text(head: TextHead, text: u64) {
    let Some(mut entry) = EVENTS.reserve::<Text>(0) else {
        bump(Counter::EventsFull);
        return;
    };
    let to = entry.as_mut_ptr();
    (*to).kind = EVENT_TEXT;
    (*to).slot = head.slot;
    (*to).generation = head.generation;
    (*to).tid = head.tid;
    (*to).at_ns = head.at_ns;
    let read = bpf_probe_read_user_str(
        (&raw mut (*to).text).cast(),
        TEXT_LEN as u32,
        text as *const c_void,
    );
    if read <= 0 {
        bump(Counter::TextUnread);
        entry.discard(0);
    } else {
        entry.submit(0);
    }
}

/// What stands before a text.
pub struct TextHead {
    /// Slot of the process.
    pub slot: u32,
    /// Generation of that slot.
    pub generation: u32,
    /// Thread that passed.
    pub tid: u32,
    /// `CLOCK_MONOTONIC` ns.
    pub at_ns: u64,
}
