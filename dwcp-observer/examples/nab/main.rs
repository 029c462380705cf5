//! Runs the detector of the anomaly signals, in its one configuration, over a corpus in the layout of the Numenta Anomaly
//! Benchmark and prints what that benchmark gives for it. `cargo xtask nab --data DIR` builds and starts this.

mod corpus;
mod cost;
mod noise;
mod reference;
mod score;
#[cfg(test)]
mod score_tests;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use dwcp_observer::anomaly::{
    alarm::{Alarm, Edge},
    detector::{self, Detector, Floor},
};

use crate::{
    corpus::Series,
    score::{PROFILES, Profile, Scored, Tally, sweep, tally},
};

/// Surprise at which an event begins here. The benchmark pays for finding much: with this some two false events in an hour of
/// seconds pay off. The agent itself begins at `detector::LEVEL`; all else is the same.
const LEVEL: f64 = 2.5;
/// As for all kinds of the agent that are measured each second.
const CALM: u32 = 20;

#[derive(Parser)]
struct Args {
    /// Directory with `data/<group>/<name>.csv` and `labels/combined_windows.json`
    #[arg(long)]
    data: PathBuf,
}

fn main() -> Result<()> {
    let corpus = corpus::read(&Args::parse().data)?;
    let scored: Vec<_> = corpus.iter().map(|series| detect(series, LEVEL)).collect();
    let windows: usize = corpus.iter().map(|series| series.windows.len()).sum();
    let samples: usize = corpus.iter().map(|series| series.samples.len()).sum();
    println!("{} series, {samples} samples, {windows} windows", corpus.len());

    let standard = &PROFILES[0];
    let (threshold, _) = sweep(&scored, standard);
    println!("\nprofile standard, by series:\n{:>7} {:>6}  series", "windows", "false");
    for (series, scored) in corpus.iter().zip(&scored) {
        let tally = tally(scored, threshold, standard);
        let found = format!("{}/{}", tally.found, tally.windows);
        println!("{found:>7} {:>6}  {}", tally.false_positives, series.name);
    }

    println!(
        "\n{:20} {:>6} {:>9} {:>7} {:>6}",
        "profile", "score", "threshold", "windows", "false"
    );
    for profile in &PROFILES {
        let (threshold, tally) = sweep(&scored, profile);
        line(profile.name, threshold, &tally, profile);
    }
    halves(&scored);
    let agent: Vec<_> = corpus.iter().map(|series| detect(series, detector::LEVEL)).collect();
    let (threshold, tally) = sweep(&agent, standard);
    line("at the agent's level", threshold, &tally, standard);
    reference::report(&corpus);
    noise::report();
    cost::report(&corpus);
    Ok(())
}

/// The score of a sample is the surprise that an event begins with there, else 0.
fn detect(series: &Series, level: f64) -> Scored<'_> {
    let mut detector = Detector::new(Floor::default());
    let mut alarm = Alarm::new(level, CALM);
    let scores = series.samples.iter().map(|(_, value)| {
        let surprise = detector.observe(*value).map_or(0.0, |reading| reading.surprise);
        if alarm.observe(surprise) == Some(Edge::Begins) { surprise } else { 0.0 }
    });
    Scored { windows: &series.windows, scores: scores.collect() }
}

/// The threshold of each half of the corpus, every other series, on the half that it was not chosen on.
fn halves(scored: &[Scored<'_>]) {
    let standard = &PROFILES[0];
    let half = |which: usize| scored.iter().skip(which).step_by(2).cloned().collect::<Vec<_>>();
    for (name, chosen, judged) in [("even, by odd", 1, 0), ("odd, by even", 0, 1)] {
        let (threshold, _) = sweep(&half(chosen), standard);
        let mut sum = Tally::default();
        for series in &half(judged) {
            sum.add(&tally(series, threshold, standard));
        }
        line(name, threshold, &sum, standard);
    }
}

fn line(name: &str, threshold: f64, tally: &Tally, profile: &Profile) {
    let score = tally.normalised(profile).map_or("-".to_owned(), |score| format!("{score:.1}"));
    let found = format!("{}/{}", tally.found, tally.windows);
    println!("{name:20} {score:>6} {threshold:>9.2} {found:>7} {:>6}", tally.false_positives);
}
