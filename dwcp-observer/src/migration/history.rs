//! Per-second history in bounded memory.

use std::collections::VecDeque;

use crate::model::record::Sample;

/// A circular buffer: the newest samples, at most its capacity.
#[derive(Clone, Debug)]
pub struct History {
    samples: VecDeque<Sample>,
    capacity: usize,
}

impl History {
    /// An empty buffer for `capacity` samples; grows as it fills.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { samples: VecDeque::new(), capacity }
    }

    /// Adds the newest sample; the oldest goes when the buffer is full.
    pub fn push(&mut self, sample: Sample) {
        if self.capacity == 0 {
            return;
        }
        if self.samples.len() == self.capacity {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// Oldest first.
    #[must_use]
    pub fn samples(&self) -> Vec<Sample> {
        self.samples.iter().copied().collect()
    }

    /// Number of samples held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether nothing was recorded yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Gives back unused memory: the migration is over.
    pub fn seal(&mut self) {
        self.samples.shrink_to_fit();
    }
}
