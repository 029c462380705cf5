//! The seventeen rules of Grafana's dashboard-linter, by the names that it gives them, as far as they apply to Prometheus.

use promql_parser::label::MatchOp;
use serde_json::Value;

use super::promql::{RATE_INTERVAL_SECONDS, label_values, selectors};

/// Units of `@grafana/data` that the dashboards use; a new one is added here after a look into its list.
const UNITS: [&str; 14] = [
    "none",
    "short",
    "percent",
    "percentunit",
    "bytes",
    "Bps",
    "pps",
    "s",
    "cps",
    "ops",
    "reqps",
    "opm",
    "hertz",
    "string",
];
/// The kinds of panel that show figures, which the rules on units and targets look at.
const FIGURES: [&str; 5] = ["stat", "table", "timeseries", "gauge", "graph"];
/// Kinds that the linter leaves alone because they need no query.
const WITHOUT_TARGETS: [&str; 5] = ["row", "text", "alertlist", "dashlist", "news"];

/// What breaks a rule: `rule: where: why`.
pub(super) fn lint(dashboard: &Value) -> Vec<String> {
    let mut findings = Vec::new();
    variables(dashboard, &mut findings);
    if dashboard["editable"] != false {
        findings.push("uneditable-dashboard: editable is not false".to_owned());
    }
    for panel in array(&dashboard["panels"]) {
        of_panel(panel, &mut findings);
    }
    findings
}

fn variables(dashboard: &Value, findings: &mut Vec<String>) {
    let list = array(&dashboard["templating"]["list"]);
    let sources: Vec<&Value> = list.iter().filter(|item| item["type"] == "datasource").collect();
    let one = sources.len() == 1
        && sources[0]["name"] == "datasource"
        && sources[0]["label"] == "Data source"
        && sources[0]["query"] == "prometheus";
    if !one {
        findings.push("template-datasource-rule: no variable `datasource`, Data source".to_owned());
    }
    for (rule, name, label) in
        [("template-job-rule", "job", "Job"), ("template-instance-rule", "instance", "Instance")]
    {
        let good = list.iter().any(|item| {
            item["name"] == name
                && item["label"] == label
                && item["type"] == "query"
                && item["datasource"]["uid"] == "${datasource}"
                && item["multi"] == true
                && item["allValue"] == ".+"
        });
        if !good {
            findings.push(format!("{rule}: no variable `{name}` of many values, all as .+"));
        }
    }
    for item in list.iter().filter(|item| item["type"] == "query") {
        let query = item["query"]["query"].as_str().unwrap_or_default();
        if label_values(query).is_none_or(|(selector, _)| selectors(selector).is_err()) {
            findings.push(format!("template-label-promql-rule: {}: {query}", item["name"]));
        }
        if item["refresh"] != 2 {
            findings.push(format!("template-on-time-change-reload-rule: {}", item["name"]));
        }
    }
}

fn of_panel(panel: &Value, findings: &mut Vec<String>) {
    let kind = panel["type"].as_str().unwrap_or_default();
    let title = panel["title"].as_str().unwrap_or_default();
    let mut say = |rule: &str, why: &str| findings.push(format!("{rule}: {title}: {why}"));
    let targets = array(&panel["targets"]);
    if panel["datasource"]["uid"] != "${datasource}" {
        say("panel-datasource-rule", "not the variable");
    }
    if title.is_empty() || panel["description"].as_str().is_none_or(str::is_empty) {
        say("panel-title-description-rule", "no title or no description");
    }
    let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap_or_default();
    if FIGURES.contains(&kind) && !UNITS.contains(&unit) {
        say("panel-units-rule", unit);
    }
    if !WITHOUT_TARGETS.contains(&kind) && targets.is_empty() {
        say("panel-no-targets-rule", "no query");
    }
    for target in targets {
        let expr = target["expr"].as_str().unwrap_or_default();
        // There is one data source, and it is Prometheus: anything that is LogQL alone does not parse.
        if expr.contains("|=") || expr.contains("$__auto") {
            say("target-logql-rule, target-logql-auto-rule", expr);
        }
        let found = match selectors(expr) {
            Ok(found) => found,
            Err(error) => {
                say("target-promql-rule", &error);
                continue;
            }
        };
        for selected in found {
            for (rule, name, value) in [
                ("target-job-rule", "job", "$job"),
                ("target-instance-rule", "instance", "$instance"),
            ] {
                let matched = selected.selector.matchers.matchers.iter().any(|matcher| {
                    matcher.name == name
                        && matcher.value == value
                        && matches!(matcher.op, MatchOp::Re(_))
                });
                if !matched {
                    say(rule, &selected.metric);
                }
            }
            let function = selected.function.unwrap_or_default();
            if ["rate", "irate"].contains(&function)
                && selected.range != Some(RATE_INTERVAL_SECONDS)
            {
                say("target-rate-interval-rule", &selected.metric);
            }
            if selected.metric.ends_with("_total")
                && !(selected.range.is_some() && ["rate", "irate", "increase"].contains(&function))
            {
                say("target-counter-agg-rule", &selected.metric);
            }
        }
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
