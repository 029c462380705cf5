//! What the record says of queue pairs and registered memory.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Name, Quantiles, Role};
use crate::queue_pair::{DataPath, QpState};

/// The queue pair behind a stream, at the source, or where only the destination is on this host, there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueuePair {
    /// The end of the migration whose queue pair this is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<Role>,
    /// Device, as in `/sys/class/infiniband`.
    pub device: String,
    /// Queue pair number.
    pub qpn: u32,
    /// The peer's queue pair number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_qpn: Option<u32>,
    /// `RC`, ...
    pub kind: Name,
    /// State of the queue pair (`RTS`, `ERR`, ...).
    pub qp_state: QpState,
    /// What the figures rest on.
    pub data_path: DataPath,
    /// From the request to the established connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_seconds: Option<f64>,
    /// Work by operation (`send`, `rdma_write`, `recv`, ...); those that never happened are left out.
    pub operations: BTreeMap<Name, Operations>,
    /// Doorbell to completion; absent where it is not visible.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_latency: Option<Quantiles>,
    /// Failed completions by status (`REM_ACCESS_ERR`, ...), flushed work included.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub completion_errors: BTreeMap<Name, u64>,
    /// Waits for the receiver to post a buffer (RNR) that ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rnr_waits: Option<u64>,
    /// Requests posted and not completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outstanding: Option<u64>,
}

/// Work requests of one operation.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Operations {
    /// Work requests posted; absent where the send queue is not readable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub posted: Option<u64>,
    /// Work requests that the process handed to its provider's library; absent where its post function is not probed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_posted: Option<u64>,
    /// Payload of those.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_posted_bytes: Option<u64>,
    /// Completions.
    pub completed: u64,
    /// Payload of the completions.
    pub bytes: u64,
}

/// What one end registered during the migration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegisteredMemory {
    /// Which end.
    pub end: Role,
    /// Registrations that succeeded.
    pub registrations: u64,
    /// Bytes that they covered.
    pub bytes: u64,
    /// Time in them: part of an RDMA migration's set-up, and of its rounds without `rdma-pin-all`.
    pub seconds: f64,
    /// Most bytes pinned by the process at one of the looks (`VmPin`).
    pub pinned_peak_bytes: u64,
}
