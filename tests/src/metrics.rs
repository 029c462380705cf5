//! Reads the Prometheus text format, enough to look values up.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

/// One scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    series: Vec<(String, BTreeMap<String, String>, f64)>,
}

impl Metrics {
    /// Reads an exposition.
    ///
    /// # Errors
    /// When a line is neither a comment nor `name{labels} value`.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let series = lines
            .map(|line| parse_line(line).with_context(|| format!("not a series: {line:?}")))
            .collect::<Result<_>>()?;
        Ok(Self { series })
    }

    /// Values of all series of `name` that have all of `labels`.
    pub fn values<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = f64> + 'a {
        self.series
            .iter()
            .filter(move |(found, having, _)| {
                found == name
                    && labels
                        .iter()
                        .all(|(key, value)| having.get(*key).is_some_and(|have| have == value))
            })
            .map(|(_, _, value)| *value)
    }

    /// Their sum; an error if there is none, since absent is not zero.
    ///
    /// # Errors
    /// When no such series is there.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let mut values = self.values(name, labels).peekable();
        values.peek().with_context(|| format!("no series {name} with {labels:?}"))?;
        Ok(values.sum())
    }

    /// Number of series.
    #[must_use]
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }
}

fn parse_line(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    let (head, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = head.split_once('{') else {
        return Some((head.to_owned(), BTreeMap::new(), value));
    };
    Some((name.to_owned(), parse_labels(labels.strip_suffix('}')?)?, value))
}

fn parse_labels(mut text: &str) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = rest.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.insert(name.to_owned(), value);
        text = rest[end + 1..].trim_start_matches(',');
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_found_by_name_and_labels() {
        let text = "# HELP a help\n# TYPE a counter\na{x=\"1\",y=\"p q\"} 3\na{x=\"2\",y=\"}\\\"\"} 4.5\nb 1e3\n";
        let metrics = Metrics::parse(text).unwrap();
        assert_eq!(metrics.len(), 3);
        assert_eq!(metrics.sum("a", &[]).unwrap(), 7.5);
        assert_eq!(metrics.sum("a", &[("x", "1")]).unwrap(), 3.0);
        assert_eq!(metrics.sum("a", &[("y", "}\"")]).unwrap(), 4.5);
        assert_eq!(metrics.sum("b", &[]).unwrap(), 1000.0);
        assert!(metrics.sum("a", &[("x", "3")]).is_err());
        assert!(metrics.sum("c", &[]).is_err());
        assert!(Metrics::parse("hello").is_err());
    }
}
