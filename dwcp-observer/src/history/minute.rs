//! What a minute holds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::sla::counts::{Counts, FinishedBlackout};

/// One minute of one run of the observer. What was not measured is missing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Minute {
    /// Begin, seconds since 1970; a multiple of 60.
    pub at: i64,
    /// When the observer started, ms since 1970: two runs within a minute have a row each.
    pub run_ms: i64,
    /// What service levels are judged by.
    pub counts: Counts,
    /// Blackouts of the migrations that were settled in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blackouts: Vec<FinishedBlackout>,
    /// Rate of all migrations, bytes/s, over the transfer seconds.
    #[serde(skip_serializing_if = "Spread::is_empty")]
    pub throughput: Spread,
    /// The same by transport.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub throughput_by_transport: BTreeMap<String, Spread>,
    /// Open streams, over the transfer seconds.
    #[serde(skip_serializing_if = "Spread::is_empty")]
    pub streams: Spread,
    /// Use of the host's CPUs, percent.
    #[serde(skip_serializing_if = "Spread::is_empty")]
    pub cpu_percent: Spread,
    /// Use of the host's memory, percent.
    #[serde(skip_serializing_if = "Spread::is_empty")]
    pub memory_percent: Spread,
    /// Errors by type.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, u64>,
    /// Segments sent again on migration sockets.
    #[serde(skip_serializing_if = "is_zero")]
    pub retransmitted_segments: u64,
    /// Seconds of running migrations by verdict.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub verdict_seconds: BTreeMap<String, f64>,
    /// Cycles that were skipped.
    #[serde(skip_serializing_if = "is_zero")]
    pub missed_cycles: u64,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Samples in short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Number of samples.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// Smallest; 0 without samples.
    pub min: f64,
    /// Largest; 0 without samples.
    pub max: f64,
}

impl Spread {
    /// Takes in a sample; one that is no number is none.
    pub fn observe(&mut self, value: f64) {
        if value.is_finite() {
            self.add(&Self { count: 1, sum: value, min: value, max: value });
        }
    }

    /// Takes in other samples.
    pub fn add(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        let first = self.count == 0;
        self.min = if first { other.min } else { self.min.min(other.min) };
        self.max = if first { other.max } else { self.max.max(other.max) };
        self.count += other.count;
        self.sum += other.sum;
    }

    /// Arithmetic mean; `None` without samples.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }

    fn is_empty(&self) -> bool {
        self.count == 0
    }
}
