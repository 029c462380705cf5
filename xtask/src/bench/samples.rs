//! Repeated measurements of one thing, and what is told about them.

/// Measurements, sorted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    /// Takes measurements in any order; what is not a number is left out.
    pub(super) fn new(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// The middle one; of an even number the mean of the two in the middle. `None` without any.
    pub(super) fn median(&self) -> Option<f64> {
        let upper = *self.0.get(self.0.len() / 2)?;
        if self.0.len() % 2 == 1 {
            return Some(upper);
        }
        let lower = *self.0.get(self.0.len() / 2 - 1)?;
        Some(f64::midpoint(lower, upper))
    }

    /// The smallest one that at least `share` (0 to 1) of all do not exceed.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a small count"
    )]
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.max(1) - 1).copied()
    }

    /// All multiplied by `factor`, which is not negative.
    pub(super) fn scaled(&self, factor: f64) -> Self {
        Self(self.0.iter().map(|value| value * factor).collect())
    }

    /// The median with its range.
    pub(super) fn figure(&self) -> Option<Figure> {
        self.figure_of(self.median()?)
    }

    /// Another value than the median, with the range of the samples.
    pub(super) fn figure_of(&self, value: f64) -> Option<Figure> {
        let (min, max) = (*self.0.first()?, *self.0.last()?);
        Some(Figure { value, min, max, samples: self.0.len() })
    }
}

/// What a row shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Figure {
    /// What the budget is compared with.
    pub(super) value: f64,
    /// Smallest sample.
    pub(super) min: f64,
    /// Largest sample.
    pub(super) max: f64,
    /// How many samples there are.
    pub(super) samples: usize,
}

impl Figure {
    /// A figure that was measured once.
    pub(super) const fn single(value: f64) -> Self {
        Self { value, min: value, max: value, samples: 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Samples::new([3.0, 1.0, 2.0]).median(), Some(2.0));
        assert_eq!(Samples::new([4.0, 1.0, 2.0, 3.0]).median(), Some(2.5));
        assert_eq!(Samples::new([]).median(), None);
        assert_eq!(Samples::new([f64::NAN, 5.0]).median(), Some(5.0));
    }

    #[test]
    fn a_p99_is_a_p99() {
        let hundred = Samples::new((1..=100).map(f64::from));
        assert_eq!(hundred.quantile(0.99), Some(99.0));
        assert_eq!(hundred.quantile(0.5), Some(50.0));
        assert_eq!(hundred.quantile(1.0), Some(100.0));
        assert_eq!(Samples::new([7.0]).quantile(0.01), Some(7.0));
        assert_eq!(Samples::new([]).quantile(0.5), None);
    }

    #[test]
    fn a_figure_has_its_range() {
        let figure = Samples::new([3.0, 1.0, 8.0]).figure();
        assert_eq!(figure, Some(Figure { value: 3.0, min: 1.0, max: 8.0, samples: 3 }));
        assert_eq!(Samples::new([]).figure(), None);
    }
}
