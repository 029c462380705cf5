//! What readers see of RDMA: queue pairs as records and `/api/v1/rdma` show them.

use dwcp_observer_ebpf::rdma::Count;

use super::{
    Connection, ConnectionState, Device, MemoryReading, RdmaStatus, Snapshot,
    verbs::{Operation, status_name},
};
use crate::model::{
    quantiles::quantiles,
    queue_pair::QpReading,
    rdma,
    record::{Name, Operations, QueuePair, Role},
};

impl RdmaStatus {
    /// What `/api/v1/rdma` answers.
    #[must_use]
    pub fn view(&self) -> rdma::Rdma {
        let none = Snapshot::default();
        let snapshot = self.snapshot.as_deref().unwrap_or(&none);
        let completed = snapshot.overflow.completed.iter();
        rdma::Rdma {
            devices: snapshot.devices.iter().map(device).collect(),
            queue_pairs: snapshot.qps.iter().chain(&self.closed).map(|qp| host(qp)).collect(),
            connections: snapshot.connections.iter().map(connection).collect(),
            registered_memory: snapshot.memory.iter().map(|reading| memory(reading)).collect(),
            completions_without_detail: completed.map(|count| count.operations).sum(),
        }
    }
}

fn host(qp: &QpReading) -> rdma::HostQueuePair {
    rdma::HostQueuePair {
        pid: qp.tgid,
        comm: qp.comm.clone(),
        local: qp.local.map(|address| address.to_string()),
        peer: qp.peer.map(|address| address.to_string()),
        bytes_sent: qp.bytes_sent,
        bytes_received: qp.bytes_received,
        bytes_read: qp.bytes_read,
        close_reason: qp.close_reason,
        queue_pair: describe(None, qp),
    }
}

/// What a record and `/api/v1/rdma` show of a queue pair; `end`: of a migration.
#[must_use]
pub fn describe(end: Option<Role>, qp: &QpReading) -> QueuePair {
    let operations = Operation::ALL.iter().filter_map(|operation| {
        let posted = qp.posted(*operation);
        let completed = qp.completed(*operation).unwrap_or_default();
        let handed = qp.provider_posted(*operation);
        let any = |count: Option<Count>| count.is_some_and(|count| count.operations > 0);
        let seen = completed.operations > 0 || any(posted) || any(handed);
        seen.then_some((
            Name::Borrowed(operation.label()),
            Operations {
                posted: posted.map(|posted| posted.operations),
                provider_posted: handed.map(|handed| handed.operations),
                provider_posted_bytes: handed.map(|handed| handed.bytes),
                completed: completed.operations,
                bytes: completed.bytes,
            },
        ))
    });
    let errors = qp.errors.iter().enumerate().filter(|(_, count)| **count > 0);
    QueuePair {
        end,
        device: qp.device.clone(),
        qpn: qp.qpn,
        remote_qpn: qp.remote_qpn,
        kind: qp.kind.into(),
        qp_state: qp.state,
        data_path: qp.visible,
        connect_seconds: qp.connect_seconds,
        operations: operations.collect(),
        completion_latency: qp.latency.as_ref().and_then(|hist| quantiles(hist, 1e-9)),
        completion_errors: errors
            .map(|(status, count)| (status_name(status).into(), u64::from(*count)))
            .collect(),
        rnr_waits: qp.rnr_waits,
        outstanding: qp.outstanding,
    }
}

fn connection(connection: &Connection) -> rdma::Connection {
    rdma::Connection {
        local: connection.local.to_string(),
        peer: connection.peer.to_string(),
        qpn: connection.qpn,
        pid: connection.tgid,
        state: connection.state.as_str().into(),
        status: match connection.state {
            ConnectionState::Rejected(status)
            | ConnectionState::Unreachable(status)
            | ConnectionState::Failed(status) => Some(status),
            _ => None,
        },
        private_data_bytes: connection.private_data,
        connect_seconds: connection.connect_seconds(),
    }
}

fn device(device: &Device) -> rdma::Device {
    let ports = device.ports.iter().map(|port| rdma::Port {
        port: port.number,
        state: port.state.clone(),
        sent_bytes: port.sent_bytes,
        received_bytes: port.received_bytes,
        sent_packets: port.sent_packets,
        received_packets: port.received_packets,
        hardware: port.hardware.iter().cloned().collect(),
    });
    rdma::Device { name: device.name.clone(), driver: device.driver.into(), ports: ports.collect() }
}

fn memory(reading: &MemoryReading) -> rdma::ProcessMemory {
    rdma::ProcessMemory {
        pid: reading.tgid,
        comm: reading.comm.clone(),
        registrations: reading.registrations,
        bytes_registered_now: reading.bytes_registered_now,
        bytes_registered_peak: reading.bytes_registered_peak,
        bytes_pinned_peak: reading.bytes_pinned_peak,
        seconds: reading.seconds(),
        completion_events: reading.completion_events,
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
