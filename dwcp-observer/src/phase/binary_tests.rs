use std::{fs::File, io::Write as _, os::unix::fs::FileExt as _};

use dwcp_observer_ebpf::phase::PLACE_PENDING;

use super::*;
use crate::{
    model::qemu::{MigratorState, RunState},
    phase::elf::MAX_SYMBOLS,
};

/// A file without a name.
fn file(content: &[u8]) -> File {
    let fd = rustix::fs::memfd_create("elf", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(fd);
    file.write_all(content).unwrap();
    file
}

/// An executable as a linker makes it, all in one segment at address `BASE`.
#[derive(Default)]
struct Maker {
    data: Vec<u8>,
    symbols: Vec<u8>,
    names: Vec<u8>,
    relocations: Vec<u8>,
    /// Pointers are relocated, as in an executable that runs at any address.
    relocated: bool,
}

const BASE: u64 = 0x40_0000;
const HEADER: u64 = 64 + 56 + 4 * 64;

impl Maker {
    fn new(relocated: bool) -> Self {
        Self { relocated, symbols: vec![0; 24], names: vec![0], ..Self::default() }
    }

    fn put(&mut self, bytes: &[u8]) -> u64 {
        let at = BASE + HEADER + self.data.len() as u64;
        self.data.extend(bytes);
        self.data.resize(self.data.len().next_multiple_of(8), 0);
        at
    }

    fn pointer(&mut self, to: u64) -> u64 {
        let at = self.put(&if self.relocated { 0 } else { to }.to_ne_bytes());
        if self.relocated {
            for word in [at, 8, to] {
                self.relocations.extend(word.to_ne_bytes());
            }
        }
        at
    }

    fn symbol(&mut self, name: &str, address: u64) {
        let at = self.names.len() as u32;
        self.names.extend(name.bytes().chain([0]));
        self.symbols.extend(at.to_ne_bytes());
        self.symbols.extend([0x12, 0, 1, 0]);
        self.symbols.extend(address.to_ne_bytes());
        self.symbols.extend([0; 8]);
    }

    fn lookup(&mut self, name: &str, names: &[&str]) {
        let texts: Vec<u64> =
            names.iter().map(|name| self.put(&[name.as_bytes(), b"\0"].concat())).collect();
        let array = BASE + HEADER + self.data.len() as u64;
        for text in texts {
            self.pointer(text);
        }
        let at = self.pointer(array);
        self.put(&0u64.to_ne_bytes());
        self.put(&(names.len() as u64).to_ne_bytes());
        self.symbol(name, at);
    }

    fn finish(self) -> Vec<u8> {
        let mut at = HEADER + self.data.len() as u64;
        let mut sections = vec![0u8; 64];
        let mut section = |kind: u32, bytes: &[u8], link: u32| {
            let mut header = [0u8; 64];
            header[4..8].copy_from_slice(&kind.to_ne_bytes());
            header[24..32].copy_from_slice(&at.to_ne_bytes());
            header[32..40].copy_from_slice(&(bytes.len() as u64).to_ne_bytes());
            header[40..44].copy_from_slice(&link.to_ne_bytes());
            sections.extend(header);
            at += bytes.len() as u64;
        };
        section(11, &self.symbols, 2);
        section(3, &self.names, 0);
        section(4, &self.relocations, 0);
        let mut elf = vec![0u8; 64];
        let order = if cfg!(target_endian = "little") { 1 } else { 2 };
        elf[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, order, 1]);
        elf[16..18].copy_from_slice(&3u16.to_ne_bytes());
        elf[32..40].copy_from_slice(&64u64.to_ne_bytes());
        elf[40..48].copy_from_slice(&120u64.to_ne_bytes());
        for (at, value) in [(54, 56u16), (56, 1), (58, 64), (60, 4)] {
            elf[at..at + 2].copy_from_slice(&value.to_ne_bytes());
        }
        let size = HEADER + self.data.len() as u64;
        let mut segment = [0u8; 56];
        segment[0..4].copy_from_slice(&1u32.to_ne_bytes());
        segment[4..8].copy_from_slice(&4u32.to_ne_bytes());
        segment[16..24].copy_from_slice(&BASE.to_ne_bytes());
        segment[32..40].copy_from_slice(&size.to_ne_bytes());
        [elf, segment.into(), sections, self.data, self.symbols, self.names, self.relocations]
            .concat()
    }
}

fn qemu(relocated: bool) -> Vec<u8> {
    let mut maker = Maker::new(relocated);
    maker.put(b"QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1)\n\0");
    let code = maker.put(&[0x90; 64]);
    maker.symbol("migrate_set_state", code);
    maker.symbol("qemu_savevm_state_non_iterable", code + 16);
    maker.symbol("migrate_error_propagate", 0);
    maker.symbol("qemu_savevm_query_pending_final", code + 32);
    maker.symbol("qemu_savevm_query_pending_iter", code + 48);
    maker.lookup("MigrationStatus_lookup", &["none", "setup", "brand-new", "completed"]);
    maker.lookup("RunState_lookup", &["debug", "running"]);
    maker.finish()
}

#[test]
fn functions_version_and_names_are_read_from_either_kind_of_executable() {
    for relocated in [true, false] {
        let found = read(&file(&qemu(relocated))).unwrap();
        let places: Vec<_> =
            found.offsets.iter().map(|(place, _)| FUNCTIONS[*place].symbol()).collect();
        assert_eq!(
            places,
            [
                "migrate_set_state",
                "qemu_savevm_state_complete_precopy_non_iterable",
                "qemu_savevm_state_pending_exact",
                "qemu_savevm_state_pending_exact"
            ],
            "one under another version's name, none that is only declared"
        );
        let [(_, first), (_, second), ..] = found.offsets[..] else { panic!() };
        assert_eq!((second - first, first % 8), (16, 0));
        assert_eq!(found.version, Some(Version { major: 11, minor: 1 }));
        let names = found.meaning();
        assert_eq!(names.state(2), None);
        assert_eq!(names.state(3), Some(MigratorState::Completed));
        assert_eq!(names.run_state(1), Some(RunState::Running));
        assert!(names.counts_rounds_in_loop());
        assert_eq!(names.pending_form(), PENDING_STRUCT);
    }
}

#[test]
fn what_is_left_is_told_by_the_function_that_the_version_has() {
    for (symbols, form, lacks) in [
        (&["qemu_savevm_state_pending"][..], PENDING_OF_THREE, 0),
        (
            &["qemu_savevm_state_pending_estimate", "qemu_savevm_state_pending_exact"],
            PENDING_OF_TWO,
            0,
        ),
        // Half of it is missed.
        (&["qemu_savevm_state_pending_exact"], PENDING_OF_TWO, 2),
        (&["qemu_savevm_query_pending_iter"], PENDING_STRUCT, 0),
        // What it would fill is not known.
        (&["qemu_savevm_query_pending"], 0, 4),
    ] {
        let mut maker = Maker::new(true);
        let code = maker.put(&[0x90; 64]);
        maker.symbol("migrate_set_state", code);
        for symbol in symbols {
            maker.symbol(symbol, code + 16);
        }
        let found = read(&file(&maker.finish())).unwrap();
        let told = |place: &usize| FUNCTIONS[*place].number >= PLACE_PENDING;
        let missing = (0..FUNCTIONS.len()).filter(|place| {
            told(place)
                && !found.offsets.iter().any(|(at, _)| at == place)
                && !found.can_do_without(*place)
        });
        assert_eq!((found.pending_form, missing.count()), (form, lacks), "{symbols:?}");
    }
}

#[test]
fn an_executable_without_phase_functions_says_so() {
    let found = read(&File::open("/proc/self/exe").unwrap());
    assert!(matches!(found, Err(BinaryError::NoSymbols)), "{found:?}");
}

#[test]
fn what_is_no_executable_says_so() {
    let found = read(&File::open("/proc/self/status").unwrap());
    assert!(matches!(found, Err(BinaryError::Elf(_))), "{found:?}");
}

#[test]
fn a_file_that_ends_anywhere_is_refused_or_read_as_far_as_it_goes() {
    let whole = qemu(true);
    for length in 0..whole.len() {
        // Whatever comes of it, it is an answer.
        let _ = read(&file(&whole[..length]));
    }
    for at in 0..whole.len().min(HEADER as usize) {
        for value in [0xff, 0x80, 0] {
            let mut broken = whole.clone();
            broken[at] = value;
            let _ = read(&file(&broken));
        }
    }
}

#[test]
fn a_table_that_no_qemu_has_is_named_and_not_read() {
    let mut sparse = qemu(true);
    // The size of `.dynsym`, the second section.
    sparse[120 + 64 + 32..][..8].copy_from_slice(&(512u64 << 20).to_ne_bytes());
    let file = file(&sparse);
    file.set_len(1 << 30).unwrap();
    match read(&file) {
        Err(BinaryError::Elf(ElfError::TooLarge { table, bytes, limit })) => {
            assert_eq!((table, bytes, limit), (".dynsym", 512 << 20, MAX_SYMBOLS));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_version_is_found_across_chunks() {
    for at in [0, CHUNK - 60, CHUNK - 30, CHUNK - 24, CHUNK - 10, CHUNK - 1, CHUNK + 5] {
        let content = file(&[]);
        content
            .write_all_at(b"QEMU emulator version 9.23.3 (Debian)\n and more", at as u64)
            .unwrap();
        let size = content.metadata().unwrap().len();
        let found = find_version(&content, [(0, size)].into_iter()).unwrap();
        assert_eq!(found, Some(Version { major: 9, minor: 23 }), "at {at}");
        assert_eq!(find_version(&content, [(at as u64 + 1, size)].into_iter()).unwrap(), None);
    }
}
