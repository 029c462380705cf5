//! Kinds and text of anomaly events.

use jiff::Timestamp;
use serde::Serialize;

use super::detector::Floor;
use crate::model::record::Mode;

crate::model::named! {
    /// What is anomalous: the label `anomaly_type`.
    pub enum Kind {
        /// Blackout of a finished migration, seconds.
        Latency = "latency",
        /// Delivered bytes per second.
        Throughput = "throughput",
        /// Errors per second.
        ErrorBurst = "error_burst",
        /// How far the host's CPUs or memory are beyond 80 or 85 % in use, 0 to 1 (all of it).
        ResourceSaturation = "resource_saturation",
        /// Share of segments sent again, 0 to 1.
        Retransmit = "retransmit",
        /// Smoothed round-trip time, the lowest of the streams, seconds.
        Rtt = "rtt",
        /// Run-queue wait of the migration's threads, seconds per second.
        Runqueue = "runqueue",
        /// How uneven the streams are, 0 (even) to 1.
        StreamImbalance = "stream_imbalance",
    }
}

impl Kind {
    /// What varies without meaning, in the kind's unit: the resolution of the measurement, and what nobody would act on.
    #[must_use]
    pub const fn floor(self) -> Floor {
        let (absolute, relative) = match self {
            Self::Latency => (0.010, 0.1),
            Self::Throughput => (1e6, 0.05),
            Self::ErrorBurst => (0.2, 0.0),
            Self::ResourceSaturation => (0.15, 0.0),
            Self::Retransmit => (0.003, 0.0),
            Self::Rtt => (1e-3, 0.25),
            Self::Runqueue => (0.05, 0.0),
            Self::StreamImbalance => (0.1, 0.0),
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

    /// Whether what is found on a side is an anomaly now: where only more than usual counts, not once the value is back. A drift that
    /// has added up, or that the course is another one than before the fault, would go on for a minute.
    #[must_use]
    pub fn is_off(self, direction: Direction, z: f64) -> bool {
        self.counts(direction) && (z > 0.0 || self.counts(Direction::Below))
    }

    /// Whether only what lasts ([`super::signals::LASTING`] seconds) counts: a busy host makes each of these jump for some seconds now
    /// and then, and nobody would act on that.
    #[must_use]
    pub const fn must_last(self) -> bool {
        matches!(
            self,
            Self::ResourceSaturation | Self::Rtt | Self::Runqueue | Self::StreamImbalance
        )
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

crate::model::named! {
    /// How far off it is: the label `severity`.
    pub enum Severity {
        /// An anomaly.
        Warning = "warning",
        /// One that is more than six robust standard deviations off (contract 1.1), or on which the kinds of a migration agree.
        Critical = "critical",
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

crate::model::named! {
    /// What contributed most.
    pub enum Method {
        /// Far from the median of the samples before, in median absolute deviations.
        RobustZ = "robust_z",
        /// So far in the tail as the series has hardly been.
        PeaksOverThreshold = "peaks_over_threshold",
        /// A shift that is small and lasts.
        Cusum = "cusum",
        /// It varies more, or less, than usual.
        Volatility = "volatility",
        /// Four samples such as were not seen before.
        Shape = "shape",
        /// A minute such as was not seen before.
        Course = "course",
        /// Several kinds of one migration are off at once, none of them enough by itself.
        Consensus = "consensus",
    }
}

/// Where in its life an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transition {
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
    pub phase: Transition,
    /// What is anomalous.
    pub kind: Kind,
    /// The mode of the migrations; null for what is of the whole host.
    pub mode: Option<Mode>,
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

impl Event {
    /// Why it is one: value, expected band, method, in one line.
    #[must_use]
    pub fn why(&self) -> String {
        let (scale, unit) = match self.kind {
            Kind::Latency | Kind::Rtt => (1e3, " ms"),
            Kind::Throughput => (1e-6, " MB/s"),
            Kind::ErrorBurst => (1.0, " errors/s"),
            Kind::Retransmit => (1e2, " % retransmitted"),
            Kind::Runqueue => (1.0, " s/s on run queues"),
            Kind::ResourceSaturation | Kind::StreamImbalance => (1.0, ""),
        };
        let of = match (&self.migration, self.mode) {
            (Some(migration), _) => format!("in migration {migration}"),
            (None, Some(mode)) => format!("in migrations of mode {}", mode.as_str()),
            (None, None) => "on this host".to_owned(),
        };
        format!(
            "{value:.3}{unit} {of}, expected {low:.3} to {high:.3} ({method}, z {z:.1})",
            value = self.value * scale,
            // None of these figures is ever negative.
            low = self.expected_low.max(0.0) * scale,
            high = self.expected_high * scale,
            method = self.method.as_str(),
            z = self.z,
        )
    }
}
