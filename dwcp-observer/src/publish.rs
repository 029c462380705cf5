//! What one cycle hands to the readers: HTTP, metrics and the command line see only this, never the kernel.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    anomaly, component, history,
    identify::rejection::Rejection,
    metrics::{BLACKOUT_BUCKETS, FINE_BLACKOUT_BUCKETS},
    migration::{
        blackout::Method,
        history::History,
        record::{Migration, Mode, Outcome, ReasonClass, Role, ThreadRole},
    },
    process::host::HostUsage,
    rdma::RdmaStatus,
    sla,
    verdict::{Cause, Health},
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

/// A migration and its per-second history.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The record, without history.
    pub record: Arc<Migration>,
    /// Its circular buffer, shared with the cycle; locked for a copy only.
    pub history: Arc<Mutex<History>>,
    /// The record will not change any more.
    pub settled: bool,
}

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

/// Errors that the kernel shows on migration sockets and processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorType {
    /// A stream was reset.
    ConnectionReset,
    /// A stream was refused.
    ConnectionRefused,
    /// A stream timed out (`ETIMEDOUT`).
    NetworkTimeout,
    /// Another socket error.
    SocketError,
    /// A work request failed; its status is in `dwcp_v3_rdma_completion_errors_total`.
    RdmaCompletion,
    /// A migrator process died with streams open.
    ProcessDied,
    /// A migration failed, and no process died of it.
    MigrationFailed,
    /// A migration was cancelled.
    MigrationCancelled,
}

impl ErrorType {
    /// All types, for counters that start at zero.
    pub const ALL: [Self; 8] = [
        Self::ConnectionReset,
        Self::ConnectionRefused,
        Self::NetworkTimeout,
        Self::SocketError,
        Self::RdmaCompletion,
        Self::ProcessDied,
        Self::MigrationFailed,
        Self::MigrationCancelled,
    ];

    /// The `error_type` label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConnectionReset => "connection_reset",
            Self::ConnectionRefused => "connection_refused",
            Self::NetworkTimeout => "network_timeout",
            Self::SocketError => "socket_error",
            Self::RdmaCompletion => "rdma_completion_error",
            Self::ProcessDied => "process_died",
            Self::MigrationFailed => "migration_failed",
            Self::MigrationCancelled => "migration_cancelled",
        }
    }
}

/// A cumulative histogram with fixed upper bounds.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// Upper bounds, ascending, without `+Inf`.
    pub bounds: Arc<[f64]>,
    /// Samples at or below each bound, not cumulative; one more for `+Inf`.
    pub counts: Vec<u64>,
    /// Sum of the samples.
    pub sum: f64,
}

impl Histogram {
    /// An empty histogram.
    #[must_use]
    pub fn new(bounds: Arc<[f64]>) -> Self {
        Self { counts: vec![0; bounds.len() + 1], bounds, sum: 0.0 }
    }

    /// Counts one sample.
    pub fn observe(&mut self, value: f64) {
        let index = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(index) {
            *count += 1;
            self.sum += value;
        }
    }

    /// Number of samples.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// What the kernel side does and what it lost.
#[derive(Clone, Debug, Default)]
pub struct KernelStatus {
    /// One per hook.
    pub probes: Vec<ProbeStatus>,
    /// One per loaded program.
    pub programs: Vec<ProgramStats>,
    /// Share of the time in which the kernel counted program runs: 0 off, 1 always; in between, run counts are samples.
    pub program_stats_duty: f64,
    /// Named loss counters, `map:reason`.
    pub losses: Vec<(&'static str, u64)>,
    /// Use of each record array.
    pub maps: Vec<MapUse>,
    /// RTT samples of tracked flows, seconds.
    pub rtt: Histogram,
    /// Waits for a CPU by thread role, seconds.
    pub runqueue: Vec<(ThreadRole, Histogram)>,
    /// Time from a process' start to the probes on its phase functions, seconds; `None` where they are not probed.
    pub probe_delay: Option<Histogram>,
}

impl KernelStatus {
    /// Which required probes are missing, and why; `None` when migrations can be measured.
    #[must_use]
    pub fn blind(&self) -> Option<String> {
        missing_probes(&self.probes, true)
            .map(|text| format!("a required probe is not attached: {text}"))
    }

    /// Which other probes are missing, and why.
    #[must_use]
    pub fn partly_blind(&self) -> Option<String> {
        missing_probes(&self.probes, false).map(|text| format!("a probe is not attached: {text}"))
    }

    /// Which tables are full, and what that hides; `None` while every migration that begins now is measured whole.
    #[must_use]
    pub fn full(&self) -> Option<String> {
        let full = self.maps.iter().filter(|map| map.used >= map.capacity && map.capacity > 0);
        let texts: Vec<String> = full
            .filter_map(|map| {
                Some(format!("all {} slots of {} {}", map.capacity, map.map, map.hidden()?))
            })
            .collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }
}

fn missing_probes(probes: &[ProbeStatus], required: bool) -> Option<String> {
    let missing = probes.iter().filter(|probe| probe.rung.is_none() && probe.required == required);
    let texts: Vec<String> = missing
        .map(|probe| {
            let why = probe.reason.as_deref().unwrap_or("no rung of its ladder is available");
            format!("{} ({}): {why}", probe.probe, probe.purpose)
        })
        .collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

/// One hook of the attach ladder.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ProbeStatus {
    /// Kernel tracepoint or iterator.
    pub probe: &'static str,
    /// What it is for, and what is missing without it.
    pub purpose: &'static str,
    /// Whether measuring is impossible without it.
    pub required: bool,
    /// The rung that is used; absent when none works.
    pub rung: Option<&'static str>,
    /// Whether it is attached now: the scheduler's hooks are only while a migration runs.
    pub attached: bool,
    /// Why no rung, or why not a higher one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The kernel's own figures of one eBPF program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramStats {
    /// Program name, at most 15 characters.
    pub name: String,
    /// Time in the program, ns (`bpf_prog_info.run_time_ns`).
    pub run_time_ns: u64,
    /// Runs (`bpf_prog_info.run_cnt`).
    pub run_count: u64,
    /// Runs that the kernel left out, since the program was running on that CPU (`bpf_prog_info.recursion_misses`, from 5.12 on).
    pub missed_runs: Option<u64>,
    /// Instructions that the verifier walked.
    pub verified_instructions: u32,
}

/// Use of one record array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapUse {
    /// Name of the map.
    pub map: &'static str,
    /// Slots in use.
    pub used: u32,
    /// Slots.
    pub capacity: u32,
}

impl MapUse {
    /// What is missing while no slot is left; `None` where that is no migration's.
    const fn hidden(&self) -> Option<&'static str> {
        match self.map.as_bytes() {
            b"flows" => {
                Some("are taken: further connections have totals, but no streams of their own")
            }
            b"threads" => {
                Some("are taken: further threads are not measured, nor blackouts by them")
            }
            b"processes" => Some("are taken: migrations of further processes are not seen"),
            _ => None,
        }
    }
}

/// How the one-second cycle keeps time.
#[derive(Clone, Debug)]
pub struct CycleStats {
    /// Duration of each cycle, seconds.
    pub duration: Histogram,
    /// How late each cycle began, seconds.
    pub jitter: Histogram,
    /// Cycles that could not be run in time and were skipped.
    pub missed: u64,
    /// Period.
    pub period: Duration,
}

/// Where the readers find the last [`Published`].
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<RwLock<Option<Arc<Published>>>>);

impl Board {
    /// Replaces what readers see.
    pub fn publish(&self, published: Published) {
        // A poisoned lock holds a whole value all the same: it is only ever replaced.
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) =
            Some(Arc::new(published));
    }

    /// What the last cycle published; `None` before the first.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<Published>> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}
