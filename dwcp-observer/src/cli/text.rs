//! Tables of text for a terminal, and the figures that go into them.

use std::fmt::Write as _;

use comfy_table::{
    CellAlignment, ColumnConstraint, ContentArrangement, Row, Table as Grid, presets,
};

/// A column that may shrink keeps at least this much, while the columns stand apart.
const SHRUNK: u16 = 8;
/// What stands for a value that is not there.
pub(super) const NONE: &str = "-";
const CUT: &str = "…";

/// Columns of the terminal that the output goes to; `None` where it goes elsewhere: nothing is cut then.
#[cfg(not(test))]
fn columns() -> Option<u16> {
    terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| width.0)
}
#[cfg(test)]
use tests::columns;

pub(super) fn section(title: &str, table: &Table, output: &mut String) {
    if !table.grid.is_empty() {
        let _ = write!(output, "\n{title}\n{}", table.render());
    }
}

/// Columns that are as wide as what they hold, one line a row. Where the terminal has no room for that, those that may shrink do.
pub(super) struct Table {
    grid: Grid,
    shrinks: Vec<usize>,
}

impl Table {
    pub(super) fn new(header: &[&str]) -> Self {
        let mut grid = Grid::new();
        grid.load_style(presets::NOTHING).set_truncation_indicator(CUT);
        grid.set_header(one_line(header));
        for column in grid.column_iter_mut() {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
        Self { grid, shrinks: Vec::new() }
    }

    pub(super) fn right(&mut self, columns: &[usize]) {
        for column in columns {
            if let Some(column) = self.grid.column_mut(*column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }

    pub(super) fn shrinks(&mut self, columns: &[usize]) {
        self.shrinks = columns.to_vec();
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.grid.add_row(one_line(cells));
    }

    pub(super) fn render(&self) -> String {
        let mut grid = self.grid.clone();
        let apart = self.apart();
        for column in grid.column_iter_mut() {
            column.set_padding((0, apart));
        }
        let Some(limit) = columns() else { return lines(&grid, usize::MAX) };
        for column in &self.shrinks {
            if let Some(column) = grid.column_mut(*column) {
                column.remove_constraint();
            }
        }
        // What stands apart behind the last column is not printed.
        grid.set_content_arrangement(ContentArrangement::Dynamic).set_width(limit + apart);
        lines(&grid, limit.into())
    }

    /// How far columns stand apart: two, where there is room for it.
    fn apart(&self) -> u16 {
        let widths = self.grid.column_max_content_widths();
        let least = widths.iter().enumerate().map(|(index, width)| {
            if self.shrinks.contains(&index) { SHRUNK.min(*width) } else { *width }
        });
        let least = least.sum::<u16>() + 2 * widths.len() as u16;
        if columns().is_some_and(|limit| least > limit + 2) { 1 } else { 2 }
    }
}

fn one_line(cells: impl Into<Row>) -> Row {
    let mut row = cells.into();
    row.max_height(1);
    row
}

fn lines(grid: &Grid, limit: usize) -> String {
    grid.lines().map(|line| format!("{}\n", fit(line.trim_end(), limit))).collect()
}

/// At most `width` characters, with a mark where something is missing.
fn fit(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    line.chars().take(width.saturating_sub(1)).chain(CUT.chars()).collect()
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

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static COLUMNS: Cell<Option<u16>> = const { Cell::new(None) };
    }

    pub(super) fn columns() -> Option<u16> {
        COLUMNS.get()
    }

    /// What is printed on a terminal of so many columns.
    pub(in crate::cli) fn on_terminal(columns: u16, print: impl FnOnce() -> String) -> String {
        COLUMNS.set(Some(columns));
        let text = print();
        COLUMNS.set(None);
        text
    }

    #[test]
    fn a_table_takes_what_it_needs_and_shrinks_on_a_terminal_alone() {
        let mut table = Table::new(&["ID", "NAME", "COUNT"]);
        table.right(&[2]);
        table.shrinks(&[1]);
        table.row(vec!["1".to_owned(), "of a long name".to_owned(), "12".to_owned()]);
        assert_eq!(table.render(), "ID  NAME            COUNT\n1   of a long name     12\n");
        let narrow = on_terminal(18, || table.render());
        assert!(narrow.contains(CUT) && narrow.lines().all(|line| line.chars().count() <= 18));
        assert_eq!(narrow.lines().count(), 2, "{narrow}");
        assert!(narrow.contains("12"), "{narrow}");
    }
}
