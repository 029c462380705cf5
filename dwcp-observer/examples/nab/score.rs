//! The scoring rule of the Numenta Anomaly Benchmark, v1.1 (Lavin and Ahmad 2015, <https://arxiv.org/abs/1510.03336>).
//!
//! A detector gives each sample a score. Samples at or above a threshold are detections. The first detection in a labelled
//! window earns the more, the earlier it is; a missed window and each detection outside of windows cost. The threshold is
//! the one that is best for the profile over the whole corpus. 0 is a detector that never fires, 100 a perfect one.

/// What right and wrong weigh.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Profile {
    pub(crate) name: &'static str,
    /// A detected window, at most.
    pub(crate) true_positive: f64,
    /// A detection outside of windows, at most.
    pub(crate) false_positive: f64,
    /// A missed window.
    pub(crate) false_negative: f64,
}

/// The three profiles of the benchmark.
pub(crate) const PROFILES: [Profile; 3] = [
    Profile { name: "standard", true_positive: 1.0, false_positive: 0.11, false_negative: 1.0 },
    Profile {
        name: "reward_low_FP_rate",
        true_positive: 1.0,
        false_positive: 0.22,
        false_negative: 1.0,
    },
    Profile {
        name: "reward_low_FN_rate",
        true_positive: 1.0,
        false_positive: 0.11,
        false_negative: 2.0,
    },
];

/// Share of a series in which nothing counts, and the length from which on it no longer grows.
const PROBATION: f64 = 0.15;
const PROBATION_CAP: f64 = 5000.0;

/// A series with the scores that a detector gave it.
#[derive(Clone, Debug)]
pub(crate) struct Scored<'a> {
    /// First and last sample of each labelled window, in order.
    pub(crate) windows: &'a [(usize, usize)],
    /// One per sample.
    pub(crate) scores: Vec<f64>,
}

/// How a corpus, or one series of it, was scored.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    /// Weighted sum, not normalised.
    pub(crate) raw: f64,
    /// Windows with a detection, and all windows.
    pub(crate) found: usize,
    pub(crate) windows: usize,
    /// Detections outside of windows.
    pub(crate) false_positives: usize,
}

impl Tally {
    /// Adds another series' to this one.
    pub(crate) fn add(&mut self, other: &Self) {
        self.raw += other.raw;
        self.found += other.found;
        self.windows += other.windows;
        self.false_positives += other.false_positives;
    }

    /// On the scale where the silent detector has 0 and the perfect one 100; `None` without windows.
    pub(crate) fn normalised(&self, profile: &Profile) -> Option<f64> {
        let windows = self.windows as f64;
        let null = -windows * profile.false_negative;
        let perfect = windows * profile.true_positive;
        (self.windows > 0).then(|| 100.0 * (self.raw - null) / (perfect - null))
    }
}

/// Samples at the beginning in which nothing counts.
pub(crate) fn probation(samples: usize) -> usize {
    (PROBATION * samples as f64).floor().min(PROBATION * PROBATION_CAP) as usize
}

/// The best threshold of a profile over the corpus, and the tally with it.
pub(crate) fn sweep(corpus: &[Scored<'_>], profile: &Profile) -> (f64, Tally) {
    let mut points = Vec::new();
    let mut windows = 0;
    for series in corpus {
        points.extend(weigh(series, windows, profile));
        windows += series.windows.len();
    }
    points.sort_by(|left, right| right.score.total_cmp(&left.score));

    let mut earned = vec![-profile.false_negative; windows];
    let mut tally =
        Tally { raw: -profile.false_negative * windows as f64, windows, ..Tally::default() };
    let mut best = (f64::INFINITY, tally);
    for (at, point) in points.iter().enumerate() {
        match point.window {
            Some(window) if point.weight > earned[window] => {
                if earned[window] == -profile.false_negative {
                    tally.found += 1;
                }
                tally.raw += point.weight - earned[window];
                earned[window] = point.weight;
            }
            Some(_) => {}
            None => {
                tally.raw += point.weight;
                tally.false_positives += 1;
            }
        }
        let last_of_score = points.get(at + 1).is_none_or(|next| next.score != point.score);
        if last_of_score && tally.raw > best.1.raw {
            best = (point.score, tally);
        }
    }
    best
}

/// One series with a given threshold.
pub(crate) fn tally(series: &Scored<'_>, threshold: f64, profile: &Profile) -> Tally {
    let mut earned = vec![-profile.false_negative; series.windows.len()];
    let mut tally = Tally { windows: series.windows.len(), ..Tally::default() };
    for point in weigh(series, 0, profile).filter(|point| point.score >= threshold) {
        match point.window {
            Some(window) => {
                if earned[window] == -profile.false_negative {
                    tally.found += 1;
                }
                earned[window] = earned[window].max(point.weight);
            }
            None => {
                tally.raw += point.weight;
                tally.false_positives += 1;
            }
        }
    }
    tally.raw += earned.iter().sum::<f64>();
    tally
}

/// A sample that counts.
struct Point {
    score: f64,
    /// What a detection here is worth.
    weight: f64,
    /// The window that it is in, numbered through the corpus.
    window: Option<usize>,
}

/// The samples after probation; windows are numbered from `first`.
fn weigh<'a>(
    series: &'a Scored<'_>,
    first: usize,
    profile: &'a Profile,
) -> impl Iterator<Item = Point> + 'a {
    let skipped = probation(series.scores.len());
    let mut next = 0;
    series.scores.iter().enumerate().filter_map(move |(at, &score)| {
        while series.windows.get(next).is_some_and(|&(_, end)| end < at) {
            next += 1;
        }
        if at < skipped {
            return None;
        }
        Some(match series.windows.get(next) {
            Some(&(start, end)) if start <= at => {
                let position = -((end - at + 1) as f64) / (end - start + 1) as f64;
                let weight = profile.true_positive * sigmoid(position) / sigmoid(-1.0);
                Point { score, weight, window: Some(first + next) }
            }
            _ => {
                let weight = profile.false_positive * outside(series.windows, next, at);
                Point { score, weight, window: None }
            }
        })
    })
}

/// What a detection outside of windows costs, -1 to 0: less right after a window, the last of which is `next - 1`.
fn outside(windows: &[(usize, usize)], next: usize, at: usize) -> f64 {
    match next.checked_sub(1).map(|last| windows[last]) {
        Some((start, end)) if end > start => sigmoid((at - end) as f64 / (end - start) as f64),
        _ => -1.0,
    }
}

/// The benchmark's scaled sigmoid: 0.987 at the window's left edge (-1), 0 at its right (0), -1 far behind.
fn sigmoid(position: f64) -> f64 {
    if position >= 3.0 { -1.0 } else { 2.0 / (1.0 + (5.0 * position).exp()) - 1.0 }
}
