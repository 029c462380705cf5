//! Errors and failed migrations.

use super::{
    data::Data,
    document::Document,
    words::{percent, short, some},
};
use crate::model::record::{Migration, Outcome};

/// Failed migrations that are listed.
const LISTED: usize = 20;
/// Kinds of evidence that say why a migration failed; the others are in its record.
const TELLING: [&str; 4] = ["exit", "close", "bytes", "state"];

pub(super) fn errors(data: &Data, document: &mut Document) {
    document.heading(2, "3 Errors");
    document.heading(3, "3.1 How migrations ended");
    let whole = data.v3().count();
    if whole == 0 {
        document.text("None ended in this period.");
    } else {
        let rows = Outcome::ALL
            .into_iter()
            .map(|outcome| {
                let count = data.v3().filter(|one| one.outcome == Some(outcome)).count();
                let share = percent(count as f64, whole as f64);
                vec![outcome.as_str().to_owned(), count.to_string(), share]
            })
            .collect();
        document.table(&["Outcome", "Migrations", "Share"], rows);
    }
    document.heading(3, "3.2 By type");
    let sum = data.sum();
    if sum.errors.is_empty() {
        document.text("The kernel reported no errors of migration sockets and processes.");
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
    document.text(format!("Retransmitted segments: {}.", sum.retransmitted_segments));
    document.heading(3, "3.3 By component");
    document.text("All of the above are errors of the transport (amst). Errors of other components are in their own metrics, if these are scraped (section 4).");
    document.heading(3, "3.4 Windows");
    windows(data, document);
    let failed: Vec<&Migration> =
        data.v3().filter(|one| one.outcome == Some(Outcome::Failed)).collect();
    if failed.is_empty() {
        return;
    }
    document.heading(3, "3.5 Failed migrations");
    if failed.len() > LISTED {
        document.text(format!("The last {LISTED} of {}.", failed.len()));
    }
    let rows = failed
        .iter()
        .rev()
        .take(LISTED)
        .map(|one| {
            vec![
                one.ended_at.map_or("-".to_owned(), short),
                one.name().to_owned(),
                one.id.clone(),
                why(one),
            ]
        })
        .collect();
    document.table(&["Ended (UTC)", "VM", "Migration", "Evidence"], rows);
}

fn windows(data: &Data, document: &mut Document) {
    let Some(view) = &data.live.sla else {
        document.text("Not known: no observer answered.");
        return;
    };
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

/// What speaks of the end, in the order of what tells most.
fn why(one: &Migration) -> String {
    let of_the_end = || one.evidence.iter().filter(|line| line.weight.is_none());
    let telling =
        TELLING.iter().flat_map(|kind| of_the_end().filter(move |line| line.kind == *kind));
    let telling: Vec<&str> = telling.map(|line| line.detail.as_str()).collect();
    if telling.is_empty() {
        of_the_end().map(|line| line.detail.as_str()).collect::<Vec<_>>().join("; ")
    } else {
        telling.join("; ")
    }
}
