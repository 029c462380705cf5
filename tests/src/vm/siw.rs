//! Software iWARP, which Debian's kernels leave out: built from Debian's source of the kernel, for the kernel.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::{Apt, run};
use super::kernels::{ARCHITECTURE, unpack};

/// Where the driver is in the kernel's source.
const DRIVER: &str = "drivers/infiniband/sw/siw";

/// The module of kernel `release` (`6.12.117+deb12-amd64`), made in the directory `work`. Without BTF, which needs the kernel's image with
/// its symbols.
///
/// # Errors
/// When the mirror has no headers or source of it, or the compiler is not the kernel's.
pub(super) fn build(apt: &Apt, release: &str, work: &Path) -> Result<PathBuf> {
    let name = release.strip_suffix(ARCHITECTURE).context("not a kernel for amd64")?;
    let series = name.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    let known = apt.names("linux-")?;
    // Newer packages of the build's programs bear the whole version.
    let programs = [format!("linux-kbuild-{name}"), format!("linux-kbuild-{series}")];
    let packages: Vec<String> = [
        format!("linux-headers-{release}"),
        format!("linux-headers-{name}-common"),
        format!("linux-source-{series}"),
    ]
    .into_iter()
    .chain(programs.into_iter().find(|package| known.contains(package)))
    .collect();
    let packed = work.join("packed");
    std::fs::create_dir_all(&packed)?;
    for package in apt.download(&packages, &packed)? {
        unpack(&package, work)?;
    }
    let sources = work.join("usr/src");
    let source = format!("linux-source-{series}");
    run(Command::new("tar")
        .args(["--extract", "--file", &format!("{source}.tar.xz")])
        .arg(format!("{source}/{DRIVER}"))
        .current_dir(&sources))?;
    let headers = sources.join(format!("linux-headers-{release}"));
    // It includes the common part by the path that it is installed at.
    let makefile = headers.join("Makefile");
    let text = std::fs::read_to_string(&makefile)?;
    let here = sources.display().to_string();
    std::fs::write(&makefile, text.replace("/usr/src", &here))?;
    let driver = sources.join(source).join(DRIVER);
    run(Command::new("make")
        .args(["CONFIG_RDMA_SIW=m", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"])
        .arg("-C")
        .arg(&headers)
        .arg(format!("M={}", driver.display())))?;
    let module = driver.join("siw.ko");
    run(Command::new("strip").arg("--strip-debug").arg(&module))?;
    Ok(module)
}
