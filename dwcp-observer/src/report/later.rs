//! Components, service levels, anomalies, resources, rollout, recommendations, the list.

use super::{
    data::Data,
    document::Document,
    figures,
    sections::{NONE, anomalies_known, row, some, verdict},
};
use crate::sla::{
    SlaType, Window,
    decide::{Word, measured, name},
};

/// Contract: use of CPU and memory above which a host is saturated, percent.
const CPU_PERCENT: f64 = 80.0;
const MEMORY_PERCENT: f64 = 85.0;
/// Contract: what the hourly report recommends from.
const P99_ADVICE_MS: f64 = 400.0;
const THROUGHPUT_ADVICE: f64 = 2.0e9;
const ERRORS_ADVICE: u64 = 50;
/// Migrations in the list.
const LISTED: usize = 100;

pub(super) fn components(data: &Data, document: &mut Document) {
    document.heading(2, "4 Components");
    let unhealthy = data.live.sla.as_ref().and_then(|view| view.unhealthy_components.as_ref());
    match unhealthy {
        None => document.text(
            "Health, compression, prediction, consensus, synchronisation and placement of amst, hde, pba, acp, ass and itp: \
             not measured. What the kernel sees of amst, its streams, is in section 2.",
        ),
        Some(unhealthy) if unhealthy.is_empty() => {
            document.text("All watched components are healthy now.");
        }
        Some(unhealthy) => {
            let rows = unhealthy
                .iter()
                .map(|one| vec![one.component.clone(), "unhealthy".to_owned(), one.why.clone()])
                .collect();
            document.table(&["Component", "Health now", "Why"], rows);
        }
    }
}

pub(super) fn levels(data: &Data, document: &mut Document) {
    document.heading(2, "5 Service levels");
    document.heading(3, "5.1 Compliance");
    let mut rows = Vec::new();
    let period = data.levels();
    let windows = data.live.sla.iter().flat_map(|view| &view.windows);
    let spans = std::iter::once(("this period", &period))
        .chain(windows.map(|levels| (levels.window.as_str(), levels)));
    for (span, levels) in spans {
        for sla in SlaType::ALL {
            let level = levels.level(sla);
            let figures =
                if level.compliant.is_some() { measured(sla, level) } else { NONE.to_owned() };
            rows.push(vec![
                span.to_owned(),
                name(sla).to_owned(),
                figures,
                verdict(level).to_owned(),
                level.budget.map_or("-".to_owned(), |budget| {
                    format!("{:.1} %", budget.remaining_ratio * 1e2)
                }),
                level.budget.map_or("-".to_owned(), |budget| format!("{:.2}", budget.burn_rate)),
            ]);
        }
    }
    document.table(&["Span", "SLA", "Measured", "Status", "Budget left", "Burn rate"], rows);
    document.heading(3, "5.2 Violations");
    let rows: Vec<Vec<String>> = data
        .events
        .iter()
        .filter(|event| event.kind.starts_with("sla_"))
        .map(|event| {
            let what = if event.kind == "sla_violated" { "violated" } else { "restored" };
            vec![event.at.to_string(), event.subject.clone(), what.to_owned(), event.text.clone()]
        })
        .collect();
    if rows.is_empty() {
        document.text("No service level changed between kept and violated in this period.");
    } else {
        document.table(&["When", "SLA", "Became", "Over the last hour"], rows);
    }
}

pub(super) fn anomalies(data: &Data, document: &mut Document) {
    document.heading(2, "6 Anomalies");
    if !anomalies_known(data) {
        document.text("Not measured: no detector reported in this period.");
        return;
    }
    let rows: Vec<Vec<String>> = data
        .events
        .iter()
        .filter(|event| event.kind == "anomaly")
        .map(|event| {
            vec![
                event.at.to_string(),
                event.subject.clone(),
                event.severity.clone(),
                event.text.clone(),
            ]
        })
        .collect();
    if rows.is_empty() {
        document.text("None in this period.");
    } else {
        document.text(format!("{} in this period.", rows.len()));
        document.table(&["When", "Type", "Severity", "Why"], rows);
    }
    document.text("True and false positives are not told apart here: nobody labels production.");
}

pub(super) fn resources(data: &Data, document: &mut Document) {
    document.heading(2, "7 Resources of the host");
    let sum = data.sum();
    let line = |what: &str, spread: &crate::history::minute::Spread, limit: f64| {
        vec![
            what.to_owned(),
            some(spread.mean(), "%", 1),
            some((spread.count > 0).then_some(spread.max), "%", 1),
            format!("{limit:.0} %"),
        ]
    };
    document.table(
        &["Resource", "Average", "Peak second", "Threshold"],
        vec![
            line("CPU", &sum.cpu_percent, CPU_PERCENT),
            line("memory", &sum.memory_percent, MEMORY_PERCENT),
            row(["network, disk", NONE, NONE, "-"]),
        ],
    );
    let above = data
        .minutes
        .iter()
        .filter(|minute| {
            let over = |mean: Option<f64>, limit: f64| mean.is_some_and(|mean| mean > limit);
            over(minute.cpu_percent.mean(), CPU_PERCENT)
                || over(minute.memory_percent.mean(), MEMORY_PERCENT)
        })
        .count();
    document.text(format!("Minutes with an average above a threshold: {above}."));
    document.figure(figures::resources(data));
}

pub(super) fn rollout(data: &Data, document: &mut Document) {
    document.heading(2, "8 Rollout");
    match &data.live.sla {
        None => document.text("Go or no-go: not known, no observer answered."),
        Some(view) => {
            let decision = &view.decision;
            document.text(format!("Now: {}", decision.decision.as_str().to_uppercase()));
            let reasons: Vec<String> = decision
                .reasons
                .iter()
                .map(|reason| format!("{}: {}", reason.level.as_str(), reason.text))
                .collect();
            if !reasons.is_empty() {
                document.list(reasons);
            }
        }
    }
    document.text("Progress by stage and region: not measured.");
}

pub(super) fn comparison(document: &mut Document) {
    document.heading(2, "9 v1 against v3");
    document.text("Not measured: migrations are not told apart by version.");
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
            "P99 of the blackout is {p99:.0} ms: see the parts of the longest ones (dwcp-observer migrations ID)."
        ));
    }
    let sum = data.sum();
    if let Some(rate) = sum.throughput.mean().filter(|rate| *rate < THROUGHPUT_ADVICE) {
        advice.push(format!(
            "Average throughput is {:.3} GB/s, below 2.0: see the verdicts in 2.4 for what holds transfers back, or set sla.throughput_bytes_per_second to what the links of this host carry.",
            rate / 1e9
        ));
    }
    let errors: u64 = sum.errors.values().sum();
    if errors > ERRORS_ADVICE {
        advice.push(format!("{errors} errors: see 3.2."));
    }
    for reason in data.live.sla.iter().flat_map(|view| &view.decision.reasons) {
        if reason.level == Word::NoGo {
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
            "Changes of a service level from kept to violated: {}, and back: {}.",
            count("sla_violated"),
            count("sla_restored")
        ),
    ];
    if let Some(view) = &data.live.sla {
        let month = view.window(Window::Month).map(|levels| levels.error_rate);
        let budget = month.and_then(|level| level.budget);
        let left = some(budget.map(|budget| budget.remaining_ratio * 1e2), "%", 1);
        lines.push(format!("Error budget of the error rate over 30 days, left: {left}."));
    }
    if let Some(active) = &data.live.active {
        lines.push(format!("Running now: {}.", active.len()));
        for one in active {
            let how = one.verdict.as_ref().map_or("no verdict yet", |said| said.sentence.as_str());
            lines.push(format!("{} since {}: {how}", one.id, one.started_at));
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
    let rows = data
        .finished
        .iter()
        .rev()
        .take(LISTED)
        .map(|one| {
            vec![
                one.ended_at.map_or("-".to_owned(), |at| at.strftime("%d %b %H:%M:%S").to_string()),
                one.name().to_owned(),
                one.outcome.map_or("-", |outcome| outcome.as_str()).to_owned(),
                one.mode.map_or("unknown", |mode| mode.as_str()).to_owned(),
                one.transport.as_str().to_owned(),
                format!("{:.2}", one.duration_seconds),
                one.blackout_seconds().map_or("-".to_owned(), |s| format!("{:.2}", s * 1e3)),
                format!("{:.1}", one.transferred() as f64 / 1e6),
                one.streams.len().to_string(),
                if one.rounds.is_empty() { "-".to_owned() } else { one.rounds.len().to_string() },
            ]
        })
        .collect();
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
        ],
        rows,
    );
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
    if let Some(status) =
        data.live.health.as_ref().and_then(|health| health.get("status")?.as_str())
    {
        let reason = data
            .live
            .health
            .as_ref()
            .and_then(|health| health.get("reason")?.as_str())
            .map(|reason| format!(" ({reason})"))
            .unwrap_or_default();
        lines.push(format!("Health of the observer now: {status}{reason}."));
    }
    document.list(lines);
}
