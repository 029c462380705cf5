//! Running programs as the process that all orphans fall to.

use std::collections::BTreeSet;
use std::io;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often ended processes are looked for.
const PERIOD: Duration = Duration::from_millis(10);

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code, if it exited.
    pub(crate) exit: Option<i32>,
    /// What happened otherwise.
    pub(crate) problem: Option<String>,
}

/// Runs a program to its end, or kills it after `limit`; reaps whatever ends meanwhile.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<Ended> {
    let program = command.get_program().to_string_lossy().into_owned();
    let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
    // Not through `child`: whatever process ends is reaped below.
    let pid = i32::try_from(child.id())?;
    let start = Instant::now();
    loop {
        while let Some((ended, status)) = reap()? {
            if ended == pid {
                return Ok(describe(status));
            }
        }
        if start.elapsed() > limit {
            return Ok(Ended { exit: None, problem: Some(format!("killed after {limit:?}")) });
        }
        std::thread::sleep(PERIOD);
    }
}

fn describe(status: i32) -> Ended {
    if libc::WIFEXITED(status) {
        return Ended { exit: Some(libc::WEXITSTATUS(status)), problem: None };
    }
    let problem = format!("ended by signal {}", libc::WTERMSIG(status));
    Ended { exit: None, problem: Some(problem) }
}

/// A process that has ended; `None` if there is none at the moment.
fn reap() -> Result<Option<(i32, i32)>> {
    let mut status = 0;
    // SAFETY: writes to `status` only, which outlives the call.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    match pid {
        0 => Ok(None),
        1.. => Ok(Some((pid, status))),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
            error => Err(error).context("waitpid"),
        },
    }
}

/// Kills every process but this one; returns what they were. Those that are about to end, as the
/// children of a test that has just ended, are given the time.
pub(crate) fn end_all() -> Result<Vec<String>> {
    const GRACE: Duration = Duration::from_secs(3);
    const LIMIT: Duration = Duration::from_secs(20);
    let start = Instant::now();
    let mut names = BTreeSet::new();
    while start.elapsed() < GRACE {
        while reap()?.is_some() {}
        if others()?.is_empty() {
            return Ok(Vec::new());
        }
        std::thread::sleep(PERIOD);
    }
    loop {
        while reap()?.is_some() {}
        let left = others()?;
        if left.is_empty() {
            return Ok(names.into_iter().collect());
        }
        if start.elapsed() > LIMIT {
            bail!("cannot be killed: {left:?}");
        }
        names.extend(left);
        // SAFETY: takes integers only. It spares this process.
        unsafe { libc::kill(-1, libc::SIGKILL) };
        std::thread::sleep(PERIOD);
    }
}

/// Names and ids of the user-space processes beside this one.
fn others() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A kernel thread has no program, nor does one that has ended and is not reaped yet.
        let Ok(program) = std::fs::read_link(entry.path().join("exe")) else { continue };
        if pid != 1 {
            found.push(format!("{} ({pid})", program.display()));
        }
    }
    Ok(found)
}
