//! Small shifts that last: the two-sided cumulative sum of Page, "Continuous Inspection Schemes" (Biometrika 1954).

/// What a sample may be off without adding up, robust standard deviations.
const SLACK: f64 = 0.5;
/// A sample counts as at most so far off: no single one is a drift.
const STEP: f64 = 8.0;
/// Where the sums end, so that they are soon down again.
const CEILING: f64 = 64.0;

/// A cumulative sum in each direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cusum {
    above: f64,
    below: f64,
}

impl Cusum {
    /// Takes a sample's robust z-score in, which must be finite; the sums above and below, robust standard deviations, 0 to 64.
    pub fn observe(&mut self, z: f64) -> (f64, f64) {
        let step = z.clamp(-STEP, STEP);
        self.above = (self.above + step - SLACK).clamp(0.0, CEILING);
        self.below = (self.below - step - SLACK).clamp(0.0, CEILING);
        (self.above, self.below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shift_adds_up_and_noise_does_not() {
        let mut sum = Cusum::default();
        for at in 0..1000 {
            let (above, below) = sum.observe(if at % 2 == 0 { 1.0 } else { -1.0 });
            assert!(above <= 0.5 && below <= 0.5);
        }
        for _ in 0..20 {
            sum.observe(1.5);
        }
        assert_eq!(sum.observe(1.5), (21.0, 0.0));
    }

    #[test]
    fn one_outlier_is_no_drift_and_the_sums_are_bounded() {
        let mut sum = Cusum::default();
        assert_eq!(sum.observe(1e300), (7.5, 0.0));
        for _ in 0..100 {
            sum.observe(-1e300);
        }
        assert_eq!(sum.observe(0.5), (0.0, 63.0));
    }
}
