//! A document and how it is written, as Markdown (CommonMark with tables) and as HTML that needs nothing else.

use std::fmt::Write as _;

use maud::{DOCTYPE, Markup, PreEscaped, html};

/// Headings, texts, tables, figures.
#[derive(Clone, Debug)]
pub struct Document {
    title: String,
    blocks: Vec<Block>,
}

#[derive(Clone, Debug)]
enum Block {
    Heading(u8, String),
    Text(String),
    List(Vec<String>),
    Table { header: Vec<String>, rows: Vec<Vec<String>> },
    Figure(Figure),
}

/// A plot.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Part of a file name: `blackout`, `throughput`, ...
    pub name: &'static str,
    /// What it shows.
    pub title: String,
    /// An SVG document.
    pub svg: String,
}

impl Document {
    /// An empty document.
    pub(super) fn new(title: &str) -> Self {
        Self { title: title.to_owned(), blocks: Vec::new() }
    }

    pub(super) fn heading(&mut self, level: u8, text: &str) {
        self.blocks.push(Block::Heading(level, text.to_owned()));
    }

    pub(super) fn text(&mut self, text: impl Into<String>) {
        self.blocks.push(Block::Text(text.into()));
    }

    pub(super) fn list(&mut self, items: Vec<String>) {
        self.blocks.push(Block::List(items));
    }

    pub(super) fn table(&mut self, header: &[&str], rows: Vec<Vec<String>>) {
        let header = header.iter().map(|name| (*name).to_owned()).collect();
        self.blocks.push(Block::Table { header, rows });
    }

    pub(super) fn figure(&mut self, figure: Option<Figure>) {
        self.blocks.extend(figure.map(Block::Figure));
    }

    /// All figures.
    pub fn figures(&self) -> impl Iterator<Item = &Figure> {
        self.blocks.iter().filter_map(|block| match block {
            Block::Figure(figure) => Some(figure),
            _ => None,
        })
    }

    /// As Markdown; `link` is the address of a figure's file, `None` leaves figures out.
    #[must_use]
    pub fn markdown(&self, link: impl Fn(&Figure) -> Option<String>) -> String {
        let mut text = format!("# {}\n", plain(&self.title));
        for block in &self.blocks {
            text.push('\n');
            // Writing to a String cannot fail.
            let _ = match block {
                Block::Heading(level, title) => {
                    writeln!(text, "{} {}", "#".repeat(usize::from(*level)), plain(title))
                }
                Block::Text(words) => writeln!(text, "{}", plain(words)),
                Block::List(items) => {
                    items.iter().try_for_each(|item| writeln!(text, "- {}", plain(item)))
                }
                Block::Table { header, rows } => {
                    let line = |cells: &[String]| {
                        let cells: Vec<String> = cells.iter().map(|cell| plain(cell)).collect();
                        format!("| {} |", cells.join(" | "))
                    };
                    let rule = numeric(header.len(), rows)
                        .map(|right| if right { "|---:" } else { "|---" })
                        .collect::<String>();
                    writeln!(text, "{}\n{rule}|", line(header)).and_then(|()| {
                        rows.iter().try_for_each(|row| writeln!(text, "{}", line(row)))
                    })
                }
                Block::Figure(figure) => match link(figure) {
                    Some(link) => writeln!(text, "![{}]({link})", plain(&figure.title)),
                    None => writeln!(
                        text,
                        "(Plot \"{}\": with --output or --html.)",
                        plain(&figure.title)
                    ),
                },
            };
        }
        text
    }

    /// As one HTML file, plots inside.
    #[must_use]
    pub fn html(&self) -> String {
        let title = one_line(&self.title);
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    title { (title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    h1 { (title) }
                    @for block in &self.blocks { (block.html()) "\n" }
                }
            }
        };
        page.into_string()
    }
}

const STYLE: &str = "\
body{font:15px/1.45 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}\
table{border-collapse:collapse;margin:.6em 0}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left}\
th{background:#f3f3f3}div{overflow-x:auto}.n{text-align:right;font-variant-numeric:tabular-nums}\
.good{color:#176b2c}.bad{color:#a31515;font-weight:600}figure{margin:1em 0}svg{max-width:100%;height:auto}\
figcaption{color:#555}";

impl Block {
    fn html(&self) -> Markup {
        match self {
            Self::Heading(2, title) => html! { h2 { (one_line(title)) } },
            Self::Heading(_, title) => html! { h3 { (one_line(title)) } },
            Self::Text(words) => html! { p { (one_line(words)) } },
            Self::List(items) => html! { ul { @for item in items { li { (one_line(item)) } } } },
            Self::Table { header, rows } => table(header, rows),
            Self::Figure(figure) => html! {
                figure { (PreEscaped(&figure.svg)) figcaption { (one_line(&figure.title)) } }
            },
        }
    }
}

fn table(header: &[String], rows: &[Vec<String>]) -> Markup {
    let right: Vec<bool> = numeric(header.len(), rows).collect();
    html! {
        div {
            table {
                tr {
                    @for (cell, right) in header.iter().zip(&right) {
                        th class=[class(cell, *right)] { (one_line(cell)) }
                    }
                }
                @for row in rows {
                    tr {
                        @for (cell, right) in row.iter().zip(&right) {
                            td class=[class(cell, *right)] { (one_line(cell)) }
                        }
                    }
                }
            }
        }
    }
}

/// Which columns hold numbers, and are read more easily from the right.
fn numeric(columns: usize, rows: &[Vec<String>]) -> impl Iterator<Item = bool> {
    (0..columns).map(|column| {
        let mut cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .filter(|cell| cell.as_str() != "-")
            .peekable();
        cells.peek().is_some() && cells.all(|cell| cell.parse::<f64>().is_ok())
    })
}

/// How a cell of HTML looks.
fn class(cell: &str, right: bool) -> Option<&'static str> {
    match cell.split(' ').next() {
        Some("PASS" | "GO" | "healthy") => Some("good"),
        Some("FAIL" | "NO-GO" | "critical" | "unhealthy" | "failed") => Some("bad"),
        _ if right => Some("n"),
        _ => None,
    }
}

/// Names come from outside: they must not break a line.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// Text that Markdown takes for itself is escaped; names of machines come from outside.
fn plain(text: &str) -> String {
    let mut output = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '[' | ']' | '|' | '#' | '~' => {
                output.push('\\');
                output.push(c);
            }
            '<' => output.push_str("&lt;"),
            '>' => output.push_str("&gt;"),
            '&' => output.push_str("&amp;"),
            c if c.is_control() => output.push(' '),
            c => output.push(c),
        }
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hostile() -> Document {
        let mut document = Document::new("t");
        let name = "a|b<script>alert(1)</script>\n# x `c` *d* [e](f)";
        document.table(&["vm"], vec![vec![name.to_owned()]]);
        document.text(name);
        document
    }

    #[test]
    fn names_cannot_break_out_of_their_cell() {
        let text = hostile().markdown(|_| None);
        let row = text.lines().find(|line| line.starts_with("| a")).unwrap();
        assert_eq!(row, r"| a\|b&lt;script&gt;alert(1)&lt;/script&gt; \# x \`c\` \*d\* \[e\](f) |");
        let html = hostile().html();
        assert!(!html.contains("<script>"), "{html}");
        assert!(html.contains("<td>a|b&lt;script&gt;"), "{html}");
    }

    #[test]
    fn figures_are_linked_inlined_or_named() {
        let mut document = Document::new("t");
        let figure = Figure { name: "cpu", title: "CPU".into(), svg: "<svg></svg>".into() };
        document.figure(Some(figure));
        document.figure(None);
        assert!(document.html().contains("<svg></svg>"));
        let text = document.markdown(|figure| Some(format!("r-{}.svg", figure.name)));
        assert!(text.contains("![CPU](r-cpu.svg)"), "{text}");
        assert!(document.markdown(|_| None).contains("Plot \"CPU\""));
        assert_eq!(document.figures().count(), 1);
    }
}
