//! A source that does not get the CPU time it wants.

use std::fs;
use std::io;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Injection;
use super::group::Group;
use crate::process::ChildGuard;

/// A process that may use only a part of one CPU. The limit is lifted on drop.
#[derive(Debug)]
pub struct CpuQuota {
    group: Group,
}

impl Injection for CpuQuota {
    fn has_effect(&self) -> Result<bool> {
        Ok(self.group.times_throttled()? > 0)
    }
}

impl CpuQuota {
    /// Gives `pid` `percent` of one CPU for all its threads together, reckoned over 100 ms.
    ///
    /// # Errors
    /// Without root or without a `cpu` controller.
    pub fn new(pid: u32, percent: u32) -> Result<Self> {
        const PERIOD: Duration = Duration::from_millis(100);
        let mut group = Group::new()?;
        group.set_quota(PERIOD * percent / 100, PERIOD)?;
        group.add(pid)?;
        Ok(Self { group })
    }
}

/// Busy processes on the one CPU that the source's sending threads may use; they go before these
/// by their weight. All other threads of both ends keep to the other CPUs, so that the destination,
/// which in a real migration has a host of its own, does not suffer. All is undone on drop.
#[derive(Debug)]
pub struct Competitors {
    // Order of drop: the processes end before their group goes.
    processes: Vec<ChildGuard>,
    _group: Group,
    bound: Vec<(libc::pid_t, libc::cpu_set_t)>,
}

impl Injection for Competitors {
    /// Whether they have run.
    fn has_effect(&self) -> Result<bool> {
        for process in &self.processes {
            let text = fs::read_to_string(format!("/proc/{}/schedstat", process.pid()))?;
            let nanoseconds: u64 = text.split(' ').next().unwrap_or_default().parse()?;
            if nanoseconds < 100_000_000 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Competitors {
    /// Binds the sending threads of `source` (QEMU must have named them) to CPU 0, where `count`
    /// busy processes compete with them.
    ///
    /// They have a control group of the highest weight. A higher priority would not do: where
    /// sessions are scheduled as groups, it counts only among the processes of one session, and
    /// takes from these on all CPUs.
    ///
    /// # Errors
    /// When there are no such threads, or without root, a `cpu` controller or a second CPU.
    pub fn new(source: u32, destination: u32, count: usize) -> Result<Self> {
        let cpu_0 = set_of([0])?;
        let others = set_of(1..std::thread::available_parallelism()?.get())?;
        let mut group = Group::new()?;
        group.set_highest_weight()?;
        let mut processes = Vec::new();
        for _ in 0..count {
            // It is bound to its CPU before it becomes busy.
            let mut command = Command::new("taskset");
            let process =
                ChildGuard::spawn(command.args(["1", "sh", "-c", "while :; do :; done"]))?;
            group.add(process.pid())?;
            processes.push(process);
        }
        let mut this = Self { processes, _group: group, bound: Vec::new() };
        let mut senders = 0;
        for pid in [source, destination] {
            for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
                let entry = entry?;
                let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                let sends = name.starts_with("live_migration") || name.starts_with("multifdsend");
                let thread = entry.file_name().to_string_lossy().parse()?;
                this.bound.push((thread, affinity(thread)?));
                set_affinity(thread, if sends { &cpu_0 } else { &others })?;
                senders += usize::from(sends);
            }
        }
        ensure!(senders > 0, "process {source} has no named sending threads");
        Ok(this)
    }
}

impl Drop for Competitors {
    fn drop(&mut self) {
        for (thread, set) in &self.bound {
            // It may have ended.
            let _ = set_affinity(*thread, set);
        }
    }
}

fn set_of(cpus: impl IntoIterator<Item = usize>) -> Result<libc::cpu_set_t> {
    // SAFETY: all zeroes are a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for cpu in cpus {
        ensure!(cpu < 8 * size_of_val(&set), "no CPU {cpu}");
        // SAFETY: the CPU lies within the set.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    Ok(set)
}

fn affinity(thread: libc::pid_t) -> Result<libc::cpu_set_t> {
    // SAFETY: all zeroes are a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: pointer and size describe the set.
    let result = unsafe { libc::sched_getaffinity(thread, size_of_val(&set), &raw mut set) };
    if result != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("thread {thread}"));
    }
    Ok(set)
}

fn set_affinity(thread: libc::pid_t, set: &libc::cpu_set_t) -> Result<()> {
    // SAFETY: pointer and size describe the set.
    let result = unsafe { libc::sched_setaffinity(thread, size_of_val(set), set) };
    if result != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("thread {thread}"));
    }
    Ok(())
}
