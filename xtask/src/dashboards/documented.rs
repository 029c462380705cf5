//! The metrics that may be asked for, with their labels: those of docs/operate/metrics.md, of the recording rules, and Prometheus' own.

use std::collections::{BTreeMap, BTreeSet};

use dwcp_observer_lab::alerts::rules;

use super::promql::{grouping_labels, selectors};
use crate::shell::workspace;

/// What Prometheus itself adds to a scrape, or says of itself.
const OWN: [(&str, &[&str]); 4] = [
    ("up", &[]),
    ("scrape_samples_scraped", &[]),
    ("scrape_duration_seconds", &[]),
    ("ALERTS", &["alertname", "alertstate", "severity"]),
];
/// On every series, or made by Prometheus.
const EVERYWHERE: [&str; 4] = ["job", "instance", "le", "__name__"];

/// Metrics and their labels.
pub(super) struct Documented(BTreeMap<String, BTreeSet<String>>);

impl Documented {
    pub(super) fn read() -> Self {
        let text = std::fs::read_to_string(workspace().join("docs/operate/metrics.md")).unwrap();
        let mut all: BTreeMap<String, BTreeSet<String>> = text
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| {
                let mut cells = line.split('|').skip(1);
                let name = cells.next().unwrap().trim().trim_matches('`').to_owned();
                let labels = cells.nth(1).unwrap().split('`').skip(1).step_by(2);
                (name, labels.map(str::to_owned).collect())
            })
            .collect();
        assert!(all.len() > 50);
        for (name, labels) in OWN {
            all.insert(name.to_owned(), labels.iter().map(|label| (*label).to_owned()).collect());
        }
        let recording = rules::directory().join("rules/recording.yml");
        let recording = std::fs::read_to_string(recording).unwrap();
        for name in recording.lines().filter_map(|line| line.trim().strip_prefix("- record: ")) {
            all.insert(name.to_owned(), BTreeSet::new());
        }
        Self(all)
    }

    pub(super) fn metrics(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// What is in the expression and in none of these: metrics, labels that it selects by, labels that it groups by.
    pub(super) fn missing(&self, expr: &str) -> Vec<String> {
        let mut missing = Vec::new();
        let mut labels: BTreeSet<&str> = EVERYWHERE.into_iter().collect();
        for selected in selectors(expr).unwrap() {
            // A selector of all metrics of a job has no name.
            if selected.metric.is_empty() {
                continue;
            }
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| selected.metric.strip_suffix(suffix))
                .unwrap_or(&selected.metric);
            let Some(known) = self.0.get(&selected.metric).or_else(|| self.0.get(family)) else {
                missing.push(selected.metric);
                continue;
            };
            for matcher in &selected.selector.matchers.matchers {
                if !known.contains(&matcher.name) && !EVERYWHERE.contains(&matcher.name.as_str()) {
                    missing.push(format!("{} of {}", matcher.name, selected.metric));
                }
            }
            labels.extend(known.iter().map(String::as_str));
        }
        let grouping = grouping_labels(expr).unwrap();
        missing.extend(grouping.into_iter().filter(|label| !labels.contains(label.as_str())));
        missing
    }
}
