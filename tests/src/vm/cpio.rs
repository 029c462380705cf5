//! A cpio archive of the `newc` format, which the kernel unpacks as its first root file system.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const SYMLINK: u32 = 0o120_777;
const END: &str = "TRAILER!!!";

/// An archive under construction. The parent directories of all that is put in are made by
/// themselves; several finished archives one after the other are one archive to the kernel.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    names: BTreeSet<String>,
}

impl Archive {
    /// A directory; nothing if it is there.
    ///
    /// # Errors
    /// When the path is not text.
    pub fn directory(&mut self, path: &Path) -> io::Result<()> {
        let name = name_of(path)?;
        if name.is_empty() || self.names.contains(name) {
            return Ok(());
        }
        self.add(path, DIRECTORY, &[])
    }

    /// A file that only root may write. A second one at the same path is refused.
    ///
    /// # Errors
    /// When the path is not text, is taken, or the file has 4 GiB or more.
    pub fn file(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.add(path, FILE, content)
    }

    /// The same, to be executed.
    ///
    /// # Errors
    /// As for [`Archive::file`].
    pub fn program(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.add(path, PROGRAM, content)
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// As for [`Archive::file`].
    pub fn symlink(&mut self, path: &Path, target: &str) -> io::Result<()> {
        self.add(path, SYMLINK, target.as_bytes())
    }

    /// Whether something is at this path already.
    #[must_use]
    pub fn contains(&self, path: &Path) -> bool {
        name_of(path).is_ok_and(|name| self.names.contains(name))
    }

    /// Size so far, bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Writes it with its end mark.
    ///
    /// # Errors
    /// When `output` cannot be written.
    pub fn write(&self, output: &mut impl Write) -> io::Result<()> {
        output.write_all(&self.bytes)?;
        let mut end = Vec::new();
        append(&mut end, END, 0, 0, &[])?;
        output.write_all(&end)
    }

    fn add(&mut self, path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        let name = name_of(path)?;
        if !self.names.insert(name.to_owned()) {
            return Err(invalid(format!("{name} is in the archive already")));
        }
        let inode = u32::try_from(self.names.len()).map_err(|_| invalid("too many files"))?;
        append(&mut self.bytes, name, inode, mode, content)
    }
}

/// One entry: a header of hexadecimal numbers, the name, the content, each padded to 4 bytes.
fn append(
    bytes: &mut Vec<u8>,
    name: &str,
    inode: u32,
    mode: u32,
    content: &[u8],
) -> io::Result<()> {
    let size = u32::try_from(content.len()).map_err(|_| invalid(format!("{name} is too large")))?;
    let name_size = u32::try_from(name.len() + 1).map_err(|_| invalid("a name is too long"))?;
    let links = if mode == DIRECTORY { 2 } else { 1 };
    // Owner, group, time and devices are zero: root, 1970, none.
    let fields = [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
    bytes.extend_from_slice(b"070701");
    for field in fields {
        bytes.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    pad(bytes);
    bytes.extend_from_slice(content);
    pad(bytes);
    Ok(())
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Paths in an archive have no leading slash.
fn name_of(path: &Path) -> io::Result<&str> {
    let text = path.to_str().ok_or_else(|| invalid(format!("{} is not text", path.display())))?;
    Ok(text.trim_start_matches('/'))
}

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive by the format's description: (name, mode, content).
    fn read(bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |number: usize| {
                let start = at + 6 + 8 * number;
                let text = std::str::from_utf8(&bytes[start..start + 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name_start = at + 110;
            let name = &bytes[name_start..name_start + name_size - 1];
            assert_eq!(bytes[name_start + name_size - 1], 0);
            let start = (name_start + name_size).next_multiple_of(4);
            let name = String::from_utf8(name.to_vec()).unwrap();
            at = (start + size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!(at, bytes.len());
                return entries;
            }
            entries.push((name, mode, bytes[start..start + size].to_vec()));
        }
    }

    #[test]
    fn what_is_put_in_is_in_the_archive() {
        let mut archive = Archive::default();
        archive.program(Path::new("/usr/bin/a"), b"12345").unwrap();
        archive.file(Path::new("/usr/b"), b"").unwrap();
        archive.symlink(Path::new("/bin"), "usr/bin").unwrap();
        assert!(archive.contains(Path::new("/usr/bin/a")));
        assert!(!archive.contains(Path::new("/usr/bin/b")));
        let mut bytes = Vec::new();
        archive.write(&mut bytes).unwrap();
        let entry = |name: &str, mode, content: &[u8]| (name.to_owned(), mode, content.to_vec());
        let expected = [
            entry("usr", DIRECTORY, b""),
            entry("usr/bin", DIRECTORY, b""),
            entry("usr/bin/a", PROGRAM, b"12345"),
            entry("usr/b", FILE, b""),
            entry("bin", SYMLINK, b"usr/bin"),
        ];
        assert_eq!(read(&bytes), expected);
    }

    #[test]
    fn a_path_is_taken_once() {
        let mut archive = Archive::default();
        archive.file(Path::new("/a"), b"1").unwrap();
        assert!(archive.file(Path::new("a"), b"2").is_err());
        assert!(archive.directory(Path::new("/")).is_ok());
    }
}
