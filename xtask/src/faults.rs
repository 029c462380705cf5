//! `faults`: real migrations with faults injected on purpose, and what the observer says of them.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use dwcp_observer_lab::faults::{Fault, Report, RunReport, Timing, Variant};
use dwcp_observer_lab::observer::Observer;

use crate::shell::{as_root, is_root};
use crate::{build, setup};

/// Arguments of `faults`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Migrations of each fault
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Only these faults
    #[arg(long, value_enum, value_name = "FAULT", value_delimiter = ',')]
    only: Vec<Fault>,
    /// Print everything as JSON instead of tables
    #[arg(long)]
    json: bool,
    /// An agent that is built already
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
}

/// Builds, migrates, prints. Exit 0 only if enough verdicts and all outcomes are right.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let agent = match &args.agent {
        Some(agent) => agent.clone(),
        None => {
            setup::ensure(setup::Use::Test)?;
            build::run()?
        }
    };
    if !is_root() {
        // Building as root would leave root's files in the clone.
        let mut command = as_root(std::env::current_exe()?)?;
        command.args(std::env::args_os().skip(1));
        if args.agent.is_none() {
            command.arg("--agent").arg(&agent);
        }
        let status = command.status()?;
        return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let observer = Observer::start(&agent, &[])?;
    let report = migrate(args, &observer);
    let stopped = observer.stop()?;
    let mut stdout = std::io::stdout().lock();
    if args.json {
        writeln!(stdout, "{:#}", report.json())?;
    } else {
        stdout.write_all(report.text().as_bytes())?;
    }
    if !stopped.status.success() {
        eprintln!("faults: the observer ended with {}:\n{}", stopped.status, stopped.output);
    }
    let good = report.is_good() && stopped.status.success();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Round by round, so that a bad minute of the machine does not hit all runs of one fault.
fn migrate(args: &Args, observer: &Observer) -> Report {
    let faults: Vec<Fault> =
        Fault::all().filter(|fault| args.only.is_empty() || args.only.contains(fault)).collect();
    let total = args.runs as usize * faults.len();
    let start = Instant::now();
    let mut report = Report::default();
    for round in 0..args.runs as usize {
        for fault in &faults {
            let variant = Variant::of_run(round);
            let run = RunReport::of(observer, *fault, variant, Timing::default());
            report.runs.push(run);
            if let Some(run) = report.runs.last() {
                eprintln!(
                    "faults: {:>4.0} s, {} of {total}: {}",
                    start.elapsed().as_secs_f64(),
                    report.runs.len(),
                    run.line()
                );
            }
        }
    }
    report
}
