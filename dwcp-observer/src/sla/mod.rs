//! Service levels: how well migrations went over 5 minutes, an hour, a day and 30 days, what is left of the error budgets, and
//! whether a rollout may go on.
//!
//! Pure: plain values and a clock come in as arguments. [`counts::Counts`] is what happened in some span of time and adds up;
//! [`windows::Windows`] keeps it in bounded memory; [`judge`] compares it with the targets; [`decide`] says go, caution or no-go.

pub mod counts;
pub mod decide;
pub mod judge;
pub mod windows;

#[cfg(test)]
mod tests;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::{
    decide::{Anomaly, Decision, Unhealthy},
    judge::Levels,
};
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

/// The spans that are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Window {
    /// 5 minutes.
    #[serde(rename = "5m")]
    FiveMinutes,
    /// One hour: what the contract's gauge and the decision rest on.
    #[serde(rename = "1h")]
    Hour,
    /// 24 hours.
    #[serde(rename = "24h")]
    Day,
    /// 30 days: the span of the error budget.
    #[serde(rename = "30d")]
    Month,
}

impl Window {
    /// All windows, shortest first.
    pub const ALL: [Self; 4] = [Self::FiveMinutes, Self::Hour, Self::Day, Self::Month];

    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FiveMinutes => "5m",
            Self::Hour => "1h",
            Self::Day => "24h",
            Self::Month => "30d",
        }
    }

    /// Length, seconds.
    #[must_use]
    pub const fn seconds(self) -> i64 {
        match self {
            Self::FiveMinutes => 300,
            Self::Hour => 3600,
            Self::Day => 86_400,
            Self::Month => 30 * 86_400,
        }
    }
}

/// What is promised about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlaType {
    /// p99 of the blackout, per mode.
    Latency,
    /// Mean rate while a transfer is active.
    Throughput,
    /// Failed of finished migrations.
    ErrorRate,
    /// Seconds in which the service was up.
    Availability,
}

impl SlaType {
    /// All, in the order of the contract.
    pub const ALL: [Self; 4] =
        [Self::Latency, Self::Throughput, Self::ErrorRate, Self::Availability];

    /// The label `sla_type`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Throughput => "throughput",
            Self::ErrorRate => "error_rate",
            Self::Availability => "availability",
        }
    }

    /// The label `metric` that the contract gives it.
    #[must_use]
    pub const fn metric(self) -> &'static str {
        match self {
            Self::Latency => "p99",
            Self::Throughput => "average",
            Self::ErrorRate | Self::Availability => "1h",
        }
    }
}

/// Everything that is said of service levels after one second: the body of `/api/v1/sla`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct View {
    /// End of the second.
    pub at: Timestamp,
    /// Go, caution or no-go, and why.
    #[serde(flatten)]
    pub decision: Decision,
    /// What is promised.
    pub targets: Targets,
    /// One per window, shortest first.
    pub windows: Vec<Levels>,
    /// Minutes at whose end the hour was in violation, since the observer started, in the order of [`SlaType::ALL`].
    pub violation_minutes: [u64; SlaType::ALL.len()],
    /// Active anomalies; null where no detector runs.
    pub anomalies: Option<Vec<Anomaly>>,
    /// Components that are not healthy; null where none is watched.
    pub unhealthy_components: Option<Vec<Unhealthy>>,
}

impl View {
    /// The levels of one window.
    #[must_use]
    pub fn window(&self, window: Window) -> Option<&Levels> {
        self.windows.iter().find(|levels| levels.window == window)
    }
}
