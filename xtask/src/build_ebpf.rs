//! `build-ebpf`: the eBPF programs into object files.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

use crate::shell::{run as run_command, without_cargo_env, workspace};
use crate::toolchain::{MISSING, TARGET, Toolchain, bpf_linker};

const PACKAGE: &str = "dwcp-observer-ebpf";

/// An object file of the agent.
struct Object {
    /// File name without `.bpf.o`.
    name: &'static str,
    /// Binary target of the crate.
    bin: &'static str,
    /// Features that it is built with.
    features: &'static str,
}

/// Every object that the agent includes.
const OBJECTS: [Object; 3] = [
    Object { name: "typed", bin: "dwcp-observer-ebpf", features: "programs,typed" },
    Object { name: "probed", bin: "dwcp-observer-ebpf", features: "programs" },
    Object { name: "rdma", bin: "rdma", features: "programs" },
];

/// Where the object files go, which is where the agent's build looks for them.
pub(crate) fn directory() -> PathBuf {
    workspace().join("target/ebpf")
}

/// Builds and returns the directory of the object files.
pub(crate) fn run() -> Result<PathBuf> {
    let toolchain = Toolchain::find().context(MISSING)?;
    let Some((linker, version)) = bpf_linker() else {
        bail!(
            "bpf-linker is missing: `cargo xtask setup` installs it, or `cargo install bpf-linker`"
        );
    };
    eprintln!("build-ebpf: {}, bpf-linker {version}", toolchain.describe());
    let build_dir = workspace().join("target/ebpf-build");
    let source = newest(&workspace().join(PACKAGE).join("src"))?;
    for object in &OBJECTS {
        run_command(&mut command(object, &toolchain, &linker, &build_dir))?;
        let built = build_dir.join(TARGET).join("ebpf").join(object.bin);
        let stripped = build_dir.join("stripped.o");
        let content = if strip(&built, &stripped) { &stripped } else { &built };
        let file = directory().join(format!("{}.bpf.o", object.name));
        // What cargo leaves as it is does not depend on the sources that changed.
        install(content, modified(&built)?.max(source), &file)?;
        eprintln!("build-ebpf: {}", file.display());
    }
    Ok(directory())
}

fn command(object: &Object, toolchain: &Toolchain, linker: &Path, build_dir: &Path) -> Command {
    let mut command = match toolchain {
        Toolchain::Distribution { cargo, .. } => Command::new(cargo),
        Toolchain::Nightly { rustup } => {
            let mut command = Command::new(rustup);
            command.args(["run", "nightly", "cargo"]);
            command
        }
    };
    without_cargo_env(&mut command);
    command.current_dir(workspace());
    match toolchain {
        Toolchain::Distribution { rustc, .. } => {
            // aya-ebpf needs unstable features; this lets a stable compiler have them.
            command.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", rustc).arg("build");
        }
        Toolchain::Nightly { .. } => {
            command.args(["build", "-Z", "build-std=core"]);
        }
    }
    // The linker makes BTF of the debug information, which the verifier and typed maps need.
    let flags = [
        format!("-Clinker={}", linker.display()),
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    command
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .args(["--package", PACKAGE, "--bin", object.bin, "--features", object.features])
        .args(["--profile", "ebpf", "--target", TARGET, "--target-dir"])
        .arg(build_dir);
    command
}

/// Leaves out DWARF, nine tenths of the object; BTF stays, without the relocations of its line numbers, which no loader reads.
/// Without an LLVM strip the object is only larger.
fn strip(built: &Path, stripped: &Path) -> bool {
    let programs = ["llvm-strip", "/usr/lib/llvm-22/bin/llvm-strip"];
    programs.iter().any(|program| {
        let status = Command::new(program)
            .args(["-g", "--remove-section=.rel.BTF", "--remove-section=.rel.BTF.ext"])
            .arg(built)
            .arg("-o")
            .arg(stripped)
            .status();
        status.is_ok_and(|status| status.success())
    })
}

/// Copies only what changed: the agent is built again when the object is newer, and refuses one older than its sources.
fn install(content: &Path, built: SystemTime, object: &Path) -> Result<()> {
    let new = std::fs::read(content).with_context(|| format!("no {}", content.display()))?;
    if std::fs::read(object).is_ok_and(|old| old == new) {
        if built > modified(object)? {
            std::fs::File::options().write(true).open(object)?.set_modified(built)?;
        }
        return Ok(());
    }
    if let Some(parent) = object.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(object, new).with_context(|| format!("cannot write {}", object.display()))
}

/// The newest modification below `directory`.
fn newest(directory: &Path) -> Result<SystemTime> {
    let mut latest = modified(directory)?;
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let time = if path.is_dir() { newest(&path)? } else { modified(&path)? };
        latest = latest.max(time);
    }
    Ok(latest)
}

fn modified(path: &Path) -> Result<SystemTime> {
    std::fs::metadata(path)
        .and_then(|meta| meta.modified())
        .with_context(|| format!("no {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(command: &Command) -> Vec<String> {
        command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn both_toolchains_build_the_same_target() {
        let linker = Path::new("/tools/bpf-linker");
        let build_dir = Path::new("/build");
        let distribution = Toolchain::Distribution {
            rustc: "/usr/bin/rustc".into(),
            cargo: "/usr/bin/cargo".into(),
        };
        let nightly = Toolchain::Nightly { rustup: "/bin/rustup".into() };
        let tail = [
            "--package",
            PACKAGE,
            "--bin",
            PACKAGE,
            "--features",
            "programs,typed",
            "--profile",
            "ebpf",
            "--target",
            TARGET,
            "--target-dir",
            "/build",
        ];
        let command_line = args(&command(&OBJECTS[0], &distribution, linker, build_dir));
        assert_eq!(command_line[0], "build");
        assert_eq!(command_line[1..], tail);
        let command_line = args(&command(&OBJECTS[0], &nightly, linker, build_dir));
        assert_eq!(command_line[..6], ["run", "nightly", "cargo", "build", "-Z", "build-std=core"]);
        assert_eq!(command_line[6..], tail);
    }

    #[test]
    fn an_unchanged_object_gets_the_time_of_its_build_and_no_other() {
        let directory = dwcp_observer_lab::temp::TempDir::new().unwrap();
        let (built, object) = (directory.join("built"), directory.join("deep/object"));
        std::fs::write(&built, "one").unwrap();
        install(&built, modified(&built).unwrap(), &object).unwrap();
        let old = SystemTime::UNIX_EPOCH;
        std::fs::File::options().write(true).open(&object).unwrap().set_modified(old).unwrap();
        install(&built, modified(&built).unwrap(), &object).unwrap();
        assert_eq!(modified(&object).unwrap(), modified(&built).unwrap());
        std::fs::write(&built, "two").unwrap();
        install(&built, modified(&built).unwrap(), &object).unwrap();
        assert_eq!(std::fs::read(&object).unwrap(), b"two");
    }
}
