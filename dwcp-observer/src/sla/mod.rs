//! Service levels over 5 minutes, an hour, a day and 30 days, the remaining error budgets, and
//! whether a rollout may continue.
//!
//! Pure: plain values and a clock come in as arguments. [`counts::Counts`] counts the events of a span of time;
//! [`windows::Windows`] keeps it in bounded memory; [`judge`] compares it with the targets; [`decide`] decides go, caution or no-go.

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
use crate::config::Targets;

crate::model::named! {
    /// The spans that are judged.
    pub enum Window {
        /// 5 minutes.
        FiveMinutes = "5m",
        /// One hour: what the contract's gauge and the decision rest on.
        Hour = "1h",
        /// 24 hours.
        Day = "24h",
        /// 30 days: the span of the error budget.
        Month = "30d",
    }
}

impl Window {
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

crate::model::named! {
    /// What is promised about.
    pub enum SlaType {
        /// p99 of the blackout, per mode.
        Latency = "latency",
        /// Mean rate while a transfer is active.
        Throughput = "throughput",
        /// Failed of finished migrations.
        ErrorRate = "error_rate",
        /// Seconds in which the service was up.
        Availability = "availability",
    }
}

impl SlaType {
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
