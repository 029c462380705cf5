//! What the detector and the signals cost.

use std::hint::black_box;
use std::time::{Duration, Instant};

use dwcp_observer::{
    anomaly::{
        Kind, Sample, Signals,
        alarm::Alarm,
        detector::{Detector, Floor},
    },
    model::record::Mode,
};
use jiff::{SignedDuration, Timestamp};

use crate::{CALM, LEVEL, corpus::Series, noise::Random};

/// Passes over a series; the fastest counts, or a busy machine would be measured.
const PASSES: usize = 9;
const MIGRATIONS: usize = 100;
const SECONDS: i64 = 300;

/// Prints the time of one sample of the corpus, and of one second of many migrations.
pub(crate) fn report(corpus: &[Series]) {
    let samples: usize = corpus.iter().map(|series| series.samples.len()).sum();
    let fastest = corpus.iter().filter_map(|series| (0..PASSES).map(|_| pass(series)).min());
    let each = fastest.sum::<Duration>().as_nanos() as f64 / samples as f64;
    println!("\n{each:.0} ns per sample (fastest of {PASSES} passes of each series)");
    println!(
        "{:.0} us for a second of {MIGRATIONS} migrations with {} kinds each (median of {SECONDS})",
        second() * 1e6,
        Kind::ALL.len()
    );
}

fn pass(series: &Series) -> Duration {
    let start = Instant::now();
    let mut detector = Detector::new(Floor::default());
    let mut alarm = Alarm::new(LEVEL, CALM);
    for (_, value) in &series.samples {
        let surprise = detector.observe(*value).map_or(0.0, |reading| reading.surprise);
        black_box(alarm.observe(surprise));
    }
    start.elapsed()
}

/// Median time of `Signals::observe`, seconds.
fn second() -> f64 {
    let names: Vec<String> = (0..MIGRATIONS).map(|name| format!("migration-{name}")).collect();
    let mut random = Random::new(1);
    let mut signals = Signals::new();
    let mut times: Vec<f64> = (1..=SECONDS)
        .map(|at| {
            let samples: Vec<_> = names
                .iter()
                .flat_map(|name| Kind::ALL.map(|kind| (name.as_str(), kind)))
                .map(|(name, kind)| Sample {
                    migration: Some(name),
                    mode: Some(Mode::Datacenter),
                    kind,
                    value: 1.0 + 0.01 * random.uniform(),
                })
                .collect();
            let now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(at);
            let start = Instant::now();
            black_box(signals.observe(now, &samples));
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
