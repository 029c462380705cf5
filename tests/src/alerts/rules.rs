//! Reads the alert rules and their unit tests as Prometheus and promtool do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// `dashboards/prometheus` of this repository.
#[must_use]
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards/prometheus")
}

/// The YAML files of a directory, sorted.
///
/// # Errors
/// When it cannot be read.
pub fn yaml_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yml"));
    files.sort();
    Ok(files)
}

/// A YAML file.
///
/// # Errors
/// When it cannot be read or is something else.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_saphyr::from_str(&text).with_context(|| path.display().to_string())
}

/// A file of rules.
#[derive(Clone, Debug, Deserialize)]
pub struct RuleFile {
    /// Its groups.
    pub groups: Vec<Group>,
}

/// Rules that are evaluated together.
#[derive(Clone, Debug, Deserialize)]
pub struct Group {
    /// Name.
    pub name: String,
    /// How often, for instance `15s`.
    pub interval: String,
    /// Alerts and recording rules.
    pub rules: Vec<Rule>,
}

/// An alert or a recording rule.
#[derive(Clone, Debug, Deserialize)]
pub struct Rule {
    /// Name of the alert; none for a recording rule.
    pub alert: Option<String>,
    /// Name of the recorded series; none for an alert.
    pub record: Option<String>,
    /// `PromQL`.
    pub expr: String,
    /// How long the expression must hold before it fires.
    #[serde(rename = "for", default)]
    pub hold: String,
    /// How long it goes on firing after that.
    #[serde(default)]
    pub keep_firing_for: String,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Annotations, as templates.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

impl Rule {
    /// A label, empty if it is missing.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// What the annotation `runbook_url` names, relative to the root of the repository.
    #[must_use]
    pub fn playbook(&self) -> Option<&str> {
        self.annotations.get("runbook_url")?.strip_prefix("{{ $externalLabels.runbook_base }}")
    }

    /// The comparisons with a number in its expression, each once, in its order: `< 0.5`.
    #[must_use]
    pub fn thresholds(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut rest = outside_braces(&self.expr);
        while let Some(at) = rest.find(['<', '>', '=']) {
            let tail = &rest[at..];
            let operator = tail.len() - tail.trim_start_matches(['<', '>', '=']).len();
            let number: String = tail[operator..]
                .trim_start()
                .chars()
                .take_while(|character| {
                    character.is_ascii_alphanumeric() || ".-".contains(*character)
                })
                .collect();
            let threshold = format!("{} {number}", &tail[..operator]);
            if number.parse::<f64>().is_ok() && !found.contains(&threshold) {
                found.push(threshold);
            }
            rest = tail[operator..].to_owned();
        }
        found
    }

    /// The metrics that its expression reads, without the suffix of a histogram's series.
    #[must_use]
    pub fn metrics(&self) -> BTreeSet<String> {
        metric_names(&outside_braces(&self.expr))
    }
}

/// Without label matchers and ranges.
fn outside_braces(expression: &str) -> String {
    let mut depth = 0;
    let mut kept = String::new();
    for character in expression.chars() {
        match character {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            _ if depth == 0 => kept.push(character),
            _ => {}
        }
    }
    kept
}

/// Words that look like metrics: `dwcp_...`, `prometheus_...`, `up`.
fn metric_names(text: &str) -> BTreeSet<String> {
    let words =
        text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    words
        .filter(|word| {
            *word == "up" || ["dwcp_", "prometheus_"].iter().any(|start| word.starts_with(start))
        })
        .map(|word| word.strip_suffix("_bucket").unwrap_or(word).to_owned())
        .collect()
}

/// A file of promtool's unit tests.
#[derive(Clone, Debug, Deserialize)]
pub struct TestFile {
    /// Its tests.
    pub tests: Vec<TestGroup>,
}

/// Series, and what the rules make of them.
#[derive(Clone, Debug, Deserialize)]
pub struct TestGroup {
    /// Name.
    pub name: String,
    /// What is put in.
    pub input_series: Vec<InputSeries>,
    /// What must come out; nothing in a test of recording rules.
    #[serde(default)]
    pub alert_rule_test: Vec<AlertTest>,
}

impl TestGroup {
    /// The metrics that are put in.
    #[must_use]
    pub fn metrics(&self) -> BTreeSet<String> {
        self.input_series
            .iter()
            .flat_map(|series| metric_names(&outside_braces(&series.series)))
            .collect()
    }
}

/// One series.
#[derive(Clone, Debug, Deserialize)]
pub struct InputSeries {
    /// Name and labels.
    pub series: String,
}

/// What one alert must do at one moment.
#[derive(Clone, Debug, Deserialize)]
pub struct AlertTest {
    /// Of which alert.
    pub alertname: String,
    /// The alerts that fire then; none: it is silent.
    #[serde(default)]
    pub exp_alerts: Vec<serde_json::Value>,
}

/// All alerts with their groups, and the file of each.
///
/// # Errors
/// When a file cannot be read.
pub fn alerts() -> Result<Vec<(PathBuf, Group, Rule)>> {
    let mut alerts = Vec::new();
    for path in yaml_files(&directory().join("rules"))? {
        let file: RuleFile = read(&path)?;
        for group in file.groups {
            for rule in group.rules.clone() {
                if rule.alert.is_some() {
                    alerts.push((path.clone(), group.clone(), rule));
                }
            }
        }
    }
    Ok(alerts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(expr: &str) -> Rule {
        serde_saphyr::from_str(&format!("alert: A\nexpr: '{expr}'\n")).unwrap()
    }

    #[test]
    fn thresholds_are_comparisons_with_numbers() {
        let two = rule("a{x=\"1\",y!=\"2\"} > 5e2 and on (i) b == 0 or a > 5e2 or c > bool d");
        assert_eq!(two.thresholds(), ["> 5e2", "== 0"]);
        assert_eq!(rule("a[5m] <= -1.5").thresholds(), ["<= -1.5"]);
    }

    #[test]
    fn metrics_are_found_outside_of_labels() {
        let rule = rule("sum(rate(dwcp_a_bucket{job=\"dwcp_b\"}[5m])) / up > time()");
        assert_eq!(rule.metrics().into_iter().collect::<Vec<_>>(), ["dwcp_a", "up"]);
    }
}
