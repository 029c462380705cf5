//! The uncompressed kernel out of a bzImage: QEMU starts it directly, which saves the time that a
//! translated CPU needs to unpack it.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Offsets in the setup header of a bzImage, which never change.
mod header {
    pub(super) const SETUP_SECTORS: usize = 0x1f1;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const PAYLOAD_OFFSET: usize = 0x248;
    pub(super) const PAYLOAD_LENGTH: usize = 0x24c;
}
const XZ: &[u8] = b"\xfd7zXZ\0";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";

/// The ELF file in a bzImage.
///
/// # Errors
/// When it is no bzImage, or its payload is neither xz nor zstd.
pub fn unpack(image: &[u8]) -> Result<Vec<u8>> {
    let payload = payload(image).context("this is no bzImage")?;
    let kernel = if payload.starts_with(XZ) {
        filter("xz", &["--decompress", "--stdout", "--single-stream", "--quiet"], payload)?
    } else if payload.starts_with(ZSTD) {
        // The size of the kernel follows the compressed data.
        let data = payload.len().checked_sub(4).and_then(|end| payload.get(..end));
        filter("zstd", &["--decompress", "--stdout", "--quiet"], data.unwrap_or_default())?
    } else {
        bail!("the kernel is compressed by an unknown method: {:02x?}", payload.get(..6));
    };
    ensure!(kernel.starts_with(b"\x7fELF"), "the unpacked kernel is no ELF file");
    Ok(kernel)
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| {
        let bytes = image.get(at..at + 4)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    if image.get(header::MAGIC..header::MAGIC + 4)? != b"HdrS" {
        return None;
    }
    // Zero stands for four, by the boot protocol.
    let sectors = match *image.get(header::SETUP_SECTORS)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * 512 + word(header::PAYLOAD_OFFSET)?;
    image.get(start..start.checked_add(word(header::PAYLOAD_LENGTH)?)?)
}

/// What `program` makes of `input`. xz and zstd are what Debian's own dpkg packs with, so they are
/// there, and no crate is needed for them.
///
/// # Errors
/// When it is missing, fails, or ends early.
pub fn filter(program: &str, args: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{program}`"))?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    let output = std::thread::scope(|scope| {
        // xz ends before its input does if the data is followed by something else.
        let writer = scope.spawn(move || stdin.write_all(input));
        let output = child.wait_with_output();
        drop(writer.join());
        output
    })?;
    ensure!(output.status.success(), "`{program}` failed ({})", output.status);
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::tool;

    /// A bzImage of one setup sector with this payload, 16 bytes after the setup.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024 + 16];
        image[header::SETUP_SECTORS] = 1;
        image[header::MAGIC..header::MAGIC + 4].copy_from_slice(b"HdrS");
        image[header::PAYLOAD_OFFSET] = 16;
        let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
        image[header::PAYLOAD_LENGTH..header::PAYLOAD_LENGTH + 4].copy_from_slice(&length);
        image.extend_from_slice(payload);
        image.extend_from_slice(b"behind it");
        image
    }

    #[test]
    fn both_compressions_are_undone() {
        if tool("xz").is_none() || tool("zstd").is_none() {
            return;
        }
        let kernel = [b"\x7fELF".as_slice(), &[7; 100_000]].concat();
        let xz = filter("xz", &["--compress", "--stdout"], &kernel).unwrap();
        assert_eq!(unpack(&image(&xz)).unwrap(), kernel);
        let mut zstd = filter("zstd", &["--stdout", "--quiet"], &kernel).unwrap();
        zstd.extend_from_slice(&100_004_u32.to_le_bytes());
        assert_eq!(unpack(&image(&zstd)).unwrap(), kernel);
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        assert!(unpack(b"").is_err());
        assert!(unpack(&[0; 4096]).is_err());
        let other = unpack(&image(b"\x1f\x8bgzip!!")).unwrap_err().to_string();
        assert!(other.contains("unknown method"), "{other}");
        if tool("xz").is_none() {
            return;
        }
        let text = filter("xz", &["--compress", "--stdout"], b"no ELF").unwrap();
        assert!(unpack(&image(&text)).is_err());
        let mut cut = image(&text);
        cut.truncate(1050);
        assert!(unpack(&cut).is_err());
    }
}
