//! Progress of a rollout: the share of migrations that use v3.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    config::{RolloutConfig, RolloutControl, is_label},
    migration::entry::Entry,
    model::record::{State, Version},
};

/// Migrations that ended longer ago do not count, seconds.
const WINDOW_SECONDS: i64 = 3600;

/// Stage and region, as configured or as an operator has set them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Labels {
    /// As `canary`; null is not set.
    #[serde(default)]
    pub stage: Option<String>,
    /// As `eu-west-1`; null is not set.
    #[serde(default)]
    pub region: Option<String>,
}

impl Labels {
    /// Whether both may stand in a label.
    #[must_use]
    pub fn are_valid(&self) -> bool {
        [&self.stage, &self.region].into_iter().all(|text| text.as_deref().is_none_or(is_label))
    }
}

/// The share of migrations that run v3.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// 0 to 100.
    pub percent: f64,
    /// Migrations that run v3: running, or ended within the last hour.
    pub v3: u64,
    /// The same of v1.
    pub v1: u64,
    /// Stage and region.
    #[serde(flatten)]
    pub labels: Labels,
}

/// Counts the migrations that are still held; `None` without any, or where nothing tells v1 from v3.
#[must_use]
pub fn progress(entries: &[Entry], now: Timestamp, labels: Labels) -> Option<Progress> {
    let recent = entries.iter().map(|entry| entry.record.as_ref()).filter(|record| {
        let age = |ended: Timestamp| now.duration_since(ended).as_secs();
        record.state == State::Active
            || record.ended_at.is_some_and(|ended| age(ended) <= WINDOW_SECONDS)
    });
    let (mut v3, mut v1) = (0, 0);
    for version in recent.filter_map(|record| record.version) {
        match version {
            Version::V3 => v3 += 1,
            Version::V1 => v1 += 1,
        }
    }
    (v1 + v3 > 0).then(|| Progress {
        percent: v3 as f64 * 100.0 / (v1 + v3) as f64,
        v3,
        v1,
        labels,
    })
}

/// Stage and region, shared by the HTTP server and the collector.
#[derive(Clone, Debug, Default)]
pub struct Control {
    policy: RolloutControl,
    labels: Arc<Mutex<Labels>>,
}

impl Control {
    /// As configured.
    #[must_use]
    pub fn new(config: &RolloutConfig) -> Self {
        let labels = Labels { stage: config.stage.clone(), region: config.region.clone() };
        Self { policy: config.control, labels: Arc::new(Mutex::new(labels)) }
    }

    fn lock(&self) -> MutexGuard<'_, Labels> {
        // Both texts are replaced in one go.
        self.labels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As of now.
    #[must_use]
    pub fn labels(&self) -> Labels {
        self.lock().clone()
    }

    /// Whether a client may change them.
    #[must_use]
    pub const fn allows(&self, is_local: bool) -> bool {
        match self.policy {
            RolloutControl::Off => false,
            RolloutControl::Local => is_local,
            RolloutControl::Any => true,
        }
    }

    /// Sets both until the observer stops.
    pub fn set(&self, labels: Labels) {
        log::info!(
            "rollout: stage {}, region {}",
            labels.stage.as_deref().unwrap_or("not set"),
            labels.region.as_deref().unwrap_or("not set")
        );
        *self.lock() = labels;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{metrics::sample, model::record::Outcome};

    fn entry(version: Option<Version>, ended_seconds_ago: Option<i64>) -> Entry {
        let mut record = match ended_seconds_ago {
            Some(ago) => sample::finished("1", Outcome::Completed, ago),
            None => sample::active("1"),
        };
        record.version = version;
        sample::entry(record)
    }

    #[test]
    fn the_share_is_of_running_and_recent_migrations() {
        let (v1, v3) = (Some(Version::V1), Some(Version::V3));
        let percent = |entries: &[Entry]| {
            progress(entries, sample::at(), Labels::default()).map(|progress| progress.percent)
        };
        assert_eq!(percent(&[]), None);
        assert_eq!(percent(&[entry(None, None)]), None, "nothing tells v1 from v3");
        assert_eq!(percent(&[entry(v3, None)]), Some(100.0));
        assert_eq!(percent(&[entry(v1, Some(5))]), Some(0.0));
        let mixed = [entry(v3, None), entry(v1, None), entry(v1, Some(60)), entry(v3, Some(3599))];
        assert_eq!(percent(&mixed), Some(50.0));
        assert_eq!(percent(&[entry(v3, None), entry(v1, Some(3700))]), Some(100.0));
    }

    #[test]
    fn who_may_change_it() {
        let allows = |control| {
            let control = Control::new(&RolloutConfig { control, ..RolloutConfig::default() });
            (control.allows(true), control.allows(false))
        };
        assert_eq!(allows(RolloutControl::Off), (false, false));
        assert_eq!(allows(RolloutControl::Local), (true, false));
        assert_eq!(allows(RolloutControl::Any), (true, true));
    }
}
