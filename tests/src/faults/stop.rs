//! An end that is stopped by a signal.

use anyhow::{Context, Result};

use super::Injection;

/// A process that got SIGSTOP; it gets SIGCONT on drop.
#[derive(Debug)]
pub struct Stopped {
    pid: i32,
}

impl Injection for Stopped {
    fn has_effect(&self) -> Result<bool> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        Ok(state == Some('T'))
    }
}

impl Stopped {
    /// Stops all threads of `pid`, which must be a child of this process.
    ///
    /// # Errors
    /// When it is gone.
    pub fn new(pid: u32) -> Result<Self> {
        let stopped = Self { pid: i32::try_from(pid)? };
        stopped.signal(libc::SIGSTOP).with_context(|| format!("SIGSTOP to {pid}"))?;
        Ok(stopped)
    }

    fn signal(&self, signal: i32) -> std::io::Result<()> {
        // SAFETY: takes two integers. A child's id is not used again before it is waited for.
        match unsafe { libc::kill(self.pid, signal) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _ = self.signal(libc::SIGCONT);
    }
}
