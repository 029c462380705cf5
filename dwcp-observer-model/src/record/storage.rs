//! Disks that are copied along.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Bytes;

/// Local disks that QEMU copies to the destination over NBD, before and beside the guest's memory. None of it is in the figures of the
/// migration itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Storage {
    /// First connection of the copy that belongs to this migration.
    pub started_at: Timestamp,
    /// Last close; absent while a connection is open. A copy may outlast its migration: this is as of the migration's end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// From the first connection to the last close; while one is open, to the end of the migration, or to now.
    pub seconds: f64,
    /// Payload over all connections, NBD's own headers (28 bytes per request) included.
    pub bytes: Bytes,
    /// Rate of delivery over the last cycle; absent when no connection is open, and when the migration is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput_bytes_per_second: Option<f64>,
    /// `bytes.delivered` by `seconds`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_throughput_bytes_per_second: Option<f64>,
    /// What QEMU has written and the destination's kernel has not acknowledged, bytes; absent when no connection is open, and without the
    /// source. What the copy has still to read from the disk is not seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<u64>,
    /// One per connection, in order of opening.
    pub streams: Vec<StorageStream>,
}

/// A connection of a disk's copy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StorageStream {
    /// The source's end.
    pub local: String,
    /// The NBD server's end.
    pub peer: String,
    /// Payload acknowledged by the server's kernel; as seen by the server alone: received in order.
    pub bytes_delivered: u64,
    /// Opened.
    pub started_at: Timestamp,
    /// Closed; absent while it is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}
