//! Reads parts of an ELF file, with limits, because the file is untrusted and may contain anything.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt as _};

use object::elf::{
    ET_DYN, ET_EXEC, PF_W, PF_X, PT_LOAD, R_AARCH64_RELATIVE, R_X86_64_RELATIVE, SHT_DYNSYM,
    SHT_RELA,
};
use thiserror::Error;

/// Tables as large as QEMU's could ever be: those of QEMU 11.1.3 (Debian, every device built in) have 0.6, 0.7 and 3.2 MiB.
pub const MAX_SYMBOLS: u64 = 16 << 20;
/// Names of symbols, bytes.
pub const MAX_NAMES: u64 = 16 << 20;
/// Relocations, bytes.
pub const MAX_RELOCATIONS: u64 = 64 << 20;
/// Program and section headers that are looked at.
const MAX_HEADERS: u16 = 1024;
/// Read at a time; a multiple of both entries' sizes.
const CHUNK: usize = 24 << 10;
/// `Elf64_Sym`, `Elf64_Rela`.
const ENTRY: usize = 24;

/// Why an executable cannot be read.
#[derive(Debug, Error)]
pub enum ElfError {
    /// What the file system says.
    #[error("cannot read the executable: {0}")]
    Read(#[from] io::Error),
    /// It is none, or one for another machine.
    #[error("not a 64-bit ELF executable of this machine's byte order: {0}")]
    Not(&'static str),
    /// A table is larger than that of any QEMU.
    #[error("{table} has {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// Name of the section.
        table: &'static str,
        /// Its size as the file states it.
        bytes: u64,
        /// Most that is read.
        limit: u64,
    },
}

/// Where something lies in the file, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Span {
    offset: u64,
    size: u64,
}

/// A part of the file that is mapped.
#[derive(Clone, Copy, Debug)]
struct Segment {
    address: u64,
    span: Span,
    /// Neither written nor run: constants.
    constant: bool,
}

/// An executable of this machine's byte order.
#[derive(Debug)]
pub struct Elf<'a> {
    file: &'a File,
    segments: Vec<Segment>,
    symbols: Option<Span>,
    names: Span,
    relocations: Vec<Span>,
}

impl<'a> Elf<'a> {
    /// Reads the headers.
    ///
    /// # Errors
    /// [`ElfError`].
    pub fn open(file: &'a File) -> Result<Self, ElfError> {
        let mut header = [0; 64];
        read(file, 0, &mut header)?;
        let native = if cfg!(target_endian = "little") { 1 } else { 2 };
        if !header.starts_with(b"\x7fELF\x02") || header[5] != native {
            return Err(ElfError::Not("unexpected header"));
        }
        if !matches!(half(&header, 16), ET_EXEC | ET_DYN) {
            return Err(ElfError::Not("not an executable"));
        }
        let mut elf = Self {
            file,
            segments: Vec::new(),
            symbols: None,
            names: Span::default(),
            relocations: Vec::new(),
        };
        elf.read_segments(long(&header, 32), half(&header, 54), half(&header, 56))?;
        elf.read_sections(long(&header, 40), half(&header, 58), half(&header, 60))?;
        Ok(elf)
    }

    fn read_segments(&mut self, at: u64, size: u16, count: u16) -> Result<(), ElfError> {
        for header in headers::<56>(self.file, at, size, count)? {
            let flags = word(&header, 4);
            if word(&header, 0) == PT_LOAD {
                self.segments.push(Segment {
                    address: long(&header, 16),
                    span: Span { offset: long(&header, 8), size: long(&header, 32) },
                    constant: flags & (PF_W | PF_X) == 0,
                });
            }
        }
        Ok(())
    }

    fn read_sections(&mut self, at: u64, size: u16, count: u16) -> Result<(), ElfError> {
        let sections = headers::<64>(self.file, at, size, count)?;
        for section in &sections {
            let span = Span { offset: long(section, 24), size: long(section, 32) };
            match word(section, 4) {
                SHT_DYNSYM => {
                    self.symbols = Some(limited(".dynsym", span, MAX_SYMBOLS)?);
                    let names = sections.get(word(section, 40) as usize);
                    let names = names.ok_or(ElfError::Not("symbols have no names"))?;
                    let names = Span { offset: long(names, 24), size: long(names, 32) };
                    self.names = limited(".dynstr", names, MAX_NAMES)?;
                }
                SHT_RELA => self.relocations.push(limited(".rela.dyn", span, MAX_RELOCATIONS)?),
                _ => {}
            }
        }
        Ok(())
    }

    /// Addresses of exported symbols by name, of those that are defined here and `wanted`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn symbols<T>(
        &self,
        wanted: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<(T, u64)>, ElfError> {
        let Some(symbols) = self.symbols else { return Ok(Vec::new()) };
        let names = self.bytes(self.names)?;
        let mut found = Vec::new();
        self.entries(symbols, |entry| {
            let name = names.get(word(entry, 0) as usize..).unwrap_or_default();
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            let (section, address) = (half(entry, 6), long(entry, 8));
            if section != 0
                && address != 0
                && let Some(symbol) = wanted(name)
            {
                found.push((symbol, address));
            }
        })?;
        Ok(found)
    }

    /// Where an address is in the file; `None` where nothing of it is mapped there.
    #[must_use]
    pub fn offset(&self, address: u64) -> Option<u64> {
        let inside = |segment: &&Segment| {
            address.checked_sub(segment.address).is_some_and(|into| into < segment.span.size)
        };
        let segment = self.segments.iter().find(inside)?;
        segment.span.offset.checked_add(address - segment.address)
    }

    /// Pointers that the loader will put into each range of addresses, by address. Those that no relocation is about hold their value
    /// already: an executable at a fixed address, or one with packed relocations (`DT_RELR`).
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn pointers(&self, ranges: &[Range<u64>]) -> Result<Vec<Vec<u64>>, ElfError> {
        let mut all = Vec::with_capacity(ranges.len());
        for range in ranges {
            let count = range.end.saturating_sub(range.start) / 8;
            let place = |index: u64| self.number::<8>(range.start + index * 8);
            let values = (0..count).map(|index| place(index).map(u64::from_ne_bytes));
            all.push(values.collect::<Result<Vec<u64>, _>>()?);
        }
        for relocations in &self.relocations {
            self.entries(*relocations, |entry| {
                let kind = long(entry, 8) as u32;
                if !matches!(kind, R_X86_64_RELATIVE | R_AARCH64_RELATIVE) {
                    return;
                }
                let (place, value) = (long(entry, 0), long(entry, 16));
                for (range, values) in ranges.iter().zip(&mut all) {
                    let index = place.wrapping_sub(range.start) / 8;
                    if range.contains(&place)
                        && let Some(slot) = values.get_mut(index as usize)
                    {
                        *slot = value;
                    }
                }
            })?;
        }
        Ok(all)
    }

    /// Bytes at an address.
    ///
    /// # Errors
    /// Nothing of the file is mapped there.
    pub fn number<const N: usize>(&self, address: u64) -> Result<[u8; N], ElfError> {
        let mut bytes = [0; N];
        let offset = self.offset(address).ok_or(ElfError::Not("a pointer is out of range"))?;
        read(self.file, offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Text at an address, up to its NUL or `N` bytes.
    ///
    /// # Errors
    /// Nothing of the file is mapped there.
    pub fn text<const N: usize>(&self, address: u64) -> Result<String, ElfError> {
        let mut bytes = [0; N];
        let offset = self.offset(address).ok_or(ElfError::Not("a pointer is out of range"))?;
        let read = self.file.read_at(&mut bytes, offset)?;
        let text = bytes[..read].split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// Where constants lie in the file, offset and size, the last first.
    pub fn constants(&self) -> impl Iterator<Item = (u64, u64)> {
        let constant = self.segments.iter().rev().filter(|segment| segment.constant);
        constant.map(|segment| (segment.span.offset, segment.span.size))
    }

    /// Hands out each entry of a table, a chunk in memory at a time.
    fn entries(&self, table: Span, mut take: impl FnMut(&[u8])) -> Result<(), ElfError> {
        let mut chunk = vec![0; CHUNK];
        let mut at = 0;
        while at < table.size {
            let length = (table.size - at).min(CHUNK as u64) as usize;
            read(self.file, table.offset.saturating_add(at), &mut chunk[..length])?;
            chunk[..length].chunks_exact(ENTRY).for_each(&mut take);
            at += length as u64;
        }
        Ok(())
    }

    /// A table as a whole; its size is limited already.
    fn bytes(&self, span: Span) -> Result<Vec<u8>, ElfError> {
        // A file that claims more than it has costs nothing.
        let length = self.file.metadata()?.len().saturating_sub(span.offset).min(span.size);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        read(self.file, span.offset, &mut bytes)?;
        Ok(bytes)
    }
}

fn limited(table: &'static str, span: Span, limit: u64) -> Result<Span, ElfError> {
    if span.size > limit {
        return Err(ElfError::TooLarge { table, bytes: span.size, limit });
    }
    Ok(span)
}

/// All headers of a table, each as the format has it at least.
fn headers<const N: usize>(
    file: &File,
    at: u64,
    size: u16,
    count: u16,
) -> Result<Vec<[u8; N]>, ElfError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    if usize::from(size) != N || count > MAX_HEADERS {
        return Err(ElfError::Not("unexpected kind of headers"));
    }
    let mut headers = vec![[0; N]; usize::from(count)];
    for (index, header) in (0..).zip(&mut headers) {
        read(file, at.saturating_add(index * N as u64), header)?;
    }
    Ok(headers)
}

fn read(file: &File, offset: u64, bytes: &mut [u8]) -> Result<(), ElfError> {
    match file.read_exact_at(bytes, offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(ElfError::Not("the file is truncated"))
        }
        other => other.map_err(ElfError::Read),
    }
}

fn half(bytes: &[u8], at: usize) -> u16 {
    array(bytes, at).map_or(0, u16::from_ne_bytes)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    array(bytes, at).map_or(0, u32::from_ne_bytes)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    array(bytes, at).map_or(0, u64::from_ne_bytes)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}
