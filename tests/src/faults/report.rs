//! All runs together: confusion tables, times, and whether that is good enough.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::{Value, json};

use super::{Fault, RunReport};

/// What share of the verdicts must be right.
const REQUIRED: f64 = 0.95;

/// The reports of many runs.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In the order of the runs.
    pub runs: Vec<RunReport>,
}

impl Report {
    /// Of the runs with a fault that has a verdict: how many got the right one, and all of them.
    /// Runs that went wrong are among them.
    #[must_use]
    pub fn verdicts(&self) -> (usize, usize) {
        let runs = || self.runs.iter().filter(|run| has_verdict(run));
        (runs().filter(|run| run.verdict.right).count(), runs().count())
    }

    /// How many of the others were called `stalled` or `not_converging` while nothing was wrong,
    /// and all of them.
    #[must_use]
    pub fn false_alarms(&self) -> (usize, usize) {
        let runs = || self.runs.iter().filter(|run| !has_verdict(run));
        (runs().filter(|run| !run.verdict.right).count(), runs().count())
    }

    /// Whether at least 95 % of the verdicts and all outcomes are right, without a false alarm.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let (right, all) = self.verdicts();
        !self.runs.is_empty()
            && right as f64 >= REQUIRED * all as f64
            && self.false_alarms().0 == 0
            && self.runs.iter().all(|run| run.outcome_right)
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut add = |part: String| text.push_str(&part);
        add(self.summary());
        let verdict_runs = |run: &&RunReport| !run.fault.expectation().states.is_empty();
        add(self.confusion(
            "state: expected, and how often each was seen",
            verdict_runs,
            |fault| fault.expectation().states.join(" or "),
            |run| &run.verdict.state,
        ));
        add(self.confusion(
            "cause",
            |run| !run.fault.expectation().cause.is_empty(),
            |fault| fault.expectation().cause.to_owned(),
            |run| &run.verdict.cause,
        ));
        add(self.confusion(
            "outcome",
            |_| true,
            |fault| fault.expectation().outcome.to_owned(),
            |run| &run.outcome,
        ));
        add(self.wrong());
        let (right, all) = self.verdicts();
        let share = 100.0 * right as f64 / all.max(1) as f64;
        let (alarms, calm) = self.false_alarms();
        let outcomes = self.runs.iter().filter(|run| run.outcome_right).count();
        add(format!(
            "verdicts right: {right} of {all} ({share:.1} %, {:.0} % wanted); false alarms: \
             {alarms} of {calm}; outcomes right: {outcomes} of {}\n",
            100.0 * REQUIRED,
            self.runs.len(),
        ));
        text
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let (right, all) = self.verdicts();
        json!({
            "runs": self.runs,
            "verdicts_right": right,
            "verdicts": all,
            "false_alarms": self.false_alarms().0,
            "outcomes_right": self.runs.iter().filter(|run| run.outcome_right).count(),
            "outcomes": self.runs.len(),
            "good": self.is_good(),
        })
    }

    fn faults(&self) -> BTreeSet<Fault> {
        self.runs.iter().map(|run| run.fault).collect()
    }

    fn of(&self, fault: Fault) -> impl Iterator<Item = &RunReport> {
        self.runs.iter().filter(move |run| run.fault == fault)
    }

    /// A line for each fault.
    fn summary(&self) -> String {
        let head = [
            "fault",
            "runs",
            "right",
            "seconds to the verdict: median",
            "worst",
            "held",
            "outcomes right",
            "seconds to the outcome: median",
            "worst",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for fault in self.faults() {
            let runs: Vec<&RunReport> = self.of(fault).collect();
            let seconds = || runs.iter().filter_map(|run| run.verdict.seconds);
            let outcomes = || runs.iter().filter_map(|run| run.outcome_seconds);
            let held = median(runs.iter().filter_map(|run| run.verdict.held));
            rows.push(vec![
                fault.name().to_owned(),
                runs.len().to_string(),
                runs.iter().filter(|run| run.verdict.right).count().to_string(),
                number(median(seconds())),
                number(seconds().reduce(f64::max)),
                held.map_or_else(|| "-".to_owned(), |held| format!("{:.0} %", 100.0 * held)),
                runs.iter().filter(|run| run.outcome_right).count().to_string(),
                number(median(outcomes())),
                number(outcomes().reduce(f64::max)),
            ]);
        }
        table(&rows)
    }

    fn confusion<'a>(
        &'a self,
        title: &str,
        counts: impl Fn(&&RunReport) -> bool,
        expected: impl Fn(Fault) -> String,
        seen: impl Fn(&'a RunReport) -> &'a str,
    ) -> String {
        let runs = || self.runs.iter().filter(&counts);
        let columns: BTreeSet<&str> = runs().map(&seen).collect();
        let shown = |name: &str| if name.is_empty() { "(none)" } else { name }.to_owned();
        let mut rows = vec![vec![title.to_owned(), "expected".to_owned()]];
        rows[0].extend(columns.iter().map(|name| shown(name)));
        for fault in runs().map(|run| run.fault).collect::<BTreeSet<_>>() {
            let mut row = vec![fault.name().to_owned(), expected(fault)];
            row.extend(columns.iter().map(|column| {
                let count = self.of(fault).filter(|run| seen(run) == *column).count();
                if count == 0 { "-".to_owned() } else { count.to_string() }
            }));
            rows.push(row);
        }
        if rows.len() == 1 { String::new() } else { table(&rows) }
    }

    /// What was wrong, one by one.
    fn wrong(&self) -> String {
        let mut text = String::new();
        for (index, run) in self.runs.iter().enumerate().filter(|(_, run)| !run.is_right()) {
            let verdict = &run.verdict;
            let name = run.fault.name();
            let channels = run.variant.channels;
            let course: Vec<String> = run
                .course
                .iter()
                .map(|seen| format!("{:.1} s {}/{}", seen.at - run.onset, seen.state, seen.cause))
                .collect();
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "wrong: run {index}, {name}, channels {channels:?}, congestion control {:?}: {}/{} \
                 after {:?} s, before: {:?}, outcome {:?}, error: {:?}\n  {}\n  \"{}\"\n  {:?}",
                run.variant.congestion,
                verdict.state,
                verdict.cause,
                verdict.seconds,
                verdict.before,
                run.outcome,
                run.error,
                course.join(", "),
                verdict.sentence,
                verdict.fractions,
            );
        }
        text
    }
}

/// Whether the fault is one that is to be seen while it is in force.
fn has_verdict(run: &RunReport) -> bool {
    !run.fault.expectation().cause.is_empty()
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

/// Columns as wide as their widest cell; an empty line behind.
fn table(rows: &[Vec<String>]) -> String {
    let mut widths = vec![0; rows.iter().map(Vec::len).max().unwrap_or(0)];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{Judgement, Variant};

    fn run(fault: Fault, state: &str, cause: &str, right: bool, outcome: &str) -> RunReport {
        let verdict = Judgement {
            state: state.to_owned(),
            cause: cause.to_owned(),
            right,
            seconds: right.then_some(1.5),
            ..Judgement::default()
        };
        RunReport {
            fault,
            variant: Variant::of_run(0),
            verdict,
            outcome: outcome.to_owned(),
            outcome_seconds: Some(0.5),
            outcome_right: outcome == fault.expectation().outcome,
            record: None,
            course: Vec::new(),
            onset: 4.0,
            error: None,
        }
    }

    fn good(fault: Fault) -> RunReport {
        let expected = fault.expectation();
        let state = expected.states.first().copied().unwrap_or_default();
        run(fault, state, expected.cause, true, expected.outcome)
    }

    #[test]
    fn one_of_twenty_verdicts_may_be_wrong_but_no_outcome() {
        let mut report = Report { runs: vec![good(Fault::MaxBandwidth); 19] };
        assert!(report.is_good());
        report.runs.push(run(Fault::MaxBandwidth, "slow", "network", false, "completed"));
        assert!(report.is_good());
        assert_eq!(report.verdicts(), (19, 20));
        report.runs.push(run(Fault::MaxBandwidth, "slow", "network", false, "completed"));
        assert!(!report.is_good());
        report.runs = vec![good(Fault::Cancel); 30];
        assert!(report.is_good());
        report.runs[7].verdict.right = false;
        assert!(!report.is_good());
        report.runs[7].verdict.right = true;
        report.runs[3].outcome = "failed".to_owned();
        report.runs[3].outcome_right = false;
        assert!(!report.is_good());
        assert!(!Report::default().is_good());
    }

    #[test]
    fn what_was_seen_is_counted_under_what_was_expected() {
        let runs = vec![
            good(Fault::BandwidthCut),
            run(Fault::BandwidthCut, "stalled", "receiver", false, "completed"),
            good(Fault::Cancel),
        ];
        let text = Report { runs }.text();
        let line = |start: &str, nth: usize| {
            let line = text.lines().filter(|line| line.starts_with(start)).nth(nth).unwrap();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(line("bandwidth-cut", 0), "bandwidth-cut 2 1 1.5 1.5 - 2 0.5 0.5");
        assert!(line("state", 0).ends_with(" expected slow stalled"), "{text}");
        assert_eq!(line("bandwidth-cut", 1), "bandwidth-cut slow 1 1");
        assert_eq!(line("bandwidth-cut", 2), "bandwidth-cut network 1 1");
        assert_eq!(line("cancel", 1), "cancel cancelled 1 -");
        assert!(
            text.ends_with(
                "verdicts right: 1 of 2 (50.0 %, 95 % wanted); false alarms: 0 of 1; outcomes right: 3 of 3\n"
            )
        );
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median([3.0, 1.0].into_iter()), Some(2.0));
        assert_eq!(median([3.0, 1.0, 7.0].into_iter()), Some(3.0));
        assert_eq!(median([].into_iter()), None);
    }
}
