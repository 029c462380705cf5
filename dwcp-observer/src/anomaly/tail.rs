//! Scores how improbable a large value is, from the series' own large values: peaks over threshold.
//!
//! After Siffer et al., "Anomaly Detection in Streams with Extreme Value Theory" (KDD 2017), with two changes that make it
//! O(1) in time and memory: the threshold follows its quantile by stochastic approximation (Robbins and Monro 1951) instead of
//! being fixed after a calibration, and the generalised Pareto distribution of the excesses is fitted by its moments, which
//! fade, instead of by a search for the maximum of its likelihood over stored peaks.

use std::f64::consts::LN_10;

/// Share of values above the threshold.
const SHARE: f64 = 0.02;
/// Values in which what was learned fades to 1/e.
const MEMORY: f64 = 2000.0;
/// Excesses count for at most so many times the mean one: an anomaly shall not become the norm at once.
const WINSOR: f64 = 20.0;
/// Shape of the distribution at most: from 0.5 on it would have no variance, and the moments say nothing.
const MAX_SHAPE: f64 = 0.4;
/// How fast the threshold moves, in mean excesses.
const GAIN: f64 = 0.05;

/// The upper tail of one statistic.
#[derive(Clone, Debug)]
pub struct Tail {
    /// The first values; emptied when there are `warm_up`.
    first: Vec<f64>,
    warm_up: usize,
    threshold: f64,
    /// Values, and those above the threshold, faded.
    values: f64,
    peaks: f64,
    /// Sum of excesses and of their squares, faded.
    sum: f64,
    squares: f64,
}

impl Tail {
    /// A tail that says nothing before `warm_up` values, 20 at least.
    #[must_use]
    pub fn new(warm_up: usize) -> Self {
        let warm_up = warm_up.max(20);
        Self {
            first: Vec::with_capacity(warm_up),
            warm_up,
            threshold: 0.0,
            values: 0.0,
            peaks: 0.0,
            sum: 0.0,
            squares: 0.0,
        }
    }

    /// Whether enough was seen to judge.
    #[must_use]
    pub fn is_warm(&self) -> bool {
        self.values > 0.0
    }

    /// Whether what it says rests on values that it has seen, and not on `least`.
    #[must_use]
    pub fn has_learned(&self, least: f64) -> bool {
        self.is_warm() && self.sum > least * self.peaks
    }

    /// -log10 of the probability of a value as large, 0 when it is not in the tail or the tail is not warm; learns it after
    /// judging. Not finite: 0, and nothing learned. The mean excess over the threshold counts as at least `least`: a statistic that
    /// has hardly varied yet is not sure of every small change.
    pub fn observe(&mut self, value: f64, least: f64) -> f64 {
        if !value.is_finite() {
            return 0.0;
        }
        if !self.is_warm() {
            self.first.push(value);
            if self.first.len() == self.warm_up {
                self.begin();
            }
            return 0.0;
        }
        let excess = value - self.threshold;
        let mean = self.mean_excess(least);
        let surprise = if excess > 0.0 { self.surprise(excess, mean) } else { 0.0 };
        self.learn(excess, mean);
        surprise
    }

    fn begin(&mut self) {
        self.first.sort_by(f64::total_cmp);
        let last = self.first.len() - 1;
        let at = ((1.0 - SHARE) * last as f64) as usize;
        self.threshold = self.first[at];
        for value in &self.first[at + 1..] {
            let excess = value - self.threshold;
            self.peaks += 1.0;
            self.sum += excess;
            self.squares += excess * excess;
        }
        self.values = self.first.len() as f64;
        self.first = Vec::new();
    }

    fn mean_excess(&self, least: f64) -> f64 {
        let mean = if self.peaks > 0.0 { self.sum / self.peaks } else { 0.0 };
        mean.max(0.01 * self.threshold.abs()).max(least).max(1e-9)
    }

    fn surprise(&self, excess: f64, mean: f64) -> f64 {
        let square = if self.peaks > 0.0 { self.squares / self.peaks } else { 0.0 };
        let variance = (square - mean * mean).max(1e-3 * mean * mean);
        let shape = (0.5 * (1.0 - mean * mean / variance)).clamp(0.0, MAX_SHAPE);
        let scale = mean * (1.0 - shape);
        let beyond =
            if shape > 1e-6 { (shape * excess / scale).ln_1p() / shape } else { excess / mean };
        let in_tail = (self.peaks / self.values).clamp(1e-4, 0.5);
        beyond / LN_10 - in_tail.log10()
    }

    fn learn(&mut self, excess: f64, mean: f64) {
        let keep = 1.0 - 1.0 / MEMORY;
        self.values = self.values * keep + 1.0;
        self.peaks *= keep;
        self.sum *= keep;
        self.squares *= keep;
        let gain = GAIN * mean;
        if excess > 0.0 {
            let excess = excess.min(WINSOR * mean);
            self.peaks += 1.0;
            self.sum += excess;
            self.squares += excess * excess;
            self.threshold += gain * (1.0 - SHARE);
        } else {
            self.threshold -= gain * SHARE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quantiles of an exponential distribution in an order that repeats only after 1000.
    fn exponential(at: usize) -> f64 {
        let share = ((at * 617) % 1000) as f64 / 1000.0;
        -(1.0 - share).ln()
    }

    fn learned(scale: f64, offset: f64) -> Tail {
        let mut tail = Tail::new(100);
        for at in 0..5000 {
            tail.observe(offset + scale * exponential(at), 0.0);
        }
        tail
    }

    /// An exponential tail: P(X > x) = e^-x.
    #[test]
    fn the_probability_is_about_right_in_any_unit() {
        for (scale, offset) in [(1.0, 0.0), (1e-6, 0.0), (1e9, 0.0), (3.0, 50.0)] {
            for x in [5.0, 7.0, 10.0] {
                let expected = x / LN_10;
                let got = learned(scale, offset).observe(offset + scale * x, 0.0);
                assert!((got / expected - 1.0).abs() < 0.3, "{scale} {x}: {got} for {expected}");
            }
            assert!(learned(scale, offset).observe(offset + scale, 0.0) == 0.0);
        }
    }

    /// A power law, P(X > x) = x^-4: ten times the usual maximum is not as improbable as with an exponential tail.
    #[test]
    fn a_heavy_tail_is_known_as_one() {
        let mut heavy = Tail::new(100);
        for at in 0..5000 {
            heavy.observe(exponential(at).exp().powf(0.25), 0.0);
        }
        let light = learned(0.25, 1.0).observe(18.0, 0.0);
        let got = heavy.observe(18.0, 0.0);
        assert!((3.0..9.0).contains(&got) && got < 0.5 * light, "{got}, {light}");
    }

    #[test]
    fn what_never_varied_is_exceeded_without_bounds_but_finitely() {
        let mut tail = Tail::new(100);
        for _ in 0..500 {
            assert!(tail.observe(0.0, 0.0) < 2.0, "two of a hundred are in the tail");
        }
        let got = tail.observe(1.0, 0.0);
        assert!(got > 5.0 && got.is_finite(), "{got}");
    }

    #[test]
    fn silent_until_warm_and_for_what_is_no_number() {
        let mut tail = Tail::new(100);
        for at in 0..100 {
            assert!(!tail.is_warm() && tail.observe(f64::from(at % 7), 0.0) == 0.0);
            assert!(tail.observe(f64::NAN, 0.0) == 0.0);
        }
        assert!(tail.is_warm());
        assert!(tail.observe(f64::INFINITY, 0.0) == 0.0);
        assert!(tail.observe(1000.0, 0.0) > 5.0);
    }
}
