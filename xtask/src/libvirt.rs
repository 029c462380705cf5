//! `libvirt`: real libvirt migrates between two hosts in namespaces of this one.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, bail};
use dwcp_observer_lab::libvirt::{Lab, MODES, render};
use dwcp_observer_lab::observer::{Observer, binary};
use serde_json::json;

use crate::shell::{is_root, run_as_root};
use crate::{build, setup};

/// Arguments of `libvirt`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often each way runs
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Only the way with this name
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Print only JSON on stdout
    #[arg(long)]
    json: bool,
    /// Use the agent that is there, or `$DWCP_OBSERVER`
    #[arg(long)]
    no_build: bool,
}

/// Migrates, compares, prints. Exit 0 only if every record is right.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !args.no_build {
        setup::ensure(setup::Use::Test)?;
        build::run()?;
    }
    if !is_root() {
        return run_as_root();
    }
    let wanted = |name: &str| args.only.as_deref().is_none_or(|only| only == name);
    let modes: Vec<_> = MODES.iter().filter(|mode| wanted(mode.name)).collect();
    if modes.is_empty() {
        bail!("there are: {}", MODES.map(|mode| mode.name).join(", "));
    }
    let agent = if args.no_build { binary()? } else { build::agent() };
    let observer = Observer::start(&agent, &[])?;
    let mut lab = Lab::start()?;
    let (mut runs, mut failed) = (Vec::new(), Vec::new());
    for number in 1..=args.runs {
        for mode in &modes {
            eprintln!("libvirt: {}, run {number} of {}", mode.name, args.runs);
            match lab.migrate(mode, &observer) {
                Ok(run) => runs.push(run),
                Err(error) => failed.push(format!("{error:#}")),
            }
        }
    }
    let stopped = observer.stop()?;
    if !stopped.status.success() {
        bail!("the observer ended with {}:\n{}", stopped.status, stopped.output);
    }
    let faulty = runs.iter().filter(|run| !run.faults.is_empty()).count();
    let mut stdout = std::io::stdout().lock();
    if args.json {
        let printed = json!({ "runs": runs, "failed": failed, "faulty": faulty });
        writeln!(stdout, "{printed}")?;
    } else {
        write!(stdout, "{}", render(&runs))?;
        for line in &failed {
            writeln!(stdout, "failed: {line}")?;
        }
        writeln!(
            stdout,
            "{} migrations, {faulty} with faults, {} failed",
            runs.len(),
            failed.len()
        )?;
    }
    let good = failed.is_empty() && faulty == 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
