//! The root file system of the VMs: programs of this host with the libraries that they need.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::cpio::Archive;
use crate::temp::TempDir;

/// Programs that the tests start, and the Debian package of each.
const PROGRAMS: [(&str, &str); 13] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("as", "binutils"),
    ("ld", "binutils"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("ss", "iproute2"),
    ("rdma", "iproute2"),
    ("bpftool", "bpftool"),
    ("rping", "rdmacm-utils"),
    ("ib_write_bw", "perftest"),
    ("ib_send_bw", "perftest"),
    ("ib_send_lat", "perftest"),
    ("ibv_devinfo", "ibverbs-utils"),
];
/// Where distributions keep what QEMU and libibverbs load at run time.
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";
/// Loaded by name at run time, so that nothing names them as needed. QEMU 8 and later have TCG
/// built in.
const PLUGINS: [&str; 3] =
    ["qemu/accel-tcg-x86_64.so", "libibverbs/librxe-rdmav34.so", "libibverbs/libsiw-rdmav34.so"];
/// What libibverbs looks up to find its plugins.
const DRIVERS: [&str; 2] = ["/etc/libibverbs.d/rxe.driver", "/etc/libibverbs.d/siw.driver"];
/// What QEMU gives to a `pc` machine.
const FIRMWARE: [&str; 2] = ["bios-256k.bin", "kvmvapic.bin"];
const FIRMWARE_PLACES: [&str; 2] = ["/usr/share/seabios", "/usr/share/qemu"];
/// A static one, so that there is a shell whatever else is missing.
const BUSYBOX: &str = "/bin/busybox";
const EMPTY: [&str; 6] = ["/proc", "/sys", "/dev", "/tmp", "/run", "/root"];

/// A root file system under construction.
#[derive(Debug)]
pub struct Rootfs {
    archive: Archive,
    search: Vec<PathBuf>,
}

impl Rootfs {
    /// With all that is not the project's own. Programs are looked for in `search`.
    ///
    /// # Errors
    /// When one of them is not installed: the error names its package.
    pub fn new(search: Vec<PathBuf>) -> Result<Self> {
        let mut rootfs = Self { archive: Archive::default(), search };
        for (link, target) in [
            ("/bin", "usr/bin"),
            ("/sbin", "usr/sbin"),
            ("/lib", "usr/lib"),
            ("/lib64", "usr/lib64"),
        ] {
            rootfs.archive.symlink(Path::new(link), target)?;
        }
        for directory in EMPTY {
            rootfs.archive.directory(Path::new(directory))?;
        }
        rootfs.archive.file(Path::new("/etc/passwd"), b"root:x:0:0::/root:/bin/sh\n")?;
        rootfs.archive.file(Path::new("/etc/hosts"), b"127.0.0.1 localhost\n::1 localhost\n")?;
        for (name, package) in PROGRAMS {
            let place = Path::new("/usr/bin").join(name);
            let program = rootfs.find(name, package)?;
            rootfs.binary(&program, &place)?;
        }
        for plugin in PLUGINS {
            let path = Path::new(LIBRARIES).join(plugin);
            if path.is_file() {
                rootfs.binary(&path, &path)?;
            }
        }
        for path in DRIVERS.map(Path::new) {
            rootfs.archive.file(path, &read(path).context("install rdma-core's providers")?)?;
        }
        for name in FIRMWARE {
            let place = Path::new("/usr/share/qemu").join(name);
            let found = FIRMWARE_PLACES.iter().map(|place| Path::new(place).join(name));
            let Some(path) = found.into_iter().find(|path| path.is_file()) else {
                bail!("{name} is missing: install qemu-system-x86 and seabios");
            };
            rootfs.archive.file(&place, &read(&path)?)?;
        }
        rootfs.busybox()?;
        Ok(rootfs)
    }

    /// A program of the project at `place`, without its debug information, with its libraries.
    ///
    /// # Errors
    /// When it is not there, or binutils are missing.
    pub fn project(&mut self, program: &Path, place: &Path) -> Result<()> {
        let stripped = strip(program)?;
        self.libraries(program)?;
        Ok(self.archive.program(place, &stripped)?)
    }

    /// The finished archive.
    #[must_use]
    pub fn into_archive(self) -> Archive {
        self.archive
    }

    fn find(&self, name: &str, package: &str) -> Result<PathBuf> {
        let found = self.search.iter().map(|directory| directory.join(name));
        found
            .into_iter()
            .find(|path| path.is_file())
            .with_context(|| format!("{name} is missing: install {package}"))
    }

    /// As it is on the host, with its libraries.
    fn binary(&mut self, path: &Path, place: &Path) -> Result<()> {
        self.libraries(path)?;
        Ok(self.archive.program(place, &read(path)?)?)
    }

    fn libraries(&mut self, program: &Path) -> Result<()> {
        let output = Command::new("ldd").arg(program).output().context("cannot run `ldd`")?;
        let text = String::from_utf8_lossy(&output.stdout);
        // It fails for a static program, which needs none.
        for library in libraries_of(&text).with_context(|| program.display().to_string())? {
            let place = in_usr(&library);
            if !self.archive.contains(&place) {
                self.archive.program(&place, &read(&library)?)?;
            }
        }
        Ok(())
    }

    /// Under the names of all programs that it has and that nobody else has brought.
    fn busybox(&mut self) -> Result<()> {
        let busybox = Path::new(BUSYBOX);
        let list = Command::new(busybox).arg("--list").output();
        let list = list.context("busybox is missing: install busybox-static")?;
        let content = read(busybox)?;
        ensure!(is_static(busybox)?, "busybox is not static: install busybox-static");
        self.archive.program(Path::new("/usr/bin/busybox"), &content)?;
        for name in String::from_utf8_lossy(&list.stdout).lines() {
            let place = Path::new("/usr/bin").join(name);
            if !self.archive.contains(&place) {
                self.archive.symlink(&place, "busybox")?;
            }
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}

fn is_static(program: &Path) -> Result<bool> {
    let output = Command::new("ldd").arg(program).output().context("cannot run `ldd`")?;
    Ok(!output.status.success())
}

/// Lines of ldd: `libc.so.6 => /lib/.../libc.so.6 (0x...)`, `/lib64/ld-linux-x86-64.so.2 (0x...)`,
/// `linux-vdso.so.1 (0x...)`, `libx.so => not found`.
fn libraries_of(ldd: &str) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for line in ldd.lines().map(str::trim) {
        ensure!(!line.ends_with("not found"), "{line}");
        let path = line.split_whitespace().find(|word| word.starts_with('/'));
        found.extend(path.map(PathBuf::from));
    }
    Ok(found)
}

/// `/lib` is a link to `/usr/lib` in the VM.
fn in_usr(path: &Path) -> PathBuf {
    let top = ["/lib", "/lib64", "/bin", "/sbin"];
    if top.iter().any(|top| path.starts_with(top)) {
        Path::new("/usr").join(path.strip_prefix("/").unwrap_or(path))
    } else {
        path.to_owned()
    }
}

fn strip(program: &Path) -> Result<Vec<u8>> {
    let directory = TempDir::new()?;
    let stripped = directory.join("stripped");
    let output = Command::new("strip")
        .args(["--strip-debug", "-o"])
        .args([stripped.as_path(), program])
        .output()
        .context("cannot run `strip`: install binutils")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "strip {}: {errors}", program.display());
    read(&stripped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libraries_of_a_program_are_found() {
        let ldd = "\tlinux-vdso.so.1 (0x00007f)\n\
                   \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                   \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found = libraries_of(ldd).unwrap();
        let places: Vec<PathBuf> = found.iter().map(|path| in_usr(path)).collect();
        assert_eq!(
            places,
            [
                Path::new("/usr/lib/x86_64-linux-gnu/libc.so.6"),
                Path::new("/usr/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert!(libraries_of("\tnot a dynamic executable\n").unwrap().is_empty());
        assert!(libraries_of("\tlibmissing.so => not found\n").is_err());
        assert_eq!(in_usr(Path::new("/opt/lib/x.so")), Path::new("/opt/lib/x.so"));
    }

    #[test]
    fn this_test_loses_its_debug_information_and_nothing_else() {
        let this = std::env::current_exe().unwrap();
        let stripped = strip(&this).unwrap();
        assert!(stripped.starts_with(b"\x7fELF"));
        assert!((stripped.len() as u64) < this.metadata().unwrap().len());
    }
}
