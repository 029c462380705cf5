//! Latency: the blackout.

use jiff::Timestamp;

use super::{
    anomaly::is_known,
    data::Data,
    document::Document,
    figures,
    words::{Ranked, bare, percent, some},
};
use crate::{
    model::record::Migration,
    model::record::{Mode, Outcome},
};

/// Contract: the ladder below the p99 of 500 ms within a data centre, per mille and ms.
const LADDER: [(usize, f64); 6] =
    [(500, 200.0), (750, 300.0), (900, 400.0), (950, 450.0), (990, 500.0), (999, 750.0)];
/// Lengths of the parts of the period, minutes; the first that makes at most `SLICES` of them.
const LENGTHS: [i64; 10] = [1, 2, 5, 10, 15, 30, 60, 180, 360, 1440];
const SLICES: i64 = 24;
/// Below this a p99 is the longest of them.
const ENOUGH: usize = 100;

const fn mode_name(mode: Option<Mode>) -> &'static str {
    match mode {
        Some(mode) => mode.as_str(),
        None => "unknown",
    }
}

pub(super) fn latency(data: &Data, document: &mut Document) {
    document.heading(2, "1 Latency");
    document.text("Latency is the blackout (downtime): the time in which the guest ran on neither end. Only migrations whose stop and start were both observed have one.");
    document.heading(3, "1.1 Distribution");
    let levels = data.levels();
    if levels.latency_by_mode.is_empty() {
        document.text("No migration with a known blackout ended in this period.");
    } else {
        let ms = |seconds: f64| format!("{:.2}", seconds * 1e3);
        let rows = levels
            .latency_by_mode
            .iter()
            .map(|mode| {
                vec![
                    mode_name(mode.mode).to_owned(),
                    mode.migrations.to_string(),
                    ms(mode.p50_seconds),
                    ms(mode.p95_seconds),
                    ms(mode.p99_seconds),
                    ms(mode.max_seconds),
                    format!("{:.0}", mode.target_seconds * 1e3),
                    if mode.compliant { "PASS" } else { "FAIL" }.to_owned(),
                ]
            })
            .collect();
        document.table(
            &[
                "Mode",
                "Migrations",
                "P50 ms",
                "P95 ms",
                "P99 ms",
                "Max ms",
                "Limit of P99 ms",
                "Status",
            ],
            rows,
        );
        ladder(data, document);
        document.figure(figures::blackouts(data));
    }
    document.heading(3, "1.2 By component");
    document.text("Not measured: a blackout concerns the whole guest. Its parts are in each migration's record (dwcp-observer migrations ID); the components' health is in section 4.");
    document.heading(3, "1.3 Over the period");
    slices(data, document);
    document.heading(3, "1.4 Against the Phase 5 baseline");
    baseline(data, document);
}

/// The contract's ladder holds for a data centre.
fn ladder(data: &Data, document: &mut Document) {
    let blackout = data.blackouts();
    let near =
        blackout.iter().filter(|blackout| matches!(blackout.mode, Some(Mode::Datacenter) | None));
    let ms = Ranked::new(near.map(|blackout| blackout.seconds * 1e3));
    let rows: Vec<Vec<String>> = LADDER
        .iter()
        .filter_map(|(permille, target)| {
            let value = ms.rank_permille(*permille)?;
            Some(vec![
                format!("P{}", *permille as f64 / 10.0),
                format!("{value:.2}"),
                format!("{target:.0}"),
                if value < *target { "PASS" } else { "FAIL" }.to_owned(),
            ])
        })
        .collect();
    if rows.is_empty() {
        return;
    }
    let few = if ms.len() < ENOUGH {
        " With fewer than 100 migrations the P99 is the longest blackout."
    } else {
        ""
    };
    document.text(format!("Mode datacenter (and unknown mode), {} migrations.{few}", ms.len()));
    document.table(&["Percentile", "ms", "Target: below, ms", "Status"], rows);
}

/// The period in equal parts, at round times.
fn slices(data: &Data, document: &mut Document) {
    let (from, to) = (data.from.as_second(), data.to.as_second());
    let fits = |minutes: &&i64| (to - from).div_euclid(**minutes * 60) <= SLICES;
    let minutes = LENGTHS.iter().find(fits).copied().unwrap_or(7 * 1440);
    let length = minutes * 60;
    let mut rows = Vec::new();
    let mut begin = from.div_euclid(length) * length;
    while begin < to {
        let end = begin + length;
        let inside = |at: i64| at >= begin && at < end;
        let ended: Vec<&Migration> =
            data.v3().filter(|one| one.ended_at.is_some_and(|at| inside(at.as_second()))).collect();
        let ms = Ranked::new(ended.iter().filter_map(|one| Some(one.blackout_seconds()? * 1e3)));
        let failed = ended.iter().filter(|one| one.outcome == Some(Outcome::Failed)).count();
        let anomalies = data
            .events
            .iter()
            .filter(|event| event.kind == "anomaly" && inside(event.at.as_second()))
            .count();
        let mut sum = crate::history::minute::Spread::default();
        for minute in data.minutes.iter().filter(|minute| inside(minute.at)) {
            sum.add(&minute.throughput);
        }
        if !ended.is_empty() || anomalies > 0 || sum.count > 0 {
            let at = Timestamp::from_second(begin).unwrap_or_default();
            rows.push(vec![
                at.strftime("%d %b %H:%M").to_string(),
                ended.len().to_string(),
                failed.to_string(),
                bare(ms.rank(50), 2),
                bare(ms.rank(95), 2),
                bare(ms.rank(99), 2),
                bare(sum.mean().map(|rate| rate / 1e9), 3),
                if is_known(data) { anomalies.to_string() } else { "-".to_owned() },
            ]);
        }
        begin = end;
    }
    if rows.is_empty() {
        document.text("No migration ran or ended in this period.");
        return;
    }
    let length =
        if minutes < 60 { format!("{minutes} min") } else { format!("{} h", minutes / 60) };
    document.text(format!(
        "Parts of {length}, all modes together; those without migrations and anomalies are left out."
    ));
    document.table(
        &["From (UTC)", "Ended", "Failed", "P50 ms", "P95 ms", "P99 ms", "GB/s", "Anomalies"],
        rows,
    );
}

fn baseline(data: &Data, document: &mut Document) {
    let levels = data.levels();
    let p99 = levels
        .latency_by_mode
        .iter()
        .find(|mode| mode.mode == Some(Mode::Datacenter))
        .map(|mode| mode.p99_seconds * 1e3);
    let of_mode = data
        .v3()
        .filter(|one| one.mode == Some(Mode::Internet) && one.outcome == Some(Outcome::Completed));
    let mean = Ranked::new(of_mode.map(|one| one.duration_seconds)).mean();
    document.table(
        &["Baseline", "Its figure", "In this period", "Share of the baseline"],
        vec![
            vec![
                "datacenter, small to large VM".into(),
                "250 to 450 ms".into(),
                format!("P99 blackout: {}", some(p99, "ms", 2)),
                p99.map_or("-".into(), |ms| {
                    format!("{} to {}", percent(ms, 450.0), percent(ms, 250.0))
                }),
            ],
            vec![
                "internet, VM of 2 GB".into(),
                "85 s".into(),
                format!("mean total time: {}", some(mean, "s", 1)),
                mean.map_or("-".into(), |seconds| percent(seconds, 85.0)),
            ],
            vec![
                "cross-region".into(),
                "120 s".into(),
                "not distinguished from internet".into(),
                "-".into(),
            ],
        ],
    );
}
