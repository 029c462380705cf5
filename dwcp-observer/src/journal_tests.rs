use std::sync::atomic::{AtomicU32, Ordering};

use jiff::SignedDuration;

use super::*;
use crate::{
    config::Retention,
    history::{tests::Directory, writer::AfterWrite},
    metrics::sample,
    model::record::{Mode, Phase},
    sla::{decide::GoNoGo, windows::minute_of},
};

fn after(seconds: i64) -> Timestamp {
    sample::at() + SignedDuration::from_secs(seconds)
}

fn second<'a>(entries: &'a [Entry], totals: &'a Totals) -> ClosedSecond<'a> {
    ClosedSecond {
        entries,
        totals,
        host: Some(HostUsage { cpu_percent: Some(50.0), memory_percent: Some(25.0) }),
        ended_v1: 0,
        missed_cycles: 0,
        blind: None,
        anomalies: None,
        unhealthy: None,
    }
}

fn journal() -> Journal {
    Journal::new(sample::at(), Targets::default(), None)
}

fn ended(outcome: Outcome, count: u64) -> Totals {
    Totals {
        finished: BTreeMap::from([((outcome, Some(Mode::Datacenter)), count)]),
        ..Totals::default()
    }
}

fn hour(journal: &Journal) -> Levels {
    journal.view().window(Window::Hour).unwrap().clone()
}

#[test]
fn a_transfer_is_judged_while_it_moves_the_guest() {
    let mut journal = journal();
    let totals = Totals::default();
    let mut record = sample::active("1-1");
    let phase = |phase| vec![Phase { phase, started_at: sample::at(), seconds: 1.0 }];
    // Three seconds of each, and three without a migration.
    let mut at = 0;
    for name in PhaseName::ALL {
        record.phases = phase(name);
        let entries = [sample::entry(record.clone())];
        for _ in 0..3 {
            at += 1;
            journal.second(after(at), &second(&entries, &totals));
        }
    }
    for _ in 0..3 {
        at += 1;
        journal.second(after(at), &second(&[], &totals));
    }
    journal.judge(after(at).as_second(), Window::Month);
    let content = journal.windows.content(Window::Hour, after(at).as_second());
    let counts = content.counts;
    assert_eq!((counts.observed_seconds, counts.transfer_seconds), (24, 12));
    // 0.95 MB/s is far below 2.4 GB/s.
    assert_eq!((counts.slow_seconds, counts.transferred_bytes), (12, 12 * 950_000));
    assert_eq!((counts.judged_seconds, counts.down_seconds), (12, 0));
    assert_eq!(journal.minute.throughput.count + journal.minute.cpu_percent.count, 12 + 24);
}

#[test]
fn a_transfer_whose_bytes_are_not_seen_is_not_slow() {
    let mut journal = journal();
    let hidden = Migration {
        bytes: None,
        throughput_bytes_per_second: None,
        verdict: None,
        ..sample::active("1-1")
    };
    let entries = [sample::entry(hidden)];
    journal.second(after(1), &second(&entries, &Totals::default()));
    journal.judge(after(1).as_second(), Window::Month);
    let counts = journal.windows.content(Window::Hour, after(1).as_second()).counts;
    assert_eq!((counts.transfer_seconds, counts.slow_seconds), (0, 0));
    assert_eq!((counts.judged_seconds, counts.down_seconds), (1, 0));
    assert_eq!(hour(&journal).level(SlaType::Throughput).compliant, None);
    assert_eq!((journal.minute.throughput.count, journal.minute.streams.count), (0, 1));
}

#[test]
fn stalled_transfers_and_unhealthy_components_are_down_time() {
    let mut journal = journal();
    let totals = Totals::default();
    let mut stalled = sample::active("1-1");
    stalled.verdict.as_mut().unwrap().state = Health::Stalled;
    let stalled = sample::entry(stalled);
    let moving = sample::entry(sample::active("2-2"));
    let counts = |journal: &mut Journal, second: &ClosedSecond<'_>| journal.count(second);
    let one = counts(&mut journal, &second(std::slice::from_ref(&stalled), &totals));
    assert_eq!((one.judged_seconds, one.down_seconds), (1, 1));
    let both = counts(&mut journal, &second(&[stalled, moving], &totals));
    assert_eq!((both.judged_seconds, both.down_seconds), (1, 0));
    let idle = counts(&mut journal, &second(&[], &totals));
    assert_eq!((idle.judged_seconds, idle.down_seconds), (0, 0));
    let unhealthy = [Unhealthy { component: "acp".into(), why: "gone".into() }];
    let down = ClosedSecond { unhealthy: Some(&unhealthy), ..second(&[], &totals) };
    let down = counts(&mut journal, &down);
    assert_eq!((down.judged_seconds, down.down_seconds), (1, 1));
    let up = ClosedSecond { unhealthy: Some(&[]), ..second(&[], &totals) };
    assert_eq!(counts(&mut journal, &up).judged_seconds, 1);
}

#[test]
fn each_migration_counts_once() {
    let mut journal = journal();
    let totals = ended(Outcome::Completed, 1);
    let mut entry = sample::entry(sample::finished("1-1", Outcome::Completed, 1));
    entry.settled = false;
    let mut batches = 0;
    for at in 0..100 {
        // Its record becomes final later, and looks between the seconds see it too.
        entry.settled = at > 5;
        let entries = [entry.clone()];
        let mut batch = Batch::default();
        journal.take_ended(after(at), &entries, &mut batch);
        batches += batch.migrations.len();
        journal.second(after(at), &second(&entries, &totals));
    }
    assert_eq!(batches, 1);
    let hour = hour(&journal);
    assert_eq!((hour.error_rate.events, hour.error_rate.bad_events), (1, 0));
    assert_eq!(hour.latency.events, 1);
    // Gone from what is published: it is not remembered for ever.
    journal.second(after(101), &second(&[], &totals));
    assert!(journal.known.is_empty());
    assert_eq!(journal.lost, 0);
}

#[test]
fn violations_are_news_once() {
    let mut journal = journal();
    journal.second(after(0), &second(&[], &Totals::default()));
    let mut events = Vec::new();
    let failed = ended(Outcome::Failed, 1);
    for at in 1..7200 {
        let mut batch = Batch::default();
        let before = journal.violated;
        journal.second(after(at), &second(&[], &failed));
        if before != journal.violated {
            journal.violated = before;
            journal.changes(after(at), &mut batch);
            events.extend(batch.events);
        }
    }
    let told: Vec<(&str, &str)> =
        events.iter().map(|event| (event.kind.as_str(), event.subject.as_str())).collect();
    assert_eq!(told, [("sla_violated", "error_rate"), ("sla_restored", "error_rate")]);
    let why = &events[0].text;
    assert!(["100.00 %", "1.00 %", "1 of 1"].iter().all(|fact| why.contains(fact)), "{why}");
    assert!(!events[1].text.is_empty());
    // An hour, to the minute.
    let minutes = journal.view().violation_minutes[SlaType::ErrorRate as usize];
    assert!((60..=61).contains(&minutes), "{minutes}");
}

#[test]
fn a_clock_that_is_set_back_overwrites_nothing() {
    let mut journal = journal();
    let totals = Totals::default();
    journal.second(after(0), &second(&[], &totals));
    let first = (journal.minute.at, journal.minute.run_ms);
    // Some seconds: the same minute goes on.
    journal.second(after(-30), &second(&[], &totals));
    assert_eq!((journal.minute.at, journal.minute.run_ms), first);
    assert_eq!(journal.minute.counts.observed_seconds, 2);
    // A day: a run of its own, so no row of the first is replaced.
    journal.second(after(-86_400), &second(&[], &totals));
    assert_eq!(journal.minute.at, minute_of(after(-86_400).as_second()));
    assert_ne!(journal.minute.run_ms, first.1);
}

#[test]
fn the_decision_names_what_runs_badly() {
    let mut journal = journal();
    let mut stalled = sample::active("1-1");
    stalled.verdict.as_mut().unwrap().state = Health::Stalled;
    let entries = [sample::entry(stalled)];
    let totals = Totals::default();
    let second = ClosedSecond { blind: Some("no probe"), ..second(&entries, &totals) };
    journal.second(after(0), &second);
    let view = journal.view();
    assert_eq!(view.decision.decision, GoNoGo::Caution);
    let text = serde_json::to_string(&view.decision).unwrap();
    for part in ["migration web-01 is stalled (cause: network)", "cannot measure: no probe"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(view.anomalies, None);
}

/// Some hours of an eventful life, then a restart: all windows are as they were.
#[test]
fn service_levels_go_on_after_a_restart() {
    let directory = Directory::new();
    let path = directory.file();
    let written = Arc::new(AtomicU32::new(0));
    let count: AfterWrite = {
        let written = Arc::clone(&written);
        Box::new(move |_| {
            written.fetch_add(1, Ordering::Relaxed);
        })
    };
    let retention = Retention { seconds: 1 << 32, bytes: 1 << 30 };
    let history = History::start(path.clone(), retention, Store::open(&path), count).unwrap();
    let mut journal = journal().with_history(history);
    let mut totals = Totals::default();
    let mut finished: Vec<Entry> = Vec::new();
    let anomaly = Event {
        at: after(0),
        kind: "anomaly".into(),
        subject: "rtt".into(),
        severity: "warning".into(),
        text: "12 ms, expected 1 to 2".into(),
    };
    for _ in 0..MAX_NOTED + 3 {
        journal.note(anomaly.clone());
    }
    assert_eq!(journal.history().dropped, 3);
    let end = 3 * 3600;
    for at in (0..end).step_by(7) {
        if at % 700 == 0 {
            let outcome = if at % 1400 == 0 { Outcome::Completed } else { Outcome::Failed };
            *totals.finished.entry((outcome, Some(Mode::Datacenter))).or_default() += 1;
            finished.push(sample::entry(sample::finished(&format!("{at}-1"), outcome, -at)));
        }
        let mut entries = finished.clone();
        if at % 35 == 0 {
            entries.push(sample::entry(sample::active("9-9")));
        }
        journal.second(after(at), &second(&entries, &totals));
        // The queue is bounded; this life is faster than a real one.
        let due = MAX_NOTED as u64 + journal.stored + at.unsigned_abs() / 60;
        while journal.history().written + 64 < due {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    let now = after(end);
    journal.judge(now.as_second(), Window::Month);
    let before = serde_json::to_value(&journal.levels).unwrap();
    assert_eq!(journal.history().dropped, 3);
    // The end of the observer in the middle of a minute.
    drop(journal);
    assert!(written.load(Ordering::Relaxed) > 0);

    let store = Store::open(&path).unwrap();
    let events = store.events(Timestamp::MIN, Timestamp::MAX).unwrap();
    assert_eq!(events.iter().filter(|event| **event == anomaly).count(), MAX_NOTED);
    let mut again = Journal::new(now, Targets::default(), None);
    again.restore(&store, now).unwrap();
    let after_restart = serde_json::to_value(&again.levels).unwrap();
    assert_eq!(after_restart, before);
    assert_eq!(before[1]["error_rate"]["bad_events"], 3);
    assert_eq!(before[3]["latency"]["events"], 16);
    assert!(again.violated[SlaType::ErrorRate as usize], "what was violated is no news");
    // Much later the same history says nothing of the last hour any more, but still of the month.
    let later = now + SignedDuration::from_hours(20 * 24);
    let mut much_later = Journal::new(later, Targets::default(), None);
    much_later.restore(&store, later).unwrap();
    assert_eq!(much_later.levels[1].error_rate.events, 0);
    assert_eq!(much_later.levels[3].error_rate.events, 16);
}
