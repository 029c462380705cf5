use jiff::{SignedDuration, Timestamp};

use super::{
    data::{Data, LiveData},
    hourly::{Hourly, live},
    report,
};
use crate::{
    cycle::published::Board,
    history::{Batch, Event, Store, minute::Minute, tests::Directory},
    metrics::sample,
    model::record::{Mode, Outcome, Version},
    sla::counts::{Counts, FinishedBlackout},
};

/// Begin of an hour.
fn begin() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

/// An hour with a good, a slow and a failed migration, of which one has a name of its own kind.
fn stored(directory: &Directory) -> Store {
    let mut store = Store::open(&directory.file()).unwrap();
    for (id, outcome, age) in [
        ("1-1", Outcome::Completed, 1700),
        ("2-2", Outcome::Completed, 600),
        ("3-3", Outcome::Failed, 300),
    ] {
        let mut record = sample::finished(id, outcome, age);
        record.vm.name = Some("a|b<i>".into());
        if id == "2-2" {
            record.blackout.as_mut().unwrap().seconds = Some(0.75);
        }
        if outcome == Outcome::Failed {
            record.blackout = None;
            record.evidence[0].weight = None;
            record.evidence[0].detail = "the destination died".into();
        }
        let entry = sample::entry(record);
        let migrations = vec![(entry.record, entry.history)];
        store.write(&Batch { migrations, ..Batch::default() }).unwrap();
    }
    let minutes = (0..40)
        .map(|number| {
            let mut minute = Minute {
                at: begin().as_second() + number * 60,
                counts: Counts {
                    observed_seconds: 60,
                    transfer_seconds: 10,
                    slow_seconds: 10,
                    transferred_bytes: 10_000_000_000,
                    failed: u64::from(number == 25),
                    completed: u64::from(number < 2),
                    ..Counts::default()
                },
                ..Minute::default()
            };
            minute.throughput.observe(1e9);
            minute.throughput_by_transport.entry("tcp".into()).or_default().observe(1e9);
            minute.streams.observe(4.0);
            minute.cpu_percent.observe(90.0);
            minute.memory_percent.observe(40.0);
            minute.verdict_seconds.insert("healthy".into(), 10.0);
            minute
        })
        .collect();
    let event = Event {
        at: begin() + SignedDuration::from_mins(25),
        kind: "sla_violated".into(),
        subject: "error_rate".into(),
        severity: "critical".into(),
        text: "33.33 % of migrations failed".into(),
    };
    store.write(&Batch { minutes, events: vec![event], ..Batch::default() }).unwrap();
    store
}

fn data(store: &Store, live: LiveData) -> Data {
    let end = begin() + SignedDuration::from_hours(1);
    Data::read(store, begin(), end, "node-7".into(), live).unwrap()
}

/// Cells of the first table row that begins so.
fn line<'a>(text: &'a str, start: &str) -> &'a str {
    text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {text}"))
}

/// Whether one line has all of these.
fn one_line_has(text: &str, facts: &[&str]) -> bool {
    text.lines().any(|line| facts.iter().all(|fact| line.contains(fact)))
}

#[test]
fn every_section_of_the_template_is_there() {
    let directory = Directory::new();
    let text = report(&data(&stored(&directory), LiveData::default())).markdown(|_| None);
    let headings: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    // The template's numbers, and what stands first in each name.
    let begins: Vec<String> = headings
        .iter()
        .map(|heading| heading.split([' ', ':']).take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        begins,
        [
            "0 Quick",
            "1 Latency",
            "2 Throughput",
            "3 Errors",
            "4 Components",
            "5 Service",
            "6 Anomalies",
            "7 Resources",
            "8 Rollout",
            "9 v1",
            "10 Recommendations",
            "11 Summary",
            "12 Migrations",
            "Appendix A",
        ]
    );
}

#[test]
fn figures_are_those_of_the_history() {
    let directory = Directory::new();
    let text = report(&data(&stored(&directory), LiveData::default())).markdown(|_| None);
    assert!(one_line_has(&text, &["| latency |", "750.0 ms", "500 ms", "1 of 2", "| FAIL |"]));
    assert_eq!(
        line(&text, "| datacenter |"),
        "| datacenter | 2 | 7.81 | 750.00 | 750.00 | 750.00 | 500 | FAIL |"
    );
    let throughput = ["| throughput |", "1.000 GB/s", "2.400 GB/s", "400 of 400", "| FAIL |"];
    assert!(one_line_has(&text, &throughput), "{text}");
    assert_eq!(line(&text, "| failed |"), "| failed | 1 | 33.3 % |");
    assert_eq!(line(&text, "| CPU |"), "| CPU | 90.0 % | 90.0 % | 80 % |");
    assert_eq!(line(&text, "| tcp |"), "| tcp | 1.000 GB/s | 1.000 GB/s | 40 |");
    assert!(one_line_has(&text, &["threshold: 40."]), "{text}");
    assert!(one_line_has(&text, &[r" | a\|b&lt;i&gt; | 3-3 |", "destination"]), "{text}");
    assert!(text.contains("| CPU | 22 Nov 12:00 | 40 | 90.0 % |"), "{text}");
    let budget = line(&text, "| error rate | 1 | ");
    assert!(one_line_has(budget, &["| 3 migrations |", "33.3 times", "| 33.33 |"]), "{budget}");
    assert!(text.contains("Observed: 2400 of 3600 s (66.7 %)"), "{text}");
    let violation = ["| error_rate | 2026-11-22 12:25:00 |", "| 35 min | 1 |", "33.33 %"];
    assert!(one_line_has(&text, &violation), "{text}");
    assert!(one_line_has(&text, &["P99", "is 750 ms"]), "{text}");
    // Without detectors a count of anomalies would be a lie.
    assert!(text.contains("Not measured: no detector"), "{text}");
    assert!(text.contains("no observer"), "{text}");
}

#[test]
fn an_empty_history_claims_nothing() {
    let directory = Directory::new();
    let store = Store::open(&directory.file()).unwrap();
    let document = report(&data(&store, LiveData::default()));
    let text = document.markdown(|_| None);
    assert_eq!(document.figures().count(), 0);
    assert!(!text.contains("PASS") && !text.contains("FAIL") && !text.contains("NaN"), "{text}");
    assert!(text.contains("No transfer"), "{text}");
    assert_eq!(line(&text, "| CPU |"), "| CPU | not measured | not measured | 80 % |");
}

#[test]
fn the_running_observer_has_its_say() {
    let directory = Directory::new();
    let text = report(&data(&stored(&directory), live(&sample::published(), sample::at())))
        .markdown(|_| None);
    assert!(text.contains("period: NO-GO"), "{text}");
    assert!(line(&text, "| go or no-go |").ends_with("| NO-GO |"), "{text}");
    assert!(text.contains("Stop the rollout"), "{text}");
    assert!(text.contains("now: 1."), "{text}");
    assert!(one_line_has(&text, &["network: ", "5.0 %"]), "{text}");
    assert!(text.contains("now: degraded (a probe"), "{text}");
    assert!(line(&text, "| error rate | below 1.00 % |").ends_with("| FAIL 25.00 % |"), "{text}");
}

/// The cells of the row of a section that begins so.
fn row_of<'a>(text: &'a str, section: &str, start: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("\n## {section}")).unwrap();
    line(rest, start)
}

#[test]
fn migrations_of_v1_count_in_their_own_section_only() {
    let directory = Directory::new();
    let mut store = Store::open(&directory.file()).unwrap();
    for (id, version, outcome, blackout) in [
        ("1-1", Version::V1, Outcome::Completed, Some(0.8)),
        ("2-2", Version::V1, Outcome::Failed, None),
        ("3-3", Version::V3, Outcome::Completed, Some(0.2)),
    ] {
        let mut record = sample::finished(id, outcome, 900);
        record.version = Some(version);
        match blackout {
            Some(seconds) => record.blackout.as_mut().unwrap().seconds = Some(seconds),
            None => record.blackout = None,
        }
        let entry = sample::entry(record);
        let migrations = vec![(entry.record, entry.history)];
        store.write(&Batch { migrations, ..Batch::default() }).unwrap();
    }
    let text = report(&data(&store, LiveData::default())).markdown(|_| None);
    assert!(one_line_has(&text, &["ended: 3", "2 of v1"]), "{text}");
    assert!(one_line_has(&text, &["| latency |", "200.0 ms", "500 ms", "0 of 1", "| PASS |"]));
    assert_eq!(row_of(&text, "3", "| failed |"), "| failed | 0 | 0.0 % |");
    assert!(!text.contains("3.5 Failed migrations"), "{text}");
    let line = |start| row_of(&text, "9", start);
    assert!(line("| migrations ").ends_with("| 2 | 1 | - | - |"), "{text}");
    let blackout = line("| blackout P99");
    assert!(one_line_has(blackout, &["| 800.00 | 200.00 | -75.0 % |", "30 %"]), "{blackout}");
    let failed = line("| failed, %");
    assert!(one_line_has(failed, &["| 50.0 | 0.0 | -100.0 % |", "50 %"]), "{failed}");
}

#[test]
fn what_the_observer_says_of_components_and_the_rollout_is_there() {
    let directory = Directory::new();
    let text = report(&data(&stored(&directory), live(&sample::published(), sample::at())))
        .markdown(|_| None);
    let view = crate::component::sample::view();
    for one in &view.components {
        let start = format!("| {} | {} |", one.component.as_str(), one.status.as_str());
        row_of(&text, "4", &start);
    }
    let progress = view.rollout.unwrap();
    let row = format!("| {} | {} | {:.1} % |", progress.v3, progress.v1, progress.percent);
    let (_, rollout) = text.split_once("\n## 8 Rollout").unwrap();
    assert!(rollout.contains(&row), "{row}: {rollout}");
    assert!(row_of(&text, "0", "| rollout progress |").contains(" migrations run v3) |"), "{text}");
    // Without an observer neither is claimed.
    let text = report(&data(&stored(&directory), LiveData::default())).markdown(|_| None);
    assert!(!text.contains("| amst |"), "{text}");
    assert_eq!(
        row_of(&text, "0", "| rollout progress |"),
        "| rollout progress | not measured | - |"
    );
}

#[test]
fn violations_have_a_begin_and_an_end() {
    let directory = Directory::new();
    let mut store = Store::open(&directory.file()).unwrap();
    let event = |minute, subject: &str, kind: &str| Event {
        at: begin() + SignedDuration::from_mins(minute),
        kind: kind.into(),
        subject: subject.into(),
        severity: String::new(),
        text: "why".into(),
    };
    let events = vec![
        event(10, "latency", "sla_restored"),
        event(20, "throughput", "sla_violated"),
        // A restart of the observer in between.
        event(22, "throughput", "sla_violated"),
        event(25, "throughput", "sla_restored"),
        event(50, "latency", "sla_violated"),
    ];
    store.write(&Batch { events, ..Batch::default() }).unwrap();
    let text = report(&data(&store, LiveData::default())).markdown(|_| None);
    let (_, rest) = text.split_once("### 5.3").unwrap();
    let (rest, _) = rest.split_once("\n## ").unwrap();
    let rows: Vec<&str> = rest
        .lines()
        .filter(|row| row.starts_with("| latency") || row.starts_with("| through"))
        .collect();
    assert_eq!(
        rows,
        [
            "| latency | before this period | 2026-11-22 12:10:00 | 10 min | 0 | - |",
            "| throughput | 2026-11-22 12:20:00 | 2026-11-22 12:25:00 | 5 min | 0 | why |",
            "| latency | 2026-11-22 12:50:00 | goes on | 10 min | 0 | why |",
        ]
    );
}

#[test]
fn anomalies_are_counted_by_type() {
    let directory = Directory::new();
    let mut store = Store::open(&directory.file()).unwrap();
    let events = (0..60)
        .map(|number| Event {
            at: begin() + SignedDuration::from_secs(number),
            kind: "anomaly".into(),
            subject: if number < 10 { "rtt" } else { "runqueue" }.into(),
            severity: if number % 2 == 0 { "critical" } else { "warning" }.into(),
            text: format!("number {number}"),
        })
        .collect();
    store.write(&Batch { events, ..Batch::default() }).unwrap();
    let text = report(&data(&store, LiveData::default())).markdown(|_| None);
    assert_eq!(row_of(&text, "6", "| rtt |"), "| rtt | 10 | 5 | 5 |");
    assert_eq!(row_of(&text, "6", "| runqueue |"), "| runqueue | 50 | 25 | 25 |");
    assert!(text.contains("last 50 of 60"), "{text}");
    assert!(text.contains("number 59") && !text.contains("number 9 "), "{text}");
    assert!(one_line_has(&text, &["began: 60", "30 critical"]), "{text}");
}

#[test]
fn plots_are_svg_with_what_they_show() {
    let directory = Directory::new();
    let document = report(&data(&stored(&directory), LiveData::default()));
    let names: Vec<&str> = document.figures().map(|figure| figure.name).collect();
    assert_eq!(names, ["blackout", "throughput", "resources"]);
    for figure in document.figures() {
        let svg = &figure.svg;
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
        assert!(svg.contains("12:30") && !svg.contains("NaN"), "{svg}");
    }
    let blackout = &document.figures().next().unwrap().svg;
    assert_eq!(blackout.matches("<circle").count(), 2, "one per blackout of known length");
    let html = document.html();
    assert_eq!(html.matches("<svg ").count(), 3);
    assert!(!html.contains("a|b<i>") && html.contains("a|b&lt;i&gt;"), "{html}");
}

#[test]
fn two_runs_of_the_observer_within_a_minute_are_one_minute() {
    let directory = Directory::new();
    let mut store = Store::open(&directory.file()).unwrap();
    let blackout = FinishedBlackout { mode: Some(Mode::Datacenter), seconds: 0.1 };
    let half = |run_ms| Minute {
        at: begin().as_second(),
        run_ms,
        counts: Counts { observed_seconds: 20, ..Counts::default() },
        blackouts: vec![blackout],
        ..Minute::default()
    };
    store.write(&Batch { minutes: vec![half(1), half(2)], ..Batch::default() }).unwrap();
    let data = data(&store, LiveData::default());
    assert_eq!(data.minutes.len(), 1);
    assert_eq!(data.minutes[0].counts.observed_seconds, 40);
    assert_eq!(data.minutes[0].blackouts.len(), 2);
}

#[test]
fn an_hour_is_reported_once_and_old_reports_go() {
    let directory = Directory::new();
    let store = stored(&directory);
    let reports = directory.path().join("reports");
    let mut hourly = Hourly::new(reports.clone(), 30, "node-7".into(), Board::default());
    // The hour is not over.
    hourly.look(&store, begin() + SignedDuration::from_mins(59));
    assert!(!reports.exists());
    hourly.look(&store, begin() + SignedDuration::from_secs(3610));
    let file = reports.join("hourly_report_20261122_12.md");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("(hourly_report_20261122_12-blackout.svg)"), "{text}");
    let mut names: Vec<String> = std::fs::read_dir(&reports)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "hourly_report_20261122_12-blackout.svg",
            "hourly_report_20261122_12-resources.svg",
            "hourly_report_20261122_12-throughput.svg",
            "hourly_report_20261122_12.md",
        ]
    );
    // A restart within the next hour does not write it anew, and an hour without the observer has no report.
    std::fs::write(&file, "kept").unwrap();
    let mut again = Hourly::new(reports.clone(), 30, "node-7".into(), Board::default());
    again.look(&store, begin() + SignedDuration::from_secs(3700));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
    again.look(&store, begin() + SignedDuration::from_secs(7300));
    assert_eq!(std::fs::read_dir(&reports).unwrap().count(), 4);

    let notes = reports.join("notes.md");
    std::fs::write(&notes, "not ours").unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(31 * 86_400);
    for path in [&file, &notes] {
        std::fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    }
    again.look(&store, begin() + SignedDuration::from_secs(11_000));
    assert!(!file.exists() && notes.exists());
}

#[test]
fn a_directory_that_cannot_be_written_is_no_end() {
    let directory = Directory::new();
    let store = stored(&directory);
    let blocked = directory.path().join("file");
    std::fs::write(&blocked, "").unwrap();
    let mut hourly = Hourly::new(blocked.clone(), 30, "node-7".into(), Board::default());
    let now = begin() + SignedDuration::from_secs(3610);
    hourly.look(&store, now);
    std::fs::remove_file(&blocked).unwrap();
    // Tried again.
    hourly.look(&store, now + SignedDuration::from_mins(1));
    assert!(blocked.join("hourly_report_20261122_12.md").exists());
}
