//! What one cycle hands to the readers: HTTP, metrics and the command line see only this, never the kernel.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    anomaly, component, history,
    migration::{entry::Entry, totals::Totals},
    model::{
        board,
        status::{CycleStats, KernelStatus},
    },
    process::host::HostUsage,
    rdma::RdmaStatus,
    sla,
};

/// The state of the observer after one cycle.
#[derive(Clone, Debug)]
pub struct Published {
    /// When the cycle ended.
    pub at: Timestamp,
    /// When the observer started.
    pub started_at: Timestamp,
    /// Running migrations first, then finished ones, newest first.
    pub entries: Vec<Entry>,
    /// Totals since the observer started; they only grow.
    pub totals: Totals,
    /// Host-wide CPU and memory use; absent when `/proc` does not give it.
    pub host: Option<HostUsage>,
    /// The kernel side.
    pub kernel: KernelStatus,
    /// RDMA on this host.
    pub rdma: RdmaStatus,
    /// The cycle itself.
    pub cycle: CycleStats,
    /// The same totals of DWCP v1; `None` where nothing tells v1 from v3, and all are in `totals`.
    pub totals_v1: Option<Totals>,
    /// The components, as of the last look at them.
    pub components: Arc<component::View>,
    /// Service levels; judged at each tick.
    pub sla: Arc<sla::View>,
    /// What is kept on disk.
    pub history: history::Status,
    /// Anomalies; judged at each tick.
    pub anomalies: Arc<anomaly::feed::View>,
}

/// Where the readers find the last [`Published`].
pub type Board = board::Board<Published>;
