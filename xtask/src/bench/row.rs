//! One line of the result: a figure, its budget, and whether it keeps it.

use clap::ValueEnum;
use serde_json::{Value, json};

use super::samples::{Figure, Samples};

/// What is measured together; `--only` takes these names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Group {
    /// Time per event of each eBPF program
    Programs,
    /// `perf bench sched pipe` with and without the observer
    Scheduler,
    /// Time and lateness of the collection cycle
    Cycle,
    /// GET /metrics
    Scrape,
    /// Memory and CPU
    Resources,
    /// Migration throughput with and without the observer
    Throughput,
    /// Migrations with and without the probes on QEMU's phase functions
    Phases,
    /// Bytes that the observer does not account for
    Bytes,
    /// First byte to API
    Notice,
}

impl Group {
    /// In the order in which they run.
    pub(super) const ALL: [Self; 9] = [
        Self::Programs,
        Self::Scheduler,
        Self::Cycle,
        Self::Scrape,
        Self::Resources,
        Self::Throughput,
        Self::Phases,
        Self::Bytes,
        Self::Notice,
    ];

    /// Its name on the command line.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Programs => "programs",
            Self::Scheduler => "scheduler",
            Self::Cycle => "cycle",
            Self::Scrape => "scrape",
            Self::Resources => "resources",
            Self::Throughput => "throughput",
            Self::Phases => "phases",
            Self::Bytes => "bytes",
            Self::Notice => "notice",
        }
    }
}

/// What a figure may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Budget {
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
}

/// One line of the result.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// What it was measured with.
    pub(super) group: Group,
    /// What it is.
    pub(super) name: String,
    /// Unit of figure and budget.
    pub(super) unit: &'static str,
    /// The figure, or why there is none.
    pub(super) figure: Result<Figure, String>,
    /// `None` for what only explains other rows.
    pub(super) budget: Option<Budget>,
    /// What else is to be known about this figure.
    pub(super) note: String,
}

impl Row {
    /// A row without budget and note.
    pub(super) fn new(
        group: Group,
        name: impl Into<String>,
        unit: &'static str,
        samples: &Samples,
    ) -> Self {
        Self::of(group, name, unit, samples.figure())
    }

    /// The same of one figure.
    pub(super) fn of(
        group: Group,
        name: impl Into<String>,
        unit: &'static str,
        figure: Option<Figure>,
    ) -> Self {
        let figure = figure.ok_or_else(|| "no event was seen".to_owned());
        Self { group, name: name.into(), unit, figure, budget: None, note: String::new() }
    }

    /// A row that says why there is no figure.
    pub(super) fn not_measured(
        group: Group,
        name: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        let figure = Err(reason.into());
        Self { group, name: name.into(), unit: "", figure, budget: None, note: String::new() }
    }

    /// With an upper limit.
    pub(super) fn at_most(mut self, limit: f64) -> Self {
        self.budget = Some(Budget::AtMost(limit));
        self
    }

    /// With a lower limit.
    pub(super) fn at_least(mut self, limit: f64) -> Self {
        self.budget = Some(Budget::AtLeast(limit));
        self
    }

    /// With a note.
    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Whether the figure keeps its budget; `None` without figure or budget.
    pub(super) fn passes(&self) -> Option<bool> {
        let value = self.figure.as_ref().ok()?.value;
        Some(match self.budget? {
            Budget::AtMost(limit) => value <= limit,
            Budget::AtLeast(limit) => value >= limit,
        })
    }

    /// `pass`, `over budget`, `not measured` or nothing.
    pub(super) fn verdict(&self) -> &'static str {
        match (&self.figure, self.passes()) {
            (Err(_), _) => "not measured",
            (_, Some(true)) => "pass",
            (_, Some(false)) => "over budget",
            (_, None) => "",
        }
    }

    /// How it is measured again.
    pub(super) fn command(&self) -> String {
        format!("cargo xtask bench --only {}", self.group.as_str())
    }

    /// For `--json`.
    pub(super) fn json(&self) -> Value {
        let figure = self.figure.as_ref().ok();
        let (at_most, at_least) = match self.budget {
            Some(Budget::AtMost(limit)) => (Some(limit), None),
            Some(Budget::AtLeast(limit)) => (None, Some(limit)),
            None => (None, None),
        };
        json!({
            "group": self.group.as_str(),
            "name": self.name,
            "unit": self.unit,
            "value": figure.map(|figure| figure.value),
            "min": figure.map(|figure| figure.min),
            "max": figure.map(|figure| figure.max),
            "samples": figure.map_or(0, |figure| figure.samples),
            "budget": { "at_most": at_most, "at_least": at_least },
            "passes": self.passes(),
            "not_measured": self.figure.as_ref().err(),
            "note": self.note,
            "command": self.command(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_kept_or_not() {
        let row = Row::new(Group::Cycle, "x", "ms", &Samples::new([1.0, 2.0, 9.0]));
        assert_eq!(row.passes(), None);
        assert_eq!(row.clone().at_most(2.0).verdict(), "pass");
        assert_eq!(row.clone().at_most(1.9).verdict(), "over budget");
        assert_eq!(row.clone().at_least(2.1).verdict(), "over budget");
        assert_eq!(row.at_least(2.0).json()["passes"], true);
    }

    #[test]
    fn what_was_not_measured_passes_nothing() {
        let row = Row::new(Group::Cycle, "x", "ms", &Samples::default()).at_most(1.0);
        assert_eq!(row.passes(), None);
        assert_eq!(row.verdict(), "not measured");
        assert_eq!(row.json()["value"], Value::Null);
    }
}
