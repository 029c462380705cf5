//! What the anomaly signals say of recorded migrations whose faults are known (`cargo xtask score-migrations`).

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::Result;
use dwcp_observer::anomaly::{
    Event,
    replay::{Second, replay},
};
use flate2::read::GzDecoder;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

/// What a fault leaves behind: a backlog, a window that grows again, and the second in which it is counted.
const AFTER: SignedDuration = SignedDuration::from_secs(6);

#[derive(Debug, Deserialize)]
struct Labels {
    clean: Vec<(Timestamp, Timestamp)>,
    windows: Vec<Window>,
}

#[derive(Clone, Debug, Deserialize)]
struct Window {
    fault: String,
    begin: Timestamp,
    end: Timestamp,
    kinds: Vec<String>,
}

/// What became of a recording.
#[derive(Debug, Default, PartialEq)]
struct Score {
    /// Windows with an event in them, and windows.
    found: usize,
    windows: usize,
    /// Events in no window, and those of them during migrations without a fault.
    false_alarms: usize,
    on_clean: usize,
}

impl Score {
    fn add(&mut self, other: &Self) {
        self.found += other.found;
        self.windows += other.windows;
        self.false_alarms += other.false_alarms;
        self.on_clean += other.on_clean;
    }

    /// Harmonic mean of precision and recall; each window counts once, each event beside one is a false one.
    fn f1(&self) -> f64 {
        2.0 * self.found as f64 / (self.found + self.windows + self.false_alarms) as f64
    }
}

fn score(events: &[Event], labels: &Labels) -> (Score, Vec<String>) {
    let mut score = Score { windows: labels.windows.len(), ..Score::default() };
    let mut lines = Vec::new();
    let within = |event: &Event, window: &Window| {
        (window.begin..=window.end + AFTER).contains(&event.began_at)
    };
    for window in &labels.windows {
        let inside: Vec<&Event> = events.iter().filter(|event| within(event, window)).collect();
        score.found += usize::from(!inside.is_empty());
        let told: Vec<String> = inside
            .iter()
            .map(|event| {
                let seconds = event.began_at.duration_since(window.begin).as_secs_f64();
                let kind = event.kind.as_str();
                let note = if window.kinds.iter().any(|own| own == kind) { "" } else { " (also)" };
                format!("{kind} after {seconds:.1} s{note}")
            })
            .collect();
        let told = if told.is_empty() { "NOTHING".to_owned() } else { told.join(", ") };
        lines.push(format!("{:<22} {told}", window.fault));
    }
    for event in events {
        if labels.windows.iter().any(|window| within(event, window)) {
            continue;
        }
        score.false_alarms += 1;
        let clean = labels.clean.iter().any(|(from, to)| (*from..=*to).contains(&event.began_at));
        score.on_clean += usize::from(clean);
        let place = if clean { "without a fault" } else { "beside its fault" };
        lines.push(format!("FALSE, {place:<15} {} {}", event.kind.as_str(), event.why()));
    }
    (score, lines)
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/labelled")
}

/// The recordings in the order of their numbers: events and labels.
fn recordings() -> Result<BTreeMap<String, (Vec<Event>, Labels)>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory())? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let Some(set) = name.strip_suffix(".labels.json") else { continue };
        let labels = serde_json::from_str(&fs::read_to_string(directory().join(&*name))?)?;
        let file = File::open(directory().join(format!("{set}.jsonl.gz")))?;
        let mut text = String::new();
        GzDecoder::new(file).read_to_string(&mut text)?;
        let seconds: Vec<Second<'_>> =
            text.lines().map(serde_json::from_str).collect::<serde_json::Result<_>>()?;
        let events = replay(seconds.into_iter().map(|second| (second.at, second.samples)));
        all.insert(set.to_owned(), (events, labels));
    }
    Ok(all)
}

#[test]
fn recorded_faults_are_found_and_nothing_else() {
    let mut total = Score::default();
    for (set, (events, labels)) in recordings().unwrap() {
        let (score, lines) = score(&events, &labels);
        println!("recording {set}: {} migrations without a fault", labels.clean.len());
        lines.iter().for_each(|line| println!("  {line}"));
        total.add(&score);
    }
    println!(
        "{} of {} faults found, {} false ({} of them without a fault): F1 {:.3}",
        total.found,
        total.windows,
        total.false_alarms,
        total.on_clean,
        total.f1()
    );
    assert!(total.windows >= 14, "{total:?}");
    assert!(total.f1() >= 0.95 && total.on_clean == 0, "{total:?}");
}

#[test]
fn the_scorer_counts_as_it_says() {
    let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
    let window = |begin, end| Window {
        fault: "x".to_owned(),
        begin: at(begin),
        end: at(end),
        kinds: vec!["rtt".to_owned()],
    };
    let labels =
        Labels { clean: vec![(at(0), at(50))], windows: vec![window(60, 70), window(90, 95)] };
    let (_, (some, _)) = recordings().unwrap().into_iter().next().unwrap();
    let event = |second| Event { began_at: at(second), ..some[0].clone() };
    let none = score(&[], &labels).0;
    assert_eq!((none.found, none.false_alarms), (0, 0));
    assert!(none.f1().abs() < 1e-12);
    let (found, lines) = score(&[event(61), event(76), event(77), event(20)], &labels);
    let expected = Score { found: 1, windows: 2, false_alarms: 2, on_clean: 1 };
    assert_eq!(found, expected, "{lines:?}");
    assert!((found.f1() - 2.0 / 5.0).abs() < 1e-12);
    let perfect = score(&[event(61), event(92)], &labels).0;
    assert!((perfect.f1() - 1.0).abs() < 1e-12);
}
