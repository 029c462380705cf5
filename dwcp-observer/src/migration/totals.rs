//! Counters over all migrations since the start.

use std::collections::BTreeMap;

use crate::{
    identify::rejection::Rejection,
    model::{
        histogram::{BLACKOUT_BUCKETS, FINE_BLACKOUT_BUCKETS, Histogram},
        record::{Method, Mode, Outcome, ReasonClass, Role},
        verdict::{Cause, Health},
    },
};

/// Counters over all migrations.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Finished migrations by outcome and mode (`None`: no RTT was ever measured).
    pub finished: BTreeMap<(Outcome, Option<Mode>), u64>,
    /// Migrations that did not complete, by why.
    pub reasons: BTreeMap<ReasonClass, u64>,
    /// Migrations whose guest was let run at both ends.
    pub split_brains: u64,
    /// Durations of finished migrations, seconds, by mode.
    pub durations: BTreeMap<Option<Mode>, Histogram>,
    /// Blackouts of which both ends were seen.
    pub blackouts: Blackouts,
    /// Seconds of running migrations by how they went and why.
    pub verdicts: BTreeMap<(Health, Option<Cause>), f64>,
    /// Time that guest CPUs waited for a CPU which a migration thread held.
    pub guest_cpu_stolen_seconds: f64,
    /// Payload by the role of the end on this host and the mode at that time. With both ends here both roles count.
    pub bytes: BTreeMap<(Role, Option<Mode>), ByteTotals>,
    /// Errors by type.
    pub errors: BTreeMap<ErrorType, u64>,
    /// Flows that were looked at and found to be no migration, by reason.
    pub rejected_flows: BTreeMap<Rejection, u64>,
}

/// Blackouts, as the contract's histogram and as a finer one.
#[derive(Clone, Debug, Default)]
pub struct Blackouts {
    /// By path and mode; bounded.
    pub by_path: BTreeMap<(Path, Option<Mode>), Histogram>,
    /// By mode and method.
    pub fine: BTreeMap<(Option<Mode>, Method), Histogram>,
}

/// From where to where, and how large: the contract's labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path {
    /// Address of the source.
    pub source: String,
    /// Address of the destination.
    pub destination: String,
    /// Guest memory, as `4GB`; `unknown` without one on the command line.
    pub vm_size: String,
}

/// Paths with series of their own; all further ones share one named `other`.
const MAX_PATHS: usize = 256;

impl Blackouts {
    /// Counts one blackout.
    pub fn observe(&mut self, path: &Path, mode: Option<Mode>, method: Method, seconds: f64) {
        let mut key = (path.clone(), mode);
        if !self.by_path.contains_key(&key) && self.by_path.len() >= MAX_PATHS {
            let other = || "other".to_owned();
            key.0 = Path { source: other(), destination: other(), vm_size: other() };
        }
        let contract = || Histogram::new(BLACKOUT_BUCKETS.into());
        self.by_path.entry(key).or_insert_with(contract).observe(seconds);
        let fine = || Histogram::new(FINE_BLACKOUT_BUCKETS.into());
        self.fine.entry((mode, method)).or_insert_with(fine).observe(seconds);
    }
}

/// Payload totals of one role.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByteTotals {
    /// Queued by the source; 0 at a destination.
    pub queued: u64,
    /// Acknowledged (source) or received in order (destination).
    pub transferred: u64,
    /// Retransmitted bytes.
    pub retransmitted: u64,
    /// Retransmitted segments.
    pub retransmitted_segments: u64,
}

crate::model::named! {
    /// Errors that the kernel shows on migration sockets and processes.
    pub enum ErrorType {
        /// A stream was reset.
        ConnectionReset = "connection_reset",
        /// A stream was refused.
        ConnectionRefused = "connection_refused",
        /// A stream timed out (`ETIMEDOUT`).
        NetworkTimeout = "network_timeout",
        /// Another socket error.
        SocketError = "socket_error",
        /// A work request failed; its status is in `dwcp_v3_rdma_completion_errors_total`.
        RdmaCompletion = "rdma_completion_error",
        /// A migrator process died with streams open.
        ProcessDied = "process_died",
        /// A migration failed, and no process died of it.
        MigrationFailed = "migration_failed",
        /// A migration was cancelled.
        MigrationCancelled = "migration_cancelled",
    }
}
