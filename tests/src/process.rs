//! Child processes that do not outlive the test that started them.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// A program that a unit test needs and not every machine has: `None`, and a line that says so, where it is missing. `cargo xtask test` has set
/// up the machine and leaves nothing out.
///
/// # Panics
/// When it is missing there.
#[must_use]
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file());
    if found.is_none() {
        let needed = std::env::var_os("DWCP_ALL_TOOLS").is_some();
        assert!(!needed, "{name} is missing: run `cargo xtask setup`");
        eprintln!("left out: {name} is not installed");
    }
    found
}

/// Ids of all processes that were started here.
static STARTED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Whether this process has started a [`ChildGuard`] with this id.
#[must_use]
pub fn was_started_here(pid: u32) -> bool {
    STARTED.lock().unwrap_or_else(PoisonError::into_inner).contains(&pid)
}

/// A child process; killed and reaped on drop.
///
/// It is also killed when the *thread* that started it ends, so that a killed test run leaves
/// nothing behind: start it from the thread that keeps it.
#[derive(Debug)]
pub struct ChildGuard {
    child: Child,
}

impl ChildGuard {
    /// Starts `command`.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        // SAFETY: `end_with_parent` makes one system call, which is all that may be done there.
        unsafe { command.pre_exec(end_with_parent) };
        let child = command.spawn().with_context(|| format!("cannot start `{name}`"))?;
        STARTED.lock().unwrap_or_else(PoisonError::into_inner).insert(child.id());
        Ok(Self { child })
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The exit status if the process has ended.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends `signal`, for instance `libc::SIGTERM`.
    ///
    /// # Errors
    /// When the process is already reaped or the signal is not a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let pid = i32::try_from(self.child.id())?;
        // SAFETY: kill takes two integers; the child is not reaped yet, so its id is its own.
        let result = unsafe { libc::kill(pid, signal) };
        if result != 0 {
            return Err(io::Error::last_os_error())
                .with_context(|| format!("signal {signal} to process {pid}"));
        }
        Ok(())
    }

    /// Waits for the end of the process; `None` if it still runs after `limit`.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub fn wait_for(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(Some(status));
            }
            if start.elapsed() >= limit {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn end_with_parent() -> io::Result<()> {
    // SAFETY: takes integers only.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        // Both fail only if the process is gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_child_is_gone() {
        let child = ChildGuard::spawn(Command::new("sleep").arg("600")).unwrap();
        let proc = format!("/proc/{}", child.pid());
        assert!(std::path::Path::new(&proc).exists());
        drop(child);
        assert!(!std::path::Path::new(&proc).exists());
    }

    #[test]
    fn a_signal_ends_it() {
        use std::os::unix::process::ExitStatusExt;
        let mut child = ChildGuard::spawn(Command::new("sleep").arg("600")).unwrap();
        assert!(child.wait_for(Duration::ZERO).unwrap().is_none());
        child.signal(libc::SIGTERM).unwrap();
        let status = child.wait_for(Duration::from_secs(30)).unwrap().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGTERM));
    }
}
