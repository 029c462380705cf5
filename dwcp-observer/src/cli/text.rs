//! Tables of text for a terminal, and the values of JSON that go into them.

use std::fmt::Write as _;

use serde_json::Value;

/// Widest line that is printed.
pub(super) const WIDTH: usize = 120;
/// A column that may shrink keeps at least this much.
const SHRUNK: usize = 8;
/// What stands for a value that is not there.
pub(super) const NONE: &str = "-";

pub(super) fn section(title: &str, table: &Table, output: &mut String) {
    if !table.rows.is_empty() {
        let _ = write!(output, "\n{title}\n{}", table.render(WIDTH));
    }
}

/// Columns that are as wide as what they hold.
pub(super) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    right: Vec<usize>,
    shrinks: Vec<usize>,
}

impl Table {
    pub(super) fn new(header: &[&str]) -> Self {
        let header = header.iter().map(|name| (*name).to_owned()).collect();
        Self { header, rows: Vec::new(), right: Vec::new(), shrinks: Vec::new() }
    }

    pub(super) fn right(&mut self, columns: &[usize]) {
        self.right = columns.to_vec();
    }

    pub(super) fn shrinks(&mut self, columns: &[usize]) {
        self.shrinks = columns.to_vec();
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(super) fn render(&self, limit: usize) -> String {
        let lines = || std::iter::once(&self.header).chain(&self.rows);
        let mut widths = vec![0; self.header.len()];
        for line in lines() {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let total =
            |widths: &[usize]| widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
        while total(&widths) > limit {
            let widest = self.shrinks.iter().copied().max_by_key(|column| widths[*column]);
            match widest {
                Some(column) if widths[column] > SHRUNK => widths[column] -= 1,
                _ => break,
            }
        }
        let mut output = String::new();
        for line in lines() {
            let mut text = String::new();
            for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
                if column > 0 {
                    text.push_str("  ");
                }
                let cell = fit(cell, *width);
                let _ = if self.right.contains(&column) {
                    write!(text, "{cell:>width$}")
                } else {
                    write!(text, "{cell:<width$}")
                };
            }
            output.push_str(text.trim_end());
            output.push('\n');
        }
        output
    }
}

/// At most `width` characters, with a mark where something is missing.
fn fit(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    cell.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// Without control characters: a VM's name must not steer the terminal.
pub(super) fn clean(text: &str) -> String {
    let printable = |c: char| {
        // Format characters would turn the direction of the line or vanish.
        let invisible = matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if c.is_control() || invisible { '?' } else { c }
    };
    text.chars().map(printable).collect()
}

pub(super) fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(super) fn text(value: &Value, key: &str) -> String {
    text_or(value, key, NONE)
}

pub(super) fn text_or(value: &Value, key: &str, default: &str) -> String {
    value.get(key).and_then(Value::as_str).map_or_else(|| default.to_owned(), clean)
}

pub(super) fn number(value: &Value, key: &str) -> Option<f64> {
    value.get(key).and_then(Value::as_f64)
}

pub(super) fn count(value: &Value, key: &str) -> Option<u64> {
    value.get(key).and_then(Value::as_u64)
}

pub(super) fn integer(value: &Value, key: &str) -> u64 {
    count(value, key).unwrap_or(0)
}

pub(super) fn flag(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or(false)
}

pub(super) fn duration(seconds: Option<f64>) -> String {
    let Some(seconds) = seconds else {
        return NONE.to_owned();
    };
    if seconds < 0.9995 {
        return format!("{:.0} ms", seconds * 1e3);
    }
    if seconds < 99.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    if whole < 3600 {
        return format!("{}m{:02}s", whole / 60, whole % 60);
    }
    format!("{}h{:02}m", whole / 3600, whole % 3600 / 60)
}

pub(super) fn bytes(count: u64) -> String {
    scaled(count as f64, "B")
}

pub(super) fn per_second(rate: Option<f64>) -> String {
    rate.map_or_else(|| NONE.to_owned(), |rate| scaled(rate, "B/s"))
}

/// Three digits and a decimal prefix (1 kB = 1000 B), as the metrics and QEMU count.
fn scaled(value: f64, unit: &str) -> String {
    let mut value = value;
    let mut prefixes = ["", "k", "M", "G", "T"].into_iter();
    let mut prefix = prefixes.next().unwrap_or("");
    // 999.5 would print as 1000.
    while value >= 999.5 {
        let Some(next) = prefixes.next() else {
            break;
        };
        value /= 1000.0;
        prefix = next;
    }
    if prefix.is_empty() || value >= 99.95 {
        return format!("{value:.0} {prefix}{unit}");
    }
    if value >= 9.995 {
        return format!("{value:.1} {prefix}{unit}");
    }
    format!("{value:.2} {prefix}{unit}")
}

pub(super) fn rtt(seconds: Option<f64>) -> String {
    let Some(seconds) = seconds else {
        return NONE.to_owned();
    };
    let micros = seconds * 1e6;
    if micros < 999.5 {
        return format!("{micros:.0} us");
    }
    if micros < 99_950.0 {
        return format!("{:.1} ms", micros / 1e3);
    }
    format!("{:.0} ms", micros / 1e3)
}
