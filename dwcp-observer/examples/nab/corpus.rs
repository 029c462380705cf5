//! A corpus in the layout of the Numenta Anomaly Benchmark: `data/<group>/<name>.csv` and `labels/combined_windows.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// A labelled series.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Series {
    /// `<group>/<name>.csv`.
    pub(crate) name: String,
    /// Time, taken as UTC, and value.
    pub(crate) samples: Vec<(i64, f64)>,
    /// First and last sample of each window.
    pub(crate) windows: Vec<(usize, usize)>,
}

/// All labelled series below `directory`, by name.
///
/// # Errors
/// When a file is missing or not as the benchmark has it: a label without a series, or a window whose ends are no samples.
pub(crate) fn read(directory: &Path) -> Result<Vec<Series>> {
    let labels = directory.join("labels/combined_windows.json");
    let text = fs::read_to_string(&labels).with_context(|| labels.display().to_string())?;
    let labels: BTreeMap<String, Vec<(String, String)>> =
        serde_json::from_str(&text).with_context(|| labels.display().to_string())?;
    let mut corpus = Vec::new();
    for (name, windows) in labels {
        let file = directory.join("data").join(&name);
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let samples = parse(&text).with_context(|| name.clone())?;
        let windows = windows
            .iter()
            .map(|(start, end)| Ok((index(&samples, start)?, index(&samples, end)?)))
            .collect::<Result<Vec<_>>>()
            .with_context(|| format!("the windows of {name}"))?;
        let ordered = windows.iter().all(|(start, end)| start <= end)
            && windows.is_sorted_by(|left, right| left.1 < right.0);
        ensure!(ordered, "the windows of {name} are not in order");
        corpus.push(Series { name, samples, windows });
    }
    ensure!(!corpus.is_empty(), "no labelled series in {}", directory.display());
    Ok(corpus)
}

/// Lines of `time,value` below a heading.
fn parse(text: &str) -> Result<Vec<(i64, f64)>> {
    text.lines()
        .skip(1)
        .map(|line| {
            let (time, value) = line.split_once(',').context("a line without a comma")?;
            Ok((seconds(time)?, value.trim().parse()?))
        })
        .collect()
}

fn seconds(time: &str) -> Result<i64> {
    let time: DateTime = time.parse()?;
    Ok(time.to_zoned(TimeZone::UTC)?.timestamp().as_second())
}

fn index(samples: &[(i64, f64)], time: &str) -> Result<usize> {
    let wanted = seconds(time)?;
    samples.iter().position(|&(at, _)| at == wanted).with_context(|| format!("no sample at {time}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CSV: &str = "timestamp,value\n2014-04-01 00:00:00,20.5\n2014-04-01 00:05:00,-3\n";

    #[test]
    fn a_file_of_the_benchmark() {
        let samples = parse(CSV).expect("valid");
        assert_eq!(samples, [(1_396_310_400, 20.5), (1_396_310_700, -3.0)]);
        assert_eq!(index(&samples, "2014-04-01 00:05:00.000000").expect("a sample"), 1);
        assert!(index(&samples, "2014-04-01 00:01:00.000000").is_err());
    }

    #[test]
    fn what_is_no_series_is_an_error() {
        assert!(parse("timestamp,value\n2014-04-01 00:00:00\n").is_err());
        assert!(parse("timestamp,value\n2014-04-01 00:00:00,x\n").is_err());
        assert!(parse("timestamp,value\nyesterday,1\n").is_err());
        assert!(read(Path::new("no-such-directory")).is_err());
    }
}
