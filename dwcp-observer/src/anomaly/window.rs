//! The last values of a series, also in order of size: medians and quantiles that one outlier does not move.

use std::collections::VecDeque;

/// At most a fixed number of the latest values. A push moves at most that many values in memory.
#[derive(Clone, Debug)]
pub struct Window {
    capacity: usize,
    latest: VecDeque<f64>,
    sorted: Vec<f64>,
}

impl Window {
    /// Keeps the last `capacity` values, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), latest: VecDeque::new(), sorted: Vec::new() }
    }

    /// Takes a value in; the oldest leaves when the window is full. Not finite: left out.
    pub fn push(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        let at = self.sorted.partition_point(|other| *other < value);
        if self.latest.len() < self.capacity {
            self.sorted.insert(at, value);
        } else if let Some(oldest) = self.latest.pop_front() {
            let gone = self.sorted.partition_point(|other| *other < oldest);
            if gone < at {
                self.sorted.copy_within(gone + 1..at, gone);
                self.sorted[at - 1] = value;
            } else {
                self.sorted.copy_within(at..gone, at + 1);
                self.sorted[at] = value;
            }
        }
        self.latest.push_back(value);
    }

    /// Values held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// The value that a share of the others, 0 to 1, lies below, interpolated; 0 when empty.
    #[must_use]
    pub fn quantile(&self, share: f64) -> f64 {
        let Some(last) = self.sorted.len().checked_sub(1) else { return 0.0 };
        let position = share.clamp(0.0, 1.0) * last as f64;
        let below = position as usize;
        let low = self.sorted[below];
        let high = self.sorted[(below + 1).min(last)];
        low + (high - low) * position.fract()
    }

    /// The middle value; 0 when empty.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The distance between the quantiles `share` and `1 - share`, `share` below 0.5; 0 when empty.
    #[must_use]
    pub fn width(&self, share: f64) -> f64 {
        self.quantile(1.0 - share) - self.quantile(share)
    }

    /// The median absolute deviation times 1.4826, which is the standard deviation when the values are normal; 0 when empty,
    /// and when more than half of the values are equal.
    #[must_use]
    pub fn deviation(&self) -> f64 {
        let median = self.median();
        let (below, above) = self.sorted.split_at(self.sorted.partition_point(|v| *v < median));
        // Of the nearest half of the values, so many are below the median. Distances grow on both sides: bisection finds it.
        let half = self.sorted.len().div_ceil(2);
        let (mut low, mut high) = (half.saturating_sub(above.len()), half.min(below.len()));
        while low < high {
            let taken = low.midpoint(high) + 1;
            let furthest = median - below[below.len() - taken];
            let rejected = above.get(half - taken).map_or(f64::INFINITY, |v| v - median);
            if furthest <= rejected {
                low = taken;
            } else {
                high = taken - 1;
            }
        }
        let furthest_below = if low > 0 { median - below[below.len() - low] } else { 0.0 };
        let furthest_above = if half > low { above[half - low - 1] - median } else { 0.0 };
        1.4826 * furthest_below.max(furthest_above)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn empty_and_constant() {
        let mut window = Window::new(4);
        assert_eq!((window.median(), window.deviation(), window.width(0.1)), (0.0, 0.0, 0.0));
        assert!(window.is_empty());
        for _ in 0..9 {
            window.push(7.0);
        }
        assert_eq!((window.median(), window.deviation(), window.len()), (7.0, 0.0, 4));
    }

    #[test]
    fn what_is_not_finite_is_left_out() {
        let mut window = Window::new(4);
        for value in [f64::NAN, f64::INFINITY, 1.0, f64::NEG_INFINITY] {
            window.push(value);
        }
        assert_eq!((window.len(), window.median()), (1, 1.0));
    }

    proptest! {
        /// Against sorting anew, for every length and with ties.
        #[test]
        fn as_by_sorting(values in prop::collection::vec(-5i32..5, 1..60), capacity in 1usize..20) {
            let mut window = Window::new(capacity);
            for (at, value) in values.iter().enumerate() {
                window.push(f64::from(*value));
                let mut kept: Vec<f64> = values[(at + 1).saturating_sub(capacity)..=at]
                    .iter().copied().map(f64::from).collect();
                kept.sort_by(f64::total_cmp);
                prop_assert_eq!(&window.sorted, &kept);
                let median = window.median();
                let mut distances: Vec<f64> = kept.iter().map(|v| (v - median).abs()).collect();
                distances.sort_by(f64::total_cmp);
                let expected = 1.4826 * distances[kept.len().div_ceil(2) - 1];
                prop_assert!((window.deviation() - expected).abs() < 1e-9,
                    "{:?}: {} instead of {expected}", kept, window.deviation());
            }
        }
    }
}
