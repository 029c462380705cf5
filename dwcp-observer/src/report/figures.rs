//! Plots, as SVG.

use std::{error::Error, ops::Range};

use jiff::Timestamp;
use plotters::{
    coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter},
    prelude::*,
};

use super::{data::Data, document::Figure};

const SIZE: (u32, u32) = (820, 260);
const BLUE_LINE: RGBColor = RGBColor(31, 119, 180);
const ORANGE_LINE: RGBColor = RGBColor(255, 127, 14);
const LIMIT: RGBColor = RGBColor(200, 30, 30);
const FONT: (&str, u32) = ("sans-serif", 14);
/// Distances of times on the axis, seconds: 1 minute to 50 days.
const STEPS: [f64; 13] = [
    60.0,
    300.0,
    600.0,
    1800.0,
    3600.0,
    7200.0,
    10_800.0,
    21_600.0,
    43_200.0,
    86_400.0,
    345_600.0,
    864_000.0,
    4_320_000.0,
];
/// Minutes without a figure break a line.
const GAP_SECONDS: f64 = 90.0;

/// A line, its label and its colour.
struct Line<'a> {
    label: &'a str,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

/// What is drawn.
struct Plot<'a> {
    name: &'static str,
    title: String,
    unit: &'a str,
    x: Range<f64>,
    /// The axis reaches at least this high.
    at_least: f64,
    lines: Vec<Line<'a>>,
    points: Vec<(f64, f64)>,
    limit: Option<f64>,
}

impl Plot<'_> {
    /// `None` without anything to draw.
    fn draw(&self) -> Option<Figure> {
        let values = || self.lines.iter().flat_map(|line| &line.points).chain(&self.points);
        let highest = values().map(|(_, y)| *y).reduce(f64::max)?;
        let svg = self
            .svg(highest.max(self.at_least) * 1.1)
            .inspect_err(|error| log::warn!("plot {}: {error}", self.name))
            .ok()?;
        Some(Figure { name: self.name, title: self.title.clone(), svg })
    }

    fn svg(&self, top: f64) -> Result<String, Box<dyn Error>> {
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            root.fill(&WHITE)?;
            let mut chart = ChartBuilder::on(&root)
                .margin(10)
                .x_label_area_size(24)
                .y_label_area_size(64)
                .build_cartesian_2d(TimeAxis(self.x.clone()), 0.0..top)?;
            chart
                .configure_mesh()
                .light_line_style(TRANSPARENT)
                .label_style(FONT)
                .y_labels(6)
                .y_label_formatter(&|value| format!("{value:.*}", decimals(top)))
                .y_desc(self.unit)
                .draw()?;
            if let Some(limit) = self.limit.filter(|limit| *limit <= top) {
                let line = [(self.x.start, limit), (self.x.end, limit)];
                chart
                    .draw_series(LineSeries::new(line, &LIMIT))?
                    .label("limit")
                    .legend(|(x, y)| PathElement::new([(x, y), (x + 14, y)], LIMIT));
            }
            for Line { label, color, points } in &self.lines {
                let color = *color;
                for (index, part) in parts(points).enumerate() {
                    // A single minute is no line.
                    if let [(x, y)] = part {
                        chart.draw_series([Circle::new((*x, *y), 2, color.filled())])?;
                    }
                    let series =
                        chart.draw_series(LineSeries::new(part.iter().copied(), &color))?;
                    if index == 0 {
                        series
                            .label(*label)
                            .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], color));
                    }
                }
            }
            chart.draw_series(
                self.points.iter().map(|point| Circle::new(*point, 3, BLUE_LINE.filled())),
            )?;
            chart
                .configure_series_labels()
                .label_font(FONT)
                .background_style(WHITE.mix(0.8))
                .position(SeriesLabelPosition::UpperLeft)
                .draw()?;
            root.present()?;
        }
        Ok(svg)
    }
}

/// Seconds since 1970, labelled at round times in UTC.
struct TimeAxis(Range<f64>);

impl Ranged for TimeAxis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (low, high): (i32, i32)) -> i32 {
        let share = (value - self.0.start) / (self.0.end - self.0.start).max(1.0);
        low + (share * f64::from(high - low)).round() as i32
    }

    /// At most nine.
    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        let length = self.0.end - self.0.start;
        let fits = |step: &&f64| length / **step <= 9.0;
        let step = STEPS.iter().find(fits).copied().unwrap_or(length / 9.0);
        let first = (self.0.start / step).ceil() as i64;
        let last = (self.0.end / step).floor() as i64;
        (first..=last).map(|number| number as f64 * step).collect()
    }

    fn range(&self) -> Range<f64> {
        self.0.clone()
    }
}

impl ValueFormatter<f64> for TimeAxis {
    fn format_ext(&self, value: &f64) -> String {
        let long = self.0.end - self.0.start > 2.0 * 86_400.0;
        let at = Timestamp::from_second(*value as i64).unwrap_or_default();
        at.strftime(if long { "%d %b" } else { "%H:%M" }).to_string()
    }
}

/// Parts of a line without gaps.
fn parts(line: &[(f64, f64)]) -> impl Iterator<Item = &[(f64, f64)]> {
    line.chunk_by(|(one, _), (next, _)| next - one <= GAP_SECONDS)
}

/// Digits behind the point that an axis up to `top` needs.
fn decimals(top: f64) -> usize {
    if top >= 20.0 {
        0
    } else if top >= 2.0 {
        1
    } else {
        3
    }
}

fn period(data: &Data) -> Range<f64> {
    data.from.as_second() as f64..data.to.as_second() as f64
}

/// Blackouts of single migrations, ms.
pub(super) fn blackouts(data: &Data) -> Option<Figure> {
    let points: Vec<(f64, f64)> = data
        .v3()
        .filter_map(|one| Some((one.ended_at?.as_second() as f64, one.blackout_seconds()? * 1e3)))
        .collect();
    Plot {
        name: "blackout",
        title:
            "Blackout of each migration that ended, ms; the red line, if in range, is the limit of mode datacenter"
                .to_owned(),
        unit: "ms",
        x: period(data),
        at_least: 1.0,
        lines: Vec::new(),
        points,
        limit: Some(data.targets().latency_datacenter_seconds * 1e3),
    }
    .draw()
}

/// Rate by minute, GB/s.
pub(super) fn throughput(data: &Data) -> Option<Figure> {
    let of = |figure: fn(&crate::history::minute::Spread) -> f64| {
        data.minutes
            .iter()
            .filter(|minute| minute.throughput.count > 0)
            .map(|minute| (minute.at as f64, figure(&minute.throughput) / 1e9))
            .collect()
    };
    Plot {
        name: "throughput",
        title: "Rate of all migrations by minute, GB/s, while a transfer was active".to_owned(),
        unit: "GB/s",
        x: period(data),
        at_least: 0.001,
        lines: vec![
            Line {
                label: "mean",
                color: BLUE_LINE,
                points: of(|spread| spread.mean().unwrap_or(0.0)),
            },
            Line { label: "peak second", color: ORANGE_LINE, points: of(|spread| spread.max) },
        ],
        points: Vec::new(),
        limit: Some(data.targets().throughput_bytes_per_second / 1e9),
    }
    .draw()
}

/// The host's CPUs and memory by minute, percent.
pub(super) fn resources(data: &Data) -> Option<Figure> {
    let of = |which: fn(&crate::history::minute::Minute) -> Option<f64>| {
        let minutes = data.minutes.iter();
        minutes.filter_map(|minute| Some((minute.at as f64, which(minute)?))).collect()
    };
    Plot {
        name: "resources",
        title: "Utilization of the host's CPUs and memory by minute, percent".to_owned(),
        unit: "%",
        x: period(data),
        at_least: 91.0,
        lines: vec![
            Line { label: "CPU", color: BLUE_LINE, points: of(|minute| minute.cpu_percent.mean()) },
            Line {
                label: "memory",
                color: ORANGE_LINE,
                points: of(|minute| minute.memory_percent.mean()),
            },
        ],
        points: Vec::new(),
        limit: None,
    }
    .draw()
}
