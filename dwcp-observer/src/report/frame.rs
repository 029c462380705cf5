//! What frames the report: header, status, recommendations, summary, list of migrations, appendix.

use super::{
    anomaly,
    data::Data,
    document::Document,
    levels::left_over,
    words::{NONE, at, percent, row, short, verdict},
};
use crate::{
    model::record::Migration,
    sla::{
        SlaType, Window,
        decide::{GoNoGo, measured, name},
    },
};

/// Contract: what the hourly report recommends from.
const P99_ADVICE_MS: f64 = 400.0;
const THROUGHPUT_ADVICE: f64 = 2.0e9;
const ERRORS_ADVICE: u64 = 50;
/// Migrations in the list.
const LISTED: usize = 100;

pub(super) fn header(data: &Data, document: &mut Document) {
    let sum = data.sum();
    let observed = sum.counts.observed_seconds as f64;
    let (ended, v1) = (data.finished.len(), data.finished.iter().filter(|one| one.is_v1()).count());
    document.list(vec![
        format!("Host: {}", data.node),
        format!(
            "Period: {} to {} UTC ({:.1} h)",
            at(data.from),
            at(data.to),
            data.seconds() / 3600.0
        ),
        format!(
            "Observed: {:.0} of {:.0} s ({})",
            observed,
            data.seconds(),
            percent(observed.min(data.seconds()), data.seconds())
        ),
        match v1 {
            0 => format!("Migrations that ended: {ended}"),
            v1 => format!(
                "Migrations that ended: {ended}, of which {v1} of v1, which count in section 9 only"
            ),
        },
        format!(
            "Sources: history database{}",
            if data.live.sla.is_some() { ", running observer" } else { "; no observer answered, so the report lacks the current state, and targets are the defaults" }
        ),
    ]);
}

pub(super) fn status(data: &Data, document: &mut Document) {
    document.heading(2, "0 Quick status");
    let levels = data.levels();
    let progress = data.live.components.as_ref().and_then(|view| view.rollout.as_ref());
    let progress = progress.map_or(NONE.to_owned(), |progress| {
        let (v3, all) = (progress.v3, progress.v3 + progress.v1);
        format!("{:.1} % ({v3} of {all} migrations run v3)", progress.percent)
    });
    let decision = data.live.sla.as_ref().map(|view| view.decision.decision);
    let decision = decision.map_or("not known".to_owned(), |word| word.as_str().to_uppercase());
    let rows = SlaType::ALL
        .into_iter()
        .map(|sla| {
            let level = levels.level(sla);
            let figures =
                if level.compliant.is_some() { measured(sla, level) } else { NONE.to_owned() };
            vec![name(sla).to_owned(), figures, verdict(level).to_owned()]
        })
        .chain([
            row(["rollout progress", &progress, "-"]),
            row(["go or no-go", "at the end of the period, reasons in 8.2", &decision]),
        ])
        .collect();
    document.table(&["What", "In this period", "Status"], rows);
}

pub(super) fn recommendations(data: &Data, document: &mut Document) {
    document.heading(2, "10 Recommendations");
    let mut advice = Vec::new();
    let levels = data.levels();
    let p99_ms = levels
        .latency_by_mode
        .iter()
        .filter(|mode| !mode.compliant || mode.target_seconds <= 0.5)
        .map(|mode| mode.p99_seconds * 1e3)
        .reduce(f64::max);
    if let Some(p99) = p99_ms.filter(|p99| *p99 > P99_ADVICE_MS) {
        advice.push(format!(
            "P99 blackout (downtime) is {p99:.0} ms: see the parts of the longest ones (dwcp-observer migrations ID)."
        ));
    }
    let sum = data.sum();
    if let Some(rate) = sum.throughput.mean().filter(|rate| *rate < THROUGHPUT_ADVICE) {
        advice.push(format!(
            "Average throughput is {:.3} GB/s, below 2.0: see the verdicts in 2.5 for the causes, or set sla.throughput_bytes_per_second to the capacity of this host's links.",
            rate / 1e9
        ));
    }
    let errors: u64 = sum.errors.values().sum();
    if errors > ERRORS_ADVICE {
        advice.push(format!("{errors} errors: see 3.2."));
    }
    for reason in data.live.sla.iter().flat_map(|view| &view.decision.reasons) {
        if reason.level == GoNoGo::NoGo {
            advice.push(format!("Stop the rollout until this is understood: {}.", reason.text));
        }
    }
    if sum.missed_cycles > 0 {
        let missed = sum.missed_cycles;
        advice
            .push(format!("The observer missed {missed} of its seconds: the host is overloaded."));
    }
    if advice.is_empty() {
        document.text("None.");
    } else {
        document.list(advice);
    }
}

pub(super) fn summary(data: &Data, document: &mut Document) {
    document.heading(2, "11 Summary");
    let count = |kind: &str| data.events.iter().filter(|event| event.kind == kind).count();
    let mut lines = vec![
        format!("Migrations that ended: {}.", data.finished.len()),
        format!(
            "Changes of a service level from met to violated: {}, and back: {}.",
            count("sla_violated"),
            count("sla_restored")
        ),
    ];
    if anomaly::is_known(data) {
        let all = anomaly::all(data).count();
        let critical = anomaly::all(data).filter(|event| event.severity == "critical").count();
        lines.push(format!("Anomalies that began: {all}, of which {critical} critical."));
    }
    if let Some(view) = &data.live.sla {
        let month = view.window(Window::Month).map(|levels| levels.error_rate);
        let budget = month.and_then(|level| level.budget);
        let left = budget.map_or(NONE.to_owned(), |budget| left_over(budget.remaining_ratio));
        lines.push(format!("Remaining error budget of the error rate over 30 days: {left}."));
    }
    lines.push("Alerts are in Alertmanager; the observer does not see them.".to_owned());
    if let Some(active) = &data.live.active {
        lines.push(format!("Running now: {}.", active.len()));
        for one in active {
            let how = one.verdict.as_ref().map_or("no verdict yet", |said| said.sentence.as_str());
            lines.push(format!("{} since {} UTC: {how}", one.id, at(one.started_at)));
        }
    }
    document.list(lines);
}

pub(super) fn migrations(data: &Data, document: &mut Document) {
    document.heading(2, "12 Migrations");
    if data.finished.is_empty() {
        document.text("None ended in this period.");
        return;
    }
    if data.finished.len() > LISTED {
        document.text(format!("The last {LISTED} of {}.", data.finished.len()));
    }
    let rows = data.finished.iter().rev().take(LISTED).map(listed).collect();
    document.table(
        &[
            "Ended (UTC)",
            "VM",
            "Outcome",
            "Mode",
            "Transport",
            "Total s",
            "Blackout ms",
            "MB",
            "Streams",
            "Rounds",
            "Version",
        ],
        rows,
    );
}

fn listed(one: &Migration) -> Vec<String> {
    vec![
        one.ended_at.map_or("-".to_owned(), short),
        one.name().to_owned(),
        one.outcome.map_or("-", |outcome| outcome.as_str()).to_owned(),
        one.mode.map_or("unknown", |mode| mode.as_str()).to_owned(),
        one.transport.map_or("-", |transport| transport.as_str()).to_owned(),
        format!("{:.2}", one.duration_seconds),
        one.blackout_seconds().map_or("-".to_owned(), |s| format!("{:.2}", s * 1e3)),
        one.transferred().map_or("-".to_owned(), |bytes| format!("{:.1}", bytes as f64 / 1e6)),
        one.stream_count().to_string(),
        if one.rounds.is_empty() { "-".to_owned() } else { one.rounds.len().to_string() },
        one.version.map_or("-", |version| version.as_str()).to_owned(),
    ]
}

pub(super) fn appendix(data: &Data, document: &mut Document) {
    document.heading(2, "Appendix A: how this was collected");
    let sum = data.sum();
    let mut lines = vec![
        format!("dwcp-observer {}", env!("CARGO_PKG_VERSION")),
        "Blackouts, bytes and outcomes: eBPF programs in the kernel, exact per migration."
            .to_owned(),
        "Rates, streams, CPU, memory: sampled each second, kept by the minute.".to_owned(),
        format!("Seconds that the observer missed: {}.", sum.missed_cycles),
    ];
    if let Some(health) = &data.live.health
        && let Some(status) = health.get("status").and_then(serde_json::Value::as_str)
    {
        let reason = health.get("reason").and_then(serde_json::Value::as_str);
        let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        lines.push(format!("Health of the observer now: {status}{reason}."));
    }
    document.list(lines);
}
