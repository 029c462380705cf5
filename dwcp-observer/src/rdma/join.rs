//! Joins data of several sources: queue pairs and connections, processes and memory.

use std::collections::{BTreeMap, HashMap, HashSet};

use dwcp_observer_ebpf::rdma::{Memory, ProcessKey};

use super::reading::{Connection, ConnectionState, MemoryReading};
use crate::model::queue_pair::QpReading;
use crate::sched::comm;

/// The connection of each queue pair, by slot and generation: an identifier may be closed long before its queue pair.
pub(super) type Joined = BTreeMap<(u32, u32), Connection>;

/// Gives each queue pair the connection that was made for it: same process, same number, and the last one when a number came back.
pub(super) fn connections(qps: &mut [QpReading], connections: &[Connection], joined: &mut Joined) {
    let identity = |qp: &QpReading| (qp.slot, qp.generation);
    let listed: HashSet<(u32, u32)> = qps.iter().map(identity).collect();
    joined.retain(|key, _| listed.contains(key));
    let mut by_owner: HashMap<(u32, u32), Vec<&Connection>> = HashMap::new();
    for connection in connections {
        if let Some(owner) = connection.tgid.zip(connection.qpn) {
            by_owner.entry(owner).or_default().push(connection);
        }
    }
    for qp in qps {
        let key = identity(qp);
        let made_for = |connection: &&&Connection| {
            (qp.found_open || connection.destroyed_ns.is_none_or(|at| at >= qp.opened_ns))
                && connection.first_ns <= qp.closed_ns.unwrap_or(u64::MAX)
        };
        let same = by_owner.get(&(qp.tgid, qp.qpn)).map(Vec::as_slice).unwrap_or_default();
        let newest = same.iter().filter(made_for).max_by_key(|connection| connection.first_ns);
        if let Some(connection) = newest {
            joined.insert(key, Connection::clone(connection));
        }
        let Some(connection) = joined.get(&key) else { continue };
        qp.local = Some(connection.local);
        qp.peer = Some(connection.peer);
        // iWARP's queue pairs are made ready by the driver itself, and those from before the observer were found so.
        let established = connection.established_ns.or_else(|| {
            (connection.state == ConnectionState::Established).then_some(connection.first_ns)
        });
        qp.connected_ns = qp.connected_ns.or(established);
        qp.active_open = connection.active_open;
        qp.connect_seconds = connection.connect_seconds();
        qp.disconnected_ns = connection.ended_ns;
    }
}

/// What a process has registered.
pub(super) fn memory(
    key: ProcessKey,
    memory: &Memory,
    pinned_peak: u64,
    ended: bool,
) -> MemoryReading {
    MemoryReading {
        tgid: key.tgid,
        start_boottime_ns: key.start_boottime,
        comm: comm(&memory.comm),
        registrations: memory.registrations,
        unfinished: memory.started.saturating_sub(memory.registrations),
        deregistrations: memory.deregistrations,
        nanoseconds: memory.ns,
        last_ns: memory.last_ns,
        bytes_registered: memory.bytes,
        bytes_registered_now: memory.bytes_now,
        bytes_registered_peak: memory.bytes_peak,
        bytes_pinned_peak: pinned_peak,
        completion_events: memory.completion_events,
        ended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdma::tests::queue_pair;

    fn connection(qpn: u32, first_ns: u64) -> Connection {
        Connection {
            cm_id: 1,
            local: "10.9.0.1:40000".parse().unwrap(),
            peer: "10.9.0.2:4445".parse().unwrap(),
            active_open: Some(true),
            qpn: Some(qpn),
            tgid: Some(4711),
            private_data: None,
            state: ConnectionState::Established,
            first_ns,
            requested_ns: Some(first_ns),
            established_ns: Some(first_ns + 1_000_000),
            ended_ns: None,
            destroyed_ns: None,
        }
    }

    #[test]
    fn a_queue_pair_keeps_its_connection_after_the_identifier_is_closed() {
        let mut joined = Joined::new();
        let bare = || QpReading { local: None, peer: None, connect_seconds: None, ..queue_pair() };
        let mut qps = [bare()];
        connections(&mut qps, &[connection(99, 6), connection(17, 6)], &mut joined);
        assert_eq!(qps[0].peer.unwrap().to_string(), "10.9.0.2:4445");
        assert_eq!(qps[0].connect_seconds, Some(1e-3));
        let mut later = [bare()];
        connections(&mut later, &[], &mut joined);
        assert_eq!(later[0].peer, qps[0].peer);
        let mut other = [QpReading { generation: 2, ..bare() }];
        connections(&mut other, &[], &mut joined);
        assert!(other[0].peer.is_none() && joined.is_empty(), "the slot is another queue pair's");
    }

    #[test]
    fn a_connection_of_an_earlier_queue_pair_with_the_same_number_is_not_taken() {
        let mut joined = Joined::new();
        let mut qps = [QpReading { local: None, opened_ns: 100, ..queue_pair() }];
        let old = Connection { destroyed_ns: Some(50), ..connection(17, 6) };
        let foreign = Connection { tgid: Some(1), ..connection(17, 120) };
        connections(&mut qps, &[old, foreign], &mut joined);
        assert_eq!(qps[0].local, None);
    }

    #[test]
    fn an_iwarp_queue_pair_is_ready_when_its_connection_is() {
        let mut joined = Joined::new();
        let mut qps = [QpReading { connected_ns: None, ..queue_pair() }];
        connections(&mut qps, &[connection(17, 6)], &mut joined);
        assert_eq!(qps[0].connected_ns, Some(1_000_006));
    }
}
