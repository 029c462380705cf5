//! A queue pair as a flow of its process, so that migrations are found and judged in the same way over RDMA and TCP.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use dwcp_observer_ebpf::tcp::{
    FLOW_ACTIVE_OPEN, FLOW_FOUND_OPEN, FLOW_PASSIVE_OPEN, Payload, Snapshot, TCP_CLOSE,
    TCP_ESTABLISHED, TCP_STATES,
};

use super::verbs::Operation;
use crate::{
    model::{facts::ProcessId, queue_pair::QpReading},
    tcp::FlowReading,
};

/// Set in the slot numbers of queue pairs: their slots are another array's.
pub const SLOT_OF_QP: u32 = 1 << 31;

/// Hands queue pairs on as flows, each closed one once, as sockets are.
#[derive(Debug, Default)]
pub struct Flows {
    /// Closed and handed on, as long as the queue pair is listed.
    done: HashSet<(u32, u32)>,
}

impl Flows {
    /// Flows of the queue pairs whose process has a slot.
    pub fn of(
        &mut self,
        queue_pairs: &[Arc<QpReading>],
        slots: &HashMap<ProcessId, u32>,
    ) -> Vec<FlowReading> {
        let key = |qp: &Arc<QpReading>| (qp.slot, qp.generation);
        let listed: HashSet<(u32, u32)> = queue_pairs.iter().map(key).collect();
        self.done.retain(|known| listed.contains(known));
        let mut flows = Vec::new();
        for qp in queue_pairs {
            if self.done.contains(&key(qp)) {
                continue;
            }
            let Some(flow) = owner(qp, slots).and_then(|slot| flow(qp, slot)) else { continue };
            if flow.closed {
                self.done.insert(key(qp));
            }
            flows.push(flow);
        }
        flows
    }
}

/// The slot of the process that a queue pair is of.
fn owner(qp: &QpReading, slots: &HashMap<ProcessId, u32>) -> Option<u32> {
    slots.get(&ProcessId::new(qp.tgid, qp.start_boottime_ns?)).copied()
}

/// The flow of a queue pair of the process in slot `process`. `None` without a connection by the connection manager: without
/// addresses its two ends cannot be told to belong together.
///
/// Its payload: queued is what work requests of sends and RDMA writes were posted for, delivered what of that has completed (on a
/// reliable connection the peer's device has acknowledged it), received what receive completions brought. What the peer writes into
/// this end's memory is not seen here.
#[must_use]
fn flow(qp: &Arc<QpReading>, process: u32) -> Option<FlowReading> {
    let (local, peer) = (qp.local?, qp.peer?);
    // A request that nobody answered is no connection.
    qp.connected_ns?;
    let mut flags = match qp.active_open {
        Some(true) => FLOW_ACTIVE_OPEN,
        Some(false) => FLOW_PASSIVE_OPEN,
        None => 0,
    };
    if qp.found_open {
        flags |= FLOW_FOUND_OPEN;
    }
    let delivered = qp.bytes_sent.unwrap_or_default();
    let posted = qp.posted.map_or(delivered, |counts| {
        counts[Operation::Send as usize].bytes + counts[Operation::Write as usize].bytes
    });
    let closed_ns = [qp.closed_ns, qp.disconnected_ns, qp.error_ns].into_iter().flatten().min();
    let mut state_ns = [0; TCP_STATES];
    state_ns[TCP_ESTABLISHED as usize] = qp.connected_ns.unwrap_or_default();
    state_ns[TCP_CLOSE as usize] = closed_ns.unwrap_or_default();
    Some(FlowReading {
        slot: qp.slot | SLOT_OF_QP,
        generation: qp.generation,
        process,
        tgid: qp.tgid,
        send_tid: qp.last_send_tid.unwrap_or_default(),
        recv_tid: 0,
        opener_tgid: 0,
        flags,
        netns: 0,
        local,
        peer,
        tagged_ns: qp.opened_ns,
        first_data_ns: qp.last_post_ns.or(qp.last_completion_ns).unwrap_or_default(),
        state_ns,
        retransmit_events: 0,
        resets: 0,
        errors: u32::try_from(qp.failures()).unwrap_or(u32::MAX),
        last_error: 0,
        ca_ns: None,
        snapshot: Snapshot::default(),
        payload: Payload {
            queued: posted.max(delivered),
            delivered,
            received: qp.bytes_received.unwrap_or_default(),
        },
        arrived_ns: qp.last_completion_ns,
        chrono_seconds: [0.0; 3],
        closed: closed_ns.is_some(),
        queue_pair: Some(Arc::clone(qp)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::queue_pair::CloseReason, rdma::tests::queue_pair};

    const PROCESSES: [(ProcessId, u32); 1] = [(ProcessId::new(4711, 1), 3)];

    fn flows(flows: &mut Flows, qp: &QpReading) -> Vec<FlowReading> {
        flows.of(&[Arc::new(qp.clone())], &PROCESSES.into_iter().collect())
    }

    #[test]
    fn what_completed_is_delivered_and_what_was_posted_is_queued() {
        let flow = &flows(&mut Flows::default(), &queue_pair())[0];
        assert_eq!((flow.process, flow.slot), (3, 7 | SLOT_OF_QP));
        assert_eq!((flow.payload.queued, flow.payload.delivered), (70_000, 66_000));
        assert_eq!(flow.active_open(), Some(true));
        assert!(!flow.closed);
    }

    #[test]
    fn a_closed_one_is_handed_on_once() {
        let mut handed = Flows::default();
        let closed = QpReading {
            closed_ns: Some(9),
            close_reason: Some(CloseReason::Destroyed),
            ..queue_pair()
        };
        assert!(flows(&mut handed, &closed)[0].closed);
        assert!(flows(&mut handed, &closed).is_empty());
        let next = QpReading { generation: closed.generation + 1, ..queue_pair() };
        assert_eq!(flows(&mut handed, &next).len(), 1, "the slot's next queue pair");
    }

    #[test]
    fn without_addresses_or_connection_or_a_tracked_process_it_is_none() {
        let mut handed = Flows::default();
        for qp in [
            QpReading { peer: None, ..queue_pair() },
            QpReading { connected_ns: None, ..queue_pair() },
            QpReading { tgid: 1, ..queue_pair() },
            // The process that had its id before.
            QpReading { start_boottime_ns: Some(1_000_000_000), ..queue_pair() },
            QpReading { start_boottime_ns: None, ..queue_pair() },
        ] {
            assert!(flows(&mut handed, &qp).is_empty());
        }
    }
}
