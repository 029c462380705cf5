//! `dashboards`: writes Grafana's dashboards, or asks a real Prometheus for every expression in them.

mod capacity;
mod check;
mod cookbook;
#[cfg(test)]
mod cookbook_tests;
#[cfg(test)]
mod documented;
mod fill;
mod lint;
mod live;
mod migration;
mod model;
mod observer;
mod pictures;
mod prometheus;
mod promql;
mod sla;
#[cfg(test)]
mod tests;
mod versions;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use model::Dashboard;
use serde_json::Value;

use crate::shell::workspace;

/// Arguments of `dashboards`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Migrate a real VM, scrape the observer with a real Prometheus, and print for every panel what it shows
    #[arg(long)]
    check: bool,
    /// With --check: keep Prometheus' database in this directory, for --pictures, or a Prometheus or Grafana of your own
    #[arg(long, requires = "check", value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Draw docs/operate/pictures/ by Prometheus' own graphs and Chromium from what --keep has kept
    #[arg(long, conflicts_with = "check", value_name = "DIR")]
    pictures: Option<PathBuf>,
    /// Use the agent that is there (set when this program calls itself as root)
    #[arg(long, hide = true)]
    no_build: bool,
}

fn all() -> [Dashboard; 6] {
    [
        live::dashboard(),
        migration::dashboard(),
        sla::dashboard(),
        versions::dashboard(),
        capacity::dashboard(),
        observer::dashboard(),
    ]
}

fn directory() -> PathBuf {
    workspace().join("dashboards/grafana")
}

fn text(dashboard: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(dashboard)? + "\n")
}

/// Writes the files, or checks what they show.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.check {
        return check::run(args.no_build, args.keep.as_deref());
    }
    if let Some(kept) = &args.pictures {
        return pictures::run(kept).map(|()| ExitCode::SUCCESS);
    }
    for dashboard in all() {
        let path = directory().join(format!("{}.json", dashboard.uid));
        let json = dashboard.json();
        for finding in lint::lint(&json) {
            eprintln!("{finding}");
        }
        std::fs::create_dir_all(directory())?;
        std::fs::write(&path, text(&json)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("{} panels  {}", dashboard.panels.len(), path.display());
    }
    Ok(ExitCode::SUCCESS)
}
