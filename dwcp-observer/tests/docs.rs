//! Generated documents are what the code says. `cargo xtask docs` rewrites them.

use std::{env, fs, path::Path};

fn is_current(name: &str, generated: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, generated).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == generated, "docs/{name} is not what the code says: run `cargo xtask docs`");
}

#[test]
fn the_metric_reference_is_current() {
    is_current("metrics.md", &dwcp_observer::metrics::reference_markdown());
}

#[test]
fn the_contract_is_current() {
    is_current("contract.md", &dwcp_observer::metrics::contract::contract_markdown());
}
