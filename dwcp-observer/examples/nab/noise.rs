//! How often the agent's configuration fires without a cause: hours of simulated seconds that are stationary.

use dwcp_observer::anomaly::{
    alarm::{Alarm, Edge},
    detector::{Detector, Floor, LEVEL},
};

use crate::CALM;

/// Runs of two hours of each kind.
const RUNS: u64 = 100;
const SECONDS: usize = 7200;
/// What comes before counts apart: the detectors know too little of the series.
const WARM_UP: usize = 600;

type Course = fn(&mut Random, usize, &mut f64) -> f64;

const COURSES: [(&str, Course); 7] = [
    ("normal", |random, _, _| 100.0 + 5.0 * random.normal()),
    ("uniform", |random, _, _| random.uniform()),
    ("rising, 1 deviation in 100 s", |random, at, _| 0.01 * at as f64 + random.normal()),
    ("autoregressive, 0.8", |random, _, last| {
        *last = 0.8 * *last + random.normal();
        100.0 + *last
    }),
    ("autoregressive, 0.95", |random, _, last| {
        *last = 0.95 * *last + random.normal();
        100.0 + *last
    }),
    ("Laplace", |random, _, _| {
        let share = random.uniform() - 0.5;
        -share.signum() * (1.0 - 2.0 * share.abs()).max(1e-300).ln()
    }),
    ("log-normal, sigma 1", |random, _, _| random.normal().exp()),
];

/// Prints events by kind of noise.
pub(crate) fn report() {
    println!("\nfalse events on noise at the agent's level ({LEVEL}), {RUNS} runs of 2 h each:");
    println!("{:30} {:>20} {:>20}", "", "in the first 10 min", "per hour after that");
    for (name, course) in COURSES {
        let (early, late) = (0..RUNS)
            .map(|seed| run(seed, course))
            .fold((0, 0), |sum, run| (sum.0 + run.0, sum.1 + run.1));
        let hours = RUNS as f64 * (SECONDS - WARM_UP) as f64 / 3600.0;
        let (early, late) = (f64::from(early) / RUNS as f64, f64::from(late) / hours);
        println!("{name:30} {early:>20.3} {late:>20.3}");
    }
}

fn run(seed: u64, course: Course) -> (u32, u32) {
    let mut random = Random::new(seed);
    let mut detector = Detector::new(Floor::default());
    let mut alarm = Alarm::new(LEVEL, CALM);
    let (mut last, mut early, mut late) = (0.0, 0, 0);
    for at in 0..SECONDS {
        let value = course(&mut random, at, &mut last);
        let Some(reading) = detector.observe(value) else { continue };
        if alarm.observe(reading.surprise) == Some(Edge::Begins) {
            *(if at < WARM_UP { &mut early } else { &mut late }) += 1;
        }
    }
    (early, late)
}

/// The same numbers each time (xorshift).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// 0 to 1.
    pub(crate) fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Mean 0, standard deviation 1 (Box and Muller).
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.uniform().max(1e-300).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}
