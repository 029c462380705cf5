//! How figures are written.

use jiff::Timestamp;

use crate::sla::judge::{Level, nearest_rank};

/// What stands for a figure that is not there.
pub(super) const NONE: &str = "not measured";

pub(super) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// A number, or that there is none.
pub(super) fn some(value: Option<f64>, unit: &str, digits: usize) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| format!("{value:.digits$} {unit}"))
}

/// A number in a column that has its unit above.
pub(super) fn bare(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

pub(super) fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.1} %", part / whole * 1e2) } else { "-".to_owned() }
}

pub(super) const fn verdict(level: &Level) -> &'static str {
    match level.compliant {
        Some(true) => "PASS",
        Some(false) => "FAIL",
        None => "no data",
    }
}

/// A moment, in UTC, to the second.
pub(super) fn at(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// A moment of the period, whose year is in the header.
pub(super) fn short(moment: Timestamp) -> String {
    moment.strftime("%d %b %H:%M:%S").to_string()
}

/// A length of time.
pub(super) fn lasted(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{:.1} h", seconds as f64 / 3600.0),
    }
}

/// Ascending values, of which ranks are taken.
pub(super) struct Ranked(Vec<f64>);

impl Ranked {
    pub(super) fn new(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_unstable_by(f64::total_cmp);
        Self(values)
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    /// Nearest rank.
    pub(super) fn rank(&self, percent: usize) -> Option<f64> {
        nearest_rank(&self.0, percent)
    }

    /// Nearest rank, in thousandths of the whole.
    pub(super) fn rank_permille(&self, permille: usize) -> Option<f64> {
        self.0.get((self.0.len() * permille).div_ceil(1000).saturating_sub(1)).copied()
    }

    pub(super) fn mean(&self) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.iter().sum::<f64>() / self.0.len() as f64)
    }
}
