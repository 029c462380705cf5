//! The rows as a table for a terminal, as JSON, and as `docs/internals/overhead.md`.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::machine::Machine;
use super::row::{Budget, Group, Row};

/// Everything that was measured.
#[derive(Debug)]
pub(super) struct Report {
    /// Where.
    pub(super) machine: Machine,
    /// How it was called.
    pub(super) command: String,
    /// With fewer repetitions.
    pub(super) quick: bool,
    /// How long it took.
    pub(super) seconds: f64,
    /// In the order of [`Group::ALL`].
    pub(super) rows: Vec<Row>,
}

const HEADER: [&str; 7] = ["What", "Figure", "Least", "Most", "Unit", "Budget", "Verdict"];

const METHOD: &str = "\
- *Figure* is the median of the runs, *least* and *most* are their range; a ratio is that of two
  medians, its range that of the pairs. Runs with and without the observer take turns, and the one
  that goes first changes.
- **programs**: the kernel times each run of a program (`BPF_ENABLE_STATS`) with two clock reads, of
  which about one falls into its figure. An empty program is attached behind each of ours to the
  same tracepoint and run by the same events; ours minus the empty one is the figure. The
  tracepoint's own dispatch to a program is in neither; it is in the `scheduler` rows. *Tracked*
  events are made by a process called `criu`, which the observer takes for a migrator, *untracked*
  ones by the same program under the name `other`; events of other processes on the machine are
  untracked and in both. *Tight loop*: two threads send one another 64 bytes in turns, so programs
  and records stay in the caches, as in the benchmarks that the budgets come from. *Bulk*: eight
  connections at full speed with 256 KiB a write, so that each event finds caches full of payload;
  since ours is the first program of an event, the misses of the dispatch are its too. In both,
  the two ends share one CPU. *Short connections*: 400 of them, for programs that run only when
  something begins, ends or goes wrong, and 400 renames of a thread.
- **scheduler**: `taskset -c N perf bench -f simple sched pipe -l 300000`, no migration. The empty
  programs show what any program at these two tracepoints costs, whatever it does.
- **cycle**: each cycle by itself, from sum and count of `dwcp_observer_cycle_duration_seconds` and
  `dwcp_observer_cycle_jitter_seconds`, which are read five times a second meanwhile.
- **scrape**: from connecting to the last byte, one request after the other, with the client on the
  same machine.
- **resources**: VmRSS, RssAnon and RssFile of `/proc/PID/status`; CPU time of all threads by
  `/proc/PID/task/*/schedstat`, which is what utime and stime are made from, in ns. Time in eBPF
  programs is measured after that, with the cost of timing in it, and falls to the processes that
  cause the events.
- **throughput**: four connections of a `criu` process without a limit; and QEMU (TCG) with multifd
  on 4 channels without a limit, `transferred` / `total-time` by QEMU itself. Both ends share one
  CPU, so that the transfer is bound by CPU time: each ns that the observer takes shows.
- **bytes**: what the programs at both ends wrote and read against `bytes_delivered` and
  `bytes_received` of the streams, all differences summed without their signs.
- **notice**: from the opening of the connection (before its first byte) until
  `GET /api/v1/migrations` shows the migration.
- Not here: blackout error and stall verdict are checked by tests that know the truth, not by this
  program.
";

impl Report {
    /// How many rows are over budget, and how many were not measured.
    pub(super) fn misses(&self) -> (usize, usize) {
        let count = |verdict| self.rows.iter().filter(|row| row.verdict() == verdict).count();
        (count("over budget"), count("not measured"))
    }

    /// For `--json`.
    pub(super) fn json(&self) -> Value {
        let (over_budget, not_measured) = self.misses();
        json!({
            "machine": self.machine.json(),
            "command": self.command,
            "quick": self.quick,
            "seconds": self.seconds,
            "over_budget": over_budget,
            "not_measured": not_measured,
            "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
        })
    }

    /// For a terminal.
    pub(super) fn table(&self) -> String {
        let mut cells = vec![HEADER.map(str::to_owned)];
        cells.extend(self.rows.iter().map(row_cells));
        let mut widths = [0; HEADER.len()];
        for row in &cells {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in &cells {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
                // Numbers to the right.
                let _ = match column {
                    1..=3 => write!(line, "{cell:>width$}  "),
                    _ => write!(line, "{cell:<width$}  "),
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text + &self.closing_line() + "\n"
    }

    fn closing_line(&self) -> String {
        let (over, not_measured) = self.misses();
        let passed = self.rows.iter().filter(|row| row.passes() == Some(true)).count();
        format!(
            "{passed} within budget, {over} over budget, {not_measured} not measured, in {:.0} s",
            self.seconds
        )
    }

    /// `docs/internals/overhead.md`.
    pub(super) fn markdown(&self) -> String {
        let mut text = String::from(
            "# Overhead\n\nWhat the observer costs, measured. Written by the command below; do not \
             edit.\n\n```\n",
        );
        let _ = writeln!(text, "{}\n```\n\n| | |\n|---|---|", self.command);
        for (name, value) in self.machine.lines() {
            let _ = writeln!(text, "| {name} | {value} |");
        }
        let _ = writeln!(text, "\nResult: {}.", self.closing_line());
        if self.quick {
            text.push_str("\nWith `--quick`: fewer repetitions, so more noise.\n");
        }
        for group in Group::ALL {
            let rows: Vec<&Row> = self.rows.iter().filter(|row| row.group == group).collect();
            let Some(first) = rows.first() else { continue };
            let _ = writeln!(text, "\n## {}\n\n`{}`\n", group.as_str(), first.command());
            let _ = writeln!(text, "| {} | Runs | Note |", HEADER.join(" | "));
            let _ = writeln!(text, "|---|---:|---:|---:|---|---|---|---:|---|");
            for row in rows {
                let runs = row.figure.as_ref().map_or(0, |figure| figure.samples);
                let note = match &row.figure {
                    Ok(_) => &row.note,
                    Err(reason) => reason,
                };
                let note = note.replace('\n', " ").replace('|', "\\|");
                let _ = writeln!(text, "| {} | {runs} | {note} |", row_cells(row).join(" | "));
            }
        }
        text.push_str("\n## Method\n\n");
        text + METHOD
    }
}

fn row_cells(row: &Row) -> [String; 7] {
    let number = |part: fn(&super::samples::Figure) -> f64| {
        row.figure.as_ref().map_or("-".to_owned(), |figure| digits(part(figure)))
    };
    let budget = match row.budget {
        Some(Budget::AtMost(limit)) => format!("<= {}", short(limit)),
        Some(Budget::AtLeast(limit)) => format!(">= {}", short(limit)),
        None => String::new(),
    };
    [
        row.name.clone(),
        number(|figure| figure.value),
        number(|figure| figure.min),
        number(|figure| figure.max),
        row.unit.to_owned(),
        budget,
        row.verdict().to_owned(),
    ]
}

/// At least three digits of a figure that has any.
fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 10.0 => format!("{value:.3}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A limit as it was written.
fn short(limit: f64) -> String {
    format!("{limit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::samples::Samples;

    fn report() -> Report {
        let row = |name: &str, value| Row::new(Group::Cycle, name, "ms", &Samples::new([value]));
        Report {
            machine: Machine::read(),
            command: "cargo xtask bench".to_owned(),
            quick: false,
            seconds: 12.0,
            rows: vec![
                row("good", 1.0).at_most(2.0).note("a note"),
                row("bad", 3.0).at_most(2.0),
                Row::not_measured(Group::Scrape, "gone", "no such\n|tool"),
            ],
        }
    }

    #[test]
    fn nothing_is_hidden() {
        let report = report();
        assert_eq!(report.misses(), (1, 1));
        let closing = "1 within budget, 1 over budget, 1 not measured, in 12 s";
        for text in [report.table(), report.markdown()] {
            assert!(text.contains(closing), "{text}");
            assert!(text.contains("over budget") && text.contains("gone"), "{text}");
        }
        let text = report.markdown();
        assert!(text.contains("| good | 1.000 | 1.000 | 1.000 | ms | <= 2 | pass | 1 | a note |"));
        assert!(text.contains("| gone | - | - | - |  |  | not measured | 0 | no such \\|tool |"));
        assert!(text.contains("`cargo xtask bench --only scrape`"));
        assert_eq!(report.json()["rows"][1]["passes"], false);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.0, 0.1234, -12.34, 1234.5].map(digits), ["0", "0.123", "-12.3", "1234"]);
        assert_eq!([0.99, 3.0, 0.3].map(short), ["0.99", "3", "0.3"]);
    }
}
