//! Every expression of every panel and of the cookbook, asked of a real Prometheus that scraped the real observer during real
//! migrations.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use dwcp_observer_lab::http;
use dwcp_observer_lab::observer::Observer;
use dwcp_observer_lab::temp::{TempDir, free_port};
use serde_json::Value;

use super::prometheus::{Answer, Prometheus, local};
use super::promql::{label_values, selectors};
use super::{cookbook, fill};
use crate::shell::{is_root, run_as_root};
use crate::{build, setup};

/// Metrics that only some hosts can give. A panel must show something without them.
pub(super) const OF_SOME_HOSTS: [(&str, &str); 1] = [("dwcp_v3_rdma_", "an RDMA device")];

/// In the directory that is kept: Prometheus' database, and the seconds in which the check ran.
pub(super) const DATABASE: &str = "data";
pub(super) const WINDOW: &str = "window";

/// What was asked, and how much of it came to nothing.
#[derive(Default)]
struct Tally {
    asked: usize,
    empty: usize,
    /// Not to be had on this host.
    elsewhere: usize,
}

/// Prints a line per query; exit 0 only if every panel, variable, annotation and recipe shows something.
pub(super) fn run(no_build: bool, keep: Option<&Path>) -> Result<ExitCode> {
    if !no_build {
        setup::ensure(setup::Use::Test)?;
        build::run()?;
    }
    if !is_root() {
        return run_as_root();
    }
    let temporary = TempDir::new()?;
    let directory = match keep {
        Some(path) => path.to_owned(),
        None => temporary.join("prometheus"),
    };
    std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let address = local(free_port()?);
    let config = temporary.join("observer.toml");
    fill::write_configuration(&config, &address.to_string())?;
    let observer = Observer::start_with_history(
        &build::agent(),
        &temporary.join("history.sqlite"),
        &["--config", config.to_str().context("path")?],
    )?;
    let prometheus = Prometheus::start(address, observer.address(), &directory.join(DATABASE))?;
    let start = unix_now()?;
    // Endpoints that dashboards and recipes count requests to.
    for path in ["/metrics/summary", "/health", "/api/v1/migrations"] {
        http::get(observer.address(), path)?;
    }
    fill::fill()?;
    // Until the last record is final, what was seen of it is scraped, and the minute that it is part of is over.
    std::thread::sleep(Duration::from_secs(60 - unix_now()? % 60 + 3));
    let time = (start, unix_now()?);
    std::fs::write(directory.join(WINDOW), format!("{} {}\n", time.0, time.1))?;
    let mut tally = Tally::default();
    for dashboard in super::all() {
        println!("\n{}", dashboard.title);
        show_dashboard(&prometheus, &dashboard.json(), time, &mut tally)?;
    }
    println!(
        "\n{} expressions of panels, variables and annotations: {} empty, {} that this host cannot give",
        tally.asked, tally.empty, tally.elsewhere
    );
    let mut recipes = Tally::default();
    let mut section = String::new();
    for recipe in cookbook::recipes()? {
        if recipe.section != section {
            println!("\nCookbook: {}", recipe.section);
            section.clone_from(&recipe.section);
        }
        let answer = prometheus.range(&recipe.query, time.0, time.1)?;
        line(&recipe.question, "", &recipe.query, answer, &mut recipes)?;
    }
    println!("\n{} queries of the cookbook: {} empty", recipes.asked, recipes.empty);
    drop(prometheus);
    let stopped = observer.stop()?;
    ensure!(stopped.status.success(), "the observer ended with {}", stopped.status);
    let good = tally.empty == 0 && recipes.empty + recipes.elsewhere == 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show_dashboard(
    prometheus: &Prometheus,
    json: &Value,
    (start, end): (u64, u64),
    tally: &mut Tally,
) -> Result<()> {
    let ask = |expr: &str| prometheus.range(&with_variables(expr)?, start, end);
    for panel in list(&json["panels"]) {
        let title = text(&panel["title"]);
        let before = tally.elsewhere;
        for target in list(&panel["targets"]) {
            let expr = text(&target["expr"]);
            line(title, text(&target["refId"]), expr, ask(expr)?, tally)?;
        }
        let targets = list(&panel["targets"]).len();
        if targets > 0 && tally.elsewhere - before == targets {
            tally.empty += 1;
            println!("  {title:<38}       EMPTY on this host as a whole");
        }
        if panel["type"] == "alertlist" {
            // It asks the rules, not the metrics: what they say is in this series.
            let name = text(&panel["options"]["alertName"]);
            let expr = format!("ALERTS{{alertname=~\".*{name}.*\"}}");
            line(title, "", &expr, ask(&expr)?, tally)?;
        }
    }
    for annotation in list(&json["annotations"]["list"]) {
        // Whether one fires for long enough is a matter of the rules' own tests: here it must be one that Prometheus knows.
        let expr = text(&annotation["expr"]).replace(", alertstate=\"firing\"", "");
        line(text(&annotation["name"]), "@", &expr, ask(&expr)?, tally)?;
    }
    for variable in list(&json["templating"]["list"]) {
        let Some(query) = variable["query"]["query"].as_str() else {
            continue;
        };
        let (selector, label) = label_values(query).context("no label_values")?;
        let values = prometheus.label_values(&with_variables(selector)?, label, start, end)?;
        let answer = values.first().map(|_| Answer {
            series: values.len(),
            last: values.join(" ").chars().take(40).collect(),
            max: f64::NAN,
            labels: String::new(),
        });
        line(&format!("${}", text(&variable["name"])), "$", query, answer, tally)?;
    }
    Ok(())
}

fn line(
    what: &str,
    reference: &str,
    expr: &str,
    answer: Option<Answer>,
    tally: &mut Tally,
) -> Result<()> {
    tally.asked += 1;
    let what: String = what.chars().take(60).collect();
    let start = format!("  {what:<60} {reference:<1}");
    if let Some(Answer { series, last, max, labels }) = answer {
        let max = if max.is_nan() { String::new() } else { format!("max {max:<12.6}") };
        println!("{start} {series:>4}  {last:<22} {max} {labels}");
        return Ok(());
    }
    let selected = selectors(expr).map_err(anyhow::Error::msg)?;
    let elsewhere = OF_SOME_HOSTS
        .iter()
        .find(|(prefix, _)| selected.iter().any(|selected| selected.metric.starts_with(prefix)));
    if let Some((_, why)) = elsewhere {
        tally.elsewhere += 1;
        println!("{start}    -  needs {why}");
    } else {
        tally.empty += 1;
        println!("{start}    0  EMPTY: {expr}");
    }
    Ok(())
}

/// The expression as Grafana sends it with every variable at its first choice: all.
pub(super) fn with_variables(expr: &str) -> Result<String> {
    let mut query = expr.replace("$__rate_interval", "10s");
    for name in ["migration", "instance", "component", "region", "mode", "sla", "job"] {
        query = query.replace(&format!("${name}"), ".+");
    }
    ensure!(!query.contains('$'), "a variable is left: {query}");
    Ok(query)
}

fn unix_now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
