//! Reads a migrator's executable: where its phase functions are and which version it is.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
};

use object::{
    Object as _, ObjectSegment as _, ObjectSymbol as _, ReadCache,
    read::elf::{ElfFile64, FileHeader as _},
};
use thiserror::Error;

use super::{
    FUNCTIONS,
    states::{Names, Version},
};

/// What stands before the version in QEMU's read-only data (`softmmu/vl.c`, `system/vl.c`: `version()`).
const VERSION_MARK: &[u8] = b"QEMU emulator version ";
/// Read at a time when looking for the version.
const CHUNK: usize = 256 << 10;
/// Largest executable that is searched for its version.
const MAX_SEARCH: u64 = 256 << 20;

/// Identifies an executable whatever its path: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    device: u64,
    inode: u64,
}

/// What an executable offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    /// File offset of each exported phase function.
    pub offsets: HashMap<&'static str, u64>,
    /// QEMU's version; `None` when the executable does not say.
    pub version: Option<Version>,
    /// What its numbers mean.
    pub names: Names,
}

/// Why an executable cannot be used.
#[derive(Debug, Error)]
pub enum BinaryError {
    /// It cannot be read.
    #[error("cannot read the executable: {0}")]
    Read(#[from] io::Error),
    /// Not a 64-bit ELF file.
    #[error("not a 64-bit ELF executable: {0}")]
    Elf(#[from] object::Error),
    /// It exports no phase function.
    #[error("exports none of QEMU's phase functions (statically linked, or fully stripped)")]
    NoSymbols,
}

/// The identity of an executable.
///
/// # Errors
/// What `fstat(2)` says.
pub fn identify(file: &File) -> io::Result<FileId> {
    let meta = file.metadata()?;
    Ok(FileId { device: meta.dev(), inode: meta.ino() })
}

/// Looks for the phase functions among the exported symbols.
///
/// # Errors
/// [`BinaryError`].
pub fn read(file: &File) -> Result<Binary, BinaryError> {
    let mut file = file.try_clone()?;
    // Reads what it needs: the file may be far larger than its symbol table.
    let cache = ReadCache::new(file.try_clone()?);
    let elf = ElfFile64::<object::Endianness, _>::parse(&cache)?;
    let endian = elf.endian();
    let segments: Vec<(u64, u64, u64)> = elf
        .segments()
        .map(|segment| {
            let (offset, size) = segment.file_range();
            (segment.address(), offset, size)
        })
        .collect();
    let mut offsets = HashMap::new();
    for symbol in elf.dynamic_symbols() {
        let Ok(name) = symbol.name() else { continue };
        let Some(function) = FUNCTIONS.iter().find(|function| function.symbol == name) else {
            continue;
        };
        if symbol.address() == 0 {
            continue;
        }
        let segment = segments.iter().find(|(address, _, size)| {
            (*address..address.saturating_add(*size)).contains(&symbol.address())
        });
        if let Some((address, offset, _)) = segment {
            offsets.insert(function.symbol, symbol.address() - address + offset);
        }
    }
    // Only the type is asked for, so that an object file or a core dump is told apart.
    let kind = elf.elf_header().e_type(endian);
    if offsets.is_empty() || !matches!(kind, object::elf::ET_EXEC | object::elf::ET_DYN) {
        return Err(BinaryError::NoSymbols);
    }
    let version = find_version(&mut file)?;
    Ok(Binary { offsets, version, names: Names::of_version(version) })
}

/// The version that QEMU prints for `-version`.
fn find_version(file: &mut File) -> io::Result<Option<Version>> {
    let mut buffer = vec![0; CHUNK];
    let mut kept = 0;
    let mut total = 0;
    file.seek(SeekFrom::Start(0))?;
    loop {
        let read = file.read(&mut buffer[kept..])?;
        let filled = kept + read;
        let window = &buffer[..filled];
        if let Some(at) = memchr::memmem::find(window, VERSION_MARK) {
            let text = &window[at + VERSION_MARK.len()..];
            if text.len() >= 16 || read == 0 {
                return Ok(Version::parse(&String::from_utf8_lossy(&text[..text.len().min(16)])));
            }
        }
        total += read as u64;
        if read == 0 || total > MAX_SEARCH {
            return Ok(None);
        }
        // What may be the begin of the mark, or the mark without its number, goes before the next chunk.
        kept = filled.min(VERSION_MARK.len() + 16);
        buffer.copy_within(filled - kept..filled, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_version_is_found_across_chunks() {
        let path = std::env::temp_dir().join(format!("dwcp-version-{}", std::process::id()));
        for at in [0, CHUNK - 60, CHUNK - 10, CHUNK - 1, CHUNK + 5] {
            let mut content = vec![b'x'; at];
            content.extend_from_slice(VERSION_MARK);
            content.extend_from_slice(b"9.2.3 (Debian)\n and more after it");
            std::fs::write(&path, &content).unwrap();
            let found = find_version(&mut File::open(&path).unwrap()).unwrap();
            assert_eq!(found, Some(Version { major: 9, minor: 2 }), "at {at}");
        }
        std::fs::write(&path, vec![b'x'; 3 * CHUNK]).unwrap();
        assert_eq!(find_version(&mut File::open(&path).unwrap()).unwrap(), None);
        std::fs::remove_file(path).unwrap();
    }
}
