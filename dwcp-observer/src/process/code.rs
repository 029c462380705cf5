//! The observer's own code in memory.

use procfs::process::{MMPermissions, MMapPath, Process};

/// Takes the program's code out of resident memory: what only the start or a report needed (command line, BTF, the loader, plots) does
/// not come back, the rest comes back from the page cache as it runs. Returns the bytes that were mapped; 0 when `/proc` does not tell.
pub fn drop_idle_code() -> usize {
    let Ok(process) = Process::myself() else { return 0 };
    let (Ok(own), Ok(maps)) = (process.exe(), process.maps()) else { return 0 };
    let mut dropped = 0;
    for map in &maps {
        // Code is never written, so nothing is lost. Data of the same file may hold relocations, and other files' code somebody's
        // breakpoints: these are left alone.
        let is_code = map.perms.contains(MMPermissions::EXECUTE)
            && !map.perms.contains(MMPermissions::WRITE)
            && matches!(&map.pathname, MMapPath::Path(path) if *path == own);
        if !is_code {
            continue;
        }
        let (start, end) = map.address;
        let (Ok(address), Ok(length)) = (usize::try_from(start), usize::try_from(end - start))
        else {
            continue;
        };
        // SAFETY: a private mapping of a file that was never written: its pages are read again when they are next executed.
        let done = unsafe {
            libc::madvise(
                std::ptr::with_exposed_provenance_mut(address),
                length,
                libc::MADV_DONTNEED,
            )
        };
        if done == 0 {
            dropped += length;
        }
    }
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_was_dropped_still_runs() {
        let first = drop_idle_code();
        assert!(first > 100_000, "{first}");
        // This very function comes back from the file.
        assert_eq!(drop_idle_code(), first);
    }
}
