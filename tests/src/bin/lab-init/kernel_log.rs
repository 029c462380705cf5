//! What the kernel logs while a test runs.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};

/// Text in records that no test may cause.
const BAD: [&str; 6] =
    ["WARNING: ", "BUG: ", "Oops", "blocked for more than", "UBSAN: ", "general protection fault"];
/// How many are told.
const MOST: usize = 20;

/// The kernel's log from now on.
pub(crate) struct KernelLog {
    file: File,
}

impl KernelLog {
    pub(crate) fn open() -> Result<Self> {
        let mut options = File::options();
        let mut file = options
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .context("/dev/kmsg")?;
        file.seek(SeekFrom::End(0)).context("/dev/kmsg")?;
        Ok(Self { file })
    }

    /// The bad records since the last call.
    pub(crate) fn take(&mut self) -> Result<Vec<String>> {
        let mut bad = Vec::new();
        // One record at a time; the kernel's own limit of one is 8 KiB.
        let mut buffer = [0; 8192];
        loop {
            let length = match self.file.read(&mut buffer) {
                Ok(length) => length,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => break,
                    // Records were overwritten before they were read.
                    ErrorKind::BrokenPipe => continue,
                    _ => return Err(error).context("/dev/kmsg"),
                },
            };
            let record = String::from_utf8_lossy(&buffer[..length]);
            bad.extend(bad_text(&record));
        }
        bad.truncate(MOST);
        Ok(bad)
    }
}

/// The text of a bad record: `4,1234,5678,-;text`, with further lines of details.
fn bad_text(record: &str) -> Option<String> {
    let text = record.lines().next()?.split_once(';')?.1;
    BAD.iter().any(|bad| text.contains(bad)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::bad_text;

    #[test]
    fn bad_records_are_told_from_others() {
        let bad = "4,339,5140900,-;WARNING: CPU: 0 PID: 1 at x.c:1\n SUBSYSTEM=x\n";
        assert_eq!(bad_text(bad).as_deref(), Some("WARNING: CPU: 0 PID: 1 at x.c:1"));
        assert_eq!(bad_text("6,1,2,-;rxe_dm: added\n"), None);
        assert_eq!(bad_text("BUG: no record"), None);
    }
}
