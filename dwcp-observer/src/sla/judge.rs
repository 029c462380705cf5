//! Compares a window's content with the targets.

use serde::{Deserialize, Serialize};

use super::{SlaType, Window, counts::FinishedBlackout, windows::Content};
use crate::config::Targets;
use crate::model::record::Mode;

/// Share of migrations whose blackout may reach the limit: what a p99 promises.
const LATENCY_BAD_SHARE: f64 = 0.01;

/// One service level over one window. Without anything to judge there is no verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// Whether the promise is kept; absent when nothing was there to judge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compliant: Option<bool>,
    /// What was measured: p99 (seconds, of the mode that is nearest to its limit or furthest above), mean rate (bytes/s), failed of
    /// finished, up of judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// What is promised, in the same unit.
    pub target: f64,
    /// What was judged: migrations (latency, error rate) or seconds (throughput, availability).
    pub events: u64,
    /// Of these, bad ones.
    pub bad_events: u64,
    /// What is left of the error budget of this window; absent when nothing was there to judge.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

/// The error budget of one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// 1 untouched, 0 just spent, below 0 overspent.
    #[serde(rename = "budget_remaining_ratio")]
    pub remaining_ratio: f64,
    /// How many times faster than allowed it is being spent: at 1 it lasts exactly the window.
    pub burn_rate: f64,
}

impl Budget {
    /// Of `events`, `bad` were bad where a share of `allowed` (above 0) may be. `None` without events.
    #[must_use]
    pub fn new(events: u64, bad: u64, allowed: f64) -> Option<Self> {
        if events == 0 {
            return None;
        }
        let burn_rate = bad as f64 / events as f64 / allowed;
        Some(Self { remaining_ratio: 1.0 - burn_rate, burn_rate })
    }
}

/// The blackouts of one mode over one window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModeLatency {
    /// Absent when there never was an RTT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Migrations with a blackout of known length.
    pub migrations: u64,
    /// Of these, at the limit or above.
    pub above: u64,
    /// Nearest rank, seconds.
    pub p50_seconds: f64,
    /// Nearest rank, seconds.
    pub p95_seconds: f64,
    /// Nearest rank, seconds.
    pub p99_seconds: f64,
    /// Longest, seconds.
    pub max_seconds: f64,
    /// Limit of the p99, seconds.
    pub target_seconds: f64,
    /// Whether the p99 is below it.
    pub compliant: bool,
}

/// All service levels over one window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Levels {
    /// Which window.
    pub window: Window,
    /// Seconds of it in which the observer looked.
    pub observed_seconds: u64,
    /// p99 of the blackout: kept when every mode keeps its own limit.
    pub latency: Level,
    /// Mean rate while a transfer was active.
    pub throughput: Level,
    /// Failed of finished migrations.
    pub error_rate: Level,
    /// Up of judged seconds.
    pub availability: Level,
    /// The latency by mode; modes without a migration are missing.
    pub latency_by_mode: Vec<ModeLatency>,
}

impl Levels {
    /// One service level.
    #[must_use]
    pub const fn level(&self, sla: SlaType) -> &Level {
        match sla {
            SlaType::Latency => &self.latency,
            SlaType::Throughput => &self.throughput,
            SlaType::ErrorRate => &self.error_rate,
            SlaType::Availability => &self.availability,
        }
    }
}

/// Nearest rank of ascending values: index ceil(n x percent / 100) - 1, as in the contract. `None` without values.
#[must_use]
pub fn nearest_rank(ascending: &[f64], percent: usize) -> Option<f64> {
    ascending.get((ascending.len() * percent).div_ceil(100).saturating_sub(1)).copied()
}

/// The same of values in any order, which it moves: the windows are judged within the cycle, where sorting 20,000 values takes too long.
fn select(values: &mut [f64], percent: usize) -> Option<f64> {
    let place = (values.len() * percent).div_ceil(100).saturating_sub(1);
    (place < values.len()).then(|| *values.select_nth_unstable_by(place, f64::total_cmp).1)
}

/// Judges one window.
#[must_use]
pub fn judge(window: Window, content: &Content, targets: &Targets) -> Levels {
    let counts = &content.counts;
    let by_mode = latency_by_mode(&content.blackouts, targets);
    let ratio = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
    let throughput = ratio(counts.transferred_bytes, counts.transfer_seconds);
    let failed = ratio(counts.failed, counts.finished());
    let up =
        ratio(counts.judged_seconds.saturating_sub(counts.down_seconds), counts.judged_seconds);
    Levels {
        window,
        observed_seconds: counts.observed_seconds,
        latency: latency(&by_mode, targets),
        throughput: Level {
            compliant: throughput.map(|rate| rate >= targets.throughput_bytes_per_second),
            value: throughput,
            target: targets.throughput_bytes_per_second,
            events: counts.transfer_seconds,
            bad_events: counts.slow_seconds,
            budget: Budget::new(
                counts.transfer_seconds,
                counts.slow_seconds,
                targets.throughput_slow_share,
            ),
        },
        error_rate: Level {
            compliant: failed.map(|rate| rate < targets.error_rate),
            value: failed,
            target: targets.error_rate,
            events: counts.finished(),
            bad_events: counts.failed,
            budget: Budget::new(counts.finished(), counts.failed, targets.error_rate),
        },
        availability: Level {
            compliant: up.map(|share| share > targets.availability),
            value: up,
            target: targets.availability,
            events: counts.judged_seconds,
            bad_events: counts.down_seconds,
            budget: Budget::new(
                counts.judged_seconds,
                counts.down_seconds,
                1.0 - targets.availability,
            ),
        },
        latency_by_mode: by_mode,
    }
}

fn latency_by_mode(blackouts: &[FinishedBlackout], targets: &Targets) -> Vec<ModeLatency> {
    [Some(Mode::Datacenter), Some(Mode::Internet), Some(Mode::Hybrid), None]
        .into_iter()
        .filter_map(|mode| {
            let of_mode = blackouts.iter().filter(|blackout| blackout.mode == mode);
            let mut seconds: Vec<f64> = of_mode.map(|blackout| blackout.seconds).collect();
            let target_seconds = targets.latency_seconds(mode);
            let above = seconds.iter().filter(|seconds| **seconds >= target_seconds).count();
            let max_seconds = seconds.iter().copied().reduce(f64::max)?;
            let p99_seconds = select(&mut seconds, 99)?;
            Some(ModeLatency {
                mode,
                migrations: seconds.len() as u64,
                above: above as u64,
                p50_seconds: select(&mut seconds, 50)?,
                p95_seconds: select(&mut seconds, 95)?,
                p99_seconds,
                max_seconds,
                target_seconds,
                compliant: p99_seconds < target_seconds,
            })
        })
        .collect()
}

fn latency(by_mode: &[ModeLatency], targets: &Targets) -> Level {
    let strain = |mode: &ModeLatency| mode.p99_seconds / mode.target_seconds;
    let worst = by_mode.iter().max_by(|one, other| strain(one).total_cmp(&strain(other)));
    let events = by_mode.iter().map(|mode| mode.migrations).sum();
    let bad_events = by_mode.iter().map(|mode| mode.above).sum();
    Level {
        compliant: worst.map(|_| by_mode.iter().all(|mode| mode.compliant)),
        value: worst.map(|mode| mode.p99_seconds),
        target: worst.map_or(targets.latency_datacenter_seconds, |mode| mode.target_seconds),
        events,
        bad_events,
        budget: Budget::new(events, bad_events, LATENCY_BAD_SHARE),
    }
}
