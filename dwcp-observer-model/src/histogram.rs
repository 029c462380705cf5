//! A cumulative histogram.

use std::sync::Arc;

/// Upper bounds of `dwcp_v3_migration_duration_seconds`: exponential(1, 2, 12) as in the contract.
pub const DURATION_BUCKETS: [f64; 12] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0];

/// Upper bounds of `dwcp_v3_migration_latency_seconds`, as in the contract.
pub const BLACKOUT_BUCKETS: [f64; 12] =
    [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// Upper bounds of `dwcp_v3_blackout_seconds`: four to a factor of ten, from half a millisecond.
pub const FINE_BLACKOUT_BUCKETS: [f64; 21] = [
    0.0005, 0.001, 0.0018, 0.0032, 0.0056, 0.01, 0.018, 0.032, 0.056, 0.1, 0.18, 0.32, 0.56, 1.0,
    1.8, 3.2, 5.6, 10.0, 18.0, 56.0, 120.0,
];

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
