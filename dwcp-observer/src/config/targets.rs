//! Targets of the service levels.

use serde::{Deserialize, Serialize};

use crate::model::record::Mode;

/// What is promised; the defaults are those of the DWCP v3 contract. A p99 below, an error rate below, an availability above, a
/// throughput of at least these.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Targets {
    /// p99 of the blackout within a data centre, seconds, above 0. Also for a migration whose mode is unknown: it is the strictest.
    pub latency_datacenter_seconds: f64,
    /// The same over the internet.
    pub latency_internet_seconds: f64,
    /// The same for paths between the two.
    pub latency_hybrid_seconds: f64,
    /// Mean rate of this host's migrations while a transfer is active, bytes/s, above 0.
    pub throughput_bytes_per_second: f64,
    /// Share of the active seconds that may be slower before the budget is spent, above 0, below 1.
    pub throughput_slow_share: f64,
    /// Failed of finished migrations, above 0, below 1.
    pub error_rate: f64,
    /// Share of the judged seconds in which the service was up, above 0, below 1.
    pub availability: f64,
}

impl Default for Targets {
    fn default() -> Self {
        Self {
            latency_datacenter_seconds: 0.5,
            latency_internet_seconds: 90.0,
            latency_hybrid_seconds: 5.0,
            throughput_bytes_per_second: 2.4e9,
            throughput_slow_share: 0.01,
            error_rate: 0.01,
            availability: 0.999,
        }
    }
}

impl Targets {
    /// The limit of the blackout's p99 in a mode, seconds.
    #[must_use]
    pub const fn latency_seconds(&self, mode: Option<Mode>) -> f64 {
        match mode {
            Some(Mode::Datacenter) | None => self.latency_datacenter_seconds,
            Some(Mode::Internet) => self.latency_internet_seconds,
            Some(Mode::Hybrid) => self.latency_hybrid_seconds,
        }
    }
}
