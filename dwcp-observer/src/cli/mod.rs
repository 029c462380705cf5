//! The command line.

mod check;
pub mod client;
mod go_no_go;
mod heap;
pub mod join;
mod log;
pub mod migrations;
mod rdma;
mod report;
mod run;
mod table;
mod text;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};

use crate::{
    config::{Config, LogLevel, Rung},
    kernel::ladder::{self, Allowed},
    phase::reader,
};

const AFTER: &str = "\
Examples:
  sudo dwcp-observer run                  watch this host, serve http://0.0.0.0:8080/metrics
  sudo dwcp-observer check                what this host can measure, and how to fix what is missing
  dwcp-observer migrations --watch        running and finished migrations, refreshed every second
  dwcp-observer rdma                      RDMA queue pairs of this host
  dwcp-observer go-no-go                  may a rollout continue? exit code 0 go, 1 caution, 2 no-go
  sudo dwcp-observer report --since 24h   report on the last 24 hours, as Markdown";

/// Measures live migrations of VMs from inside the kernel.
#[derive(Debug, Parser)]
#[command(name = "dwcp-observer", version, after_help = AFTER)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch this host until SIGTERM or SIGINT
    Run(run::RunArgs),
    /// Show what this host can measure, or check a configuration file
    Check(check::CheckArgs),
    Migrations(migrations::MigrationsArgs),
    Join(join::JoinArgs),
    Rdma(rdma::RdmaArgs),
    GoNoGo(go_no_go::GoNoGoArgs),
    Report(report::ReportArgs),
}

/// Flags that override the configuration file.
#[derive(Clone, Debug, clap::Args)]
struct Settings {
    /// Configuration file (TOML) [default: none, every key has its default]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and port of the HTTP server [default: 0.0.0.0:8080]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Minimum log level [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<Level>,
    /// BTF of the running kernel [default: /sys/kernel/btf/vmlinux]
    #[arg(long, value_name = "FILE")]
    btf_path: Option<PathBuf>,
    /// Attach probes by this method wherever the kernel supports it [default: auto]
    #[arg(long, value_name = "RUNG")]
    rung: Option<RungFlag>,
    /// Write the history to this file, and hourly reports to the directory `reports` beside it
    #[arg(long, value_name = "FILE", conflicts_with = "no_history")]
    history: Option<PathBuf>,
    /// Write nothing to disk: no history, no hourly reports; service levels start from zero
    #[arg(long)]
    no_history: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum RungFlag {
    Auto,
    TpBtf,
    RawTp,
    Fentry,
    Kprobe,
}

impl Settings {
    /// The configuration with the flags applied.
    fn resolve(&self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            Some(path) => Config::load(path)?,
            None => Config::default(),
        };
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        if let Some(level) = self.log_level {
            config.log_level = match level {
                Level::Off => LogLevel::Off,
                Level::Error => LogLevel::Error,
                Level::Warn => LogLevel::Warn,
                Level::Info => LogLevel::Info,
                Level::Debug => LogLevel::Debug,
                Level::Trace => LogLevel::Trace,
            };
        }
        if let Some(path) = &self.btf_path {
            config.probes.btf_path = Some(path.clone());
        }
        if let Some(rung) = self.rung {
            config.probes.rung = match rung {
                RungFlag::Auto => Rung::Auto,
                RungFlag::TpBtf => Rung::TpBtf,
                RungFlag::RawTp => Rung::RawTp,
                RungFlag::Fentry => Rung::Fentry,
                RungFlag::Kprobe => Rung::Kprobe,
            };
        }
        if let Some(path) = &self.history {
            config.history.enabled = true;
            config.history.path.clone_from(path);
            config.report.directory = path.with_file_name("reports");
        }
        if self.no_history {
            config.history.enabled = false;
        }
        Ok(config)
    }
}

/// Parses the arguments and runs the command. Exit codes: 0 done, 1 failed, 2 wrong arguments or configuration.
#[must_use]
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == reader::COMMAND) {
        return reader::main();
    }
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Migrations(args) => migrations::run(&args),
        Command::Join(args) => join::run(&args),
        Command::Rdma(args) => rdma::run(&args),
        Command::GoNoGo(args) => Ok(go_no_go::run(&args)),
        Command::Report(args) => report::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("dwcp-observer: {}", one_line(&error));
        let configuration = error.downcast_ref::<crate::config::ConfigError>().is_some();
        ExitCode::from(if configuration { 2 } else { 1 })
    })
}

/// The error and its causes, without causes that a message already quotes.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

/// Options of the RDMA side from the configuration.
fn rdma_options(config: &Config) -> crate::rdma::Options {
    crate::rdma::Options {
        btf_path: config.probes.btf_path.clone(),
        post_functions: config.rdma.post_functions.clone(),
        ..crate::rdma::Options::default()
    }
}

/// Options of the kernel side from the configuration.
fn load_options(config: &Config) -> crate::keeper::LoadOptions {
    crate::keeper::LoadOptions {
        max_flows: config.limits.max_flows,
        max_threads: config.limits.max_threads,
        max_processes: config.limits.max_processes,
        rungs: allowed(config.probes.rung),
        btf_path: config.probes.btf_path.clone(),
        phase_functions: config.probes.phase_functions,
        phase_rungs: reader::Rung::ALL,
        reader: "/proc/self/exe".into(),
        log_lifecycle: config.log_level >= LogLevel::Debug,
    }
}

/// The rungs that the configuration allows.
const fn allowed(chosen: Rung) -> Allowed {
    match chosen {
        Rung::Auto => Allowed::Auto,
        Rung::TpBtf => Allowed::Only(ladder::Rung::TpBtf),
        Rung::RawTp => Allowed::Only(ladder::Rung::RawTp),
        Rung::Fentry => Allowed::Only(ladder::Rung::Fentry),
        Rung::Kprobe => Allowed::Only(ladder::Rung::Kprobe),
    }
}
