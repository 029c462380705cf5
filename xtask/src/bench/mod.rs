//! `bench`: what the observer costs, beside what it may cost.

mod bpf;
mod bytes;
mod cycle;
mod load;
mod machine;
mod notice;
mod phases;
mod ping_pong;
mod programs;
mod report;
mod resources;
mod row;
mod samples;
mod scheduler;
mod scrape;
mod throughput;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};

pub(crate) use self::ping_pong::{Args as PingPongArgs, run as ping_pong};

use self::load::Setup;
use self::machine::Machine;
use self::report::Report;
use self::row::{Group, Row};
use crate::shell::{as_root, is_root, workspace};

/// Arguments of `bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print everything as JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Fewer repetitions
    #[arg(long)]
    quick: bool,
    /// Leave docs/internals/overhead.md as it is
    #[arg(long)]
    no_write: bool,
    /// Only these measurements; docs/internals/overhead.md is left as it is
    #[arg(long, value_enum, value_name = "GROUP", value_delimiter = ',')]
    only: Vec<Group>,
    /// The agent that is built (set when this program calls itself as root)
    #[arg(long, hide = true, requires = "flows")]
    agent: Option<PathBuf>,
    /// The traffic generator that is built
    #[arg(long, hide = true, requires = "agent")]
    flows: Option<PathBuf>,
}

/// Builds, measures, prints, writes. Exit 0 whatever the figures are, since they depend on the
/// machine; 1 if something could not be measured because it failed.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let setup = match (&args.agent, &args.flows) {
        (Some(agent), Some(flows)) => Setup::new(agent.clone(), flows.clone(), args.quick)?,
        _ => Setup::build(args.quick)?,
    };
    if !is_root() {
        // What root builds the user cannot build again, so root only measures.
        let status = as_root(std::env::current_exe()?)?
            .args(std::env::args_os().skip(1))
            .arg("--agent")
            .arg(&setup.agent)
            .arg("--flows")
            .arg(&setup.flows)
            .status()?;
        return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let machine = Machine::read();
    let start = Instant::now();
    let mut rows = Vec::new();
    let mut failed = false;
    for group in Group::ALL {
        if args.only.is_empty() || args.only.contains(&group) {
            eprintln!("bench: {}", group.as_str());
            match measure(&setup, group) {
                Ok(found) => rows.extend(found),
                Err(error) => {
                    // The other figures are worth having without these.
                    eprintln!("bench: {}: {error:#}", group.as_str());
                    rows.push(Row::not_measured(group, group.as_str(), format!("{error:#}")));
                    failed = true;
                }
            }
        }
    }
    let report = Report {
        machine,
        command: command(args),
        quick: args.quick,
        seconds: start.elapsed().as_secs_f64(),
        rows,
    };
    if !args.no_write && args.only.is_empty() {
        let path = workspace().join("docs/internals/overhead.md");
        std::fs::write(&path, report.markdown()).with_context(|| path.display().to_string())?;
    }
    let mut stdout = std::io::stdout().lock();
    if args.json {
        writeln!(stdout, "{:#}", report.json())?;
    } else {
        stdout.write_all(report.table().as_bytes())?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn measure(setup: &Setup, group: Group) -> Result<Vec<Row>> {
    match group {
        Group::Programs => programs::run(setup),
        Group::Scheduler => scheduler::run(setup),
        Group::Cycle => cycle::run(setup),
        Group::Scrape => scrape::run(setup),
        Group::Resources => resources::run(setup),
        Group::Throughput => throughput::run(setup),
        Group::Phases => phases::run(setup),
        Group::Bytes => bytes::run(setup),
        Group::Notice => notice::run(setup),
    }
}

/// How to get these figures again.
fn command(args: &Args) -> String {
    let mut text = "cargo xtask bench".to_owned();
    if args.quick {
        text.push_str(" --quick");
    }
    for group in &args.only {
        text.push_str(" --only ");
        text.push_str(group.as_str());
    }
    text
}
