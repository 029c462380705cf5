//! Status, latency, throughput, errors.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{data::Data, document::Document, figures};
use crate::{
    migration::record::{Mode, Outcome},
    sla::{
        SlaType,
        decide::{measured, name},
        judge::{Level, nearest_rank},
    },
};

/// What stands for a figure that is not there.
pub(super) const NONE: &str = "not measured";
/// Contract: most streams of AMST.
const MAX_STREAMS: f64 = 512.0;
/// Contract: the ladder below the p99 of 500 ms within a data centre, percent and ms.
const LADDER: [(f64, f64); 6] =
    [(50.0, 200.0), (75.0, 300.0), (90.0, 400.0), (95.0, 450.0), (99.0, 500.0), (99.9, 750.0)];
/// Rows of the table over time.
const SLICES: i64 = 24;

pub(super) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// A number, or that there is none.
pub(super) fn some(value: Option<f64>, unit: &str, digits: usize) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| format!("{value:.digits$} {unit}"))
}

pub(super) fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.1} %", part / whole * 1e2) } else { "-".to_owned() }
}

pub(super) const fn verdict(level: &Level) -> &'static str {
    match level.compliant {
        Some(true) => "PASS",
        Some(false) => "FAIL",
        None => "nothing to judge",
    }
}

const fn mode_name(mode: Option<Mode>) -> &'static str {
    match mode {
        Some(mode) => mode.as_str(),
        None => "unknown",
    }
}

pub(super) fn header(data: &Data, document: &mut Document) {
    let sum = data.sum();
    let observed = sum.counts.observed_seconds as f64;
    document.list(vec![
        format!("Host: {}", data.node),
        format!("Period: {} to {} ({:.1} h)", data.from, data.to, data.seconds() / 3600.0),
        format!(
            "Observed: {:.0} of {:.0} s ({})",
            observed,
            data.seconds(),
            percent(observed.min(data.seconds()), data.seconds())
        ),
        format!("Migrations that ended: {}", data.finished.len()),
        format!(
            "Sources: history database{}",
            if data.live.sla.is_some() { ", running observer" } else { "; no observer answered, so nothing is said of the present and targets are the defaults" }
        ),
    ]);
}

pub(super) fn status(data: &Data, document: &mut Document) {
    document.heading(2, "0 Quick status");
    let levels = data.levels();
    let rows = SlaType::ALL
        .into_iter()
        .map(|sla| {
            let level = levels.level(sla);
            let figures =
                if level.compliant.is_some() { measured(sla, level) } else { NONE.to_owned() };
            vec![name(sla).to_owned(), figures, verdict(level).to_owned()]
        })
        .chain([row(["rollout progress", NONE, "-"])])
        .collect();
    document.table(&["What", "In this period", "Status"], rows);
}

pub(super) fn latency(data: &Data, document: &mut Document) {
    document.heading(2, "1 Latency");
    document.text("Latency is the blackout: the time in which the guest's CPUs ran nowhere. Only migrations of which both instants were seen have one.");
    document.heading(3, "1.1 Distribution");
    let levels = data.levels();
    if levels.latency_by_mode.is_empty() {
        document.text("No migration with a blackout of known length ended in this period.");
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
    document.text("Not measured: the components run in the migrator's own process. Where the time of a blackout went is in each migration's record (dwcp-observer migrations ID).");
    document.heading(3, "1.3 Over the period");
    slices(data, document);
    document.heading(3, "1.4 Against the Phase 5 baseline");
    baseline(data, document);
}

/// The contract's ladder holds for a data centre.
fn ladder(data: &Data, document: &mut Document) {
    let mut ms: Vec<f64> = data
        .blackouts()
        .iter()
        .filter(|felt| matches!(felt.mode, Some(Mode::Datacenter) | None))
        .map(|felt| felt.seconds * 1e3)
        .collect();
    if ms.is_empty() {
        return;
    }
    ms.sort_unstable_by(f64::total_cmp);
    let rows = LADDER
        .iter()
        .map(|(rank, target)| {
            let place = (ms.len() as f64 * rank / 100.0).ceil() as usize;
            let value = ms.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN);
            vec![
                format!("P{rank}"),
                format!("{value:.2}"),
                format!("< {target}"),
                if value < *target { "PASS" } else { "FAIL" }.to_owned(),
            ]
        })
        .collect();
    document.text("Within a data centre (and where the mode is unknown):");
    document.table(&["Percentile", "ms", "Target ms", "Status"], rows);
}

/// The period in equal parts.
fn slices(data: &Data, document: &mut Document) {
    let (from, to) = (data.from.as_second(), data.to.as_second());
    // Whole minutes, so that no minute falls into two parts.
    let length = ((to - from) / SLICES).max(60).div_euclid(60) * 60;
    let mut rows = Vec::new();
    let mut begin = from;
    while begin < to {
        let end = (begin + length).min(to);
        let inside = |at: i64| at >= begin && at < end;
        let ended = data
            .finished
            .iter()
            .filter(|one| one.ended_at.is_some_and(|at| inside(at.as_second())));
        let mut ms: Vec<f64> =
            ended.clone().filter_map(|one| Some(one.blackout_seconds()? * 1e3)).collect();
        ms.sort_unstable_by(f64::total_cmp);
        let ended = ended.count();
        let anomalies = data
            .events
            .iter()
            .filter(|event| event.kind == "anomaly" && inside(event.at.as_second()))
            .count();
        if ended > 0 || anomalies > 0 {
            let at = Timestamp::from_second(begin).unwrap_or_default();
            let rank = |percent| nearest_rank(&ms, percent);
            let cell = |value: Option<f64>| value.map_or("-".to_owned(), |ms| format!("{ms:.2}"));
            rows.push(vec![
                at.strftime("%d %b %H:%M").to_string(),
                ended.to_string(),
                cell(rank(50)),
                cell(rank(95)),
                cell(rank(99)),
                if anomalies_known(data) { anomalies.to_string() } else { "-".to_owned() },
            ]);
        }
        begin = end;
    }
    if rows.is_empty() {
        document.text("No migration ended in this period.");
        return;
    }
    document.text(format!("Parts of {} min; those without a migration are left out.", length / 60));
    document.table(&["From (UTC)", "Ended", "P50 ms", "P95 ms", "P99 ms", "Anomalies"], rows);
}

/// Whether anything looks for anomalies.
pub(super) fn anomalies_known(data: &Data) -> bool {
    data.live.sla.as_ref().is_some_and(|view| view.anomalies.is_some())
        || data.events.iter().any(|event| event.kind == "anomaly")
}

fn baseline(data: &Data, document: &mut Document) {
    let levels = data.levels();
    let p99 = levels
        .latency_by_mode
        .iter()
        .find(|mode| mode.mode == Some(Mode::Datacenter))
        .map(|mode| mode.p99_seconds * 1e3);
    let mean = |mode: Mode| {
        let seconds: Vec<f64> = data
            .finished
            .iter()
            .filter(|one| one.mode == Some(mode) && one.outcome == Some(Outcome::Completed))
            .map(|one| one.duration_seconds)
            .collect();
        (!seconds.is_empty()).then(|| seconds.iter().sum::<f64>() / seconds.len() as f64)
    };
    document.table(
        &["Baseline", "Its figure", "In this period"],
        vec![
            vec![
                "datacenter, small to large VM".into(),
                "250 to 450 ms".into(),
                format!("P99 of the blackout: {}", some(p99, "ms", 2)),
            ],
            vec![
                "internet, VM of 2 GB".into(),
                "85 s".into(),
                format!("mean total time: {}", some(mean(Mode::Internet), "s", 1)),
            ],
            vec!["cross-region".into(), "120 s".into(), "not told apart from internet".into()],
        ],
    );
}

pub(super) fn throughput(data: &Data, document: &mut Document) {
    document.heading(2, "2 Throughput");
    document.heading(3, "2.1 All migrations");
    let sum = data.sum();
    let target = data.targets().throughput_bytes_per_second;
    let gigabytes = |rate: f64| rate / 1e9;
    let Some(mean) = sum.throughput.mean() else {
        document.text("No transfer was active in this period.");
        return;
    };
    let bytes: u64 =
        data.finished.iter().map(crate::history::finished::Finished::transferred).sum();
    document.table(
        &["What", "Value"],
        vec![
            vec![
                "average while a transfer was active".into(),
                format!("{:.3} GB/s", gigabytes(mean)),
            ],
            vec!["peak second".into(), format!("{:.3} GB/s", gigabytes(sum.throughput.max))],
            vec!["slowest second".into(), format!("{:.3} GB/s", gigabytes(sum.throughput.min))],
            vec!["target".into(), format!("{:.3} GB/s", gigabytes(target))],
            vec!["average of target".into(), percent(mean, target)],
            vec!["seconds with a transfer".into(), sum.counts.transfer_seconds.to_string()],
            vec![
                "payload of the migrations that ended".into(),
                format!("{:.3} GB", bytes as f64 / 1e9),
            ],
        ],
    );
    document.figure(figures::throughput(data));
    document.heading(3, "2.2 By transport");
    let rows = sum
        .throughput_by_transport
        .iter()
        .map(|(transport, rate)| {
            vec![
                transport.clone(),
                some(rate.mean().map(gigabytes), "GB/s", 3),
                format!("{:.3} GB/s", gigabytes(rate.max)),
                rate.count.to_string(),
            ]
        })
        .collect();
    document.table(&["Transport", "Average", "Peak second", "Seconds"], rows);
    document.heading(3, "2.3 Streams");
    let streams = &sum.streams;
    document.table(
        &["What", "Value"],
        vec![
            vec!["open at most".into(), format!("{:.0} of {MAX_STREAMS:.0}", streams.max)],
            vec!["open on average".into(), some(streams.mean(), "", 1).trim().to_owned()],
            vec![
                "rate per stream".into(),
                some(streams.mean().map(|count| mean * 8.0 / 1e6 / count.max(1.0)), "Mbit/s", 0),
            ],
        ],
    );
    bottleneck(&sum.verdict_seconds, document);
}

fn bottleneck(seconds: &BTreeMap<String, f64>, document: &mut Document) {
    document.heading(3, "2.4 How transfers went");
    let whole: f64 = seconds.values().sum();
    let rows = seconds
        .iter()
        .map(|(state, time)| vec![state.clone(), format!("{time:.0}"), percent(*time, whole)])
        .collect();
    document.text("Seconds of running migrations by verdict; causes are in dwcp_v3_verdict_seconds_total and in each record.");
    document.table(&["Verdict", "Seconds", "Share"], rows);
}

pub(super) fn errors(data: &Data, document: &mut Document) {
    document.heading(2, "3 Errors");
    document.heading(3, "3.1 How migrations ended");
    let ended = |outcome| data.finished.iter().filter(|one| one.outcome == Some(outcome)).count();
    let whole = data.finished.len() as f64;
    let rows = Outcome::ALL
        .into_iter()
        .map(|outcome| {
            let count = ended(outcome);
            vec![outcome.as_str().to_owned(), count.to_string(), percent(count as f64, whole)]
        })
        .collect();
    document.table(&["Outcome", "Migrations", "Share"], rows);
    document.heading(3, "3.2 By type");
    let sum = data.sum();
    if sum.errors.is_empty() {
        document.text("The kernel showed no error on migration sockets and processes.");
    } else {
        let whole: u64 = sum.errors.values().sum();
        let rows = sum
            .errors
            .iter()
            .map(|(kind, count)| {
                vec![kind.clone(), count.to_string(), percent(*count as f64, whole as f64)]
            })
            .collect();
        document.table(&["Type", "Errors", "Share"], rows);
    }
    document.text(format!("Segments sent again: {}.", sum.retransmitted_segments));
    document.heading(3, "3.3 By component");
    document.text("All of the above are errors of the transport (amst); other components' errors are not measured.");
    document.heading(3, "3.4 Windows");
    match &data.live.sla {
        None => document.text("Not known: no observer answered."),
        Some(view) => {
            let rows = view
                .windows
                .iter()
                .map(|levels| {
                    let level = &levels.error_rate;
                    vec![
                        levels.window.as_str().to_owned(),
                        level.bad_events.to_string(),
                        level.events.to_string(),
                        some(level.value.map(|rate| rate * 1e2), "%", 2),
                    ]
                })
                .collect();
            document.table(&["Window (up to now)", "Failed", "Finished", "Error rate"], rows);
        }
    }
    let failed: Vec<Vec<String>> = data
        .finished
        .iter()
        .filter(|one| one.outcome == Some(Outcome::Failed))
        .take(20)
        .map(|one| {
            let why: Vec<&str> = one
                .evidence
                .iter()
                .filter(|line| line.weight.is_none())
                .map(|line| line.detail.as_str())
                .collect();
            vec![one.name().to_owned(), one.id.clone(), why.join("; ")]
        })
        .collect();
    if !failed.is_empty() {
        document.heading(3, "3.5 Failed migrations (at most 20)");
        document.table(&["VM", "Migration", "Evidence"], failed);
    }
}
