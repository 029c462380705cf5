//! Reads a migrator's executable: addresses of its phase functions, its version, and the meaning of its state numbers.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use dwcp_observer_ebpf::phase::{PENDING_OF_THREE, PENDING_OF_TWO, PENDING_STRUCT};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    FUNCTIONS,
    elf::{Elf, ElfError},
    states::Names,
};
use crate::model::qemu::Version;

/// What stands before the version in QEMU's read-only data (`softmmu/vl.c`, `system/vl.c`: `version()`).
const VERSION_MARK: &[u8] = b"QEMU emulator version ";
/// Read at a time when looking for the version.
const CHUNK: usize = 256 << 10;
/// Constants that are searched for the version, bytes.
const MAX_SEARCH: u64 = 64 << 20;
/// Tables of names (`QEnumLookup`, include/qapi/util.h): migration states, run states.
const LOOKUPS: [&str; 2] = ["MigrationStatus_lookup", "RunState_lookup"];
/// Exported by versions whose loop counts the rounds.
const LOOP_COUNTS: &[u8] = b"qemu_savevm_query_pending_final";
/// Functions that tell what is left, by the version that has them.
const PENDING: [(&str, u32); 3] = [
    ("qemu_savevm_state_pending_exact", PENDING_OF_TWO),
    ("qemu_savevm_state_pending", PENDING_OF_THREE),
    ("qemu_savevm_query_pending_iter", PENDING_STRUCT),
];
/// Names in such a table, at most; QEMU 11.1 has 17 and 16.
const MAX_NAMES: i32 = 64;
/// Longest name.
const NAME_LEN: usize = 48;

/// What an executable offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binary {
    /// File offset of each phase function that is exported: its place in [`FUNCTIONS`] and the offset.
    pub offsets: Vec<(usize, u64)>,
    /// QEMU's version; `None` when the executable does not say.
    pub version: Option<Version>,
    /// Names of migration states, then of run states, in order of their numbers; empty where they are not exported.
    pub names: [Vec<String>; 2],
    /// Its rounds are counted by the loop of the migration: see [`Names::counts_rounds_in_loop`].
    pub rounds_in_loop: bool,
    /// How it tells what is left: one of `PENDING_*`, or 0 where it exports no such function.
    pub pending_form: u32,
}

/// Why an executable cannot be used.
#[derive(Debug, Error)]
pub enum BinaryError {
    /// It cannot be read.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// It exports no phase function.
    #[error(
        "the executable exports none of QEMU's phase functions (it is statically linked or fully stripped)"
    )]
    NoSymbols,
}

impl Binary {
    /// Whether a place that it does not have is no loss: but for 8.0 to 10.0, one function tells what is left before and after a fetch.
    #[must_use]
    pub fn can_do_without(&self, place: usize) -> bool {
        matches!(self.pending_form, PENDING_OF_THREE | PENDING_STRUCT)
            && FUNCTIONS
                .get(place)
                .is_some_and(|function| function.symbol() == "qemu_savevm_state_pending_estimate")
    }

    /// What its numbers mean.
    #[must_use]
    pub fn meaning(&self) -> Names {
        let [migration, run] = &self.names;
        Names::of_binary(migration, run, self.version)
            .with_rounds_in_loop(self.rounds_in_loop)
            .with_pending_form(self.pending_form)
    }
}

/// What is wanted of an executable's symbols.
enum Wanted {
    Function(&'static str),
    Lookup(usize),
    LoopCounts,
}

/// Looks for the phase functions and the names of states among the exported symbols.
///
/// # Errors
/// [`BinaryError`].
pub fn read(file: &File) -> Result<Binary, BinaryError> {
    let elf = Elf::open(file)?;
    let (mut functions, mut lookups) = (Vec::new(), [None; 2]);
    let mut rounds_in_loop = false;
    for (symbol, address) in elf.symbols(wanted)? {
        match symbol {
            Wanted::LoopCounts => rounds_in_loop = true,
            Wanted::Lookup(index) => lookups[index] = Some(address),
            Wanted::Function(name) => functions.extend(Some(name).zip(elf.offset(address))),
        }
    }
    let offsets = offsets(&functions);
    // Another program may have a `vm_start` of its own.
    if !offsets.iter().any(|(place, _)| FUNCTIONS[*place].required) {
        return Err(BinaryError::NoSymbols);
    }
    Ok(Binary {
        offsets,
        version: find_version(file, elf.constants()).map_err(ElfError::from)?,
        // The table by version stands in for what cannot be read.
        names: read_names(&elf, lookups).unwrap_or_default(),
        rounds_in_loop,
        pending_form: pending_form(&functions),
    })
}

fn wanted(name: &[u8]) -> Option<Wanted> {
    if name == LOOP_COUNTS {
        return Some(Wanted::LoopCounts);
    }
    if let Some(index) = LOOKUPS.iter().position(|lookup| lookup.as_bytes() == name) {
        return Some(Wanted::Lookup(index));
    }
    let symbols = FUNCTIONS.iter().flat_map(|function| function.symbols);
    let mut symbols = symbols.filter(|symbol| symbol.as_bytes() == name);
    symbols.next().map(|symbol| Wanted::Function(symbol))
}

/// The first of the functions that is there, in the order in which its place looks for them.
fn pending_form(functions: &[(&str, u64)]) -> u32 {
    let there = |symbol: &str| functions.iter().any(|(name, _)| *name == symbol);
    PENDING.iter().find(|(symbol, _)| there(symbol)).map_or(0, |(_, form)| *form)
}

/// The offset of each place: of the first of its symbols that is there.
fn offsets(functions: &[(&str, u64)]) -> Vec<(usize, u64)> {
    let of = |symbol: &str| functions.iter().find(|(name, _)| *name == symbol);
    let places = FUNCTIONS.iter().enumerate();
    places
        .filter_map(|(place, function)| {
            Some((place, function.symbols.iter().find_map(|symbol| of(symbol))?.1))
        })
        .collect()
}

/// `struct QEnumLookup`: `const char *const *array`, `const unsigned char *special_features` or `features`, `const int size`.
fn read_names(elf: &Elf<'_>, lookups: [Option<u64>; 2]) -> Result<[Vec<String>; 2], ElfError> {
    let heads: Vec<_> = lookups.map(|at| at.map_or(0..0, |at| at..at.saturating_add(8))).into();
    let mut arrays = Vec::new();
    for (at, head) in lookups.iter().zip(elf.pointers(&heads)?) {
        let size = match at {
            Some(at) => i32::from_ne_bytes(elf.number(at.saturating_add(16))?),
            None => 0,
        };
        let size = if (0..=MAX_NAMES).contains(&size) { u64::from(size.unsigned_abs()) } else { 0 };
        let array = head.first().copied().unwrap_or_default();
        arrays.push(array..array.saturating_add(size * 8));
    }
    let mut names = elf.pointers(&arrays)?.into_iter().map(|pointers| {
        // A number that this build leaves out has no name.
        let name = |pointer: u64| {
            if pointer == 0 { Ok(String::new()) } else { elf.text::<NAME_LEN>(pointer) }
        };
        pointers.into_iter().map(name).collect::<Result<Vec<_>, _>>()
    });
    let mut next = || names.next().transpose().map(Option::unwrap_or_default);
    Ok([next()?, next()?])
}

/// The version that QEMU prints for `-version`, within these parts of the file.
fn find_version(
    file: &File,
    parts: impl Iterator<Item = (u64, u64)>,
) -> io::Result<Option<Version>> {
    let mut buffer = vec![0; CHUNK];
    let mut left = MAX_SEARCH;
    for (mut at, size) in parts {
        let end = at.saturating_add(size.min(left));
        left -= size.min(left);
        while at < end {
            let length = (end - at).min(CHUNK as u64) as usize;
            let read = file.read_at(&mut buffer[..length], at)?;
            let last = at + read as u64 >= end || read == 0;
            if let Some(version) = version_in(&buffer[..read], last) {
                return Ok(Some(version));
            }
            // What may be the begin of the mark, or the mark without its number, is looked at again.
            let step = read.saturating_sub(VERSION_MARK.len() + 16);
            if step == 0 {
                break;
            }
            at += step as u64;
        }
    }
    Ok(None)
}

/// `last`: nothing follows the window, in which the number may be cut short otherwise.
fn version_in(window: &[u8], last: bool) -> Option<Version> {
    let at = memchr::memmem::find(window, VERSION_MARK)?;
    let text = &window[at + VERSION_MARK.len()..];
    if text.len() < 16 && !last {
        return None;
    }
    Version::parse(&String::from_utf8_lossy(&text[..text.len().min(16)]))
}

#[cfg(test)]
#[path = "binary_tests.rs"]
mod tests;
