//! A guest with a real kernel, of which nothing but one small program runs: one that only sleeps, as
//! most guests do most of the time, or one that gives all CPUs work.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::guest::run;
use crate::vm::boot::tsc_khz;
use crate::vm::cpio::Archive;

const SOURCE: &str = include_str!("linux_guest.S");

/// What the guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing: all CPUs are halted, without a timer's tick.
    Sleep,
    /// All CPUs write pages and nap for half a millisecond, in turns. It has no clock for others to read: what
    /// runs in a Linux may wait for the rest of it, after a migration for 0.2 s.
    Write,
}

/// A Linux guest, ready to be booted.
#[derive(Clone, Debug)]
pub struct Linux {
    kernel: PathBuf,
    initrd: PathBuf,
    append: String,
    cpus: u8,
}

impl Linux {
    /// With this kernel; the root file system is made in `directory`.
    ///
    /// # Errors
    /// When binutils are missing or fail.
    pub fn new(kernel: &Path, directory: &Path, cpus: u8, work: Work) -> Result<Self> {
        let initrd = directory.join("initrd");
        let init = assemble(directory, cpus, work)?;
        let mut archive = Archive::default();
        archive.program(Path::new("/init"), &std::fs::read(init)?)?;
        archive.write(&mut std::fs::File::create(&initrd)?)?;
        let processors = std::fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
        let khz = tsc_khz(&processors).context("/proc/cpuinfo has no bogomips")?;
        // No driver of serial lines: it would try them out, and the program has them for itself.
        let append = format!(
            "quiet rdinit=/init 8250.nr_uarts=0 mitigations=off tsc=reliable tsc_early_khz={khz}"
        );
        Ok(Self { kernel: kernel.to_owned(), initrd, append, cpus })
    }

    /// QEMU's arguments.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        let pair = |name: &str, value: &Path| [name.into(), value.as_os_str().to_owned()];
        let mut arguments: Vec<OsString> = Vec::new();
        arguments.extend(pair("-kernel", &self.kernel));
        arguments.extend(pair("-initrd", &self.initrd));
        arguments.extend(["-append".into(), self.append.clone().into()]);
        arguments.extend(["-smp".into(), self.cpus.to_string().into()]);
        arguments
    }
}

/// A static program for x86-64.
fn assemble(directory: &Path, cpus: u8, work: Work) -> Result<PathBuf> {
    let path = |extension| directory.join(format!("init.{extension}"));
    let (text, object, program) = (path("S"), path("o"), path("elf"));
    std::fs::write(&text, SOURCE)?;
    let workers = match work {
        Work::Sleep => 0,
        Work::Write => cpus,
    };
    let symbol = format!("WORKERS={workers}");
    run(Command::new("as").args(["--64", "--defsym", &symbol, "-o"]).args([&object, &text]))?;
    run(Command::new("ld").args(["-m", "elf_x86_64", "-static", "-o"]).args([&program, &object]))?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp::TempDir;

    #[test]
    fn both_programs_assemble_and_one_gets_all_cpus() {
        let directory = TempDir::new().unwrap();
        for work in [Work::Sleep, Work::Write] {
            let linux = Linux::new(Path::new("/kernel"), directory.path(), 4, work).unwrap();
            let arguments = linux.arguments();
            assert_eq!(arguments[..2], ["-kernel", "/kernel"]);
            assert!(arguments.ends_with(&["-smp".into(), "4".into()]), "{arguments:?}");
            assert!(std::fs::metadata(directory.join("initrd")).unwrap().len() > 500);
        }
    }
}
