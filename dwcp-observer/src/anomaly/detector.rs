//! Scores how surprising each sample of a series is.
//!
//! It adds up five scores, each of which fades over [`HOLD`] samples, so that they need not occur in the same sample:
//! how improbable the level, the drift, the volatility and the shape of the last four samples are ([`Tail`], powers of ten), and
//! how new the course of the last four blocks of twelve samples is ([`Novelty`]). The sum is the surprise; from [`LEVEL`] on it
//! is an anomaly. The detector judges a sample first and learns from it afterwards.

use super::{Direction, Method, cusum::Cusum, novelty::Novelty, tail::Tail, window::Window};

/// From here on a surprise is an anomaly.
pub const LEVEL: f64 = 4.5;
/// Samples in which an answer fades to 1/e.
pub const HOLD: f64 = 12.0;
/// Samples that "usual" is taken from.
const BASELINE: usize = 288;
/// Samples that the volatility is taken from.
const VOLATILITY: usize = 24;
/// Samples before a tail judges.
const WARM_UP: usize = 100;
/// Samples before anything judges: what the original needs for its z-score.
pub(super) const EARLIEST: usize = 10;
/// Samples before the tails learn: with fewer, the median and the deviation themselves are too rough.
const TAILS_FROM: usize = 50;
/// Before a tail judges, a z-score must reach this, and more the fewer samples there are.
const EARLY_Z: f64 = 6.0;
/// Mean excess over a tail's threshold, at least, while a series does not leave its floor: of z-scores, ...
const LEAST_LEVEL: f64 = 1.0;
/// ... of cumulative sums of them, ...
const LEAST_DRIFT: f64 = 2.0;
/// ... of the logarithm of the volatility, ...
const LEAST_VOLATILITY: f64 = 0.3;
/// ... and of the novelty of four samples.
const LEAST_SHAPE: f64 = 0.05;
/// Vigilance of the course of single samples, ...
const FINE_VIGILANCE: f64 = 0.15;
/// ... and of that of blocks of so many samples.
const COARSE_VIGILANCE: f64 = 0.2;
const COARSE_BLOCK: usize = 12;
const COARSE_WEIGHT: f64 = 12.0;
const COARSE_MAX: f64 = 8.0;
const TAIL_WEIGHT: f64 = 0.25;
const TAIL_MAX: f64 = 8.0;
/// Larger values are taken for this: sums stay finite.
pub(super) const LARGEST: f64 = 1e15;
/// The range of a series is at least so many floors: three deviations to each side.
const RANGE: f64 = 6.0;
/// Width of the expected band, robust standard deviations to each side (contract: `AnomalyThresholdStd`).
const BAND: f64 = 3.0;

/// What is a measurement's noise whatever its history says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Floor {
    /// Standard deviations are at least this, units of the series.
    pub absolute: f64,
    /// And at least this share of the median.
    pub relative: f64,
}

impl Default for Floor {
    fn default() -> Self {
        Self { absolute: 1e-9, relative: 1e-3 }
    }
}

/// What is said of one sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// 0 to 16; [`LEVEL`] and more is an anomaly.
    pub surprise: f64,
    /// Robust standard deviations from the median of the samples before this one.
    pub z: f64,
    /// Three robust standard deviations to each side of that median.
    pub expected: (f64, f64),
    /// What contributed most.
    pub method: Method,
    /// On which side, when it did.
    pub direction: Direction,
}

/// An answer that fades.
#[derive(Clone, Copy, Debug)]
struct Held {
    value: f64,
    direction: Direction,
}

impl Held {
    const NOTHING: Self = Self { value: 0.0, direction: Direction::Above };

    fn take(&mut self, value: f64, direction: Direction) {
        self.value *= 1.0 - 1.0 / HOLD;
        if value > self.value {
            *self = Self { value, direction };
        }
    }
}

/// Upper and lower tail of a statistic.
#[derive(Clone, Debug)]
struct Sides {
    above: Tail,
    below: Tail,
}

impl Sides {
    fn new() -> Self {
        Self { above: Tail::new(WARM_UP), below: Tail::new(WARM_UP) }
    }

    fn of(&self, side: Direction) -> &Tail {
        match side {
            Direction::Above => &self.above,
            Direction::Below => &self.below,
        }
    }

    fn observe(&mut self, above: f64, below: f64, least: f64) -> (f64, Direction) {
        let above = self.above.observe(above, least);
        let below = self.below.observe(below, least);
        if above >= below { (above, Direction::Above) } else { (below, Direction::Below) }
    }
}

/// The state of one series: 30 KiB once it has run for long, nothing grows.
#[derive(Clone, Debug)]
pub struct Detector {
    floor: Floor,
    baseline: Window,
    /// The last samples in a ring, and how many were taken in.
    recent: [f64; VOLATILITY],
    samples: usize,
    cusum: Cusum,
    level: Sides,
    drift: Sides,
    volatility: Sides,
    fine_tail: Tail,
    fine: Novelty,
    coarse: Novelty,
    held: [(Method, Held); 5],
}

impl Detector {
    /// Without a past.
    #[must_use]
    pub fn new(floor: Floor) -> Self {
        let methods = [
            Method::PeaksOverThreshold,
            Method::Cusum,
            Method::Volatility,
            Method::Shape,
            Method::Course,
        ];
        Self {
            floor,
            baseline: Window::new(BASELINE),
            recent: [0.0; VOLATILITY],
            samples: 0,
            cusum: Cusum::default(),
            level: Sides::new(),
            drift: Sides::new(),
            volatility: Sides::new(),
            fine_tail: Tail::new(WARM_UP),
            fine: Novelty::new(1, FINE_VIGILANCE),
            coarse: Novelty::new(COARSE_BLOCK, COARSE_VIGILANCE),
            held: methods.map(|method| (method, Held::NOTHING)),
        }
    }

    /// Judges a sample, then learns it; `None` for one that is not finite, which changes nothing.
    pub fn observe(&mut self, value: f64) -> Option<Reading> {
        if !value.is_finite() {
            return None;
        }
        let value = value.clamp(-LARGEST, LARGEST);
        let usual = Usual::of(&self.baseline, self.floor);
        let before = self.baseline.len();
        let z = if before < EARLIEST { 0.0 } else { (value - usual.median) / usual.deviation };
        self.recent[self.samples % VOLATILITY] = value;
        self.samples += 1;
        self.baseline.push(value);

        let side = if z < 0.0 { Direction::Below } else { Direction::Above };
        // 1 when only the floor makes the deviation, next to 0 when the series varies far more.
        let floored = usual.noise / usual.deviation;
        let untried = !self.level.of(side).has_learned(LEAST_LEVEL * floored);
        let mut answers = [(0.0, side); 5];
        if before >= TAILS_FROM {
            answers[0] = self.level.observe(z, -z, LEAST_LEVEL * floored);
            let (above, below) = self.cusum.observe(z);
            answers[1] = self.drift.observe(above, below, LEAST_DRIFT * floored);
            let least = LEAST_VOLATILITY * floored;
            let volatility = (self.spread().max(usual.noise) / usual.deviation).ln();
            answers[2] = (self.volatility.observe(volatility, -volatility, least).0, side);
        }
        if let Some(shape) = self.fine.observe(value, RANGE * usual.noise) {
            answers[3].0 = self.fine_tail.observe(shape.distance, LEAST_SHAPE * floored);
        }
        let course = self.coarse.observe(value, RANGE * usual.noise);
        answers[4].0 = course.map_or(0.0, |course| COARSE_WEIGHT * course.excess);
        Some(self.sum_up(answers, z, usual, untried))
    }

    /// Drops the answers that still fade: what comes next is not of the same minute. What was learned stays.
    pub fn settle(&mut self) {
        for (_, held) in &mut self.held {
            *held = Held::NOTHING;
        }
    }

    fn sum_up(
        &mut self,
        answers: [(f64, Direction); 5],
        z: f64,
        usual: Usual,
        untried: bool,
    ) -> Reading {
        let mut surprise = 0.0;
        let mut most = (0.0, Method::RobustZ, Direction::Above);
        for ((method, held), (answer, direction)) in self.held.iter_mut().zip(answers) {
            let (weight, max) = match method {
                Method::Course => (1.0, COARSE_MAX),
                _ => (TAIL_WEIGHT, TAIL_MAX),
            };
            held.take(answer.min(max), direction);
            let part = weight * held.value;
            surprise += part;
            if part > most.0 {
                most = (part, *method, held.direction);
            }
        }
        let early = self.early(z, usual, untried);
        if early > surprise {
            let side = if z < 0.0 { Direction::Below } else { Direction::Above };
            surprise = early;
            most = (early, Method::RobustZ, side);
        }
        Reading { surprise, z, expected: usual.band(), method: most.1, direction: most.2 }
    }

    /// What stands in for the tails before they judge: the z-score alone, which must be the higher the fewer samples it rests on.
    /// The deviation is then the wider one that outliers move, for the tails of the series are not known.
    fn early(&self, z: f64, usual: Usual, untried: bool) -> f64 {
        if !untried {
            return 0.0;
        }
        let z = z * usual.deviation / usual.deviation.max(usual.wide);
        (LEVEL * z.abs() / required_z(self.samples.saturating_sub(1))).min(2.0 * LEVEL)
    }

    /// Standard deviation of the last samples.
    fn spread(&self) -> f64 {
        let count = self.samples.min(VOLATILITY);
        let recent = &self.recent[..count];
        let mean = recent.iter().sum::<f64>() / count as f64;
        let squares: f64 = recent.iter().map(|value| (value - mean) * (value - mean)).sum();
        (squares / count as f64).sqrt()
    }
}

/// What the samples before this one say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usual {
    pub(super) median: f64,
    /// Robust standard deviation, above the floor.
    pub(super) deviation: f64,
    /// Standard deviation by the width of the central nine tenths.
    pub(super) wide: f64,
    /// The floor at this median.
    noise: f64,
}

impl Usual {
    pub(super) fn of(baseline: &Window, floor: Floor) -> Self {
        let median = baseline.median();
        let noise = (floor.relative * median.abs()).max(floor.absolute);
        // More than half of the values may be equal, and the others are usual too.
        let deviation = baseline.deviation().max(0.02 * baseline.width(0.02)).max(noise);
        Self { median, deviation, wide: baseline.width(0.05) / 3.29, noise }
    }

    /// Whether only the floor makes the deviation.
    pub(super) fn is_floored(self) -> bool {
        self.deviation <= self.noise
    }

    /// What is expected.
    pub(super) fn band(self) -> (f64, f64) {
        let half = BAND * self.deviation;
        (self.median - half, self.median + half)
    }
}

/// Robust standard deviations that a sample must be off to be an anomaly by itself when `samples` are known.
pub(super) fn required_z(samples: usize) -> f64 {
    EARLY_Z * (1.0 + 20.0 / samples.max(1) as f64)
}
