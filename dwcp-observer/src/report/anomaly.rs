//! Anomalies.

use std::collections::BTreeMap;

use super::{data::Data, document::Document, words::short};
use crate::history::Event;

/// Anomalies that are listed.
const LISTED: usize = 50;

/// Whether anything looks for anomalies.
pub(super) fn is_known(data: &Data) -> bool {
    data.live.sla.as_ref().is_some_and(|view| view.anomalies.is_some())
        || all(data).next().is_some()
}

/// Those that began in the period, oldest first.
pub(super) fn all(data: &Data) -> impl DoubleEndedIterator<Item = &Event> {
    data.events.iter().filter(|event| event.kind == "anomaly")
}

pub(super) fn anomalies(data: &Data, document: &mut Document) {
    document.heading(2, "6 Anomalies");
    if !is_known(data) {
        document.text("Not measured: no detector reported in this period.");
        return;
    }
    document.heading(3, "6.1 By type");
    let mut by_type: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for event in all(data) {
        let (critical, warning) = by_type.entry(&event.subject).or_default();
        *(if event.severity == "critical" { critical } else { warning }) += 1;
    }
    let count = all(data).count();
    if count == 0 {
        document.text("None began in this period.");
    } else {
        let rows = by_type
            .iter()
            .map(|(kind, (critical, warning))| {
                let sum = critical + warning;
                vec![(*kind).to_owned(), sum.to_string(), critical.to_string(), warning.to_string()]
            })
            .collect();
        document.table(&["Type", "Began", "Critical", "Warning"], rows);
        document.heading(3, "6.2 Events");
        if count > LISTED {
            document.text(format!("The last {LISTED} of {count}, newest first."));
        }
        let rows = all(data)
            .rev()
            .take(LISTED)
            .map(|event| {
                vec![
                    short(event.at),
                    event.subject.clone(),
                    event.severity.clone(),
                    event.text.clone(),
                ]
            })
            .collect();
        document.table(&["Began (UTC)", "Type", "Severity", "Why"], rows);
    }
    document.text("Severity at the start of each event. The report cannot distinguish true from false positives, because nobody labels production.");
}
