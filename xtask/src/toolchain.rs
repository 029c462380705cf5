//! Which compiler can build for the BPF target on this machine.
//!
//! `core` for `bpfel-unknown-none` comes prebuilt with some distributions' compilers; with rustup
//! it is built from source by a nightly (`-Z build-std`).

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell::{ask, find, find_all, without_cargo_env};

/// The BPF target.
pub(crate) const TARGET: &str = "bpfel-unknown-none";
/// The release of bpf-linker that setup installs and that is known to work.
pub(crate) const BPF_LINKER: &str = "0.13.0";

/// A way to build for the BPF target.
#[derive(Clone, Debug)]
pub(crate) enum Toolchain {
    /// A compiler with a prebuilt `core` for the target.
    Distribution {
        /// The compiler.
        rustc: PathBuf,
        /// The cargo beside it.
        cargo: PathBuf,
    },
    /// rustup's nightly with the source of `core`.
    Nightly {
        /// The rustup that has it.
        rustup: PathBuf,
    },
}

impl Toolchain {
    /// The toolchain to use; a prebuilt `core` first, since it builds faster.
    pub(crate) fn find() -> Option<Self> {
        Self::distribution().or_else(Self::nightly)
    }

    /// A compiler in the search path, or /usr/bin/rustc, with a prebuilt `core`.
    pub(crate) fn distribution() -> Option<Self> {
        let mut candidates = find_all("rustc");
        candidates.push(PathBuf::from("/usr/bin/rustc"));
        candidates.into_iter().find_map(|rustc| {
            let sysroot = sysroot(Command::new(&rustc).args(["--print", "sysroot"]))?;
            let libraries = sysroot.join("lib/rustlib").join(TARGET).join("lib");
            if !has_core(&libraries) {
                return None;
            }
            let beside = rustc.with_file_name("cargo");
            let cargo = if beside.is_file() { beside } else { find("cargo")? };
            Some(Self::Distribution { rustc, cargo })
        })
    }

    fn nightly() -> Option<Self> {
        let rustup = find("rustup")?;
        let sysroot =
            sysroot(Command::new(&rustup).args(["run", "nightly", "rustc", "--print", "sysroot"]))?;
        let core = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
        core.is_file().then_some(Self::Nightly { rustup })
    }

    /// What it is, for the user.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Distribution { rustc, .. } => {
                format!("distribution std ({} has core for {TARGET})", rustc.display())
            }
            Self::Nightly { .. } => {
                "nightly + build-std (rustup's nightly has rust-src)".to_owned()
            }
        }
    }

    /// Major version of the compiler's LLVM, for instance 22; bpf-linker's must not be older.
    pub(crate) fn llvm(&self) -> Option<u32> {
        let mut command = match self {
            Self::Distribution { rustc, .. } => Command::new(rustc),
            Self::Nightly { rustup } => {
                let mut command = Command::new(rustup);
                command.args(["run", "nightly", "rustc"]);
                command
            }
        };
        llvm_major(&ask(without_cargo_env(command.arg("-vV")))?)
    }
}

/// What to install when no toolchain is there.
pub(crate) const MISSING: &str = "no compiler here can build for BPF. Either run `cargo xtask \
    setup` (Debian 12 with security updates: it installs rustc-web, cargo-web, \
    libstd-rust-web-dev-bpf, llvm-22-dev, libpolly-22-dev and bpf-linker), or with rustup: \
    `rustup toolchain install nightly --component rust-src && cargo install bpf-linker`";

/// The bpf-linker to use and its version, ours first.
pub(crate) fn bpf_linker() -> Option<(PathBuf, String)> {
    find_all("bpf-linker").into_iter().find_map(|path| {
        let answer = ask(Command::new(&path).arg("--version"))?;
        let version = answer.split_whitespace().last()?.to_owned();
        Some((path, version))
    })
}

fn sysroot(command: &mut Command) -> Option<PathBuf> {
    ask(without_cargo_env(command)).map(PathBuf::from)
}

fn has_core(libraries: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(libraries) else { return false };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libcore-") && name.ends_with(".rlib")
    })
}

fn llvm_major(version: &str) -> Option<u32> {
    let line = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_version_is_found() {
        let text = "rustc 1.96.0\nbinary: rustc\nLLVM version: 22.1.8";
        assert_eq!(llvm_major(text), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0"), None);
    }

    #[test]
    fn only_a_library_of_core_counts() {
        let directory = dwcp_observer_lab::temp::TempDir::new().unwrap();
        assert!(!has_core(&directory.join("absent")));
        std::fs::write(directory.join("libcore-1.d"), "").unwrap();
        assert!(!has_core(directory.path()));
        std::fs::write(directory.join("libcore-1a2b.rlib"), "").unwrap();
        assert!(has_core(directory.path()));
    }
}
