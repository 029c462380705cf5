//! Arrays of records with a stack of free slots.

use std::ptr::NonNull;

use aya::{
    Ebpf,
    maps::{MapData, Stack},
};
use dwcp_observer_ebpf::LEVELS;

use super::{
    maps::{MapError, free_slots, mapped},
    sys::{Mapped, peek},
};

/// Slots beyond the level that are looked at: two CPUs that raise it at once may lose the higher one.
const MARGIN: u32 = 256;

/// The level map's one value: how high each array was ever filled.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Levels([u32; LEVELS + 1]);

/// A set of record slots and the stack of free ones.
pub(super) struct Slots<T> {
    records: Mapped<T>,
    free: Stack<MapData, u32>,
    map: &'static str,
    level: u32,
    /// In use, as of the last look.
    pub(super) used: u32,
}

impl<T: Copy> Slots<T> {
    /// Those from `first` on are free.
    pub(super) fn new(
        ebpf: &mut Ebpf,
        map: &'static str,
        free: &'static str,
        level: u32,
        first: u32,
    ) -> Result<Self, MapError> {
        let records: Mapped<T> = mapped(ebpf, map, 0)?;
        let free = free_slots(ebpf, free, first..records.len())?;
        Ok(Self { records, free, map, level, used: 0 })
    }

    /// Number of slots.
    pub(super) const fn len(&self) -> u32 {
        self.records.len()
    }

    /// Where a slot lies; `None` beyond the end.
    pub(super) fn slot(&mut self, slot: u32) -> Option<NonNull<T>> {
        self.reach(slot.saturating_add(1));
        self.records.slot(slot)
    }

    fn reach(&mut self, slots: u32) {
        if let Err(error) = self.records.reach(slots) {
            log::warn!("{}: slots are unread until they can be mapped: {error}", self.map);
        }
    }

    pub(super) fn give_back(&mut self, slot: u32) {
        if let Err(error) = self.free.push(slot, 0) {
            log::warn!("{}: slot {slot} is lost: {error}", self.map);
        }
    }

    /// Slots that were ever used, with their state.
    pub(super) fn visit(
        &mut self,
        levels: &Mapped<Levels>,
        mut each: impl FnMut(u32, NonNull<T>) -> bool,
    ) {
        let level = levels.slot(0).map_or(0, |levels| peek!(levels, 0)[self.level as usize]);
        let top = level.saturating_add(MARGIN).min(self.records.len());
        self.reach(top);
        let mut used = 0;
        for slot in 0..top {
            if let Some(record) = self.records.slot(slot) {
                used += u32::from(each(slot, record));
            }
        }
        self.used = used;
    }
}
