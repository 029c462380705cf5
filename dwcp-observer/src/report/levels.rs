//! Service levels: compliance, budgets, violations.

use jiff::Timestamp;

use super::{
    data::Data,
    document::Document,
    words::{at, lasted, verdict},
};
use crate::sla::{
    SlaType, Window,
    decide::name,
    judge::{Level, Levels},
};

pub(super) fn levels(data: &Data, document: &mut Document) {
    document.heading(2, "5 Service levels");
    document.heading(3, "5.1 Compliance");
    let period = data.levels();
    let windows: &[Levels] = data.live.sla.as_ref().map_or(&[], |view| &view.windows);
    let spans = || std::iter::once(("This period", &period)).chain(windows.iter().map(named));
    let mut header = vec!["SLA", "Target"];
    header.extend(spans().map(|(span, _)| span));
    let rows = SlaType::ALL
        .into_iter()
        .map(|sla| {
            let mut cells = vec![name(sla).to_owned(), target(sla, period.level(sla))];
            cells.extend(spans().map(|(_, levels)| cell(sla, levels.level(sla))));
            cells
        })
        .collect();
    document.table(&header, rows);
    document.text(
        "For latency, the row shows the mode closest to its latency limit (or furthest above it) and that limit.",
    );
    document.heading(3, "5.2 Error budgets");
    budgets(&period, windows, document);
    document.heading(3, "5.3 Violations");
    violations(data, document);
}

fn named(levels: &Levels) -> (&'static str, &Levels) {
    (levels.window.as_str(), levels)
}

fn figure(sla: SlaType, value: f64) -> String {
    match sla {
        SlaType::Latency => format!("{:.1} ms", value * 1e3),
        SlaType::Throughput => format!("{:.3} GB/s", value / 1e9),
        SlaType::ErrorRate => format!("{:.2} %", value * 1e2),
        SlaType::Availability => format!("{:.3} %", value * 1e2),
    }
}

fn target(sla: SlaType, level: &Level) -> String {
    let sign = match sla {
        SlaType::Latency => return "below the limit of each mode".to_owned(),
        SlaType::ErrorRate => "below",
        SlaType::Throughput => "at least",
        SlaType::Availability => "above",
    };
    format!("{sign} {}", figure(sla, level.target))
}

fn cell(sla: SlaType, level: &Level) -> String {
    match level.value.filter(|_| level.compliant.is_some()) {
        // The mode that is nearest to its limit is not the same in each window.
        Some(value) if sla == SlaType::Latency => {
            format!("{} {} of {:.0}", verdict(level), figure(sla, value), level.target * 1e3)
        }
        Some(value) => format!("{} {}", verdict(level), figure(sla, value)),
        None => verdict(level).to_owned(),
    }
}

/// The budget is that of 30 days; without an observer that knows them, that of the period.
fn budgets(period: &Levels, windows: &[Levels], document: &mut Document) {
    let month = windows.iter().find(|levels| levels.window == Window::Month);
    let (over, whole) = month.map_or(("this period", period), |month| ("30 d", month));
    let left = format!("Remaining over {over}");
    let mut header = vec!["SLA", "Bad", "Of", &left, "Burn rate: this period"];
    header.extend(windows.iter().map(|levels| levels.window.as_str()));
    let burn = |level: &Level| {
        level.budget.map_or("-".to_owned(), |budget| format!("{:.2}", budget.burn_rate))
    };
    let rows = SlaType::ALL
        .into_iter()
        .map(|sla| {
            let level = whole.level(sla);
            let mut cells = vec![
                name(sla).to_owned(),
                level.bad_events.to_string(),
                format!("{} {}", level.events, unit(sla)),
                level.budget.map_or("-".to_owned(), |budget| left_over(budget.remaining_ratio)),
                burn(period.level(sla)),
            ];
            cells.extend(windows.iter().map(|levels| burn(levels.level(sla))));
            cells
        })
        .collect();
    document.table(&header, rows);
    document.text("At a burn rate of 1 the budget lasts exactly as long as the window.");
}

const fn unit(sla: SlaType) -> &'static str {
    match sla {
        SlaType::Latency | SlaType::ErrorRate => "migrations",
        SlaType::Throughput => "transfer seconds",
        SlaType::Availability => "judged seconds",
    }
}

/// What is left of a budget, in words where it is overspent.
pub(super) fn left_over(ratio: f64) -> String {
    if ratio > 0.0 {
        format!("{:.1} %", ratio * 1e2)
    } else {
        format!("none, used {:.1} times", 1.0 - ratio)
    }
}

/// A service level out of its target.
struct Violation<'a> {
    sla: &'a str,
    from: Option<Timestamp>,
    until: Option<Timestamp>,
    text: &'a str,
}

/// From the events of the period. One that began before it, or goes on at its end, is open there.
fn pair(data: &Data) -> Vec<Violation<'_>> {
    let mut found: Vec<Violation<'_>> = Vec::new();
    for event in &data.events {
        let sla = event.subject.as_str();
        let open =
            found.iter_mut().rev().find(|one| one.sla == sla).filter(|one| one.until.is_none());
        match (event.kind.as_str(), open) {
            // The observer was restarted meanwhile.
            ("sla_violated", Some(_)) => {}
            ("sla_violated", None) => {
                found.push(Violation { sla, from: Some(event.at), until: None, text: &event.text });
            }
            ("sla_restored", Some(open)) => open.until = Some(event.at),
            ("sla_restored", None) => {
                found.push(Violation { sla, from: None, until: Some(event.at), text: "" });
            }
            _ => {}
        }
    }
    // No event in the period, and violated all the time.
    if let Some(hour) = data.live.sla.as_ref().and_then(|view| view.window(Window::Hour)) {
        for sla in SlaType::ALL {
            let silent = found.iter().all(|one| one.sla != sla.as_str());
            if silent && hour.level(sla).compliant == Some(false) {
                found.push(Violation { sla: sla.as_str(), from: None, until: None, text: "" });
            }
        }
    }
    found
}

fn violations(data: &Data, document: &mut Document) {
    let found = pair(data);
    if found.is_empty() {
        document.text("None: no service level was violated in any hour that ended in this period.");
        return;
    }
    let rows = found
        .iter()
        .map(|one| {
            let (from, until) = (one.from.unwrap_or(data.from), one.until.unwrap_or(data.to));
            let inside = |end: Timestamp| end >= from && end < until;
            let ended = data.v3().filter(|it| it.ended_at.is_some_and(inside)).count();
            vec![
                one.sla.to_owned(),
                one.from.map_or("before this period".to_owned(), at),
                one.until.map_or("goes on".to_owned(), at),
                lasted(until.duration_since(from).as_secs()),
                ended.to_string(),
                if one.text.is_empty() { "-" } else { one.text }.to_owned(),
            ]
        })
        .collect();
    document.text("A service level is judged over the hour before: a violation begins with the event and ends up to an hour after it.");
    document.table(
        &[
            "SLA",
            "From (UTC)",
            "Until (UTC)",
            "Lasted in this period",
            "Migrations that ended during it",
            "The hour before it",
        ],
        rows,
    );
}
