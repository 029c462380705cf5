//! What `/api/v1/rdma` answers: every queue pair of the host, migrations or not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    queue_pair::CloseReason,
    record::{Name, QueuePair},
};

/// RDMA on a host.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Rdma {
    /// Its devices.
    pub devices: Vec<Device>,
    /// Open queue pairs, and those that closed lately.
    pub queue_pairs: Vec<HostQueuePair>,
    /// Connections of the connection manager.
    pub connections: Vec<Connection>,
    /// Memory that processes have registered.
    pub registered_memory: Vec<ProcessMemory>,
    /// Completions of queue pairs that found no slot.
    pub completions_without_detail: u64,
}

/// A device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Device {
    /// As in `/sys/class/infiniband`.
    pub name: String,
    /// Its driver.
    pub driver: Name,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// A port of a device; what it does not count is absent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Port {
    /// From 1.
    pub port: u32,
    /// As `/sys` has it.
    pub state: String,
    /// Sent, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_bytes: Option<u64>,
    /// Received, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_bytes: Option<u64>,
    /// Sent, packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_packets: Option<u64>,
    /// Received, packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_packets: Option<u64>,
    /// The device's own counters, by their names.
    pub hardware: BTreeMap<String, u64>,
}

/// A queue pair and its owner.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostQueuePair {
    /// Process that created it.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Own address, when the connection manager made the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// Peer's address, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Payload sent; null where it is not seen.
    pub bytes_sent: Option<u64>,
    /// Payload received; null where it is not seen.
    pub bytes_received: Option<u64>,
    /// Payload fetched by RDMA reads; null where it is not seen.
    pub bytes_read: Option<u64>,
    /// Why it closed; absent while it is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub close_reason: Option<CloseReason>,
    /// The same as in a record; its fields stand beside those above.
    #[serde(flatten)]
    pub queue_pair: QueuePair,
}

/// A connection that the connection manager makes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connection {
    /// Own address.
    pub local: String,
    /// Peer's address.
    pub peer: String,
    /// Its queue pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qpn: Option<u32>,
    /// Its process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// How far it is.
    pub state: Name,
    /// Why it was rejected or failed: a reason of the connection manager, or a negative errno.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
    /// Private data of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_data_bytes: Option<u32>,
    /// From the request to the established connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_seconds: Option<f64>,
}

/// Memory that a process has registered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessMemory {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Registrations that succeeded.
    pub registrations: u64,
    /// Registered now.
    pub bytes_registered_now: u64,
    /// Most at one moment.
    pub bytes_registered_peak: u64,
    /// Most bytes pinned by the process at one of the looks (`VmPin`).
    pub bytes_pinned_peak: u64,
    /// Time in registrations.
    pub seconds: f64,
    /// Completion events that it was woken for.
    pub completion_events: u64,
}
