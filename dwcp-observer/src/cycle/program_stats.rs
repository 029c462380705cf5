//! When the kernel times its program runs: never, always, or a sample of each ten seconds.

use std::{os::fd::OwnedFd, time::Duration};

use tokio::time::Instant;

use super::pace::PERIOD;
use crate::{config::ProgramStats as Mode, kernel::stats};

/// With sampled program statistics: how often, in seconds, and for how long the kernel times program runs.
const EVERY: u64 = 10;
const FOR: Duration = Duration::from_millis(100);

/// Statistics of program runs, which cost each run a little.
pub(super) struct ProgramStats {
    mode: Mode,
    /// The kernel times as long as it is open.
    timing: Option<OwnedFd>,
    until: Option<Instant>,
}

impl ProgramStats {
    pub(super) const fn new(mode: Mode) -> Self {
        Self { mode, timing: None, until: None }
    }

    /// The observer begins.
    pub(super) fn begin(&mut self) {
        if self.mode == Mode::Always {
            self.timing = stats::enable()
                .inspect_err(|error| log::warn!("no program statistics: {error}"))
                .ok();
        }
    }

    /// A second begins.
    pub(super) fn second(&mut self, number: u64, now: Instant) {
        if self.is_sampled_in(number) {
            self.timing = stats::enable()
                .inspect_err(|error| log::debug!("no program statistics: {error}"))
                .ok();
            self.until = Some(now + FOR);
        }
    }

    /// When the sample is over.
    pub(super) const fn until(&self) -> Option<Instant> {
        self.until
    }

    pub(super) fn end_sample(&mut self) {
        (self.timing, self.until) = (None, None);
    }

    /// The part of the time that is timed.
    pub(super) fn duty(&self) -> f64 {
        match self.mode {
            Mode::Off => 0.0,
            Mode::Sampled => FOR.as_secs_f64() / (PERIOD.as_secs_f64() * EVERY as f64),
            Mode::Always => 1.0,
        }
    }

    fn is_sampled_in(&self, number: u64) -> bool {
        self.mode == Mode::Sampled && number % EVERY == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundredth_of_the_time_is_sampled() {
        let stats = ProgramStats::new(Mode::Sampled);
        let sampled = (1..=100).filter(|number| stats.is_sampled_in(*number)).count();
        let all = 100.0 * PERIOD.as_secs_f64();
        assert!((sampled as f64 * FOR.as_secs_f64() / all - stats.duty()).abs() < 1e-9);
        let always = ProgramStats::new(Mode::Always);
        assert!(!(1..=100).any(|number| always.is_sampled_in(number)));
    }
}
