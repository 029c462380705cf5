//! The guest: a boot sector that fills RAM and then dirties a bounded set of pages.
//!
//! It is assembled at run time, since its sizes and its dirty rate are parameters.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

const SOURCE: &str = include_str!("guest.S");
const ROM_SOURCE: &str = include_str!("guest_rom.S");
/// The boot sector itself and the BIOS area lie below.
const FILL_START_MIB: u32 = 1;
/// The `pc` machine has its PCI hole above this.
const MAX_MEMORY_MIB: u32 = 2048;

/// What the byte on the serial line means that the guest writes when its RAM is filled.
pub const FILLED: u8 = b'F';
/// The byte on the serial line that makes the guest dirty pages at its storm's rate.
pub const STORM: u8 = b'S';
/// The byte on the serial line that makes it go back to its ordinary rate.
pub const CALM: u8 = b'C';
/// How often a guest that does not tick looks at its clock.
const BEAT: Duration = Duration::from_micros(100);

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
    /// The same while the guest is told to storm ([`crate::qemu::Qemu::set_storm`]), at least 1.
    /// With 100 turns it dirties several GB/s: its whole working set between two passes of a
    /// migration. How much that is, the working set decides.
    pub storm_delay: u32,
    /// The guest writes one byte, a running number, to its second serial line at this period, by
    /// its time stamp counter; 20 us to 100 ms. See [`crate::clock`]. `None` for a silent guest.
    pub tick: Option<Duration>,
}

impl Default for Guest {
    /// 256 MiB, all filled, 8 MiB of it rewritten slowly enough for a migration to converge;
    /// silent.
    fn default() -> Self {
        Self {
            memory_mib: 256,
            filled: 1.0,
            working_set_mib: 8,
            dirty_delay: 20_000,
            storm_delay: 100,
            tick: None,
        }
    }
}

impl Guest {
    /// Assembles the boot sector into `directory` and returns its path.
    ///
    /// # Errors
    /// When a parameter is out of its range, or binutils are missing or fail.
    pub fn assemble(&self, directory: &Path) -> Result<PathBuf> {
        self.assemble_sector(directory, Pace::Fast)
    }

    /// Assembles the boot sector into a ROM that takes the BIOS's place, and for a CPU of which
    /// some kinds execute these instructions a thousand times slower: it fills one word of each
    /// page, which makes a migration send it whole all the same.
    ///
    /// # Errors
    /// As [`Self::assemble`].
    pub fn assemble_rom(&self, directory: &Path) -> Result<PathBuf> {
        self.assemble_sector(directory, Pace::Slow)?;
        assemble_flat(directory, "guest_rom", ROM_SOURCE, 0, &[], 1 << 16)
    }

    fn assemble_sector(&self, directory: &Path, pace: Pace) -> Result<PathBuf> {
        let layout = self.layout()?;
        let symbols = layout.symbols().into_iter().chain(pace.symbols()).collect::<Vec<_>>();
        assemble_flat(directory, "guest", SOURCE, 0x7c00, &symbols, 512)
    }

    fn layout(&self) -> Result<Layout> {
        const MIB: u32 = 1 << 20;
        ensure!(
            (4..=MAX_MEMORY_MIB).contains(&self.memory_mib),
            "guest memory of {} MiB: 4 to {MAX_MEMORY_MIB} are possible",
            self.memory_mib
        );
        ensure!((0.0..=1.0).contains(&self.filled), "filled share {} of 0 to 1", self.filled);
        ensure!(self.dirty_delay >= 1 && self.storm_delay >= 1, "the delays are at least 1");
        let beat = self.tick.unwrap_or(BEAT);
        ensure!(
            (Duration::from_micros(20)..=Duration::from_millis(100)).contains(&beat),
            "a tick of {beat:?}: 20 us to 100 ms are possible"
        );
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
        ensure!(
            self.tick.is_none() || cfg!(target_arch = "x86_64"),
            "a guest ticks on x86-64 hosts only"
        );
        Ok(Layout {
            fill_start,
            fill_end: fill_start + pages * 4096,
            work_start: fill_start,
            work_end: fill_start + self.working_set_mib * MIB,
            delay: self.dirty_delay,
            storm_delay: self.storm_delay,
            beat,
            tick: self.tick.is_some(),
        })
    }
}

/// How fast the CPU is that runs the guest.
#[derive(Clone, Copy)]
enum Pace {
    Fast,
    Slow,
}

impl Pace {
    fn symbols(self) -> [(&'static str, u32); 2] {
        match self {
            Self::Fast => [("FILL_STEP", 4), ("CHUNK", 1000)],
            Self::Slow => [("FILL_STEP", 4096), ("CHUNK", 10)],
        }
    }
}

struct Layout {
    fill_start: u32,
    fill_end: u32,
    work_start: u32,
    work_end: u32,
    delay: u32,
    storm_delay: u32,
    beat: Duration,
    tick: bool,
}

impl Layout {
    fn symbols(&self) -> [(&'static str, u32); 8] {
        let cycles = self.beat.as_secs_f64() * tsc_frequency();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most 100 ms of some GHz"
        )]
        let cycles = cycles as u32;
        [
            ("FILL_START", self.fill_start),
            ("FILL_END", self.fill_end),
            ("WORK_START", self.work_start),
            ("WORK_END", self.work_end),
            ("DELAY", self.delay),
            ("STORM_DELAY", self.storm_delay),
            ("BEAT", cycles),
            ("TICK", u32::from(self.tick)),
        ]
    }
}

/// Cycles per second of the time stamp counter, which a guest sees unscaled, under TCG too.
fn tsc_frequency() -> f64 {
    static FREQUENCY: OnceLock<f64> = OnceLock::new();
    *FREQUENCY.get_or_init(|| {
        let (start, first) = (Instant::now(), tsc());
        std::thread::sleep(Duration::from_millis(20));
        let (elapsed, last) = (start.elapsed(), tsc());
        last.wrapping_sub(first) as f64 / elapsed.as_secs_f64()
    })
}

#[cfg(target_arch = "x86_64")]
fn tsc() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and Linux lets everybody use it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Other hosts' QEMU has no steady counter for an x86 guest; it is not asked for a steady tick.
#[cfg(not(target_arch = "x86_64"))]
fn tsc() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Assembles `source` to run at `address`; the result has to have `size` bytes.
fn assemble_flat(
    directory: &Path,
    name: &str,
    source: &str,
    address: u32,
    symbols: &[(&str, u32)],
    size: u64,
) -> Result<PathBuf> {
    let path = |extension| directory.join(format!("{name}.{extension}"));
    let (text, object, flat) = (path("S"), path("o"), path("bin"));
    std::fs::write(&text, source)?;
    let mut assemble = Command::new("as");
    assemble.arg("--32").arg("-I").arg(directory);
    for (symbol, value) in symbols {
        assemble.arg("--defsym").arg(format!("{symbol}={value}"));
    }
    run(assemble.arg("-o").arg(&object).arg(&text))?;
    run(Command::new("ld")
        .args(["-m", "elf_i386", "-Ttext", &format!("{address:#x}"), "--oformat", "binary", "-o"])
        .arg(&flat)
        .arg(&object))?;
    let found = std::fs::metadata(&flat)?.len();
    ensure!(found == size, "{name} has {found} bytes instead of {size}");
    Ok(flat)
}

pub(crate) fn run(command: &mut Command) -> Result<()> {
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
        let tick = Some(Duration::from_micros(100));
        for guest in [
            Guest::default(),
            Guest { working_set_mib: 0, ..Guest::default() },
            Guest { tick, ..Guest::default() },
            Guest { working_set_mib: 0, tick, ..Guest::default() },
        ] {
            let sector = std::fs::read(guest.assemble(directory.path()).unwrap()).unwrap();
            assert_eq!(sector.len(), 512);
            assert_eq!(sector[510..], [0x55, 0xaa]);
            let rom = std::fs::read(guest.assemble_rom(directory.path()).unwrap()).unwrap();
            assert_eq!(rom[0xfc00 + 510..0xfe00], [0x55, 0xaa]);
            assert_eq!(rom[0xfff0], 0xea, "a far jump");
        }
    }

    #[test]
    fn sizes_follow_the_parameters() {
        let guest = Guest {
            memory_mib: 129,
            filled: 0.5,
            working_set_mib: 2,
            dirty_delay: 7,
            ..Guest::default()
        };
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
            Guest { storm_delay: 0, ..fine.clone() },
            Guest { tick: Some(Duration::from_micros(19)), ..fine.clone() },
            Guest { tick: Some(Duration::from_millis(101)), ..fine.clone() },
        ] {
            assert!(guest.layout().is_err(), "{guest:?}");
        }
    }
}
