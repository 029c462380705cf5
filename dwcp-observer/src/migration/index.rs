//! Where the flows of running migrations are, by identity and by address.

use std::{collections::HashMap, net::SocketAddr};

use super::{end::FlowKey, live::LiveMigration};
use crate::tcp::FlowReading;

/// A flow's identity.
#[must_use]
pub const fn key(reading: &FlowReading) -> FlowKey {
    (reading.slot, reading.generation)
}

/// A flow of the migration at position `at`.
#[derive(Clone, Copy, Debug)]
struct FlowEntry {
    at: usize,
    flow: FlowKey,
    netns: u32,
    /// Its life, `CLOCK_MONOTONIC` ns; `closed_ns` is the largest number while it is not known to have ended.
    opened_ns: u64,
    closed_ns: u64,
}

/// Flows are added as they join; made anew when a migration leaves its place, since places move then.
#[derive(Debug, Default)]
pub struct Index {
    members: HashMap<FlowKey, usize>,
    /// By own and by peer address.
    addresses: HashMap<(SocketAddr, SocketAddr), Vec<FlowEntry>>,
}

impl Index {
    /// Indexes all flows.
    #[must_use]
    pub fn new(live: &[LiveMigration]) -> Self {
        let mut index = Self::default();
        for (at, live) in live.iter().enumerate() {
            for flow in live.flows() {
                index.insert(at, &flow.reading);
            }
        }
        index
    }

    /// Adds a flow of the migration at position `at`.
    pub fn insert(&mut self, at: usize, reading: &FlowReading) {
        self.members.insert(key(reading), at);
        let place = FlowEntry {
            at,
            flow: key(reading),
            netns: reading.netns,
            opened_ns: reading.opened_ns(),
            closed_ns: reading.closed_ns().unwrap_or(u64::MAX),
        };
        self.addresses.entry((reading.local, reading.peer)).or_default().push(place);
    }

    /// The migration that the flow is in.
    #[must_use]
    pub fn member(&self, key: FlowKey) -> Option<usize> {
        self.members.get(&key).copied()
    }

    /// The migration that the other end of the connection is in, and that end. Loopback addresses are the same host only in
    /// one network namespace, and a port may be used again: both ends live at the same time.
    #[must_use]
    pub fn other_end(&self, reading: &FlowReading) -> Option<(usize, FlowKey)> {
        let found = self.addresses.get(&(reading.peer, reading.local))?;
        let (opened_ns, closed_ns) = (reading.opened_ns(), reading.closed_ns().unwrap_or(u64::MAX));
        let other = found.iter().find(|place| {
            place.flow != key(reading)
                && (place.netns == reading.netns || !reading.local.ip().is_loopback())
                && place.opened_ns <= closed_ns
                && opened_ns <= place.closed_ns
        })?;
        Some((other.at, other.flow))
    }
}
