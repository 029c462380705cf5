//! Properties of one flow that the rules use.

use crate::model::facts::{FlowFacts, ProcessFacts, ThreadFacts};
use crate::model::record::Role;

/// From here on the larger direction tells who sends the guest: greetings and handshakes stay below.
pub(super) const DIRECTION_BYTES: u64 = 64 << 10;

/// The port of the end that was called, where it is one of `ports`, and whether this end is the caller.
///
/// The caller's own port is arbitrary and says nothing. Where the opening was not seen, the port of the set tells; of two the smaller.
pub(super) fn service_port(flow: &FlowFacts, ports: impl Fn(u16) -> bool) -> Option<(u16, bool)> {
    let (local, peer) = (flow.local.port(), flow.peer.port());
    match flow.active_open {
        Some(true) => ports(peer).then_some((peer, true)),
        Some(false) => ports(local).then_some((local, false)),
        None => match (ports(local), ports(peer)) {
            (false, false) => None,
            (true, true) if local < peer => Some((local, false)),
            (true, false) => Some((local, false)),
            (_, true) => Some((peer, true)),
        },
    }
}

/// Whether any payload has moved.
pub(super) fn has_moved(flow: &FlowFacts) -> bool {
    flow.bytes_queued > 0 || flow.bytes_received > 0
}

/// The direction of a flow that has moved at least `bytes` one way, and at least 95 % of all that way.
pub(super) fn one_way(flow: &FlowFacts, bytes: u64) -> Option<Role> {
    let (queued, received) = (flow.bytes_queued, flow.bytes_received);
    let mostly = |more: u64, less: u64| more >= bytes && less <= more / 19;
    if mostly(queued, received) {
        Some(Role::Source)
    } else if mostly(received, queued) {
        Some(Role::Destination)
    } else {
        None
    }
}

/// Who seems to send the guest: by bytes, else the caller.
pub(super) fn likely_role(flow: &FlowFacts) -> Option<Role> {
    if flow.bytes_queued.max(flow.bytes_received) >= DIRECTION_BYTES
        && flow.bytes_queued != flow.bytes_received
    {
        return Some(if flow.bytes_queued > flow.bytes_received {
            Role::Source
        } else {
            Role::Destination
        });
    }
    flow.active_open.map(|active| if active { Role::Source } else { Role::Destination })
}

/// A thread of the process.
pub(super) fn thread(process: &ProcessFacts, tid: u32) -> Option<&ThreadFacts> {
    process.threads.iter().find(|thread| tid != 0 && thread.tid == tid)
}

/// Megabytes for a reader.
pub(super) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
