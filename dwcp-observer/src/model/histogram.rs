//! A cumulative histogram.

use std::sync::Arc;

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
