//! Arrays of records with a stack of free slots.

use std::{ops::Range, ptr::NonNull};

use aya::{
    Ebpf,
    maps::{MapData, Stack},
};
use dwcp_observer_ebpf::{LEVELS, SWEEP_EPOCH};

use super::{
    maps::{MapError, free_slots, mapped},
    sys::{Mapped, peek},
};

/// Slots beyond the level that are looked at: two CPUs that raise it at once may lose the higher one.
const MARGIN: u32 = 256;

/// The level map's one value: how high each array was ever filled.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Levels([u32; LEVELS + 1]);

/// Begins a task sweep; its number. Programs of this sweep read it.
pub(crate) fn next_epoch(levels: &Mapped<Levels>) -> Option<u32> {
    let slot = levels.slot(0)?;
    let epoch = peek!(slot, 0)[SWEEP_EPOCH].wrapping_add(1);
    let word = slot.cast::<u32>();
    // SAFETY: the index lies within the value.
    let word = unsafe { word.add(SWEEP_EPOCH) };
    // SAFETY: the slot lies in a live, writable mapping; only the agent writes this word.
    unsafe { word.write_volatile(epoch) };
    Some(epoch)
}

/// How the flow array of `slots` slots is divided, by the stack that hands the slots out. Low ones are mapped first: those for strangers on
/// migration ports come first and are few, those kept for migrators last.
pub(crate) fn flow_pools(slots: u32) -> Vec<(&'static str, Range<u32>)> {
    let by_port = by_port_slots(slots);
    let kept = slots - ((slots - by_port) / KEPT_SHARE).max(1);
    vec![("FLOW_FREE", by_port..kept), ("FLOW_KEPT", kept..slots), ("FLOW_BY_PORT", 0..by_port)]
}

/// One in so many of `limits.max_flows` is kept for flows of processes that migrate or speak on a migration port.
const KEPT_SHARE: u32 = 16;
/// One in so many is added for connections on migration ports whose process is not recognised.
const BY_PORT_SHARE: u32 = 8;

/// Slots of the flow array, for `max_flows` flows of recognised processes.
pub(crate) const fn flow_slots(max_flows: u32) -> u32 {
    max_flows + if max_flows < 32 { 4 } else { max_flows / BY_PORT_SHARE }
}

/// The inverse of [`flow_slots`]: how many of these slots are for strangers.
const fn by_port_slots(slots: u32) -> u32 {
    if slots < 36 { 4 } else { slots / (BY_PORT_SHARE + 1) }
}

/// A set of record slots and the stacks of free ones.
pub(crate) struct Slots<T> {
    records: Mapped<T>,
    pools: Vec<Pool>,
    map: &'static str,
    level: u32,
    /// Given back, and not taken by the kernel: it was at the stack at that moment.
    unreturned: Vec<u32>,
}

/// Slots that are handed out by a stack of their own.
struct Pool {
    slots: Range<u32>,
    free: Stack<MapData, u32>,
    /// In use, as of the last look.
    used: u32,
}

impl<T: Copy> Slots<T> {
    /// All slots of the pools are free; a pool is a stack and its slots.
    pub(crate) fn new(
        ebpf: &mut Ebpf,
        map: &'static str,
        level: u32,
        pools: impl FnOnce(u32) -> Vec<(&'static str, Range<u32>)>,
    ) -> Result<Self, MapError> {
        let records: Mapped<T> = mapped(ebpf, map, 0)?;
        let pools = pools(records.len()).into_iter().map(|(stack, slots)| {
            Ok(Pool { free: free_slots(ebpf, stack, slots.clone())?, slots, used: 0 })
        });
        let pools = pools.collect::<Result<_, MapError>>()?;
        Ok(Self { records, pools, map, level, unreturned: Vec::new() })
    }

    /// Slots of these pools that are in use, and how many there are.
    pub(crate) fn usage(&self, pools: Range<usize>) -> (u32, u32) {
        let pools = self.pools.get(pools).unwrap_or_default();
        let capacity = |pool: &Pool| pool.slots.end - pool.slots.start;
        (pools.iter().map(|pool| pool.used).sum(), pools.iter().map(capacity).sum())
    }

    /// Slots in use.
    pub(crate) fn used(&self) -> u32 {
        self.pools.iter().map(|pool| pool.used).sum()
    }

    /// Where a slot lies; `None` beyond the end.
    pub(crate) fn slot(&mut self, slot: u32) -> Option<NonNull<T>> {
        self.reach(slot.saturating_add(1));
        self.records.slot(slot)
    }

    fn reach(&mut self, slots: u32) {
        if let Err(error) = self.records.reach(slots) {
            log::warn!("{}: cannot map slots, so they are not read for now: {error}", self.map);
        }
    }

    /// Puts a slot back on its stack, now or at a later look.
    pub(crate) fn give_back(&mut self, slot: u32) {
        let Some(pool) = self.pools.iter_mut().find(|pool| pool.slots.contains(&slot)) else {
            return;
        };
        if let Err(error) = pool.free.push(slot, 0) {
            log::debug!("{}: cannot free slot {slot} yet: {error}", self.map);
            self.unreturned.push(slot);
        }
    }

    /// Tries again what could not be given back.
    pub(crate) fn give_back_again(&mut self) {
        for slot in std::mem::take(&mut self.unreturned) {
            self.give_back(slot);
        }
    }

    /// Slots that were ever used, with their state.
    pub(crate) fn visit(
        &mut self,
        levels: &Mapped<Levels>,
        mut each: impl FnMut(u32, NonNull<T>) -> bool,
    ) {
        let level = levels.slot(0).map_or(0, |levels| peek!(levels, 0)[self.level as usize]);
        let top = level.saturating_add(MARGIN).min(self.records.len());
        self.reach(top);
        for pool in &mut self.pools {
            pool.used = 0;
            for slot in pool.slots.start..pool.slots.end.min(top) {
                if let Some(record) = self.records.slot(slot) {
                    pool.used += u32::from(each(slot, record));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_is_handed_out_by_one_stack_and_the_limit_is_that_of_recognised_processes() {
        for limit in (16..200).chain([4096, 1 << 20]) {
            let slots = flow_slots(limit);
            let mut pools = flow_pools(slots);
            let own: u32 = pools[..2].iter().map(|(_, range)| range.len() as u32).sum();
            assert!(own.abs_diff(limit) <= 1, "{limit}: {own}");
            assert!(pools.iter().all(|(_, range)| !range.is_empty()), "{limit}: {pools:?}");
            pools.sort_by_key(|(_, range)| range.start);
            let mut next = 0;
            for (_, range) in pools {
                assert_eq!(range.start, next);
                next = range.end;
            }
            assert_eq!(next, slots);
        }
    }
}
