//! Scores how new the recent course of a series is.
//!
//! The last [`WIDTH`] blocks of a series, each one its mean, are a point. The points seen so far are kept as at most
//! [`PROTOTYPES`] prototypes; the distance to the nearest one, in units of the series' range, is the novelty. What is new becomes a
//! prototype at once, so that the same anomaly is new only once; what is near moves its prototype a little. That is leader
//! clustering with a vigilance, as in adaptive resonance theory (Carpenter and Grossberg 1987), with the distance to a nearest
//! neighbour as the measure, as in KNN-CAD (Burnaev and Ishimtsev 2016, <https://arxiv.org/abs/1608.04585>).

use super::window::Window;

/// Blocks that make a point.
pub const WIDTH: usize = 4;
/// Points remembered; the one that was not met for longest gives way.
pub const PROTOTYPES: usize = 64;
/// Block means that the range is taken from.
const RANGE: usize = 512;
/// The range reaches from this quantile to the one as far from the other end.
const RANGE_TAIL: f64 = 0.02;
/// How far a prototype moves towards a point that is near.
const RATE: f64 = 0.2;
/// A coordinate counts for at most so many ranges, or one block would decide alone.
const FAR: f64 = 3.0;
/// Points before [`Novel::excess`] is judged.
const WARM_UP: u32 = 12;
/// Points in which the usual distance fades to 1/e.
const MEMORY: f64 = 50.0;

/// The courses seen of one series at one scale.
#[derive(Clone, Debug)]
pub struct Novelty {
    block: usize,
    vigilance: f64,
    sum: f64,
    in_block: usize,
    points: u64,
    recent: [f64; WIDTH],
    range: Window,
    prototypes: Prototypes,
    judged: u32,
    usual: f64,
}

/// How new a point is, in ranges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Novel {
    /// Distance to what was met before, 0 to 3.
    pub distance: f64,
    /// What it is above the usual distance: noise is always a little new. 0 during warm-up.
    pub excess: f64,
}

impl Novelty {
    /// Blocks of `block` samples; a point further than `vigilance`, in ranges, from all others is new.
    #[must_use]
    pub fn new(block: usize, vigilance: f64) -> Self {
        Self {
            block: block.max(1),
            vigilance,
            sum: 0.0,
            in_block: 0,
            points: 0,
            recent: [0.0; WIDTH],
            range: Window::new(RANGE),
            prototypes: Prototypes::default(),
            judged: 0,
            usual: 0.0,
        }
    }

    /// The answer at the end of a block; `None` within one, and before there is anything to compare with. `value` must be finite;
    /// the range is at least `floor`, in its units.
    pub fn observe(&mut self, value: f64, floor: f64) -> Option<Novel> {
        self.sum += value;
        self.in_block += 1;
        if self.in_block < self.block {
            return None;
        }
        let mean = self.sum / self.block as f64;
        self.sum = 0.0;
        self.in_block = 0;
        self.range.push(mean);
        self.recent.rotate_left(1);
        self.recent[WIDTH - 1] = mean;
        self.points += 1;
        if self.points < WIDTH as u64 {
            return None;
        }
        let range = self.range.width(RANGE_TAIL).max(floor);
        let Some((nearest, distance)) = self.prototypes.nearest(&self.recent, range) else {
            self.prototypes.add(&self.recent, self.points);
            return None;
        };
        if distance <= self.vigilance {
            self.prototypes.meet(nearest, &self.recent, self.points);
        } else {
            self.prototypes.add(&self.recent, self.points);
        }
        Some(self.judge(distance))
    }

    fn judge(&mut self, distance: f64) -> Novel {
        let excess = if self.judged < WARM_UP { 0.0 } else { (distance - self.usual).max(0.0) };
        self.judged = self.judged.saturating_add(1);
        self.usual += (distance - self.usual) * (1.0 / f64::from(self.judged)).max(1.0 / MEMORY);
        Novel { distance, excess }
    }
}

/// Points remembered, one array per coordinate: the search for the nearest is what costs, and so the compiler makes vectors
/// of it.
#[derive(Clone, Debug)]
struct Prototypes {
    used: usize,
    at: [[f64; PROTOTYPES]; WIDTH],
    last_met: [u64; PROTOTYPES],
}

impl Default for Prototypes {
    fn default() -> Self {
        Self { used: 0, at: [[0.0; PROTOTYPES]; WIDTH], last_met: [0; PROTOTYPES] }
    }
}

impl Prototypes {
    /// The nearest one and its distance, the mean over the coordinates.
    fn nearest(&self, point: &[f64; WIDTH], range: f64) -> Option<(usize, f64)> {
        let per_range = 1.0 / range;
        let mut distances = [0.0; PROTOTYPES];
        for (coordinates, seen) in self.at.iter().zip(point) {
            for (distance, coordinate) in distances.iter_mut().zip(coordinates) {
                let off = (coordinate - seen).abs() * per_range;
                *distance += if off < FAR { off } else { FAR };
            }
        }
        let mut nearest = None;
        let mut least = f64::INFINITY;
        for (index, distance) in distances[..self.used].iter().enumerate() {
            if *distance < least {
                least = *distance;
                nearest = Some(index);
            }
        }
        nearest.map(|index| (index, least / WIDTH as f64))
    }

    fn meet(&mut self, index: usize, point: &[f64; WIDTH], now: u64) {
        self.last_met[index] = now;
        for (coordinates, seen) in self.at.iter_mut().zip(point) {
            coordinates[index] += RATE * (seen - coordinates[index]);
        }
    }

    fn add(&mut self, point: &[f64; WIDTH], now: u64) {
        let index = if self.used < PROTOTYPES {
            self.used += 1;
            self.used - 1
        } else {
            (0..PROTOTYPES).min_by_key(|index| self.last_met[*index]).unwrap_or(0)
        };
        self.last_met[index] = now;
        for (coordinates, seen) in self.at.iter_mut().zip(point) {
            coordinates[index] = *seen;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(novelty: &mut Novelty, values: impl IntoIterator<Item = f64>) -> f64 {
        let novel = values.into_iter().filter_map(|value| novelty.observe(value, 1e-9));
        novel.map(|novel| novel.distance).fold(0.0, f64::max)
    }

    fn wave(from: usize, to: usize) -> impl Iterator<Item = f64> {
        (from..to).map(|at| [0.0, 5.0, 10.0, 5.0][at % 4])
    }

    #[test]
    fn a_known_course_is_not_new_and_another_is_once() {
        let mut novelty = Novelty::new(1, 0.1);
        feed(&mut novelty, wave(0, 400));
        assert!(feed(&mut novelty, wave(400, 800)) < 0.01);
        // The same values as ever, but it stands still.
        assert!(feed(&mut novelty, [10.0; 6]) > 0.3);
        feed(&mut novelty, wave(0, 40));
        assert!(feed(&mut novelty, [10.0; 6]) <= 0.1, "met before");
    }

    #[test]
    fn a_block_is_its_mean() {
        let mut novelty = Novelty::new(10, 0.1);
        let answers: Vec<_> = (0..100).map(|at| novelty.observe(f64::from(at % 2), 1.0)).collect();
        assert!(answers.iter().enumerate().all(|(at, answer)| answer.is_none() || at % 10 == 9));
        assert_eq!(answers.iter().flatten().count(), 6);
        assert!(answers.iter().flatten().all(|novel| novel.distance < 1e-9));
    }

    #[test]
    fn a_constant_series_is_never_new() {
        let mut novelty = Novelty::new(1, 0.1);
        assert!(feed(&mut novelty, [42.0; 1000]) == 0.0);
    }

    #[test]
    fn the_oldest_prototype_gives_way() {
        let mut prototypes = Prototypes::default();
        for at in 0..PROTOTYPES + 10 {
            prototypes.add(&[at as f64; WIDTH], at as u64);
        }
        assert_eq!(prototypes.used, PROTOTYPES);
        let distance = |value: usize| prototypes.nearest(&[value as f64; WIDTH], 1.0);
        assert!(distance(9).is_some_and(|(_, distance)| distance == 1.0));
        assert!(distance(10).is_some_and(|(_, distance)| distance == 0.0));
    }
}
