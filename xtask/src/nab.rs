//! `nab`: the scores of the anomaly detector on the Numenta Anomaly Benchmark.

use std::path::{PathBuf, absolute};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::build_ebpf;
use crate::shell::{cargo, run as run_command, workspace};

/// Arguments of `nab`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory with `data/<group>/<name>.csv` and `labels/combined_windows.json`
    #[arg(long)]
    data: PathBuf,
}

/// An example of the agent does it, for it is the agent's detector; the agent does not build without its eBPF objects.
///
/// # Errors
/// When it does not build, or the corpus cannot be read.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let data = absolute(&args.data).with_context(|| args.data.display().to_string())?;
    build_ebpf::run()?;
    let mut example = cargo();
    example.current_dir(workspace()).args(["run", "--quiet", "--release"]);
    example.args(["--package", "dwcp-observer", "--example", "nab", "--", "--data"]).arg(data);
    run_command(&mut example)?;
    Ok(ExitCode::SUCCESS)
}
