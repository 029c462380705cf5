//! `docs`: writes the documents that are generated from the code.

use anyhow::Result;

use crate::{
    build_ebpf,
    shell::{cargo, run as run_command, workspace},
};

/// The agent's own tests write what they otherwise compare: `docs/operate/metrics.md`, `docs/operate/contract.md`.
pub(crate) fn run() -> Result<()> {
    build_ebpf::run()?;
    let mut test = cargo();
    test.current_dir(workspace()).env("UPDATE_DOCS", "1");
    run_command(test.args([
        "test",
        "--quiet",
        "--package",
        "dwcp-observer",
        "--lib",
        "metrics::documents",
    ]))
}

#[cfg(test)]
mod links;
