//! The scorer against detectors whose scores are known, and against examples worked out by hand.

use super::{noise::Random, score::*};

const STANDARD: Profile = PROFILES[0];

/// 31 series of 4000 samples with 0 to 4 windows each, as the benchmark has them: a tenth of a series is labelled.
fn windows() -> Vec<Vec<(usize, usize)>> {
    (0..31)
        .map(|series| {
            let count = series % 5;
            let length = 400 / count.max(1);
            (0..count)
                .map(|window| {
                    let start = 800 + window * (3000 / count) + 7 * series;
                    (start, start + length - 1)
                })
                .collect()
        })
        .collect()
}

fn corpus(
    windows: &[Vec<(usize, usize)>],
    mut score: impl FnMut(&[(usize, usize)], usize) -> f64,
) -> Vec<Scored<'_>> {
    let scored = windows.iter().map(|windows| Scored {
        windows,
        scores: (0..4000).map(|at| score(windows, at)).collect(),
    });
    scored.collect()
}

fn normalised(corpus: &[Scored<'_>], profile: &Profile) -> f64 {
    sweep(corpus, profile).1.normalised(profile).expect("windows")
}

#[test]
fn null_is_0_and_perfect_is_100() {
    let windows = windows();
    let null = corpus(&windows, |_, _| 0.5);
    let start = |windows: &[(usize, usize)], at| windows.iter().any(|window| window.0 == at);
    let perfect = corpus(&windows, |windows, at| f64::from(u8::from(start(windows, at))));
    for profile in &PROFILES {
        assert!(normalised(&null, profile).abs() < 1e-9);
        assert!((normalised(&perfect, profile) - 100.0).abs() < 1e-9);
    }
}

/// Published for the whole corpus: 11.0, 1.2 and 19.5; it depends on the windows' number and length and on chance.
#[test]
fn random_is_about_11() {
    let windows = windows();
    let mut random = Random::new(0);
    let mut mean = [0.0; 3];
    for _ in 0..10 {
        let scored = corpus(&windows, |_, _| random.uniform());
        for (mean, profile) in mean.iter_mut().zip(&PROFILES) {
            *mean += normalised(&scored, profile) / 10.0;
        }
    }
    assert!((7.0..17.0).contains(&mean[0]), "{mean:?}");
    assert!((0.0..6.0).contains(&mean[1]), "{mean:?}");
    assert!((18.0..34.0).contains(&mean[2]), "{mean:?}");
}

/// Everything is the same score: all samples or none.
#[test]
fn detecting_everything_costs_more_than_it_earns() {
    let windows = windows();
    let (threshold, tally) = sweep(&corpus(&windows, |_, _| 1.0), &STANDARD);
    assert_eq!((threshold, tally.false_positives, tally.found), (f64::INFINITY, 0, 0));
}

fn one(windows: &[(usize, usize)], detections: &[usize]) -> Tally {
    let mut scores = vec![0.0; 1000];
    for at in detections {
        scores[*at] = 1.0;
    }
    tally(&Scored { windows, scores }, 0.5, &STANDARD)
}

/// With the formula of the paper: 2 / (1 + e^(5 y)) - 1, y = -1 at the left edge and 0 behind the right one.
#[test]
fn a_window_pays_by_how_early() {
    let windows = [(400, 499)];
    let sigmoid = |y: f64| 2.0 / (1.0 + (5.0 * y).exp()) - 1.0;
    for (at, position) in [(400, -1.0), (450, -0.5), (499, -0.01)] {
        let tally = one(&windows, &[at]);
        assert!((tally.raw - sigmoid(position) / sigmoid(-1.0)).abs() < 1e-12);
        assert_eq!((tally.found, tally.false_positives), (1, 0));
    }
    assert!((one(&windows, &[450, 400, 499]).raw - 1.0).abs() < 1e-12, "the first one counts");
}

#[test]
fn a_miss_and_false_positives_cost() {
    let windows = [(400, 499)];
    assert!((one(&windows, &[]).raw + 1.0).abs() < 1e-12);
    // Before all windows and far behind one: in full. Right behind it: nearly nothing.
    assert!((one(&windows, &[300]).raw + 1.11).abs() < 1e-12);
    assert!((one(&windows, &[900]).raw + 1.11).abs() < 1e-12);
    let near = one(&windows, &[400, 500]);
    let expected = 1.0 + 0.11 * (2.0 / (1.0 + (5.0f64 / 99.0).exp()) - 1.0);
    assert!((near.raw - expected).abs() < 1e-12);
    assert_eq!((near.found, near.false_positives), (1, 1));
}

#[test]
fn nothing_counts_in_probation() {
    assert_eq!((probation(1000), probation(1243), probation(15_000)), (150, 186, 750));
    let tally = one(&[(400, 499)], &[0, 100, 149]);
    assert_eq!((tally.false_positives, tally.raw), (0, -1.0));
    assert_eq!(one(&[(400, 499)], &[150]).false_positives, 1);
}

#[test]
fn the_sweep_is_the_best_of_all_thresholds() {
    let windows = windows();
    let mut random = Random::new(1);
    let scored = corpus(&windows, |windows, at| {
        let inside = windows.iter().any(|(start, end)| (*start..=*end).contains(&at));
        (random.uniform() * if inside { 1.03 } else { 1.0 } * 50.0).floor()
    });
    for profile in &PROFILES {
        let at = |threshold| {
            let mut sum = Tally::default();
            for series in &scored {
                sum.add(&tally(series, threshold, profile));
            }
            sum
        };
        let (threshold, best) = sweep(&scored, profile);
        assert!((at(threshold).raw - best.raw).abs() < 1e-9);
        assert_eq!(at(threshold).found, best.found);
        assert_eq!(at(threshold).false_positives, best.false_positives);
        let all = (0..=52).map(|threshold| at(f64::from(threshold)).raw);
        assert!(all.fold(f64::NEG_INFINITY, f64::max) <= best.raw + 1e-9);
    }
}
