//! Points the agent at its eBPF objects, and says how to get them when there are none.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// What `cargo xtask build-ebpf` makes.
const OBJECTS: [&str; 3] = ["typed.bpf.o", "probed.bpf.o", "rdma.bpf.o"];

fn main() {
    println!("cargo::rerun-if-env-changed=DWCP_EBPF_OBJECTS");
    println!("cargo::rerun-if-changed=../dwcp-observer-ebpf/src");
    let given = env::var_os("DWCP_EBPF_OBJECTS").map(PathBuf::from);
    let manifest = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    let directory = given.clone().unwrap_or_else(|| manifest.join("../target/ebpf"));
    let source = newest(&manifest.join("../dwcp-observer-ebpf/src"));
    for object in OBJECTS.map(|name| directory.join(name)) {
        println!("cargo::rerun-if-changed={}", object.display());
        let Ok(built) = fs::metadata(&object).and_then(|meta| meta.modified()) else {
            println!(
                "cargo::error=the eBPF object {} is missing: run `cargo xtask build-ebpf` first (`cargo xtask setup` installs what it needs)",
                object.display()
            );
            return;
        };
        if given.is_none() && source.is_some_and(|source| source > built) {
            println!(
                "cargo::error=the eBPF object {} is older than its sources: run `cargo xtask build-ebpf`",
                object.display()
            );
            return;
        }
    }
    match fs::canonicalize(&directory) {
        Ok(directory) => println!("cargo::rustc-env=DWCP_EBPF_OBJECTS={}", directory.display()),
        Err(error) => println!("cargo::error=cannot resolve {}: {error}", directory.display()),
    }
}

/// The newest modification below `directory`.
fn newest(directory: &Path) -> Option<SystemTime> {
    fs::read_dir(directory)
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            if path.is_dir() {
                newest(&path)
            } else {
                entry.metadata().and_then(|meta| meta.modified()).ok()
            }
        })
        .max()
}
