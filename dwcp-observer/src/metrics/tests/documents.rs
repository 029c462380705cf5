//! Generated documents are what the code says. `cargo xtask docs` rewrites them.

use std::{env, fmt::Write as _, fs, path::Path};

use super::{contract::contract_markdown, table::TABLE};

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
    let generated = reference_markdown();
    assert!(
        is_current("metrics.md", &generated).unwrap(),
        "docs/operate/metrics.md is not what the metric table says: run `cargo xtask docs`"
    );
}

#[test]
fn the_contract_is_current() {
    let generated = contract_markdown();
    assert!(
        is_current("contract.md", &generated).unwrap(),
        "docs/operate/contract.md is not what the contract's table says: run `cargo xtask docs`"
    );
}

/// The metric reference as Markdown, made from [`TABLE`].
pub(super) fn reference_markdown() -> String {
    let mut text = String::from(
        "# Metric reference\n\n\
         Generated from `dwcp-observer/src/metrics/table.rs`; do not edit.\n\n\
         Counters start at zero when the observer starts. A value that was not measured is missing; it is not reported as zero.\n\
         A series cap (`limits.live_series_migrations`, `limits.live_series_streams`) bounds the series of single migrations.\n\
         DWCP's components: AMST (multi-stream transport), HDE (delta encoding), PBA (bandwidth prediction), ACP (consensus), ASS (state sync), ITP (placement).\n\n\
         | Metric | Type | Labels | Unit | Meaning | Source | Missing when |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for row in TABLE {
        let labels: Vec<String> = row.labels.iter().map(|label| format!("`{label}`")).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} | {} | {} |",
            row.name,
            row.kind.as_str(),
            labels.join(", "),
            row.unit,
            row.help,
            row.source,
            row.absent.unwrap_or(""),
        );
    }
    text
}
