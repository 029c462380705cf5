//! What an anomaly is called, and what is said of one.

use jiff::Timestamp;
use serde::Serialize;

use super::detector::Floor;
use crate::migration::record::Mode;

/// What is anomalous: the label `anomaly_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Blackout of a finished migration, seconds.
    Latency,
    /// Delivered bytes per second.
    Throughput,
    /// Errors per second.
    ErrorBurst,
    /// How much of a resource is used, 0 to 1.
    ResourceSaturation,
    /// Share of segments sent again, 0 to 1.
    Retransmit,
    /// Smoothed round-trip time, seconds.
    Rtt,
    /// Run-queue wait of the migration's threads, seconds per second.
    Runqueue,
    /// How uneven the streams are, 0 (even) to 1.
    StreamImbalance,
}

impl Kind {
    /// All kinds, for metrics that start at zero.
    pub const ALL: [Self; 8] = [
        Self::Latency,
        Self::Throughput,
        Self::ErrorBurst,
        Self::ResourceSaturation,
        Self::Retransmit,
        Self::Rtt,
        Self::Runqueue,
        Self::StreamImbalance,
    ];

    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Throughput => "throughput",
            Self::ErrorBurst => "error_burst",
            Self::ResourceSaturation => "resource_saturation",
            Self::Retransmit => "retransmit",
            Self::Rtt => "rtt",
            Self::Runqueue => "runqueue",
            Self::StreamImbalance => "stream_imbalance",
        }
    }

    /// What varies without meaning, in the kind's unit: the resolution of the measurement, and what nobody would act on.
    #[must_use]
    pub const fn floor(self) -> Floor {
        let (absolute, relative) = match self {
            Self::Latency => (0.002, 0.1),
            Self::Throughput => (1e6, 0.05),
            Self::ErrorBurst => (0.2, 0.0),
            Self::ResourceSaturation => (0.02, 0.0),
            Self::Retransmit => (0.002, 0.0),
            Self::Rtt => (20e-6, 0.05),
            Self::Runqueue => (0.01, 0.0),
            Self::StreamImbalance => (0.03, 0.0),
        };
        Floor { absolute, relative }
    }

    /// Whether a value on this side is an anomaly. Fewer errors or retransmissions than usual are none; a blackout, a rate or an RTT
    /// that falls means that something else is being measured than before.
    #[must_use]
    pub const fn counts(self, direction: Direction) -> bool {
        match direction {
            Direction::Above => true,
            Direction::Below => matches!(self, Self::Latency | Self::Throughput | Self::Rtt),
        }
    }

    /// Samples in a row that must be calm before an event of this kind is over. A blackout comes once per migration, all others
    /// each second.
    #[must_use]
    pub const fn calm(self) -> u32 {
        match self {
            Self::Latency => 1,
            _ => 20,
        }
    }
}

/// How far off it is: the label `severity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// An anomaly.
    Warning,
    /// One that is more than six robust standard deviations off (contract 1.1), or on which the kinds of a migration agree.
    Critical,
}

impl Severity {
    /// All severities.
    pub const ALL: [Self; 2] = [Self::Warning, Self::Critical];

    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// On which side of the usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Higher.
    Above,
    /// Lower.
    Below,
}

/// What contributed most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Far from the median of the samples before, in median absolute deviations.
    RobustZ,
    /// So far in the tail as the series has hardly been.
    PeaksOverThreshold,
    /// A shift that is small and lasts.
    Cusum,
    /// It varies more, or less, than usual.
    Volatility,
    /// Four samples such as were not seen before.
    Shape,
    /// A minute such as was not seen before.
    Course,
    /// Several kinds of one migration are off at once, none of them enough by itself.
    Consensus,
}

/// Where in its life an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It has begun.
    Began,
    /// It has become critical.
    Worsened,
    /// It is over.
    Ended,
}

/// One anomaly.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Counts up from 1.
    pub id: u64,
    /// What happened last.
    pub phase: Phase,
    /// What is anomalous.
    pub kind: Kind,
    /// The mode of the migrations.
    pub mode: Mode,
    /// The migration, when one alone is off or a single one was running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migration: Option<String>,
    /// How far off, the worst so far.
    pub severity: Severity,
    /// On which side it began.
    pub direction: Direction,
    /// The value that it began with, in the unit of the kind.
    pub value: f64,
    /// What was expected instead: from here ...
    pub expected_low: f64,
    /// ... to here.
    pub expected_high: f64,
    /// Robust standard deviations from the middle of that.
    pub z: f64,
    /// What contributed most.
    pub method: Method,
    /// Surprise in units of what is needed, the highest so far: 1 and more.
    pub score: f64,
    /// When it began.
    pub began_at: Timestamp,
    /// When it was over; absent while it goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}
