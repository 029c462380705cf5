//! Migrations second by second: who is blamed, how often, and what is kept.

use jiff::{SignedDuration, Timestamp};

use super::Noise;
use crate::anomaly::{
    Direction, Event, Kind, Method, Sample, Severity, Signals, Transition,
    alarm::{Alarm, Edge},
    replay::replay,
    signals::{EVENTS, LASTING, MIGRATIONS},
    watch::Watch,
};
use crate::model::record::Mode;

/// A host, one second after the other.
struct Host {
    signals: Signals,
    now: Timestamp,
    noise: Noise,
}

impl Host {
    fn new(seed: u64) -> Self {
        let now = Timestamp::from_second(1_800_000_000).expect("a time");
        Self { signals: Signals::new(), now, noise: Noise::new(seed) }
    }

    fn second(&mut self, samples: &[(&str, Kind, f64)]) -> Vec<Event> {
        self.now += SignedDuration::from_secs(1);
        let samples: Vec<_> = samples
            .iter()
            .map(|&(migration, kind, value)| Sample {
                migration: Some(migration),
                mode: Some(Mode::Datacenter),
                kind,
                value,
            })
            .collect();
        self.signals.observe(self.now, &samples)
    }

    /// A usual second of the given migrations, with `factor` on the throughput of the first.
    fn usual(&mut self, migrations: &[&str], factor: f64) -> Vec<Event> {
        let mut samples = Vec::new();
        for (index, migration) in migrations.iter().enumerate() {
            let factor = if index == 0 { factor } else { 1.0 };
            let rate = 1e9 * (1.0 + 0.03 * self.noise.normal()) * factor;
            samples.push((*migration, Kind::Throughput, rate));
            samples.push((*migration, Kind::Rtt, 200e-6 * (1.0 + 0.05 * self.noise.normal())));
            samples.push((*migration, Kind::Runqueue, 0.002 * self.noise.uniform()));
        }
        self.second(&samples)
    }

    fn count(&self, kind: Kind) -> u64 {
        let counts = self.signals.counts().filter(|(counted, ..)| *counted == kind);
        counts.map(|(.., count)| count).sum()
    }
}

#[test]
fn every_counter_is_there_from_the_beginning() {
    let signals = Signals::new();
    let counts: Vec<_> = signals.counts().collect();
    assert_eq!(counts.len(), Kind::ALL.len() * Severity::ALL.len());
    assert!(counts.iter().all(|(.., count)| *count == 0));
}

#[test]
fn ten_minutes_of_usual_migrations_are_silent() {
    let mut host = Host::new(1);
    for second in 0..600 {
        // Ten migrations one after the other, two at a time.
        let (first, other) = (format!("m{}", second / 60), format!("n{}", second / 60));
        let events = host.usual(&[&first, &other], 1.0);
        assert_eq!(events, [], "second {second}");
    }
    assert!(host.signals.events().is_empty());
}

#[test]
fn a_collapse_is_counted_once_and_ends() {
    let mut host = Host::new(2);
    for _ in 0..120 {
        assert_eq!(host.usual(&["a"], 1.0), []);
    }
    let mut all = Vec::new();
    for second in 0..90 {
        all.extend(host.usual(&["a"], if second < 30 { 0.01 } else { 1.0 }));
    }
    let of = |phase| all.iter().filter(move |event| event.phase == phase);
    let began: Vec<_> = of(Transition::Began).collect();
    let [event] = began[..] else { panic!("{all:?}") };
    assert_eq!((event.kind, event.direction), (Kind::Throughput, Direction::Below));
    assert_eq!((event.severity, event.migration.as_deref()), (Severity::Critical, Some("a")));
    assert!(event.value < 2e7 && event.expected_low > 5e8 && event.expected_high < 1.5e9);
    assert_eq!(of(Transition::Ended).count(), 1);
    assert_eq!(host.count(Kind::Throughput), 1);
    let kept = host.signals.events();
    assert_eq!(kept.len(), 1);
    assert_eq!((kept[0].phase, kept[0].id), (Transition::Ended, event.id));
    assert!(kept[0].ended_at.is_some_and(|end| end > kept[0].began_at));
}

#[test]
fn one_of_five_is_named() {
    let mut host = Host::new(3);
    let five = ["a", "b", "c", "d", "e"];
    for _ in 0..120 {
        assert_eq!(host.usual(&five, 1.0), []);
    }
    let events = host.usual(&five, 0.01);
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!((event.migration.as_deref(), event.kind), (Some("a"), Kind::Throughput));
    assert_eq!(event.method, Method::RobustZ);
}

#[test]
fn what_is_usual_in_one_mode_is_not_in_another() {
    let mut host = Host::new(4);
    for _ in 0..200 {
        host.usual(&["a", "b", "c"], 1.0);
    }
    for _ in 0..200 {
        host.now += SignedDuration::from_secs(1);
        let rtt = 0.08 * (1.0 + 0.05 * host.noise.normal());
        let far = Sample {
            migration: Some("far"),
            mode: Some(Mode::Internet),
            kind: Kind::Rtt,
            value: rtt,
        };
        assert_eq!(host.signals.observe(host.now, &[far]), []);
    }
    let near: Vec<_> = (0..LASTING).flat_map(|_| host.second(&[("a", Kind::Rtt, 0.08)])).collect();
    assert!(near.iter().any(|event| event.kind == Kind::Rtt), "{near:?}");
}

#[test]
fn kinds_that_are_a_little_off_together_agree() {
    let usual = [
        ("a", Kind::Retransmit, 0.010),
        ("a", Kind::Throughput, 1e7),
        ("a", Kind::ErrorBurst, 1.0),
    ];
    let run = |last: [f64; 3]| {
        let mut host = Host::new(5);
        for second in 0..40 {
            let wobble = [0.0, 1.0, -1.0][second % 3];
            let events = host.second(&usual.map(|(migration, kind, value)| {
                (migration, kind, value + wobble * 0.5 * kind.floor().absolute)
            }));
            assert_eq!(events, []);
        }
        let mut last = last.into_iter();
        host.second(&usual.map(|(migration, kind, value)| {
            (migration, kind, value + last.next().unwrap_or(0.0) * kind.floor().absolute)
        }))
    };
    // 9 deviations are needed for one alone: 6 of them from each of three.
    assert_eq!(run([6.5, 6.5, 0.0]), []);
    let agreed = run([6.5, 6.5, 6.5]);
    let [event] = &agreed[..] else { panic!("{agreed:?}") };
    assert_eq!((event.method, event.severity), (Method::Consensus, Severity::Critical));
}

#[test]
fn silence_ends_an_event_and_forgets_a_migration() {
    let mut host = Host::new(6);
    for _ in 0..60 {
        host.usual(&["a"], 1.0);
    }
    assert_eq!(host.usual(&["a"], 0.001).len(), 1);
    let mut ended = Vec::new();
    for _ in 0..70 {
        ended.extend(host.second(&[]));
    }
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].phase, Transition::Ended);
    // Its own past is gone; the mode's is not.
    let again = host.second(&[("a", Kind::Runqueue, 0.5)]);
    assert!(again.iter().all(|event| event.method != Method::Consensus));
    host.signals.forget("a");
}

#[test]
fn a_blackout_that_is_long_is_one_event_for_each_migration() {
    let mut host = Host::new(7);
    let mut began = 0;
    for migration in 0..400 {
        let name = format!("m{migration}");
        let value = match migration {
            40 | 350 | 352 => 3.0,
            _ => 0.05 * (1.0 + 0.1 * host.noise.normal()),
        };
        let events = host.second(&[(&name, Kind::Latency, value)]);
        for event in events.iter().filter(|event| event.phase == Transition::Began) {
            assert_eq!(event.migration.as_deref(), Some(&*name));
            assert!(value > 1.0, "{event:?}");
            began += 1;
        }
        host.signals.forget(&name);
        for _ in 0..10 {
            host.second(&[]);
        }
    }
    assert_eq!((began, host.count(Kind::Latency)), (3, 3));
}

/// The answers to a fault fade over a dozen samples. Those come much later when the migrations are over.
#[test]
fn after_silence_a_usual_second_is_usual() {
    let mut host = Host::new(11);
    for second in 0..400 {
        let value = 0.001 * (1.0 + 0.1 * host.noise.normal());
        let migration = ["d", "c", "b", "a"][second / 100];
        assert_eq!(host.second(&[(migration, Kind::Rtt, value)]), []);
    }
    let events: Vec<_> = (0..LASTING).flat_map(|_| host.second(&[("a", Kind::Rtt, 0.5)])).collect();
    assert!(matches!(&events[..], [event] if event.phase == Transition::Began), "{events:?}");
    for _ in 0..70 {
        host.second(&[]);
    }
    for _ in 0..LASTING {
        assert_eq!(host.second(&[("e", Kind::Rtt, 0.001)]), []);
    }
}

#[test]
fn an_event_as_json() {
    let mut host = Host::new(12);
    for _ in 0..30 {
        host.second(&[("a", Kind::Rtt, 0.0002)]);
    }
    for _ in 1..LASTING {
        assert_eq!(host.second(&[("a", Kind::Rtt, 0.25)]), [], "it has not lasted");
    }
    let events = host.second(&[("a", Kind::Rtt, 0.25)]);
    let json = serde_json::to_value(&events).expect("plain values");
    let expected = serde_json::json!([{
        "id": 1, "phase": "began", "kind": "rtt", "mode": "datacenter", "migration": "a",
        "severity": "critical", "direction": "above", "value": 0.25, "method": "robust_z",
        "expected_low": events[0].expected_low, "expected_high": events[0].expected_high,
        "z": events[0].z, "score": events[0].score, "began_at": "2027-01-15T08:00:35Z",
    }]);
    assert_eq!(json, expected);
    assert!((events[0].expected_low + 2.8e-3).abs() < 1e-9, "the floor is 1 ms");
    assert!((events[0].expected_high - 3.2e-3).abs() < 1e-9);
}

#[test]
fn losses_are_over_when_nothing_is_lost() {
    let mut host = Host::new(16);
    let mut phases = Vec::new();
    for second in 0..260 {
        let lost = if (200..208).contains(&second) { 0.7 } else { 0.0 };
        for event in host.second(&[("a", Kind::Retransmit, lost)]) {
            phases.push((second, event.phase));
        }
    }
    let [(200, Transition::Began), (ended, Transition::Ended)] = phases[..] else {
        panic!("{phases:?}")
    };
    assert_eq!(ended, 207 + Kind::Retransmit.calm() as usize, "{phases:?}");
}

#[test]
fn what_must_last_is_silent_about_jumps() {
    let mut host = Host::new(15);
    for second in 0..600 {
        let jump = second % 40 >= 36;
        let (rtt, waits) = if jump { (0.05, 2.0) } else { (0.001, 0.01) };
        let events = host.second(&[("a", Kind::Rtt, rtt), ("a", Kind::Runqueue, waits)]);
        assert_eq!(events, [], "second {second}");
    }
}

#[test]
fn that_the_second_migration_differs_from_the_first_is_no_anomaly() {
    let after = |migrations: &[&str]| {
        let mut host = Host::new(16);
        for migration in migrations {
            for _ in 0..30 {
                assert_eq!(host.second(&[(migration, Kind::Rtt, 0.002)]), []);
            }
        }
        let other = (0..30).flat_map(|_| host.second(&[("other", Kind::Rtt, 0.03)]));
        other.filter(|event| event.phase == Transition::Began).count()
    };
    assert_eq!(after(&["a"]), 0);
    assert_eq!(after(&["a", "b"]), 0);
    assert_eq!(after(&["a", "b", "c"]), 1);
}

/// Fifty migrations of ten minutes, noise with and without memory.
#[test]
fn a_watch_is_silent_on_noise() {
    for correlation in [0.0, 0.8] {
        let mut noise = Noise::new(13);
        let mut events = 0;
        for _ in 0..50 {
            let (mut watch, mut alarm, mut last) = (Watch::default(), Alarm::new(1.0, 20), 0.0);
            for _ in 0..600 {
                last = correlation * last + noise.normal();
                let vote = watch.observe(Kind::Throughput, 1e9 * (1.0 + 0.1 * last));
                let score = vote.map_or(0.0, |vote| vote.score);
                events += u32::from(alarm.observe(score) == Some(Edge::Begins));
            }
        }
        assert!(events <= 1, "{correlation}: {events} in 8.3 hours");
    }
}

#[test]
fn after_five_blackouts_one_that_is_far_longer_is_an_anomaly() {
    let after = |blackouts: &[f64]| {
        let mut host = Host::new(17);
        for value in blackouts {
            assert_eq!(host.second(&[("usual", Kind::Latency, *value)]), []);
        }
        host.second(&[("long", Kind::Latency, 5.0)]).len()
    };
    assert_eq!(after(&[0.3, 0.33, 0.36, 0.31]), 0);
    assert_eq!(after(&[0.3, 0.33, 0.36, 0.31, 0.35]), 1);
}

#[test]
fn of_two_blackouts_in_a_second_the_long_one_is_named() {
    let mut host = Host::new(14);
    for _ in 0..30 {
        assert_eq!(host.second(&[("usual", Kind::Latency, 0.05)]), []);
    }
    let events = host.second(&[("short", Kind::Latency, 0.05), ("long", Kind::Latency, 2.0)]);
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!((event.migration.as_deref(), event.value), (Some("long"), 2.0));
}

#[test]
fn all_is_bounded() {
    let mut host = Host::new(8);
    let names: Vec<String> = (0..MIGRATIONS + 10).map(|name| name.to_string()).collect();
    let samples: Vec<_> = names.iter().map(|name| (name.as_str(), Kind::Rtt, 1e-4)).collect();
    host.second(&samples);
    assert_eq!(host.signals.not_watched(), 10);
    // A blackout may be an event each time, with one calm one in between.
    for round in 0..4 * EVENTS as u32 {
        let value = if round > 20 && round % 3 == 0 { f64::from(round) } else { 0.1 };
        host.second(&[("x", Kind::Latency, value)]);
    }
    assert!(host.signals.events().len() <= EVENTS);
}

#[test]
fn what_is_not_finite_is_passed_over() {
    let mut host = Host::new(9);
    for _ in 0..50 {
        host.usual(&["a"], 1.0);
    }
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(host.second(&Kind::ALL.map(|kind| ("a", kind, value))), []);
    }
}

#[test]
fn a_recording_says_what_was_said_live() {
    let mut noise = Noise::new(10);
    let seconds: Vec<_> = (0..300)
        .map(|second| {
            let factor = if second > 200 { 0.05 } else { 1.0 };
            let value = 1e9 * (1.0 + 0.03 * noise.normal()) * factor;
            let now = Timestamp::from_second(1_800_000_000 + second).expect("a time");
            let mode = Some(Mode::Hybrid);
            (now, vec![Sample { migration: Some("a"), mode, kind: Kind::Throughput, value }])
        })
        .collect();
    let events = replay(seconds.clone());
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].began_at, seconds[201].0);
}
