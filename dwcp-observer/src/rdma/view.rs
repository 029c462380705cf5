//! The answer of `/api/v1/rdma`: all queue pairs of the host, not only those of migrations.

use std::sync::LazyLock;

use serde::Serialize;

use super::{ConnectionState, Device, MemoryReading, RdmaStatus, Snapshot};
use crate::model::{queue_pair::CloseReason, record::QueuePair};

/// RDMA on this host.
#[derive(Debug, Serialize)]
pub struct View<'a> {
    devices: Vec<DeviceView<'a>>,
    queue_pairs: Vec<QueuePairView<'a>>,
    connections: Vec<ConnectionView>,
    registered_memory: Vec<MemoryView<'a>>,
    /// Completions of queue pairs that found no slot.
    completions_without_detail: u64,
}

#[derive(Debug, Serialize)]
struct DeviceView<'a> {
    name: &'a str,
    driver: &'static str,
    ports: Vec<PortView<'a>>,
}

#[derive(Debug, Serialize)]
struct PortView<'a> {
    port: u32,
    state: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_packets: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received_packets: Option<u64>,
    hardware: std::collections::BTreeMap<&'a str, u64>,
}

#[derive(Debug, Serialize)]
struct QueuePairView<'a> {
    pid: u32,
    comm: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    local: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    bytes_sent: Option<u64>,
    bytes_received: Option<u64>,
    bytes_read: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    close_reason: Option<&'static str>,
    #[serde(flatten)]
    queue_pair: QueuePair,
}

#[derive(Debug, Serialize)]
struct ConnectionView {
    local: String,
    peer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    qpn: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    state: &'static str,
    /// Why it was rejected or failed: a reason of the connection manager, or a negative errno.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_data_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct MemoryView<'a> {
    pid: u32,
    comm: &'a str,
    registrations: u64,
    bytes_registered_now: u64,
    bytes_registered_peak: u64,
    bytes_pinned_peak: u64,
    seconds: f64,
    completion_events: u64,
}

impl<'a> View<'a> {
    /// The view of what is known.
    #[must_use]
    pub fn new(status: &'a RdmaStatus) -> Self {
        static NONE: LazyLock<Snapshot> = LazyLock::new(Snapshot::default);
        let snapshot = status.snapshot.as_deref().unwrap_or(&NONE);
        Self {
            devices: snapshot.devices.iter().map(device).collect(),
            queue_pairs: snapshot
                .qps
                .iter()
                .chain(&status.closed)
                .map(|qp| QueuePairView {
                    pid: qp.tgid,
                    comm: &qp.comm,
                    local: qp.local.map(|address| address.to_string()),
                    peer: qp.peer.map(|address| address.to_string()),
                    bytes_sent: qp.bytes_sent,
                    bytes_received: qp.bytes_received,
                    bytes_read: qp.bytes_read,
                    close_reason: qp.close_reason.map(CloseReason::as_str),
                    queue_pair: QueuePair::of(None, qp),
                })
                .collect(),
            connections: snapshot
                .connections
                .iter()
                .map(|connection| ConnectionView {
                    local: connection.local.to_string(),
                    peer: connection.peer.to_string(),
                    qpn: connection.qpn,
                    pid: connection.tgid,
                    state: connection.state.as_str(),
                    status: match connection.state {
                        ConnectionState::Rejected(status)
                        | ConnectionState::Unreachable(status)
                        | ConnectionState::Failed(status) => Some(status),
                        _ => None,
                    },
                    private_data_bytes: connection.private_data,
                    connect_seconds: connection.connect_seconds(),
                })
                .collect(),
            registered_memory: snapshot.memory.iter().map(|reading| memory(reading)).collect(),
            completions_without_detail: snapshot
                .overflow
                .completed
                .iter()
                .map(|count| count.operations)
                .sum(),
        }
    }
}

fn device(device: &Device) -> DeviceView<'_> {
    let ports = device.ports.iter().map(|port| PortView {
        port: port.number,
        state: &port.state,
        sent_bytes: port.sent_bytes,
        received_bytes: port.received_bytes,
        sent_packets: port.sent_packets,
        received_packets: port.received_packets,
        hardware: port.hardware.iter().map(|(name, value)| (name.as_str(), *value)).collect(),
    });
    DeviceView { name: &device.name, driver: device.driver, ports: ports.collect() }
}

fn memory(reading: &MemoryReading) -> MemoryView<'_> {
    MemoryView {
        pid: reading.tgid,
        comm: &reading.comm,
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
