//! Wakes the agent: lifecycle only, never a measurement.

use aya_ebpf::{macros::map, maps::RingBuf};
use dwcp_observer_ebpf::{Event, counters::Counter, phase::Mark};

use crate::counters::bump;

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

#[inline(always)]
pub fn emit(kind: u32, slot: u32, tgid: u32) {
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        bump(Counter::EventsFull);
        return;
    };
    entry.write(Event { kind, slot, tgid, reserved: 0 });
    entry.submit(0);
}

#[inline(always)]
pub fn emit_mark(mark: Mark) {
    let Some(mut entry) = EVENTS.reserve::<Mark>(0) else {
        bump(Counter::EventsFull);
        return;
    };
    entry.write(mark);
    entry.submit(0);
}
