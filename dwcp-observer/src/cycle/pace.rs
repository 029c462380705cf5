//! When looks are made: once a second, and in between soon after an event, but not too often.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::model::{histogram::Histogram, status::CycleStats};

/// Length of a cycle.
pub(super) const PERIOD: Duration = Duration::from_secs(1);
/// A lifecycle event is looked at this long after it came, together with those that follow it.
const GATHER: Duration = Duration::from_millis(10);
/// While a look is due, events are read this often.
const NOTICE: Duration = Duration::from_millis(5);
/// Least time between two looks outside the cycle, on average, and how many times the last look's own duration it is at least: however
/// many events come, looks take at most a tenth of a core.
const LEAST_GAP: Duration = Duration::from_millis(50);
const LEAST_GAP_LOOKS: u32 = 10;
/// Looks that may come without that gap after a quiet time: a connection is opened, it carries data, its process is gone.
const BURST: u32 = 4;
/// Buckets of the cycle's own duration and jitter, seconds.
const CYCLE_BUCKETS: [f64; 10] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0];

/// The times of looks, and how they were kept.
pub(super) struct Pace {
    /// The next tick.
    due: Instant,
    /// A look outside the cycle.
    early: Option<Instant>,
    /// When events are read while one is due.
    notice: Option<Instant>,
    /// The looks outside the cycle were as many as if they had kept their distance, and the last one would keep it until then.
    paid_until: Instant,
    last_look: Duration,
    stats: CycleStats,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        let histogram = || Histogram::new(Arc::from(CYCLE_BUCKETS));
        Self {
            due: now + PERIOD,
            early: None,
            notice: None,
            paid_until: now,
            last_look: Duration::ZERO,
            stats: CycleStats {
                duration: histogram(),
                jitter: histogram(),
                missed: 0,
                period: PERIOD,
            },
        }
    }

    /// The first second begins.
    pub(super) fn begin(&mut self, now: Instant) -> Instant {
        (self.due, self.paid_until) = (now + PERIOD, now);
        self.due
    }

    /// A tick that was meant for `at` has come.
    pub(super) fn tick(&mut self, at: Instant, now: Instant) {
        let late = now.saturating_duration_since(self.due);
        self.stats.jitter.observe(late.as_secs_f64());
        let next = at + PERIOD;
        let skipped =
            next.saturating_duration_since(self.due + PERIOD).as_secs_f64() / PERIOD.as_secs_f64();
        self.stats.missed += skipped.round() as u64;
        self.due = next;
    }

    /// An event has come that is worth a look.
    pub(super) fn hasten(&mut self, now: Instant) {
        let soon = now + GATHER;
        let paid = self.paid_until.checked_sub(self.gap() * (BURST - 1));
        self.early.get_or_insert(paid.map_or(soon, |earliest| soon.max(earliest)));
    }

    /// The look outside the cycle that is due.
    pub(super) const fn early(&self) -> Option<Instant> {
        self.early
    }

    /// When events are to be read before that look.
    pub(super) const fn notice(&self) -> Option<Instant> {
        self.notice
    }

    /// Events were read: the next ones are after a while, as long as a look is due.
    pub(super) fn noticed(&mut self, now: Instant) {
        self.notice = self.early.map(|_| now + NOTICE);
    }

    /// A look has taken so long.
    pub(super) fn looked(&mut self, length: Duration, tick: bool) {
        self.last_look = length;
        if tick {
            self.stats.duration.observe(length.as_secs_f64());
        }
    }

    /// The look outside the cycle is made.
    pub(super) fn pay(&mut self, now: Instant) {
        self.early = None;
        self.paid_until = self.paid_until.max(now) + self.gap();
    }

    /// How the cycle was kept.
    pub(super) const fn stats(&self) -> &CycleStats {
        &self.stats
    }

    fn gap(&self) -> Duration {
        LEAST_GAP.max(self.last_look * LEAST_GAP_LOOKS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks that events without end are given in this time, each of which takes so long.
    fn looks(during: Duration, length: Duration) -> Vec<Duration> {
        let begin = Instant::now();
        let mut pace = Pace::new(begin);
        let mut now = begin;
        let mut looks = Vec::new();
        while now < begin + during {
            pace.hasten(now);
            now = pace.early().unwrap();
            looks.push(now - begin);
            pace.looked(length, false);
            now += length;
            pace.pay(now);
        }
        looks
    }

    #[test]
    fn an_event_is_looked_at_soon_and_a_burst_without_a_gap() {
        let all = looks(Duration::from_secs(10), Duration::from_millis(1));
        assert_eq!(all[0], GATHER);
        let gaps: Vec<Duration> = all.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps[..2].iter().all(|gap| *gap < LEAST_GAP), "{gaps:?}");
        assert!(gaps[6..].iter().all(|gap| *gap >= LEAST_GAP), "{gaps:?}");
    }

    #[test]
    fn long_looks_take_at_most_a_tenth_of_the_time() {
        let length = Duration::from_millis(20);
        let all = looks(Duration::from_secs(100), length);
        let spent = length * (u32::try_from(all.len()).unwrap() - BURST);
        assert!(spent <= Duration::from_secs(10), "{spent:?}");
    }

    #[test]
    fn a_look_that_is_due_stays_where_it_is() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin);
        pace.noticed(begin);
        assert_eq!((pace.early(), pace.notice()), (None, None));
        pace.hasten(begin);
        pace.hasten(begin + NOTICE);
        pace.noticed(begin + NOTICE);
        assert_eq!((pace.early(), pace.notice()), (Some(begin + GATHER), Some(begin + 2 * NOTICE)));
        pace.pay(begin + GATHER);
        assert_eq!(pace.early(), None);
    }

    #[test]
    fn ticks_that_were_left_out_are_counted() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin);
        let first = pace.begin(begin);
        pace.tick(first, first);
        assert_eq!(pace.stats().missed, 0);
        let late = first + 3 * PERIOD;
        pace.tick(late, late);
        assert_eq!((pace.stats().missed, pace.stats().jitter.counts.iter().sum::<u64>()), (2, 2));
    }
}
