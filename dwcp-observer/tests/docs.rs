//! Generated documents are what the code says. `cargo xtask docs` rewrites them.

use std::{env, fs, path::Path};

/// Compares; with `UPDATE_DOCS` writes first.
fn is_current(name: &str, generated: &str) -> std::io::Result<bool> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operate").join(name);
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, generated)?;
    }
    Ok(fs::read_to_string(&path)? == generated)
}

#[test]
fn the_metric_reference_is_current() {
    let generated = dwcp_observer::metrics::reference_markdown();
    assert!(
        is_current("metrics.md", &generated).unwrap(),
        "docs/operate/metrics.md is not what the metric table says: run `cargo xtask docs`"
    );
}

#[test]
fn the_contract_is_current() {
    let generated = dwcp_observer::metrics::contract::contract_markdown();
    assert!(
        is_current("contract.md", &generated).unwrap(),
        "docs/operate/contract.md is not what the contract's table says: run `cargo xtask docs`"
    );
}
