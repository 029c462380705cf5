//! `score-migrations`: what the anomaly signals say of recorded migrations whose faults are known.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use dwcp_observer_lab::labelled;

use crate::shell::{cargo, is_root, run as run_command, workspace};
use crate::{build, build_ebpf, setup};

/// Arguments of `score-migrations`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Record set N (0 to 3) anew before, as root, in some 12 minutes: 0 and 1 are strong faults, 2 and 3 milder ones
    #[arg(long, value_name = "N")]
    record: Option<usize>,
    /// An agent that is built already
    #[arg(long, value_name = "PATH", requires = "record")]
    agent: Option<PathBuf>,
}

/// Prints each fault, what was said of it and after how long, and the scores. Exit 0 only if they are what docs/understand/anomalies.md says.
///
/// # Errors
/// When something does not build, or a migration fails.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if let Some(set) = args.record {
        setup::ensure(setup::Use::Test)?;
        let agent = match &args.agent {
            Some(agent) => agent.clone(),
            None => build::run()?,
        };
        if !is_root() {
            bail!("migrations are recorded by root");
        }
        labelled::record(&agent, &workspace().join("tests/labelled"), set, |text| {
            eprintln!("{text}");
        })?;
    }
    build_ebpf::run()?;
    let mut test = cargo();
    test.current_dir(workspace()).args(["test", "--quiet", "--package", "dwcp-observer"]);
    test.args(["--test", "labelled", "--", "--nocapture", "--test-threads=1"]);
    run_command(&mut test)?;
    Ok(ExitCode::SUCCESS)
}
