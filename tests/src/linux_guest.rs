//! A guest with a real kernel, of which nothing but one small program runs: one that only sleeps, as
//! most guests do most of the time, or one that keeps all CPUs at work.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::guest::{run, tsc_frequency};
use crate::vm::boot::tsc_khz;
use crate::vm::cpio::Archive;

const SOURCE: &str = include_str!("linux_guest.S");

/// What the guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing: all CPUs are halted, without a timer's tick.
    Sleep,
    /// One CPU ticks at this period ([`crate::clock`]), the others write pages and nap.
    Tick(Duration),
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
    let (workers, beat) = match work {
        Work::Sleep => (-1, 0.0),
        Work::Tick(period) => (i32::from(cpus) - 1, period.as_secs_f64() * tsc_frequency()),
    };
    let symbols = [format!("WORKERS={workers}"), format!("BEAT={beat:.0}")];
    let symbols = symbols.iter().flat_map(|symbol| ["--defsym", symbol]);
    run(Command::new("as").arg("--64").args(symbols).arg("-o").args([&object, &text]))?;
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
        for work in [Work::Sleep, Work::Tick(Duration::from_micros(250))] {
            let linux = Linux::new(Path::new("/kernel"), directory.path(), 4, work).unwrap();
            let arguments = linux.arguments();
            assert_eq!(arguments[..2], ["-kernel", "/kernel"]);
            assert!(arguments.ends_with(&["-smp".into(), "4".into()]), "{arguments:?}");
            assert!(std::fs::metadata(directory.join("initrd")).unwrap().len() > 500);
        }
    }
}
