//! `alerts`: real Prometheus and Alertmanager behind a real observer, faults in real migrations, and the alerts that arrive.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use dwcp_observer_lab::alerts::rules;
use dwcp_observer_lab::alerts::scenario::{self, Outcome, Scenario};
use dwcp_observer_lab::alerts::stack::Programs;

use crate::shell::{as_root, find, is_root};
use crate::{build, setup};

/// Arguments of `alerts`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these faults
    #[arg(long, value_enum, value_name = "FAULT", value_delimiter = ',')]
    only: Vec<Scenario>,
    /// Divide all times of rules and routes by this; 1 runs them as they are shipped
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=60))]
    speed: u32,
    /// Minutes of migrations without a fault, after the faults
    #[arg(long, default_value_t = 10)]
    clean: u32,
    /// How long an alert is waited for, seconds
    #[arg(long, default_value_t = 900)]
    patience: u64,
    /// An agent that is built already
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
}

/// Builds, injects, prints. Exit 0 only if each fault's alert arrived and none came without a fault.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure()?;
    let agent = match &args.agent {
        Some(agent) => agent.clone(),
        None => build::run()?,
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
    let programs = Programs {
        prometheus: find("prometheus").context("no prometheus")?,
        alertmanager: find("prometheus-alertmanager")
            .or_else(|| find("alertmanager"))
            .context("no alertmanager")?,
    };
    let mut stdout = std::io::stdout().lock();
    say_changes(args.speed, &mut stdout)?;
    let scenarios: Vec<Scenario> = Scenario::value_variants()
        .iter()
        .filter(|it| args.only.is_empty() || args.only.contains(it))
        .copied()
        .collect();
    let patience = Duration::from_secs(args.patience);
    let mut good = true;
    writeln!(
        stdout,
        "{:<19} {:<31} {:>6} {:>9} {:>10}  OTHERS (SECONDS)",
        "FAULT", "ALERT", "FOR", "ARRIVED", "RESOLVED"
    )?;
    for scenario in scenarios {
        let result = scenario::run(scenario, &agent, &programs, args.speed, patience);
        good &= result.as_ref().is_ok_and(Outcome::is_right);
        writeln!(stdout, "{}", line(scenario, &result))?;
    }
    if args.clean > 0 {
        let time = Duration::from_secs(60) * args.clean;
        let clean = scenario::clean(&agent, &programs, args.speed, time)?;
        good &= clean.delivered.is_empty() && clean.firing.is_empty();
        writeln!(
            stdout,
            "without a fault: {} migrations in {:.0} s, {} alert(s) delivered {:?}, {} firing at the end {:?}",
            clean.migrations,
            clean.time.as_secs_f64(),
            clean.delivered.len(),
            clean.delivered,
            clean.firing.len(),
            clean.firing,
        )?;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What of the rules is not as shipped.
fn say_changes(speed: u32, out: &mut impl Write) -> Result<()> {
    let times = if speed == 1 {
        "times as shipped".to_owned()
    } else {
        format!(
            "ALL TIMES OF RULES AND ROUTES DIVIDED BY {speed}: not the detection times of the shipped rules"
        )
    };
    writeln!(out, "rules and routes of dashboards/prometheus, {times}")?;
    for (from, to) in scenario::changes(speed).replaced {
        writeln!(out, "for this lab's network of 60 MB/s: `{from}` is `{to}`")?;
    }
    Ok(())
}

fn line(scenario: Scenario, result: &Result<Outcome>) -> String {
    let name = scenario.to_possible_value().map_or_else(String::new, |it| it.get_name().to_owned());
    let hold = rules::alerts()
        .ok()
        .and_then(|all| {
            all.into_iter().find(|(_, _, rule)| rule.alert.as_deref() == Some(scenario.alert()))
        })
        .map_or_else(String::new, |(_, _, rule)| rule.hold);
    let start = format!("{name:<19} {:<31} {hold:>6}", scenario.alert());
    match result {
        Err(error) => format!("{start} error: {error:#}"),
        Ok(outcome) => {
            let arrived = outcome
                .arrived
                .as_ref()
                .map_or_else(|| "MISSING".to_owned(), |(seconds, _)| format!("{seconds:.1} s"));
            let resolved = outcome
                .resolved
                .map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1} s"));
            let others: Vec<String> = outcome
                .others
                .iter()
                .map(|(name, seconds)| format!("{name} {seconds:.0}"))
                .collect();
            format!("{start} {arrived:>9} {resolved:>10}  {}", others.join(", "))
        }
    }
}
