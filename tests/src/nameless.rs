//! A copy of an ELF program whose exported functions have lost their names, as a fully stripped
//! build has none: it runs as before, and nobody finds these functions.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use object::elf::{FileHeader64, STT_FUNC};
use object::read::elf::{ElfFile64, FileHeader, Sym};
use object::{Endianness, Object, ObjectSection};

/// Words of which each of QEMU's functions has one in its name that stops or starts a guest or has
/// a part in a migration. Its modules, of which TCG is one, need none of them.
const PHASE_WORDS: [&str; 10] = [
    "migrat",
    "vm_st",
    "vm_prepare",
    "runstate_set",
    "all_vcpus",
    "savevm",
    "loadvm",
    "multifd",
    "dirty_log",
    "cpu_synchronize_all",
];

/// Whether a function of QEMU by this name has a part in a migration.
#[must_use]
pub fn is_phase_function(name: &str) -> bool {
    PHASE_WORDS.iter().any(|word| name.contains(word))
}

/// Copies `program` to `copy` and takes the names of those exported functions away that `chosen`
/// is true of. Returns how many there were.
///
/// # Errors
/// When it cannot be read or written, or is no 64-bit ELF file with a dynamic symbol table.
pub fn copy_without_names(
    program: &Path,
    copy: &Path,
    chosen: impl Fn(&str) -> bool,
) -> Result<usize> {
    let mut bytes =
        std::fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let exported = exported_functions(&bytes, &chosen)?;
    for at in &exported {
        // `st_name` is the first field of a symbol: the empty name.
        bytes.get_mut(*at..at + 4).context("a symbol beyond the end")?.fill(0);
    }
    ensure!(exported_functions(&bytes, &chosen)?.is_empty(), "names are left");
    std::fs::write(copy, &bytes).with_context(|| format!("cannot write {}", copy.display()))?;
    std::fs::set_permissions(copy, PermissionsExt::from_mode(0o755))?;
    Ok(exported.len())
}

/// Where in the file the symbols of these defined functions are.
fn exported_functions(bytes: &[u8], chosen: &dyn Fn(&str) -> bool) -> Result<Vec<usize>> {
    let file = ElfFile64::<Endianness>::parse(bytes)?;
    let endian = file.elf_header().endian()?;
    let section = file.section_by_name(".dynsym").context("no dynamic symbols")?;
    let (start, _) = section.file_range().context("dynamic symbols without bytes")?;
    let start = usize::try_from(start)?;
    let table = file.elf_dynamic_symbol_table();
    let size = size_of::<<FileHeader64<Endianness> as FileHeader>::Sym>();
    let mut found = Vec::new();
    for (index, symbol) in table.enumerate() {
        let name = table.symbol_name(endian, symbol)?;
        let defined = symbol.st_type() == STT_FUNC && !symbol.is_undefined(endian);
        if defined && !name.is_empty() && chosen(std::str::from_utf8(name)?) {
            found.push(start + index.0 * size);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::QEMU;
    use crate::{process::tool, temp::TempDir};
    use std::process::Command;

    #[test]
    fn the_copy_runs_and_has_no_names() {
        let directory = TempDir::new().unwrap();
        let copy = directory.join("qemu");
        let Some(program) = tool(QEMU) else { return };
        assert!(copy_without_names(&program, &copy, is_phase_function).unwrap() > 50);
        let [original, copied] = [&program, &copy]
            .map(|program| Command::new(program).arg("--version").output().unwrap().stdout);
        assert!(!original.is_empty());
        assert_eq!(original, copied);
        assert_eq!(copy_without_names(&copy, &directory.join("2"), is_phase_function).unwrap(), 0);
        let empty = directory.join("empty");
        std::fs::write(&empty, "").unwrap();
        assert!(copy_without_names(&empty, &copy, |_| true).is_err());
    }
}
