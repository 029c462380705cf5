//! Components and the host's resources.

use jiff::Timestamp;

use super::{
    data::Data,
    document::Document,
    figures,
    words::{NONE, row, some},
};
use crate::component::ComponentView;
use crate::history::minute::{Minute, Spread};

/// Contract: use of CPU and memory above which a host is saturated, percent.
const CPU_PERCENT: f64 = 80.0;
const MEMORY_PERCENT: f64 = 85.0;
/// Stretches of saturation that are listed.
const LISTED: usize = 20;

pub(super) fn components(data: &Data, document: &mut Document) {
    document.heading(2, "4 Components");
    let Some(components) = data.live.components.as_ref().map(|view| &view.components) else {
        document.text("Not known: no observer answered.");
        return;
    };
    if components.is_empty() {
        document.text("All are switched off in the configuration.");
        return;
    }
    document.text(
        "At the end of the period. Unknown: no process or connection matches [components.NAME] of the configuration.",
    );
    let rows = components.iter().map(component).collect();
    document.table(
        &[
            "Component",
            "Health",
            "Processes",
            "CPU s",
            "Memory MiB",
            "Connections",
            "Scrapes",
            "Why",
        ],
        rows,
    );
    let carried: u64 =
        components.iter().filter_map(|it| it.scrape.as_ref()).map(|it| it.series).sum();
    document.text(if carried > 0 {
        format!(
            "Compression, prediction, consensus, synchronisation and placement: {carried} series of the components' own, at /metrics/NAME."
        )
    } else {
        "Compression, prediction, consensus, synchronisation and placement: not measured, since no component's own metrics are scraped. What the kernel sees of amst, its streams, is in section 2.".to_owned()
    });
}

fn component(part: &ComponentView) -> Vec<String> {
    let processes = part.processes.as_ref();
    let bare = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let connections = part.connections.as_ref().map(|it| match it.stalled {
        0 => it.established.to_string(),
        stalled => format!("{} ({stalled} stalled)", it.established),
    });
    let scrapes = part.scrape.as_ref().map(|it| {
        let failed: u64 = it.errors.values().sum();
        format!("{} ({failed} failed)", it.scrapes)
    });
    vec![
        part.component.as_str().to_owned(),
        part.status.as_str().to_owned(),
        bare(processes.map(|it| it.pids.len().to_string())),
        bare(processes.map(|it| format!("{:.1}", it.cpu_seconds))),
        bare(processes.map(|it| format!("{:.1}", it.resident_bytes as f64 / f64::from(1 << 20)))),
        bare(connections),
        bare(scrapes),
        if part.reasons.is_empty() { "-".to_owned() } else { part.reasons.join("; ") },
    ]
}

pub(super) fn resources(data: &Data, document: &mut Document) {
    document.heading(2, "7 Resources of the host");
    document.heading(3, "7.1 Use");
    let sum = data.sum();
    let line = |what: &str, spread: &Spread, limit: f64| {
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
    document.figure(figures::resources(data));
    document.heading(3, "7.2 Saturation");
    let mut rows = saturated("CPU", data, CPU_PERCENT, |minute| minute.cpu_percent.mean());
    rows.extend(saturated("memory", data, MEMORY_PERCENT, |minute| minute.memory_percent.mean()));
    let minutes: i64 = rows.iter().map(|(minutes, _)| minutes).sum();
    if rows.is_empty() {
        document.text("No minute with an average above a threshold.");
        return;
    }
    document.text(format!("Minutes with an average above a threshold: {minutes}."));
    if rows.len() > LISTED {
        document.text(format!("The longest {LISTED} of {} stretches.", rows.len()));
        rows.sort_by_key(|(minutes, _)| std::cmp::Reverse(*minutes));
        rows.truncate(LISTED);
    }
    let rows = rows.into_iter().map(|(_, cells)| cells).collect();
    document.table(&["Resource", "From (UTC)", "Minutes", "Highest average"], rows);
}

/// Minutes in a row above a limit: their number, and the row.
fn saturated(
    what: &str,
    data: &Data,
    limit: f64,
    mean: fn(&Minute) -> Option<f64>,
) -> Vec<(i64, Vec<String>)> {
    let above: Vec<(i64, f64)> = data
        .minutes
        .iter()
        .filter_map(|minute| Some((minute.at, mean(minute).filter(|mean| *mean > limit)?)))
        .collect();
    above
        .chunk_by(|(one, _), (next, _)| next - one <= 60)
        .filter_map(|stretch| {
            let (first, _) = stretch.first()?;
            let highest = stretch.iter().map(|(_, mean)| *mean).fold(0.0, f64::max);
            let at = Timestamp::from_second(*first).unwrap_or_default();
            let cells = vec![
                what.to_owned(),
                at.strftime("%d %b %H:%M").to_string(),
                stretch.len().to_string(),
                format!("{highest:.1} %"),
            ];
            Some((stretch.len() as i64, cells))
        })
        .collect()
}
