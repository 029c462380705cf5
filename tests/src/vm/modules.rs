//! The kernel modules that the laboratory's VMs load, and their order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};

use super::image::filter;

/// The name of the file that lists the modules in load order.
pub const ORDER: &str = "modules.order";

/// A module that the tests need.
struct Wanted {
    name: &'static str,
    /// Newer kernels have it built in, under another name or not at all.
    optional: bool,
}

const fn always(name: &'static str) -> Wanted {
    Wanted { name, optional: false }
}

const fn where_there_is(name: &'static str) -> Wanted {
    Wanted { name, optional: true }
}

const WANTED: [Wanted; 18] = [
    // The tests' oracle: the kernel's own totals of each socket.
    always("inet_diag"),
    always("tcp_diag"),
    // Its tracepoints only; there is no nested virtualization to load kvm_intel or kvm_amd for.
    always("kvm"),
    // rxe asks the crypto layer for crc32 by name: modules.dep does not know.
    where_there_is("crc32_generic"),
    // The same for libcrc32c.
    where_there_is("crc32c_generic"),
    always("ib_core"),
    always("ib_uverbs"),
    always("rdma_cm"),
    always("rdma_ucm"),
    always("ib_umad"),
    always("rdma_rxe"),
    always("dummy"),
    always("veth"),
    always("sch_netem"),
    always("sch_tbf"),
    // What siw needs, where it is a module of its own.
    where_there_is("libcrc32c"),
    // The cable between two VMs.
    where_there_is("virtio_pci"),
    where_there_is("virtio_net"),
];

/// Names of the wanted modules, a line each: a cache that was filled for others is of no use.
#[must_use]
pub fn wanted() -> String {
    WANTED.iter().map(|wanted| format!("{}\n", wanted.name)).collect()
}

/// Puts the wanted modules and those that they need, decompressed, into `into`, with a file of
/// their names in load order.
///
/// # Errors
/// When a wanted one is neither there nor optional, or cannot be read.
pub fn collect(tree: &Path, into: &Path) -> Result<()> {
    let mut loading = Loading { files: files(tree)?, ..Loading::default() };
    for wanted in WANTED {
        if !wanted.optional || loading.files.contains_key(wanted.name) {
            loading.add(wanted.name)?;
        }
    }
    let mut order = String::new();
    for (name, content) in &loading.order {
        std::fs::write(into.join(format!("{name}.ko")), content)?;
        order.push_str(&format!("{name}.ko\n"));
    }
    std::fs::write(into.join(ORDER), order)?;
    Ok(())
}

#[derive(Default)]
struct Loading {
    files: BTreeMap<String, PathBuf>,
    seen: BTreeSet<String>,
    order: Vec<(String, Vec<u8>)>,
}

impl Loading {
    /// After all that it needs.
    fn add(&mut self, name: &str) -> Result<()> {
        if !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(path) = self.files.get(name) else {
            bail!("the kernel has no module {name}");
        };
        let content = read(path)?;
        let needed = needs(&content).with_context(|| path.display().to_string())?;
        for other in needed {
            self.add(&other)?;
        }
        self.order.push((name.to_owned(), content));
        Ok(())
    }
}

/// All modules below a directory, by the names that the kernel gives them.
fn files(directory: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
                found.insert(name.replace('-', "_"), entry.path());
            }
        }
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let content = std::fs::read(path)?;
    match path.extension().and_then(|end| end.to_str()) {
        Some("xz") => filter("xz", &["--decompress", "--stdout"], &content),
        Some("zst") => filter("zstd", &["--decompress", "--stdout", "--quiet"], &content),
        _ => Ok(content),
    }
}

/// The modules that one says it needs: `depends=` in its `.modinfo`, a list of `key=value` strings.
fn needs(module: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(module)?;
    let section = file.section_by_name(".modinfo").context("no .modinfo")?;
    Ok(depends(section.data()?))
}

fn depends(modinfo: &[u8]) -> Vec<String> {
    modinfo
        .split(|byte| *byte == 0)
        .filter_map(|entry| std::str::from_utf8(entry).ok()?.strip_prefix("depends="))
        .flat_map(|names| names.split(','))
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_is_read() {
        let modinfo = b"license=GPL\0depends=ib_core,ib-uverbs\0retpoline=Y\0\0name=x\0";
        assert_eq!(depends(modinfo), ["ib_core", "ib_uverbs"]);
        assert!(depends(b"depends=\0name=dummy\0").is_empty());
    }

    #[test]
    fn something_that_is_no_module_is_an_error() {
        assert!(needs(b"").is_err());
        assert!(needs(b"#!/bin/sh\n").is_err());
    }
}
