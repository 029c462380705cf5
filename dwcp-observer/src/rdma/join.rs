//! Puts together what different sources know: queue pairs and connections, processes and memory.

use std::collections::BTreeMap;

use dwcp_observer_ebpf::rdma::{Memory, ProcessKey};

use super::reading::{Connection, MemoryReading, QpReading};

/// The connection of each queue pair, by slot and generation: an identifier may be closed long before its queue pair.
pub(super) type Joined = BTreeMap<(u32, u32), Connection>;

/// Gives each queue pair the connection that was made for it: same process, same number, and the last one when a number came back.
pub(super) fn connections(qps: &mut [QpReading], connections: &[Connection], joined: &mut Joined) {
    joined.retain(|key, _| qps.iter().any(|qp| (qp.slot, qp.generation) == *key));
    for qp in qps {
        let key = (qp.slot, qp.generation);
        let made_for = |connection: &&Connection| {
            connection.qpn == Some(qp.qpn)
                && connection.tgid == Some(qp.tgid)
                && (qp.found_open || connection.destroyed_ns.is_none_or(|at| at >= qp.opened_ns))
                && connection.first_ns <= qp.closed_ns.unwrap_or(u64::MAX)
        };
        let newest =
            connections.iter().filter(made_for).max_by_key(|connection| connection.first_ns);
        if let Some(connection) = newest {
            joined.insert(key, connection.clone());
        }
        let Some(connection) = joined.get(&key) else { continue };
        qp.local = Some(connection.local);
        qp.peer = Some(connection.peer);
        qp.active_open = connection.active_open;
        qp.connect_seconds = connection.connect_seconds();
        qp.disconnected_ns = connection.ended_ns;
    }
}

/// What a process has registered. `pinned_now` is `None` when the process is gone.
pub(super) fn memory(
    key: ProcessKey,
    memory: &Memory,
    pinned_now: Option<u64>,
    pinned_peak: u64,
) -> MemoryReading {
    let comm = &memory.comm;
    let end = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
    MemoryReading {
        tgid: key.tgid,
        start_boottime_ns: key.start_boottime,
        comm: String::from_utf8_lossy(&comm[..end]).into_owned(),
        registrations: memory.registrations,
        unfinished: memory.started.saturating_sub(memory.registrations),
        deregistrations: memory.deregistrations,
        nanoseconds: memory.ns,
        last_ns: memory.last_ns,
        bytes_registered: memory.bytes,
        bytes_registered_now: memory.bytes_now,
        bytes_registered_peak: memory.bytes_peak,
        bytes_pinned_now: pinned_now,
        bytes_pinned_peak: pinned_peak,
        completion_events: memory.completion_events,
        // Regions end before their process is gone: afterwards nothing changes.
        ended: pinned_now.is_none(),
    }
}
