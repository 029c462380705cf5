//! Detectors whose scores on the whole corpus are published, to check the scorer on the corpus that is given.

use std::collections::VecDeque;

use crate::{
    corpus::Series,
    noise::Random,
    score::{PROFILES, Scored, sweep},
};

/// Published for the 58 series: standard, reward low FP, reward low FN.
const PUBLISHED: [(&str, [f64; 3]); 4] = [
    ("null", [0.0, 0.0, 0.0]),
    ("perfect", [100.0, 100.0, 100.0]),
    ("random", [11.0, 1.2, 19.5]),
    ("windowed Gaussian", [39.6, 20.9, 47.4]),
];

/// Values that the Gaussian is fitted to.
const WINDOW: usize = 1000;
/// From here on the probability is 1 in double precision, so all are the same.
const SATURATED: f64 = 8.3;
/// Random detectors, of which the mean counts.
const RANDOM: u64 = 10;

/// Prints what they score here beside what is published.
pub(crate) fn report(corpus: &[Series]) {
    println!(
        "\nthe scorer, on detectors that are known (in brackets: published, for all 58 series):"
    );
    for (name, published) in PUBLISHED {
        let runs: Vec<_> = match name {
            "null" => vec![score(corpus, |series| vec![0.5; series.samples.len()])],
            "perfect" => vec![score(corpus, perfect)],
            "random" => (0..RANDOM)
                .map(|seed| {
                    let mut random = Random::new(seed);
                    score(corpus, |series| {
                        series.samples.iter().map(|_| random.uniform()).collect()
                    })
                })
                .collect(),
            _ => vec![score(corpus, gaussian)],
        };
        print!("{name:20}");
        for (profile, published) in published.iter().enumerate() {
            let mean = runs.iter().map(|scores| scores[profile]).sum::<f64>() / runs.len() as f64;
            print!(" {mean:>6.1} ({published:>5.1})");
        }
        println!();
    }
}

fn score(corpus: &[Series], mut detect: impl FnMut(&Series) -> Vec<f64>) -> [f64; 3] {
    let scored: Vec<_> = corpus
        .iter()
        .map(|series| Scored { windows: &series.windows, scores: detect(series) })
        .collect();
    PROFILES.map(|profile| sweep(&scored, &profile).1.normalised(&profile).unwrap_or(f64::NAN))
}

/// Fires at the first sample of each window.
fn perfect(series: &Series) -> Vec<f64> {
    let mut scores = vec![0.0; series.samples.len()];
    for (start, _) in &series.windows {
        scores[*start] = 1.0;
    }
    scores
}

/// Distance from the mean of the last values, in their standard deviations.
fn gaussian(series: &Series) -> Vec<f64> {
    let mut window: VecDeque<f64> = VecDeque::with_capacity(WINDOW);
    let scores = series.samples.iter().map(|(_, value)| {
        let count = window.len() as f64;
        let mean = window.iter().sum::<f64>() / count;
        let squares: f64 = window.iter().map(|other| (other - mean) * (other - mean)).sum();
        let deviation = (squares / count).sqrt().max(1e-6);
        let score = if window.is_empty() { 0.0 } else { (value - mean).abs() / deviation };
        if window.len() == WINDOW {
            window.pop_front();
        }
        window.push_back(*value);
        score.min(SATURATED)
    });
    scores.collect()
}
