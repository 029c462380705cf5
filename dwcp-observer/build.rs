//! Points the agent at its eBPF objects. Outside release it builds without them too, so that checking, documenting and unit tests
//! need no BPF toolchain; such an agent says at its start that it has no programs.

use std::{
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use flate2::{Compression, write::ZlibEncoder};

/// What `cargo xtask build-ebpf` makes.
const OBJECTS: [&str; 3] = ["typed.bpf.o", "probed.bpf.o", "rdma.bpf.o"];
const SOURCES: &str = "../dwcp-observer-ebpf/src";
const FIX: &str =
    "run `cargo xtask build-ebpf` and build again (`cargo xtask setup` installs what it needs)";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(ebpf_objects)");
    println!("cargo::rerun-if-env-changed=DWCP_EBPF_OBJECTS");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={SOURCES}");
    let given = env::var_os("DWCP_EBPF_OBJECTS").map(PathBuf::from);
    let directory = given.clone().unwrap_or_else(|| PathBuf::from("../target/ebpf"));
    watch(&directory);
    // Objects that were named are used whatever their age.
    let source = if given.is_none() { newest(Path::new(SOURCES)) } else { None };
    let Some(lack) = lack(&directory, source) else {
        println!("cargo::rustc-cfg=ebpf_objects");
        return pack(|name| fs::read(directory.join(name)));
    };
    // `lab` and all others that inherit from release are release here.
    if given.is_some() || env::var("PROFILE").as_deref() == Ok("release") {
        println!("cargo::error={lack}: {FIX}");
        return;
    }
    println!("cargo::warning=built without eBPF programs, it cannot measure: {lack}; {FIX}");
    println!("cargo::rustc-env=DWCP_EBPF_LACK={lack}");
    pack(|_| Ok(Vec::new()));
}

/// Has cargo look at the directory. A file that is not there would make it build the agent anew each time.
fn watch(directory: &Path) {
    if directory.is_dir() || fs::create_dir_all(directory).is_ok() {
        println!("cargo::rerun-if-changed={}", directory.display());
    }
}

/// Why the objects cannot be used, in one line.
fn lack(directory: &Path, source: Option<SystemTime>) -> Option<String> {
    OBJECTS.iter().find_map(|name| {
        let object = directory.join(name);
        match fs::metadata(&object).and_then(|meta| meta.modified()) {
            Err(_) => Some(format!("the eBPF object {name} is missing")),
            Ok(built) if source.is_some_and(|source| source > built) => {
                Some(format!("the eBPF object {name} is older than its sources"))
            }
            Ok(_) => None,
        }
    })
}

/// Writes the objects compressed, as `src/kernel/objects.rs` takes them in: they are read once, at the start.
fn pack(object: impl Fn(&str) -> io::Result<Vec<u8>>) {
    let directory = env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default();
    for name in OBJECTS {
        let written = object(name).and_then(|bytes| {
            let mut packed = ZlibEncoder::new(Vec::new(), Compression::best());
            packed.write_all(&bytes)?;
            fs::write(directory.join(name), packed.finish()?)
        });
        if let Err(error) = written {
            println!("cargo::error=cannot pack the eBPF object {name}: {error}");
        }
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
