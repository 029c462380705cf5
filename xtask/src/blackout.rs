//! `blackout`: twenty real migrations, the blackout of each against the guest's own clock.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, bail};
use dwcp_observer_lab::blackout::{Comparison, Summary, cannot_run, cases, render, run as migrate};
use dwcp_observer_lab::observer::Observer;
use serde_json::json;

use crate::shell::{is_root, run_as_root};
use crate::{build, setup};

/// Arguments of `blackout`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print only JSON on stdout: runs, their sums, what did not run and what failed; seconds
    #[arg(long)]
    json: bool,
    /// Only the migrations whose name contains this
    #[arg(long, value_name = "PART")]
    only: Option<String>,
    /// Use the agent that is there (set when this program calls itself as root)
    #[arg(long, hide = true)]
    no_build: bool,
}

/// Migrates, compares, prints. Exit 0 only if all that can run here completed, their phases, rounds,
/// sums and outcomes are right, and the median error of the undisturbed ones is within the limit.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !args.no_build {
        setup::ensure(setup::Use::Demo)?;
        build::run()?;
    }
    if !is_root() {
        return run_as_root();
    }
    let wanted = args.only.as_deref().unwrap_or_default();
    let cases: Vec<_> = cases().into_iter().filter(|case| case.name.contains(wanted)).collect();
    if cases.is_empty() {
        bail!("no migration's name contains `{wanted}`");
    }
    let observer = Observer::start(&build::agent(), &[])?;
    let (mut runs, mut failed, mut not_run) = (Vec::new(), Vec::new(), Vec::new());
    for (number, case) in cases.iter().enumerate() {
        eprintln!("blackout: {} of {}: {}", number + 1, cases.len(), case.name);
        if let Some(reason) = cannot_run(case) {
            not_run.push(format!("{}: {reason}", case.name));
            continue;
        }
        match migrate(case, &observer) {
            Ok(run) => runs.push(Comparison::of(&run)),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    let stopped = observer.stop()?;
    if !stopped.status.success() {
        bail!("the observer ended with {}:\n{}", stopped.status, stopped.output);
    }
    let all = Summary::of(&runs);
    let quiet = Summary::of(runs.iter().filter(|run| !run.disturbed));
    let mut stdout = std::io::stdout().lock();
    if args.json {
        let printed = json!({
            "runs": runs, "summary": all, "undisturbed": quiet, "not_run": not_run, "failed": failed,
        });
        writeln!(stdout, "{printed}")?;
    } else {
        write!(stdout, "{}", render(&runs))?;
        for (what, lines) in [("not run", &not_run), ("failed", &failed)] {
            for line in lines {
                writeln!(stdout, "{what}: {line}")?;
            }
        }
    }
    let good = failed.is_empty() && all.faulty == 0 && quiet.median_is_within();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
