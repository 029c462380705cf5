//! Finds the post function of a provider's library, which `ibv_post_send` calls through a pointer.
//!
//! Providers do not export it. Each passes a table of its functions, `struct verbs_context_ops`, to libibverbs
//! (`verbs_set_ops`), and that table is in its file: the relocations show which function is at which offset. A table is accepted
//! if every function that all providers have is at its offset, and the code takes the table's address.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
};

use object::{
    Architecture, Object as _, ObjectSection as _, ObjectSegment as _, ReadCache, RelocationTarget,
    read::elf::ElfFile64,
};
use thiserror::Error;

/// What a provider of the known layout asks libibverbs for.
const REGISTER: &str = "verbs_register_driver_";
/// The private interface whose table is known, that of rdma-core 44.
const KNOWN: &str = "34";

/// Places of `struct verbs_context_ops` (libibverbs/driver.h of rdma-core 44) that every provider fills.
const PLACES: [u64; 12] = [
    5,  // alloc_pd
    19, // create_qp
    26, // dealloc_pd
    28, // dereg_mr
    31, // destroy_cq
    34, // destroy_qp
    47, // modify_qp
    53, // poll_cq
    54, // post_recv
    POST_SEND, 60, // query_port
    68, // reg_mr
];
const POST_SEND: u64 = 55;
/// Bytes of a place.
const PLACE: u64 = 8;

/// Largest library that is read.
const MAX_BYTES: u64 = 64 << 20;

/// Why no function was found.
#[derive(Debug, Error)]
pub(super) enum ProviderError {
    /// It cannot be read.
    #[error("cannot read the library: {0}")]
    Read(#[from] io::Error),
    /// Larger than any library.
    #[error("the file is too large for a library")]
    TooLarge,
    /// Not a 64-bit ELF file.
    #[error("not a 64-bit ELF library: {0}")]
    Elf(#[from] object::Error),
    /// Addresses are taken in another way there.
    #[error("only x86-64 libraries are supported; set the offset in the configuration")]
    Architecture,
    /// It registers no provider.
    #[error("the library registers no provider with libibverbs")]
    NoProvider,
    /// It was built for another libibverbs than the table is known of.
    #[error(
        "the library was built for another rdma-core (interface {0}, supported is {KNOWN}); set the offset in the configuration"
    )]
    Interface(String),
    /// It fills its table at run time, or in pieces.
    #[error(
        "the file does not contain a complete function table; set the offset in the configuration"
    )]
    NoTable,
    /// More than one fits.
    #[error("{0} function tables match; set the offset in the configuration")]
    Ambiguous(usize),
    /// The function is in no segment of the file.
    #[error("the post function is not in the file")]
    NotInFile,
}

/// Offset in the file of the provider's post function.
///
/// # Errors
/// [`ProviderError`]: nothing is guessed.
pub(super) fn post_function(file: &File) -> Result<u64, ProviderError> {
    if file.metadata()?.len() > MAX_BYTES {
        return Err(ProviderError::TooLarge);
    }
    let cache = ReadCache::new(file.try_clone()?);
    let elf = ElfFile64::<object::Endianness, _>::parse(&cache)?;
    if elf.architecture() != Architecture::X86_64 {
        return Err(ProviderError::Architecture);
    }
    let imports = elf.imports()?;
    let register =
        imports.iter().find_map(|import| import.name().strip_prefix(REGISTER.as_bytes()));
    match register {
        None => return Err(ProviderError::NoProvider),
        Some(interface) if interface != KNOWN.as_bytes() => {
            return Err(ProviderError::Interface(String::from_utf8_lossy(interface).into_owned()));
        }
        Some(_) => {}
    }
    let text = elf.section_by_name(".text").ok_or(ProviderError::NoTable)?;
    let code = text.address()..text.address().saturating_add(text.size());
    // Each word that the loader fills, and with what: a function of the library itself, or one that it imports.
    let mut words: HashMap<u64, Option<u64>> = HashMap::new();
    for (address, relocation) in elf.dynamic_relocations().into_iter().flatten() {
        let value = match relocation.target() {
            RelocationTarget::Absolute => {
                Some(relocation.addend().cast_unsigned()).filter(|value| code.contains(value))
            }
            RelocationTarget::Symbol(_) => None,
            _ => continue,
        };
        let imported = matches!(relocation.target(), RelocationTarget::Symbol(_));
        if imported || value.is_some() {
            words.insert(address, value);
        }
    }
    let fits = |table: u64| PLACES.iter().all(|place| words.contains_key(&(table + PLACE * place)));
    let taken = addresses_taken(text.data()?, text.address());
    let mut tables: Vec<u64> = taken.into_iter().filter(|address| fits(*address)).collect();
    // A library may have a table per generation of its devices; they may share the function.
    tables.sort_unstable();
    let functions: HashSet<Option<u64>> = tables
        .iter()
        .filter_map(|table| words.get(&(table + PLACE * POST_SEND)).copied())
        .collect();
    let mut functions = functions.into_iter();
    let function = match (functions.next(), functions.next()) {
        (None, _) => return Err(ProviderError::NoTable),
        (Some(_), Some(_)) => return Err(ProviderError::Ambiguous(2 + functions.count())),
        // One that is imported is another file's.
        (Some(function), None) => function.ok_or(ProviderError::NotInFile)?,
    };
    elf.segments()
        .find_map(|segment| {
            let (offset, size) = segment.file_range();
            let inside = function.checked_sub(segment.address()).filter(|inside| *inside < size)?;
            Some(offset + inside)
        })
        .ok_or(ProviderError::NotInFile)
}

/// Addresses that code loads relative to itself: `lea REGISTER, [rip + DISTANCE]` (REX.W 8D /r, of mode 0 and base 5). Every byte is
/// taken for the beginning of an instruction, so that there are more than the real ones.
fn addresses_taken(code: &[u8], address: u64) -> HashSet<u64> {
    const LENGTH: usize = 7;
    let taken = code.windows(LENGTH).zip(address..).filter_map(|(bytes, at)| {
        let &[rex, 0x8d, register, ref distance @ ..] = bytes else { return None };
        if !matches!(rex, 0x48 | 0x4c) || register & 0xc7 != 5 {
            return None;
        }
        let distance = i32::from_le_bytes(*distance.first_chunk()?);
        at.checked_add(LENGTH as u64)?.checked_add_signed(distance.into())
    });
    taken.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_relative_to_the_next_instruction() {
        // nop; lea rsi, [rip + 0x10]; lea r9, [rip - 8]; mov rsi, [rip + 0x10]
        let code = [
            0x90, 0x48, 0x8d, 0x35, 0x10, 0, 0, 0, 0x4c, 0x8d, 0x0d, 0xf8, 0xff, 0xff, 0xff, 0x48,
            0x8b, 0x35, 0x10, 0, 0, 0,
        ];
        assert_eq!(addresses_taken(&code, 0x1000), HashSet::from([0x1018, 0x1007]));
    }

    #[test]
    fn what_is_no_provider_says_so() {
        // Whichever of both: with its debug information a test is larger than a library.
        let found = post_function(&File::open("/proc/self/exe").unwrap());
        assert!(
            matches!(found, Err(ProviderError::NoProvider | ProviderError::TooLarge)),
            "{found:?}"
        );
        let found = post_function(&File::open("/proc/self/status").unwrap());
        assert!(matches!(found, Err(ProviderError::Elf(_))), "{found:?}");
    }
}
