//! The zoo as a table for people.

use std::fmt::Write;

use super::judge::{Report, Share, Summary};

/// One line a migration.
#[must_use]
pub fn line(report: &Report) -> String {
    let blackout = report.truth.blackout;
    let rounds = report.truth.figures.as_ref().map(|figures| figures.dirty_sync_count);
    let faults: Vec<&str> = report.faults.iter().map(|fault| fault.text.as_str()).collect();
    let notes = match (faults.is_empty(), report.blackout_good) {
        (false, _) => format!("WRONG: {}", faults.join("; ")),
        (true, Some(false)) => "blackout beyond 1 ms and 3 %".to_owned(),
        (true, _) => String::new(),
    };
    format!(
        "{:<48} {:>7} {:<10} {:>10} {:>10} {:>8} {:>9} {:>8}  {notes}",
        report.name,
        report.records,
        report.outcome.as_deref().unwrap_or("-"),
        ms(blackout.map(|blackout| blackout.seconds)),
        ms(report.blackout),
        report.blackout_error.map_or_else(dash, |error| format!("{:+.2}", 1e3 * error)),
        format!("{}/{}", number(report.rounds), number(rounds)),
        report.bytes_off.map_or_else(dash, |off| format!("{:+.3}", 100.0 * off)),
    )
    .trim_end()
    .to_owned()
}

/// All, and the sums below.
#[must_use]
pub fn render(reports: &[Report], summary: &Summary) -> String {
    let mut text = heading();
    for report in reports {
        text.push_str(&line(report));
        text.push('\n');
    }
    text.push('\n');
    let mut total = |name: &str, share: Share, limit: &str| {
        let percent = 100.0 * share.right as f64 / (share.of as f64).max(1.0);
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{name:<34} {:>4} of {:>4} {percent:>6.1} %  (limit {limit})",
            share.right, share.of
        );
    };
    for (aspect, share) in &summary.aspects {
        total(&format!("{aspect:?}").to_lowercase(), *share, "100 %");
    }
    total("blackout within 1 ms or 3 %", summary.good_blackouts, "98 %");
    let _ = writeln!(
        text,
        "blackout's error: median {} ms, worst {} ms (limit 5 ms, 20 of an idle guest)",
        ms(summary.blackout_median),
        ms(summary.blackout_worst)
    );
    text
}

/// What the columns are.
#[must_use]
pub fn heading() -> String {
    format!(
        "{:<48} {:>7} {:<10} {:>10} {:>10} {:>8} {:>9} {:>8}\n",
        "migration", "records", "outcome", "truth ms", "blackout", "error", "rounds", "bytes %"
    )
}

fn number(number: Option<u64>) -> String {
    number.map_or_else(dash, |number| number.to_string())
}

fn ms(seconds: Option<f64>) -> String {
    seconds.map_or_else(dash, |seconds| format!("{:.2}", 1e3 * seconds))
}

fn dash() -> String {
    "-".to_owned()
}
