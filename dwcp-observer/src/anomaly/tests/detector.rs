//! One series: silent on what is usual, and one event for what is not.

use proptest::prelude::*;

use super::Noise;
use crate::anomaly::{
    Direction, Kind,
    alarm::{Alarm, Edge},
    detector::{Detector, Floor, LEVEL, Reading},
};

/// When events begin, and what was said then.
fn events(values: impl IntoIterator<Item = f64>) -> Vec<(usize, Reading)> {
    let mut detector = Detector::new(Floor::default());
    let mut alarm = Alarm::new(LEVEL, 20);
    let mut events = Vec::new();
    for (at, value) in values.into_iter().enumerate() {
        let Some(reading) = detector.observe(value) else { continue };
        if alarm.observe(reading.surprise) == Some(Edge::Begins) {
            events.push((at, reading));
        }
    }
    events
}

const HOUR: usize = 3600;

/// The value at a second.
type Course = dyn FnMut(&mut Noise, usize) -> f64;

/// Ten hours of each; docs/understand/anomalies.md states what longer runs gave, at most 0.02 in an hour for these.
#[test]
fn stationary_noise_is_silent() {
    let mut courses: [(&str, Box<Course>); 4] = [
        ("normal", Box::new(|noise, _| 100.0 + 5.0 * noise.normal())),
        ("uniform", Box::new(|noise, _| noise.uniform())),
        ("autoregressive", {
            let mut last = 0.0;
            Box::new(move |noise, _| {
                last = 0.8 * last + noise.normal();
                100.0 + last
            })
        }),
        ("rising", Box::new(|noise, at| 0.01 * at as f64 + noise.normal())),
    ];
    for (name, course) in &mut courses {
        let false_alarms: usize = (0..10)
            .map(|seed| {
                let mut noise = Noise::new(seed);
                events((0..HOUR).map(|at| course(&mut noise, at))).len()
            })
            .sum();
        assert!(false_alarms <= 1, "{name}: {false_alarms} in ten hours");
    }
}

/// What happens from a second on, in standard deviations, and how many seconds it may take.
type Fault = (&'static str, fn(usize) -> f64, usize, Direction);

const FAULTS: [Fault; 5] = [
    ("spike", |since| if since == 0 { 20.0 } else { 0.0 }, 12, Direction::Above),
    ("step up", |_| 8.0, 12, Direction::Above),
    ("step down", |_| -8.0, 12, Direction::Below),
    ("collapse", |_| -20.0, 3, Direction::Below),
    ("drift", |since| 0.2 * since as f64, 40, Direction::Above),
];

#[test]
fn a_fault_is_one_event_and_soon() {
    for (name, fault, within, direction) in FAULTS {
        let mut missed = 0;
        for seed in 0..20 {
            let mut noise = Noise::new(seed);
            let found = events((0..720).map(|at| {
                let off = if at < 600 { 0.0 } else { fault(at - 600) };
                100.0 + 5.0 * (noise.normal() + off)
            }));
            match found[..] {
                [(at, reading)] if (600..=600 + within).contains(&at) => {
                    assert_eq!(reading.direction, direction, "{name}, seed {seed}: {reading:?}");
                    assert!(reading.expected.0 > 70.0 && reading.expected.1 < 140.0);
                }
                _ => missed += 1,
            }
        }
        assert!(missed <= 1, "{name}: {missed} of 20 not, or not once");
    }
}

/// The tails have just begun to judge.
#[test]
fn a_step_is_seen_after_a_hundred_and_fifty_samples() {
    let mut missed = 0;
    for seed in 0..40 {
        let mut noise = Noise::new(seed);
        let found = events((0..170).map(|at| {
            let off = if at < 150 { 0.0 } else { 10.0 };
            100.0 + 5.0 * (noise.normal() + off)
        }));
        missed += usize::from(!matches!(found[..], [(150..=155, _)]));
    }
    assert!(missed <= 1, "{missed} of 40");
}

/// Nothing but the z-score has an opinion yet.
#[test]
fn a_collapse_is_seen_after_thirty_samples() {
    for seed in 0..20 {
        let mut noise = Noise::new(seed);
        let found =
            events((0..60).map(|at| if at < 30 { 100.0 + 5.0 * noise.normal() } else { 0.0 }));
        assert!(found.len() == 1 && found[0].0 == 30, "seed {seed}: {found:?}");
    }
}

/// A series that never varied is not sure of everything: its floor is what counts. A process that dies is two errors, itself and its
/// connection.
#[test]
fn one_error_is_no_burst_and_two_are() {
    for quiet in [60, 150, 1000] {
        let errors = |count: f64| {
            let floor = Kind::ErrorBurst.floor();
            let mut detector = Detector::new(floor);
            let values = (0..quiet + 30).map(|at| if at == quiet { count } else { 0.0 });
            let readings = values.filter_map(|value| detector.observe(value));
            readings.map(|reading| reading.surprise).fold(0.0, f64::max)
        };
        assert!(errors(1.0) < 0.9 * LEVEL, "{}", errors(1.0));
        assert!(errors(2.0) >= LEVEL, "{}", errors(2.0));
    }
}

/// All its values are usual ones, so only the course can tell.
#[test]
fn what_has_a_period_is_usual_and_its_absence_is_not() {
    let mut noise = Noise::new(1);
    let mut detector = Detector::new(Floor::default());
    let (mut usual, mut absent) = (0.0, 0.0);
    for at in 0..2520 {
        let wave = 20.0 * (std::f64::consts::TAU * f64::from(at) / 60.0).sin();
        let wave = if at < 2400 { wave } else { 0.0 };
        let reading = detector.observe(100.0 + wave + noise.normal()).expect("finite");
        let highest = if at < 2400 { &mut usual } else { &mut absent };
        *highest = reading.surprise.max(*highest);
    }
    assert!(usual < LEVEL && absent > 1.5 * usual, "{usual} and then {absent}");
}

proptest! {
    #[test]
    fn a_constant_is_silent(value in any::<f64>()) {
        prop_assert_eq!(events(std::iter::repeat_n(value, 700)).len(), 0);
    }

    #[test]
    fn a_line_is_silent(start in -1e6..1e6f64, slope in -1e3..1e3f64) {
        let found = events((0..700).map(|at| start + slope * f64::from(at)));
        prop_assert!(found.is_empty(), "{:?}", found);
    }

    /// In whatever unit, the same is said.
    #[test]
    fn the_unit_does_not_matter(seed in 0u64..1000, power in -3i32..9) {
        let course = |unit: f64| {
            let mut noise = Noise::new(seed);
            let values: Vec<f64> = (0..400)
                .map(|at| unit * (50.0 + noise.normal() + if at == 300 { 30.0 } else { 0.0 }))
                .collect();
            events(values).into_iter().map(|(at, _)| at).collect::<Vec<_>>()
        };
        // A power of two: the same mantissas, so the same rounding.
        prop_assert_eq!(course(1.0), course(2f64.powi(power)));
    }

    /// Anything at all: no panic, and every answer is a number within its range.
    #[test]
    fn any_input_is_harmless(values in prop::collection::vec(any::<f64>(), 0..300)) {
        let mut detector = Detector::new(Floor::default());
        for value in values {
            match detector.observe(value) {
                Some(reading) => {
                    prop_assert!(value.is_finite());
                    prop_assert!((0.0..=16.0).contains(&reading.surprise), "{:?}", reading);
                    prop_assert!(reading.z.is_finite());
                    prop_assert!(reading.expected.0 <= reading.expected.1);
                }
                None => prop_assert!(!value.is_finite()),
            }
        }
    }

    /// What is not finite changes nothing.
    #[test]
    fn gaps_are_passed_over(seed in 0u64..100, gaps in prop::collection::vec(0usize..500, 0..20)) {
        let mut noise = Noise::new(seed);
        let values: Vec<f64> = (0..500).map(|_| noise.normal()).collect();
        let mut with_gaps = values.clone();
        for gap in gaps {
            with_gaps.insert(gap, [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][gap % 3]);
        }
        let readings = |values: &[f64]| {
            let mut detector = Detector::new(Floor::default());
            values.iter().filter_map(|value| detector.observe(*value)).collect::<Vec<_>>()
        };
        prop_assert_eq!(readings(&values), readings(&with_gaps));
    }
}
