//! The part of the record that is about disks.

use super::{
    super::{clock::WallClock, end::EndState, live::LiveMigration, machine::Life},
    seconds,
};
use crate::model::record::{Bytes, Role, Storage, StorageStream};
use crate::tcp::FlowReading;

/// `None` where no disk is copied along.
pub(super) fn storage(live: &LiveMigration, now_ns: u64, wall: WallClock) -> Option<Storage> {
    let (role, seen) = live.roles().find(|(_, end)| !end.storage.is_empty())?;
    let flows = || seen.storage.values();
    let started_ns = flows().map(FlowReading::opened_ns).min()?;
    let open = flows().any(|flow| flow.closed_ns().is_none());
    let ended_ns = flows().filter_map(FlowReading::closed_ns).max().filter(|_| !open);
    let over_ns = match live.life {
        Life::Finished { ended_ns, .. } => Some(ended_ns),
        _ => None,
    };
    let until_ns = ended_ns.or(over_ns).unwrap_or(now_ns);
    let length = seconds(until_ns.saturating_sub(started_ns));
    let bytes = bytes(role, seen, live.end(Role::Destination));
    Some(Storage {
        started_at: wall.at(started_ns),
        ended_at: ended_ns.map(|ns| wall.at(ns)),
        seconds: length,
        bytes,
        throughput_bytes_per_second: live.storage_rate.filter(|_| open && over_ns.is_none()),
        mean_throughput_bytes_per_second: (length > 0.0).then(|| bytes.delivered as f64 / length),
        lag_bytes: (open && role == Role::Source)
            .then(|| bytes.queued.saturating_sub(bytes.delivered)),
        streams: streams(role, seen, wall),
    })
}

/// What has arrived at the other end of the connections that this end sees, bytes.
pub(in super::super) fn delivered(role: Role, end: &EndState) -> u64 {
    let of = |flow: &FlowReading| match role {
        Role::Source => flow.payload.delivered,
        Role::Destination => flow.payload.received,
    };
    end.storage.values().map(of).sum()
}

/// Each byte once, as for the guest's memory: sent by the source, where it is here, received by the destination.
fn bytes(role: Role, seen: &EndState, destination: Option<&EndState>) -> Bytes {
    let mut bytes = Bytes { delivered: delivered(role, seen), ..Bytes::default() };
    bytes.queued = bytes.delivered;
    if role == Role::Source {
        bytes.queued = seen.storage.values().map(|flow| flow.payload.queued).sum();
        bytes.retransmitted = seen.storage.values().map(|flow| flow.snapshot.bytes_retrans).sum();
    }
    let receiver = destination.filter(|end| !end.storage.is_empty());
    bytes.received =
        receiver.map_or(bytes.delivered, |receiver| delivered(Role::Destination, receiver));
    bytes
}

fn streams(role: Role, seen: &EndState, wall: WallClock) -> Vec<StorageStream> {
    let mut flows: Vec<&FlowReading> = seen.storage.values().collect();
    flows.sort_by_key(|flow| flow.opened_ns());
    let stream = |flow: &FlowReading| {
        let (local, peer, bytes_delivered) = match role {
            Role::Source => (flow.local, flow.peer, flow.payload.delivered),
            Role::Destination => (flow.peer, flow.local, flow.payload.received),
        };
        StorageStream {
            local: local.to_string(),
            peer: peer.to_string(),
            bytes_delivered,
            started_at: wall.at(flow.opened_ns()),
            ended_at: flow.closed_ns().map(|ns| wall.at(ns)),
        }
    };
    flows.into_iter().map(stream).collect()
}
