//! The guest: a boot sector that fills RAM and then dirties a bounded set of pages.
//!
//! It is assembled at run time, since its sizes and its dirty rate are parameters.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

const SOURCE: &str = include_str!("guest.S");
/// The boot sector itself and the BIOS area lie below.
const FILL_START_MIB: u32 = 1;
/// The `pc` machine has its PCI hole above this.
const MAX_MEMORY_MIB: u32 = 2048;

/// What the byte on the serial line means that the guest writes when its RAM is filled.
pub const FILLED: u8 = b'F';

/// What the guest does with its memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Guest {
    /// RAM in MiB, 4 to 2048.
    pub memory_mib: u32,
    /// Share of RAM that is filled with non-zero words, 0.0 to 1.0. The rest stays zero pages, of
    /// which a migration sends only the address.
    pub filled: f64,
    /// Memory in MiB that is written again and again; 0 for a guest that halts once filled.
    pub working_set_mib: u32,
    /// Loop turns after each page written, at least 1: the larger, the fewer pages are dirtied.
    /// Under TCG one turn takes 4 to 5 ns (measured), so 20,000 turns make about 11,000 pages, or
    /// 43 MiB, a second.
    pub dirty_delay: u32,
}

impl Default for Guest {
    /// 256 MiB, all filled, 8 MiB of it rewritten slowly enough for a migration to converge.
    fn default() -> Self {
        Self { memory_mib: 256, filled: 1.0, working_set_mib: 8, dirty_delay: 20_000 }
    }
}

impl Guest {
    /// Assembles the boot sector into `directory` and returns its path.
    ///
    /// # Errors
    /// When a parameter is out of its range, or binutils are missing or fail.
    pub fn assemble(&self, directory: &Path) -> Result<PathBuf> {
        let layout = self.layout()?;
        let source = directory.join("guest.S");
        let object = directory.join("guest.o");
        let sector = directory.join("guest.bin");
        std::fs::write(&source, SOURCE)?;
        let mut assemble = Command::new("as");
        assemble.arg("--32");
        for (symbol, value) in layout.symbols() {
            assemble.arg("--defsym").arg(format!("{symbol}={value}"));
        }
        run(assemble.arg("-o").arg(&object).arg(&source))?;
        run(Command::new("ld")
            .args(["-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-o"])
            .arg(&sector)
            .arg(&object))?;
        let size = std::fs::metadata(&sector)?.len();
        ensure!(size == 512, "the boot sector has {size} bytes instead of 512");
        Ok(sector)
    }

    fn layout(&self) -> Result<Layout> {
        const MIB: u32 = 1 << 20;
        ensure!(
            (4..=MAX_MEMORY_MIB).contains(&self.memory_mib),
            "guest memory of {} MiB: 4 to {MAX_MEMORY_MIB} are possible",
            self.memory_mib
        );
        ensure!((0.0..=1.0).contains(&self.filled), "filled share {} of 0 to 1", self.filled);
        ensure!(self.dirty_delay >= 1, "the dirty delay is at least 1");
        let usable = self.memory_mib - FILL_START_MIB;
        ensure!(
            self.working_set_mib <= usable,
            "a working set of {} MiB in {usable} MiB",
            self.working_set_mib
        );
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to 2048, and whole pages are wanted"
        )]
        let pages = (f64::from(usable) * 256.0 * self.filled) as u32;
        let fill_start = FILL_START_MIB * MIB;
        Ok(Layout {
            fill_start,
            fill_end: fill_start + pages * 4096,
            work_start: fill_start,
            work_end: fill_start + self.working_set_mib * MIB,
            delay: self.dirty_delay,
        })
    }
}

struct Layout {
    fill_start: u32,
    fill_end: u32,
    work_start: u32,
    work_end: u32,
    delay: u32,
}

impl Layout {
    fn symbols(&self) -> [(&'static str, u32); 5] {
        [
            ("FILL_START", self.fill_start),
            ("FILL_END", self.fill_end),
            ("WORK_START", self.work_start),
            ("WORK_END", self.work_end),
            ("DELAY", self.delay),
        ]
    }
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| {
        format!("cannot run `{name}` (binutils); `cargo xtask setup` installs it")
    })?;
    if !output.status.success() {
        bail!("`{name}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp::TempDir;

    #[test]
    fn the_sector_is_bootable() {
        let directory = TempDir::new().unwrap();
        for guest in [Guest::default(), Guest { working_set_mib: 0, ..Guest::default() }] {
            let sector = std::fs::read(guest.assemble(directory.path()).unwrap()).unwrap();
            assert_eq!(sector.len(), 512);
            assert_eq!(sector[510..], [0x55, 0xaa]);
        }
    }

    #[test]
    fn sizes_follow_the_parameters() {
        let guest = Guest { memory_mib: 129, filled: 0.5, working_set_mib: 2, dirty_delay: 7 };
        let layout = guest.layout().unwrap();
        assert_eq!(layout.fill_start, 0x0010_0000);
        assert_eq!(layout.fill_end, 0x0010_0000 + (64 << 20));
        assert_eq!(layout.work_end, 0x0030_0000);
        assert_eq!(layout.delay, 7);
    }

    #[test]
    fn impossible_guests_are_refused() {
        let fine = Guest::default();
        for guest in [
            Guest { memory_mib: 3, ..fine.clone() },
            Guest { memory_mib: 4096, ..fine.clone() },
            Guest { filled: 1.1, ..fine.clone() },
            Guest { filled: f64::NAN, ..fine.clone() },
            Guest { working_set_mib: 256, ..fine.clone() },
            Guest { dirty_delay: 0, ..fine.clone() },
        ] {
            assert!(guest.layout().is_err(), "{guest:?}");
        }
    }
}
