//! RDMA verbs: queue pairs, connections and registered memory, measured by an eBPF object of their own.
//!
//! Processes are identified by id, name and start time, so that a reader can join them to migrations.

mod attach;
mod connection;
mod device;
mod flow;
mod format;
mod join;
mod kernel;
mod layout;
mod netlink;
mod post;
mod provider;
mod reader;
mod reading;
mod totals;
pub mod verbs;
mod view;

use crate::model::queue_pair::QpReading;
use std::{collections::VecDeque, sync::Arc};

pub use attach::RdmaError;
pub use flow::{Flows, SLOT_OF_QP};
pub use reader::{Options, Rdma, survey};
pub use reading::{
    Connection, ConnectionState, Device, MemoryReading, Overflow, Port, Snapshot, Status,
};
pub use totals::{DeviceTotals, Tally, Totals};
pub use view::describe;

/// What readers see of RDMA.
#[derive(Clone, Debug, Default)]
pub struct RdmaStatus {
    /// The last poll; `None` on a host without RDMA.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Queue pairs that closed lately, oldest first.
    pub closed: VecDeque<Arc<QpReading>>,
    /// Counters since the start.
    pub totals: Totals,
}

/// Closed queue pairs that are still shown.
const MAX_CLOSED: usize = 256;

impl RdmaStatus {
    /// Takes in a poll: closed queue pairs, which are in one poll only, stay to be seen.
    pub fn take(&mut self, mut snapshot: Snapshot) {
        let open = |qp: &Arc<QpReading>| qp.closed_ns.is_none();
        let (open, closed): (Vec<_>, Vec<_>) = snapshot.qps.into_iter().partition(open);
        snapshot.qps = open;
        self.closed.extend(closed);
        while self.closed.len() > MAX_CLOSED {
            self.closed.pop_front();
        }
        self.snapshot = Some(Arc::new(snapshot));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use dwcp_observer_ebpf::rdma::{Count, OPERATIONS, STATUSES};

    use super::verbs::Operation;
    use crate::model::queue_pair::{DataPath, QpReading, QpState};

    /// A connected queue pair of process 4711 that has written.
    pub(crate) fn queue_pair() -> QpReading {
        let mut posted = [Count::default(); OPERATIONS];
        posted[Operation::Write as usize] = Count { operations: 2, bytes: 70_000 };
        let mut completed = [Count::default(); OPERATIONS];
        completed[Operation::Write as usize] = Count { operations: 1, bytes: 66_000 };
        QpReading {
            slot: 7,
            generation: 1,
            device: "rxe0".to_owned(),
            driver: "rxe",
            qpn: 17,
            remote_qpn: Some(18),
            tgid: 4711,
            comm: "qemu-system-x86".to_owned(),
            start_boottime_ns: Some(1),
            kind: "RC",
            state: QpState::ReadyToSend,
            local: Some("10.9.0.1:40000".parse().unwrap()),
            peer: Some("10.9.0.1:4444".parse().unwrap()),
            remote_address: None,
            active_open: Some(true),
            found_open: false,
            opened_ns: 5,
            connected_ns: Some(6),
            connect_seconds: Some(0.01),
            error_ns: None,
            disconnected_ns: None,
            closed_ns: None,
            close_reason: None,
            visible: DataPath::Completions,
            posted: Some(posted),
            completed: Some(completed),
            bytes_sent: Some(66_000),
            bytes_received: Some(0),
            bytes_read: Some(0),
            errors: [0; STATUSES],
            doorbells: Some(2),
            last_post_ns: Some(8),
            last_completion_ns: Some(8),
            last_send_tid: Some(4712),
            outstanding: Some(1),
            latency: None,
            late_doorbells: 0,
            rnr_waits: Some(0),
            provider_posted: None,
        }
    }
}
