//! Generated documents are what the code says. `cargo xtask docs` rewrites them.

use std::{env, fs, path::Path};

#[test]
fn the_metric_reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let generated = dwcp_observer::metrics::reference_markdown();
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == generated,
        "docs/metrics.md is not what the metric table says: run `cargo xtask docs`"
    );
}
