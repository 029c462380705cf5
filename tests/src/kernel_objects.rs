//! The eBPF objects of a process, and whether they are still in the kernel once it is gone.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Kind (`prog`, `map` or `link`) and id; the kernel gives no id twice.
pub type KernelObject = (&'static str, u64);

const KINDS: [&str; 3] = ["prog", "map", "link"];

/// All objects of `pid`: those that it has descriptors of, and the maps of its programs.
///
/// # Errors
/// When the process is gone, or `bpftool` is missing.
pub fn objects_of(pid: u32) -> Result<BTreeSet<KernelObject>> {
    let mut objects = BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may be closed at any moment.
        let Ok(info) = std::fs::read_to_string(entry?.path()) else { continue };
        for kind in KINDS {
            let id = info
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.strip_suffix("_id") == Some(kind))
                .and_then(|(_, value)| value.trim().parse().ok());
            objects.extend(id.map(|id| (kind, id)));
        }
    }
    for program in show("prog")? {
        let id = program["id"].as_u64().context("a program without id")?;
        if objects.contains(&("prog", id)) {
            let maps = program["map_ids"].as_array().into_iter().flatten();
            objects.extend(maps.filter_map(Value::as_u64).map(|map| ("map", map)));
        }
    }
    Ok(objects)
}

/// Those of `objects` that are in the kernel, as `bpftool` lists it.
///
/// # Errors
/// When `bpftool` is missing or fails.
pub fn still_there(objects: &BTreeSet<KernelObject>) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    for kind in KINDS {
        let is_one =
            |value: &Value| value["id"].as_u64().is_some_and(|id| objects.contains(&(kind, id)));
        found.extend(show(kind)?.into_iter().filter(is_one));
    }
    Ok(found)
}

fn show(kind: &str) -> Result<Vec<Value>> {
    // It fails when an object vanishes between its id and its details.
    const TRIES: u32 = 10;
    let mut said = String::new();
    for _ in 0..TRIES {
        let output = Command::new("bpftool")
            .args(["--json", kind, "show"])
            .output()
            .context("bpftool is needed: run `cargo xtask setup`")?;
        if output.status.success() {
            return serde_json::from_slice(&output.stdout)
                .with_context(|| format!("bpftool {kind} show"));
        }
        said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    }
    bail!("bpftool {kind} show fails {TRIES} times: {said}")
}
