//! Pictures of the dashboards' queries, drawn by Prometheus' own graphs (its console library) in a real browser. Not Grafana's look:
//! no package of it could be had where this was made.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use dwcp_observer_lab::temp::TempDir;
use serde_json::{Value, json};

use super::check::{DATABASE, WINDOW, with_variables};
use super::prometheus::Prometheus;
use crate::shell::{find, run as run_command, workspace};

const COLUMNS: usize = 3;
/// Width of the picture and height of a row, pixels.
const WIDTH: usize = 1500;
const ROW: usize = 225;

const HEAD: &str = r#"<!doctype html><html><head><meta charset="utf-8">
<link rel="stylesheet" href="/classic/static/rickshaw/rickshaw.min.css">
<link rel="stylesheet" href="/classic/static/bootstrap4/css/bootstrap.min.css">
<link rel="stylesheet" href="/classic/static/css/prom_console.css">
<script src="/classic/static/d3/d3.min.js"></script>
<script src="/classic/static/vendor/rickshaw/vendor/d3.layout.min.js"></script>
<script src="/classic/static/rickshaw/rickshaw.min.js"></script>
<script src="/classic/static/jquery/jquery.min.js"></script>
<script>var PATH_PREFIX = "";</script>
<script src="/classic/static/js/prom_console.js"></script>
<style>
body { padding: 12px; background: #f4f5f7; font-size: 12px }
.panels { display: grid; gap: 8px }
.panel { background: #fff; border: 1px solid #ddd; padding: 6px 8px; overflow: hidden; height: 217px }
h6 { font-size: 13px; font-weight: 600 }
.prom_graph_link { display: none }
</style></head><body>
<script>
// For rows of a table: what tells them apart.
function row(labels) {
  return ["migration_id", "vm", "mode", "probe", "rung", "version", "sla_type", "window"]
    .filter(name => name in labels).map(name => labels[name]).join(" ");
}
</script>
"#;

/// Draws docs/operate/pictures/UID.png for each dashboard.
///
/// # Errors
/// When nothing was kept there, or there is no Prometheus or no Chromium.
pub(super) fn run(kept: &Path) -> Result<()> {
    let browser = find("chromium").context("there is no `chromium`: apt-get install chromium")?;
    let window = std::fs::read_to_string(kept.join(WINDOW))
        .with_context(|| format!("{} is not of --check --keep", kept.display()))?;
    let (start, end) = window.trim().split_once(' ').context("two seconds")?;
    let (start, end): (u64, u64) = (start.parse()?, end.parse()?);
    let consoles = TempDir::new()?;
    let target = workspace().join("docs/operate/pictures");
    std::fs::create_dir_all(&target)?;
    let prometheus = Prometheus::of_database(&kept.join(DATABASE), consoles.path())?;
    // The dashboard of one migration shows the one that stalled.
    let stalled = r#"dwcp_v3_migration_verdict{state="stalled"}"#;
    let stalled = prometheus.label_values(stalled, "migration_id", start, end)?;
    let migration = stalled.into_iter().next().context("no migration stalled")?;
    let began = format!("dwcp_v3_migration_start_time_seconds{{migration_id=\"{migration}\"}}");
    let began = prometheus.range(&began, start, end)?.context("no start")?.max as u64;
    let around = (began - 2, began + 45);
    for dashboard in super::all() {
        let (from, to) = if dashboard.uid == "dwcp-v3-migration" { around } else { (start, end) };
        let page = page(&dashboard.json(), &migration, from, to)?;
        std::fs::write(consoles.join(&format!("{}.html", dashboard.uid)), page)?;
        let path = target.join(format!("{}.png", dashboard.uid));
        let height = dashboard.panels.len().div_ceil(COLUMNS) * ROW + 60;
        run_command(
            Command::new(&browser)
                // Chromium's own sandbox does not work as root; the page is this program's.
                .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"])
                .arg(format!("--window-size={WIDTH},{height}"))
                .args(["--timeout=20000", "--virtual-time-budget=20000"])
                .arg(format!("--screenshot={}", path.display()))
                .arg(format!("http://{}/consoles/{}.html", prometheus.address(), dashboard.uid))
                .stderr(Stdio::null()),
        )?;
        ensure!(path.is_file(), "no {}", path.display());
        eprintln!("{}", path.display());
    }
    Ok(())
}

/// A page of Prometheus' console library: one graph for each panel.
fn page(dashboard: &Value, migration: &str, start: u64, end: u64) -> Result<String> {
    let mut body = format!(
        "{HEAD}<h4>{}</h4><div class=\"panels\" style=\"grid-template-columns: repeat({COLUMNS}, 1fr)\">\n",
        dashboard["title"].as_str().unwrap_or_default()
    );
    let mut graphs = String::new();
    for panel in dashboard["panels"].as_array().into_iter().flatten() {
        let targets = panel["targets"].as_array().map_or(&[][..], Vec::as_slice);
        if targets.is_empty() {
            continue;
        }
        let mut expressions = Vec::new();
        for target in targets {
            let expr = target["expr"].as_str().unwrap_or_default();
            expressions.push(with_variables(&expr.replace("$migration", migration))?);
        }
        let names: Vec<String> = targets
            .iter()
            .map(|target| match target["legendFormat"].as_str().unwrap_or_default() {
                "" => "row".to_owned(),
                legend => json!(legend.replace("{{", "[[ ").replace("}}", " ]]")).to_string(),
            })
            .collect();
        // What may be overspent has a threshold at zero.
        let steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"].as_array();
        let below_zero = steps.into_iter().flatten().any(|step| step["value"] == 0.0);
        let (id, title) = (&panel["id"], panel["title"].as_str().unwrap_or_default());
        body.push_str(&format!(
            "<div class=\"panel\"><h6>{title}</h6><div id=\"panel{id}\"></div></div>\n"
        ));
        let graph = json!({
            "expr": expressions, "duration": end - start, "endTime": end, "height": 110, "xTitle": "",
            "min": if below_zero { json!("auto") } else { json!(0) },
        });
        graphs.push_str(&format!(
            "new PromConsole.Graph(Object.assign({graph}, {{ name: [{}], node: document.getElementById(\"panel{id}\") }}));\n",
            names.join(", ")
        ));
    }
    // Prometheus takes a page for a template.
    if body.contains("{{") || graphs.contains("{{") {
        bail!("a legend or title has two braces");
    }
    Ok(format!("{body}</div><script>\n{graphs}</script></body></html>\n"))
}
