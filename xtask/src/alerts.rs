//! `alerts`: real Prometheus and Alertmanager behind a real observer, faults in real migrations, and the alerts that arrive.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use dwcp_observer_lab::alerts::clean::clean;
use dwcp_observer_lab::alerts::rules;
use dwcp_observer_lab::alerts::run::{self, Expected, Lab, Outcome};
use dwcp_observer_lab::alerts::scenario::{NOT_CAUSED, Scenario};
use dwcp_observer_lab::alerts::stack::Programs;
use dwcp_observer_lab::alerts::turns::Turns;

use crate::shell::{as_root, cargo, find, is_root, target_dir};
use crate::{build, setup};

/// Arguments of `alerts`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these faults, in this order
    #[arg(long, value_enum, value_name = "FAULT", value_delimiter = ',')]
    only: Vec<Scenario>,
    /// No faults, only migrations
    #[arg(long, conflicts_with = "only")]
    no_faults: bool,
    /// Divide all times of rules and routes by this; 1 runs them as they are shipped. Default: 1, and 10 for the few that take longest
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=60))]
    speed: Option<u32>,
    /// One fault after the other. Otherwise a fault that only waits for its alerts lets others begin, each with servers of its own
    #[arg(long)]
    one_by_one: bool,
    /// Minutes of migrations without a fault, after the faults
    #[arg(long, default_value_t = 10)]
    clean: u32,
    /// How long an alert is waited for, seconds
    #[arg(long, default_value_t = 900)]
    patience: u64,
    /// An agent that is built already
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
    /// A `lab-flows` that is built already
    #[arg(long, value_name = "PATH")]
    flows: Option<PathBuf>,
}

/// Builds, injects, prints. Exit 0 only if each fault's alert arrived and none came without a fault.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(setup::Use::Test)?;
    let agent = match &args.agent {
        Some(agent) => agent.clone(),
        None => build::run()?,
    };
    let flows = match &args.flows {
        Some(flows) => flows.clone(),
        None => {
            crate::shell::run(
                cargo()
                    .args(["build", "--release", "--package", "dwcp-observer-lab"])
                    .args(["--bin", "lab-flows"]),
            )?;
            target_dir().join("release/lab-flows")
        }
    };
    if !is_root() {
        // Building as root would leave root's files in the clone.
        let mut command = as_root(std::env::current_exe()?)?;
        command.args(std::env::args_os().skip(1));
        if args.agent.is_none() {
            command.arg("--agent").arg(&agent);
        }
        if args.flows.is_none() {
            command.arg("--flows").arg(&flows);
        }
        let status = command.status()?;
        return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let programs = Programs {
        prometheus: find("prometheus").context("no prometheus")?,
        alertmanager: find("prometheus-alertmanager")
            .or_else(|| find("alertmanager"))
            .context("no alertmanager")?,
    };
    let patience = Duration::from_secs(args.patience);
    let lab = Lab { agent, flows, programs, patience, turns: Turns::default() };
    let mut stdout = std::io::stdout().lock();
    let mut good = true;
    if !args.no_faults {
        let scenarios = if args.only.is_empty() { Scenario::value_variants() } else { &args.only };
        good &= faults(&lab, scenarios, args, &mut stdout)?;
    }
    if args.clean > 0 {
        good &= without_faults(&lab, args, &mut stdout)?;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the scenarios and prints a row for each alert. True if all came.
fn faults(lab: &Lab, scenarios: &[Scenario], args: &Args, out: &mut impl Write) -> Result<bool> {
    writeln!(out, "rules and routes of dashboards/prometheus")?;
    for (from, to) in run::changes(1).replaced {
        writeln!(out, "for this lab's network of 60 MB/s: `{from}` is `{to}`")?;
    }
    writeln!(out, "speed: what all times of rules and routes are divided by; 1 is as shipped")?;
    writeln!(
        out,
        "{:<20} {:<32} {:>4} {:>5} {:>9} {:<6} {:>9}",
        "FAULT", "ALERT", "FOR", "SPEED", "ARRIVED", "AT", "RESOLVED"
    )?;
    let (mut arrived, mut missing) = (0, Vec::new());
    let speed = |scenario: Scenario| args.speed.unwrap_or_else(|| scenario.speed());
    let mut report = |scenario: Scenario, result: &Result<Outcome>| -> Result<()> {
        match result {
            Err(error) => {
                missing.extend(scenario.alerts());
                writeln!(out, "{:<20} error: {error:#}", scenario.name())?;
            }
            Ok(outcome) => {
                for expected in &outcome.expected {
                    match expected.seconds {
                        Some(_) => arrived += 1,
                        None => missing.push(expected.name),
                    }
                    writeln!(out, "{}", row(scenario, expected, outcome, speed(scenario))?)?;
                }
                for line in &outcome.instead {
                    writeln!(out, "{:<20} {line}", "")?;
                }
                // Beside others, an observer sees their faults too.
                if args.one_by_one && !outcome.others.is_empty() {
                    let other = |(name, at): &(String, f64)| format!("{name} {at:.0}");
                    let others: Vec<String> = outcome.others.iter().map(other).collect();
                    writeln!(out, "{:<20} also: {}", "", others.join(", "))?;
                }
            }
        }
        Ok(out.flush()?)
    };
    if args.one_by_one {
        for scenario in scenarios {
            report(*scenario, &run::run(*scenario, lab, speed(*scenario), None))?;
        }
    } else {
        std::thread::scope(|scope| -> Result<()> {
            let (sender, receiver) = mpsc::channel();
            let mut numbers = 0..;
            for scenario in scenarios.iter().copied() {
                let sender = sender.clone();
                let turn = if scenario.is_aside() { None } else { numbers.next() };
                scope.spawn(move || {
                    let result = run::run(scenario, lab, speed(scenario), turn);
                    // Whoever reads has ended only with an error of its own.
                    let _ = sender.send((scenario, result));
                });
            }
            drop(sender);
            for (scenario, result) in receiver {
                report(scenario, &result)?;
            }
            Ok(())
        })?;
    }
    writeln!(out, "{arrived} alert(s) arrived, missing: {missing:?}")?;
    for (name, reason) in NOT_CAUSED {
        writeln!(out, "not caused: {name}: {reason}")?;
    }
    Ok(missing.is_empty())
}

fn without_faults(lab: &Lab, args: &Args, out: &mut impl Write) -> Result<bool> {
    let result = clean(lab, args.speed.unwrap_or(1), Duration::from_secs(60) * args.clean)?;
    writeln!(
        out,
        "without a fault: {} migrations in {:.0} s; alerts delivered: {}; firing at the end: {}; anomalies: {}",
        result.migrations,
        result.time.as_secs_f64(),
        result.delivered.len(),
        result.firing.len(),
        result.anomalies.len(),
    )?;
    if let Some(largest) = result.downtimes_ms.last() {
        let median = result.downtimes_ms[result.downtimes_ms.len() / 2];
        writeln!(out, "  downtime by QEMU: median {median} ms, largest {largest} ms")?;
    }
    for (name, at) in &result.delivered {
        writeln!(out, "  delivered after {at:.0} s: {name}")?;
    }
    for name in &result.firing {
        writeln!(out, "  firing: {name}")?;
    }
    for event in &result.anomalies {
        writeln!(out, "  anomaly: {event}")?;
    }
    Ok(result.is_right())
}

fn row(scenario: Scenario, expected: &Expected, outcome: &Outcome, speed: u32) -> Result<String> {
    let hold = rules::alerts()?
        .into_iter()
        .find(|(_, _, rule)| rule.alert.as_deref() == Some(expected.name))
        .map_or_else(String::new, |(_, _, rule)| rule.hold);
    let seconds = |value: Option<f64>, none: &str| {
        value.map_or_else(|| none.to_owned(), |value| format!("{value:.1} s"))
    };
    Ok(format!(
        "{:<20} {:<32} {hold:>4} {speed:>5} {:>9} {:<6} {:>9}",
        scenario.name(),
        expected.name,
        seconds(expected.seconds, "MISSING"),
        expected.path,
        seconds(outcome.resolved, "-"),
    ))
}
