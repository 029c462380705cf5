//! Disks that QEMU copies along, over connections that are no streams: an NBD mirror to the destination's own NBD server.
//!
//! Such a connection stays a candidate that is never called a migration. It becomes part of a record when the guest's memory goes the same
//! way: same process, same peer.

use super::{
    super::{compose, end::EndState, index::key, live::LiveMigration, observation::Observation},
    Registry,
};
use crate::tcp::FlowReading;

/// Connections of disks that one end of a migration may have: QEMU has one per disk.
const MAX_DISKS: usize = 64;
/// A disk that a QEMU is given at its start is its disk, not a copy of one, ns.
const START_UP_NS: u64 = 2_000_000_000;

impl Registry {
    /// Takes in what the connections of disks say, of running migrations and of those that are not retired yet.
    pub(super) fn update_storage(&mut self, observation: &Observation) {
        for reading in observation.flows.iter().filter(|reading| is_copy(reading)) {
            let end = self.live.iter_mut().find_map(|live| end_of_copy(live, reading, observation));
            if let Some(end) = end {
                end.storage.insert(key(reading), reading.clone());
            }
        }
        if observation.tick {
            for live in self.live.iter_mut().filter(|live| !live.life.is_finished()) {
                rate(live, observation.now_ns);
            }
        }
    }
}

/// Whether it is like the connection of an NBD client that writes: the end that was called spoke first, and most goes towards it.
fn is_copy(reading: &FlowReading) -> bool {
    let (sent, received) = (reading.payload.queued, reading.payload.received);
    reading.is_greeted()
        && match reading.active_open() {
            Some(true) => sent > received,
            Some(false) => received > sent,
            None => false,
        }
}

/// The end whose disk the connection copies.
fn end_of_copy<'a>(
    live: &'a mut LiveMigration,
    reading: &FlowReading,
    observation: &Observation,
) -> Option<&'a mut EndState> {
    let finished = live.life.is_finished() || live.migrator != "qemu";
    let end = live.ends.iter_mut().find(|end| end.process == reading.process)?;
    if end.storage.contains_key(&key(reading)) {
        return Some(end);
    }
    let same_way = end
        .flows
        .values()
        .any(|flow| flow.reading.peer.ip().to_canonical() == reading.peer.ip().to_canonical());
    let opened_ns = reading.opened_ns() + observation.boot_offset_ns;
    let own_disk = reading.active_open() == Some(true)
        && opened_ns.saturating_sub(end.facts.started_boottime_ns) < START_UP_NS;
    let joins = !finished && same_way && !own_disk && end.storage.len() < MAX_DISKS;
    joins.then_some(end)
}

/// The rate over the last cycle.
fn rate(live: &mut LiveMigration, now_ns: u64) {
    let Some(delivered) = live
        .roles()
        .find(|(_, end)| !end.storage.is_empty())
        .map(|(role, end)| compose::storage_delivered(role, end))
    else {
        return;
    };
    let before = live.storage_tick.replace((now_ns, delivered));
    live.storage_rate = before.and_then(|(at_ns, bytes)| {
        let seconds = now_ns.checked_sub(at_ns).filter(|ns| *ns > 0)? as f64 / 1e9;
        Some(delivered.saturating_sub(bytes) as f64 / seconds)
    });
}
