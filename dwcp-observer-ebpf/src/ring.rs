//! Records that travel to the agent in a ring buffer.

use aya_ebpf::maps::RingBuf;

/// Sends a record; false when the ring is full.
#[inline(always)]
pub fn send<T: 'static>(ring: &RingBuf, record: T) -> bool {
    let Some(mut entry) = ring.reserve::<T>(0) else { return false };
    entry.write(record);
    entry.submit(0);
    true
}
