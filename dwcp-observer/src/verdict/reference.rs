//! The usual rate of a migration: its rate without a fault.
//!
//! It is the 80th percentile of its rates. The first ten seconds all count; after that a second counts only if it reached half of
//! the reference, so that a long fault does not become the norm. Seconds with a visible fault never count: see
//! [`super::fault`].

use std::collections::VecDeque;

/// Below this part of itself a rate does not count.
const FAR_BELOW: f64 = 0.5;

/// Usual rate of a migration.
#[derive(Clone, Debug, Default)]
pub(super) struct Reference {
    rates: VecDeque<f64>,
    learned: usize,
}

impl Reference {
    const AT_ONCE: usize = 10;
    const KEPT: usize = 32;

    /// The 80th percentile; `None` before the first rate.
    pub(super) fn rate(&self) -> Option<f64> {
        let mut rates: Vec<f64> = self.rates.iter().copied().collect();
        rates.sort_by(f64::total_cmp);
        // Nearest rank.
        rates.get((rates.len() * 4).div_ceil(5).checked_sub(1)?).copied()
    }

    /// Takes in the rate of one more second.
    pub(super) fn learn(&mut self, rate: f64) {
        let usual = self.rate().unwrap_or(0.0);
        if self.learned >= Self::AT_ONCE && rate < FAR_BELOW * usual {
            return;
        }
        self.learned += 1;
        if self.rates.len() == Self::KEPT {
            self.rates.pop_front();
        }
        self.rates.push_back(rate);
    }
}
