//! `build` and `run`: the agent with its eBPF programs inside.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, anyhow};

use crate::build_ebpf;
use crate::shell::{as_root, cargo, run as run_command, target_dir};

/// Arguments of `run`.
#[derive(clap::Args)]
pub(crate) struct RunArgs {
    /// Arguments of `dwcp-observer run`
    #[arg(last = true)]
    args: Vec<OsString>,
}

/// Builds both and returns the path of the agent.
pub(crate) fn run() -> Result<PathBuf> {
    build_ebpf::run()?;
    run_command(cargo().args(["build", "--release", "--package", "dwcp-observer"]))?;
    Ok(agent())
}

/// Where the agent is once it is built.
pub(crate) fn agent() -> PathBuf {
    target_dir().join("release/dwcp-observer")
}

/// Builds both as fast as can be, for a look at the agent and not for its costs.
pub(crate) fn run_lab() -> Result<()> {
    build_ebpf::run()?;
    run_command(cargo().args(["build", "--profile", "lab", "--package", "dwcp-observer"]))
}

/// Where that agent is.
pub(crate) fn lab_agent() -> PathBuf {
    target_dir().join("lab/dwcp-observer")
}

/// Builds and becomes the agent.
pub(crate) fn run_agent(args: &RunArgs) -> Result<ExitCode> {
    let agent = run()?;
    // Only returns if it cannot be started.
    let error = as_root(&agent)?.arg("run").args(&args.args).exec();
    Err(anyhow!(error).context(format!("cannot start {}", agent.display())))
}
