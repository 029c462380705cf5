use super::{
    super::{
        Window,
        counts::Counts,
        decide::{Anomaly, Decision, GoNoGo, Running, Situation, Unhealthy, decide},
        judge::Levels,
        windows::Windows,
    },
    blackout, levels,
};
use crate::config::Targets;
use crate::{
    anomaly::Severity,
    model::{
        record::Mode,
        verdict::{Cause, Health},
    },
};

const NOW: i64 = 1_795_350_600;

fn judged(windows: &[Levels]) -> Decision {
    decide(&Situation { windows, anomalies: &[], unhealthy: &[], running: &[], blind: None })
}

/// Migrations that finished `age` seconds ago, with their blackouts.
fn finished(windows: &mut Windows, age: i64, completed: u64, failed: u64, seconds: f64) {
    windows.add(NOW - age, &Counts { completed, failed, ..Counts::default() });
    for _ in 0..completed {
        windows.add_blackout(NOW - age, blackout(Mode::Datacenter, seconds));
    }
}

fn good() -> Windows {
    let mut windows = Windows::default();
    finished(&mut windows, 60, 10, 0, 0.05);
    windows
}

#[test]
fn good_migrations_are_a_go() {
    let decision = judged(&levels(&good(), NOW));
    assert_eq!(decision, Decision { decision: GoNoGo::Go, reasons: vec![] });
}

#[test]
fn without_a_migration_there_is_nothing_to_go_by() {
    let decision = judged(&levels(&Windows::default(), NOW));
    assert_eq!(decision.decision, GoNoGo::Caution);
    assert!(decision.reasons[0].text.contains("no migration finished"), "{decision:?}");
    // An hour and a bit later good migrations are no evidence any more.
    assert_eq!(judged(&levels(&good(), NOW + 3700)).decision, GoNoGo::Caution);
}

#[test]
fn one_violation_is_caution_two_are_a_no_go() {
    let mut slow = good();
    let transfer = Counts {
        transfer_seconds: 10,
        slow_seconds: 0,
        transferred_bytes: 1_000_000_000,
        ..Counts::default()
    };
    slow.add(NOW - 60, &transfer);
    let decision = judged(&levels(&slow, NOW));
    assert_eq!(decision.decision, GoNoGo::Caution, "{decision:?}");
    let reason = &decision.reasons[0].text;
    for fact in ["throughput", "hour", "0.100 GB/s", "2.400 GB/s", "0 of 10"] {
        assert!(reason.contains(fact), "{reason}");
    }
    // A failure 50 minutes ago: too long for a fast burn, but the hour is broken twice.
    finished(&mut slow, 3000, 0, 1, 0.0);
    let decision = judged(&levels(&slow, NOW));
    assert_eq!(decision.decision, GoNoGo::NoGo, "{decision:?}");
    assert_eq!(decision.reasons.iter().filter(|reason| reason.level == GoNoGo::NoGo).count(), 2);
    assert!(decision.reasons.is_sorted_by_key(|reason| std::cmp::Reverse(reason.level)));
}

#[test]
fn one_failure_is_bad_luck_two_in_a_row_stop_the_rollout() {
    let mut windows = good();
    finished(&mut windows, 30, 0, 1, 0.0);
    let one = judged(&levels(&windows, NOW));
    assert_eq!(one.decision, GoNoGo::Caution, "{one:?}");
    finished(&mut windows, 20, 0, 1, 0.0);
    let two = judged(&levels(&windows, NOW));
    assert_eq!(two.decision, GoNoGo::NoGo, "{two:?}");
    assert!(two.reasons[0].text.contains("16.7 times"), "{two:?}");
}

#[test]
fn a_spent_month_is_caution_while_the_hour_is_fine() {
    let mut windows = good();
    finished(&mut windows, 20 * 86_400, 0, 5, 0.0);
    let decision = judged(&levels(&windows, NOW));
    assert_eq!(decision.decision, GoNoGo::Caution, "{decision:?}");
    let reason = &decision.reasons[0].text;
    assert!(reason.contains("30 days") && reason.contains("5 of 15"), "{reason}");
    // With the hour broken too it is not.
    finished(&mut windows, 3000, 0, 1, 0.0);
    assert_eq!(judged(&levels(&windows, NOW)).decision, GoNoGo::NoGo);
}

#[test]
fn a_slow_network_alone_stops_nothing() {
    let mut windows = good();
    let slow = Counts { transfer_seconds: 60, slow_seconds: 60, ..Counts::default() };
    for minute in 0..40 * 24 * 60 {
        windows.add(NOW - minute * 60, &slow);
    }
    assert_eq!(judged(&levels(&windows, NOW)).decision, GoNoGo::Caution);
}

#[test]
fn components_anomalies_verdicts_and_blindness_count() {
    let windows = levels(&good(), NOW);
    let base = || Situation {
        windows: &windows,
        anomalies: &[],
        unhealthy: &[],
        running: &[],
        blind: None,
    };
    let unhealthy = [Unhealthy { component: "acp".into(), why: "port 9094 refuses".into() }];
    let decision = decide(&Situation { unhealthy: &unhealthy, ..base() });
    assert_eq!(decision.decision, GoNoGo::NoGo);
    assert_eq!(decision.reasons[0].text, "component acp: port 9094 refuses");

    let anomaly = |kind: &str, severity| Anomaly {
        anomaly_type: kind.into(),
        severity,
        why: "p99 3.1 s, expected 0.1 to 0.2".into(),
    };
    let critical = Severity::Critical;
    let two = [anomaly("rtt", critical), anomaly("latency", critical), anomaly("rtt", critical)];
    assert_eq!(decide(&Situation { anomalies: &two, ..base() }).decision, GoNoGo::Caution);
    let three =
        [anomaly("rtt", critical), anomaly("latency", critical), anomaly("retransmit", critical)];
    assert_eq!(decide(&Situation { anomalies: &three, ..base() }).decision, GoNoGo::NoGo);

    let running = |health| [Running { name: "web-01", health, cause: Some(Cause::Network) }];
    for (health, word) in [
        (Health::Healthy, GoNoGo::Go),
        (Health::Slow, GoNoGo::Go),
        (Health::Stalled, GoNoGo::Caution),
        (Health::NotConverging, GoNoGo::Caution),
    ] {
        let running = running(health);
        assert_eq!(decide(&Situation { running: &running, ..base() }).decision, word, "{health:?}");
    }
    let decision = decide(&Situation { blind: Some("no probe is attached"), ..base() });
    assert_eq!(decision.decision, GoNoGo::Caution);
}

#[test]
fn the_defaults_are_the_contract_s() {
    let targets = Targets::default();
    assert_eq!(targets.latency_seconds(Some(Mode::Datacenter)), 0.5);
    assert_eq!(targets.latency_seconds(Some(Mode::Internet)), 90.0);
    assert_eq!(targets.latency_seconds(Some(Mode::Hybrid)), 5.0);
    assert_eq!((targets.throughput_bytes_per_second, targets.error_rate), (2.4e9, 0.01));
    assert_eq!(targets.availability, 0.999);
    assert_eq!(Window::Month.seconds(), 2_592_000);
}
