//! Judges one migration by its own past, which is short, with methods that need few samples.

use super::{
    Direction, Kind,
    cusum::Cusum,
    detector::{EARLIEST, LARGEST, Usual, required_z},
    window::Window,
};

/// Samples of a kind that are remembered.
const MEMORY: usize = 64;
/// Cumulative sum from which a shift is an anomaly by itself: 2 deviations for half a minute.
const DRIFT: f64 = 50.0;
/// So many samples in a row that are all so far off are an anomaly, however few there are before them, where the deviation is
/// known: it is the floor.
const RUN: usize = 5;
const RUN_Z: f64 = 4.0;
/// With so many kinds off at once, each of them needs only a share of what it needs alone.
const VOTERS: usize = 3;
const VOTE: f64 = 0.6;

/// What is said of one sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Vote {
    /// What it is the value of.
    pub kind: Kind,
    /// 1 and more is an anomaly.
    pub score: f64,
    /// Robust standard deviations from the median of the samples before this one.
    pub z: f64,
    /// What was expected.
    pub expected: (f64, f64),
    /// On which side.
    pub direction: Direction,
    /// The shift made it, not the sample.
    pub drift: bool,
}

#[derive(Clone, Debug)]
struct Series {
    window: Window,
    cusum: Cusum,
    /// The last z-scores, in a ring.
    run: [f64; RUN],
    samples: usize,
}

impl Series {
    fn new() -> Self {
        let (window, cusum) = (Window::new(MEMORY), Cusum::default());
        Self { window, cusum, run: [0.0; RUN], samples: 0 }
    }

    /// Takes the next z-score in; the one of the last few that is least off, 0 when they are not all on one side.
    fn least_of_run(&mut self, z: f64) -> f64 {
        self.run[self.samples % RUN] = z;
        self.samples += 1;
        let (low, high) =
            self.run.iter().fold((z, z), |(low, high), z| (low.min(*z), high.max(*z)));
        if low > 0.0 { low } else { high.min(0.0) }
    }
}

/// The past of one migration, each kind by itself.
#[derive(Clone, Debug)]
pub struct Watch {
    series: [Option<Series>; Kind::ALL.len()],
    earliest: usize,
}

impl Default for Watch {
    fn default() -> Self {
        Self { series: [const { None }; Kind::ALL.len()], earliest: EARLIEST }
    }
}

impl Watch {
    /// One that judges from the sixth sample on: for what comes once per migration ten would be long to wait for. The required z-score
    /// is the higher.
    #[must_use]
    pub fn of_rare() -> Self {
        Self { earliest: EARLIEST / 2, ..Self::default() }
    }

    /// Judges a sample, then learns it; `None` when it is not finite, when there are too few before it, and on a side that does not
    /// count.
    pub fn observe(&mut self, kind: Kind, value: f64) -> Option<Vote> {
        if !value.is_finite() {
            return None;
        }
        let value = value.clamp(-LARGEST, LARGEST);
        let series = self.series[kind as usize].get_or_insert_with(Series::new);
        let before = series.window.len();
        let usual = Usual::of(&series.window, kind.floor());
        series.window.push(value);
        if before < self.earliest {
            return None;
        }
        let z = (value - usual.median) / usual.deviation;
        let (above, below) = series.cusum.observe(z);
        let (shift, side) =
            if above >= below { (above, Direction::Above) } else { (below, Direction::Below) };
        let alone = z.abs() * usual.deviation / usual.deviation.max(usual.wide);
        // The floor is no estimate: it does not need many samples. What must last has lasted already.
        let known = usual.is_floored() && !kind.must_last();
        let least = series.least_of_run(z).abs();
        let run = if known { least / RUN_Z } else { 0.0 };
        let (point, drift) = ((alone / required_z(before)).max(run), shift / DRIFT);
        let point_side = if z < 0.0 { Direction::Below } else { Direction::Above };
        let (score, direction) = if point >= drift { (point, point_side) } else { (drift, side) };
        kind.is_off(direction, z).then(|| Vote {
            kind,
            score,
            z,
            expected: usual.band(),
            direction,
            drift: drift > point,
        })
    }
}

/// Whether so many kinds of one migration are a little off in the same second that together they are an anomaly.
#[must_use]
pub fn agree(votes: &[Vote]) -> bool {
    votes.iter().filter(|vote| vote.score >= VOTE).count() >= VOTERS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steady(watch: &mut Watch, kind: Kind, value: f64, seconds: usize) {
        for second in 0..seconds {
            let noise = [0.0, 0.01, -0.01, 0.02, -0.02][second % 5];
            let vote = watch.observe(kind, value * (1.0 + noise));
            assert!(vote.is_none_or(|vote| vote.score < 0.5), "{vote:?}");
        }
    }

    #[test]
    fn a_migration_that_collapses_is_seen_after_ten_seconds_of_it() {
        let mut watch = Watch::default();
        steady(&mut watch, Kind::Throughput, 1e9, 12);
        let vote = watch.observe(Kind::Throughput, 1e6).expect("twelve samples");
        assert!(vote.score >= 1.0 && vote.direction == Direction::Below, "{vote:?}");
        assert!(vote.expected.0 > 5e8 && vote.expected.1 < 1.5e9);
    }

    #[test]
    fn a_shift_that_is_small_for_a_sample_adds_up() {
        let mut watch = Watch::default();
        steady(&mut watch, Kind::Throughput, 1e9, 40);
        let first = watch.observe(Kind::Throughput, 0.85e9).expect("enough");
        assert!(first.score < 1.0, "{first:?}");
        let votes = (0..25).filter_map(|_| watch.observe(Kind::Throughput, 0.85e9));
        assert!(votes.into_iter().any(|vote| vote.score >= 1.0 && vote.drift));
    }

    #[test]
    fn five_seconds_that_are_a_little_off_are_enough() {
        // A migration that is fifteen seconds old, then 2 % of the segments are lost.
        let mut watch = Watch::default();
        for _ in 0..15 {
            watch.observe(Kind::Retransmit, 0.0);
        }
        let scores: Vec<f64> = (0..RUN)
            .map(|_| watch.observe(Kind::Retransmit, 0.02).expect("enough").score)
            .collect();
        assert!(scores[..RUN - 1].iter().all(|score| *score < 1.0), "{scores:?}");
        assert!(scores[RUN - 1] >= 1.0, "{scores:?}");
        // As many of which one was as ever are not.
        let mut watch = Watch::default();
        for _ in 0..15 {
            watch.observe(Kind::Retransmit, 0.0);
        }
        for value in [0.02, 0.02, 0.0, 0.02, 0.02, 0.02, 0.02] {
            let vote = watch.observe(Kind::Retransmit, value);
            assert!(vote.is_none_or(|vote| vote.score < 1.0), "{vote:?}");
        }
    }

    #[test]
    fn what_is_as_ever_again_is_no_anomaly_any_more() {
        let mut watch = Watch::default();
        for value in [[0.0; 20], [0.5; 20]].concat() {
            watch.observe(Kind::Retransmit, value);
        }
        // The drift of those twenty seconds is still there.
        assert_eq!(watch.observe(Kind::Retransmit, 0.0), None);
    }

    #[test]
    fn less_of_something_bad_is_no_anomaly() {
        let mut watch = Watch::default();
        steady(&mut watch, Kind::Retransmit, 0.3, 40);
        assert_eq!(watch.observe(Kind::Retransmit, 0.0), None);
    }

    #[test]
    fn three_kinds_that_are_a_little_off_agree() {
        let vote = |kind, score| Vote {
            kind,
            score,
            z: 5.0,
            expected: (0.0, 1.0),
            direction: Direction::Above,
            drift: false,
        };
        let two = [vote(Kind::Rtt, 0.7), vote(Kind::Retransmit, 0.7), vote(Kind::Runqueue, 0.1)];
        assert!(!agree(&two));
        let three = [vote(Kind::Rtt, 0.7), vote(Kind::Retransmit, 0.7), vote(Kind::Runqueue, 0.6)];
        assert!(agree(&three));
    }
}
