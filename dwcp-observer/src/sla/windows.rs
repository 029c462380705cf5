//! Content of the windows, in bounded memory: a day by the minute, 30 days by the hour, and single blackouts.

use std::collections::VecDeque;

use super::{
    Window,
    counts::{Counts, FinishedBlackout},
};

/// Length of a fine bucket, seconds.
const MINUTE: i64 = 60;
/// Length of a coarse bucket, seconds.
const HOUR: i64 = 3600;
/// Blackouts that are kept one by one, so that a p99 is a p99; beyond, the oldest go.
pub const MAX_BLACKOUTS: usize = 20_000;

/// The begin of the minute that `at` (seconds since 1970) is in.
#[must_use]
pub const fn minute_of(at: i64) -> i64 {
    at.div_euclid(MINUTE) * MINUTE
}

/// Counts of the last 30 days.
#[derive(Clone, Debug, Default)]
pub struct Windows {
    minutes: Series,
    hours: Series,
    /// At most [`MAX_BLACKOUTS`]: the oldest go first.
    blackouts: VecDeque<(i64, FinishedBlackout)>,
}

/// Buckets of one length, oldest first; those in which nothing was observed are missing.
#[derive(Clone, Debug, Default)]
struct Series(VecDeque<(i64, Counts)>);

impl Series {
    /// Adds to the bucket that begins at `start`, wherever its place is.
    fn add(&mut self, start: i64, counts: &Counts) {
        let place = self.0.partition_point(|(at, _)| *at < start);
        match self.0.get_mut(place) {
            Some((at, held)) if *at == start => held.add(counts),
            _ => self.0.insert(place, (start, *counts)),
        }
    }

    fn forget_before(&mut self, start: i64) {
        while self.0.front().is_some_and(|(at, _)| *at < start) {
            self.0.pop_front();
        }
    }

    fn sum(&self, from: i64, to: i64) -> Counts {
        let mut sum = Counts::default();
        let begin = self.0.partition_point(|(at, _)| *at < from);
        for (_, counts) in self.0.range(begin..).take_while(|(at, _)| *at <= to) {
            sum.add(counts);
        }
        sum
    }
}

/// What one window holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    /// Sums.
    pub counts: Counts,
    /// Single blackouts, in no order.
    pub blackouts: Vec<FinishedBlackout>,
}

impl Windows {
    /// Adds what happened at `at` (seconds since 1970).
    pub fn add(&mut self, at: i64, counts: &Counts) {
        self.minutes.add(minute_of(at), counts);
        self.hours.add(at.div_euclid(HOUR) * HOUR, counts);
    }

    /// Adds the blackout of a migration that ended at `at` (seconds since 1970).
    pub fn add_blackout(&mut self, at: i64, blackout: FinishedBlackout) {
        let place = self.blackouts.partition_point(|(earlier, _)| *earlier <= at);
        self.blackouts.insert(place, (at, blackout));
        if self.blackouts.len() > MAX_BLACKOUTS {
            self.blackouts.pop_front();
        }
    }

    /// Forgets what no window reaches any more.
    pub fn forget(&mut self, now: i64) {
        self.minutes.forget_before(from(Window::Day, now));
        self.hours.forget_before(from(Window::Month, now));
        let month = from(Window::Month, now);
        while self.blackouts.front().is_some_and(|(at, _)| *at < month) {
            self.blackouts.pop_front();
        }
    }

    /// What happened in the window that ends at `now`. A window begins with the minute (30 days: with the hour) in which its first
    /// second lies, so it is longer than its name by at most that; nothing after `now` is in it.
    #[must_use]
    pub fn content(&self, window: Window, now: i64) -> Content {
        let from = from(window, now);
        let series = if window == Window::Month { &self.hours } else { &self.minutes };
        let begin = self.blackouts.partition_point(|(at, _)| *at < from);
        let blackouts = self
            .blackouts
            .range(begin..)
            .take_while(|(at, _)| *at <= now)
            .map(|(_, blackout)| *blackout)
            .collect();
        Content { counts: series.sum(from, now), blackouts }
    }
}

/// The first bucket of a window that ends at `now`.
const fn from(window: Window, now: i64) -> i64 {
    let begin = now - window.seconds() + 1;
    match window {
        Window::Month => begin.div_euclid(HOUR) * HOUR,
        Window::FiveMinutes | Window::Hour | Window::Day => minute_of(begin),
    }
}
