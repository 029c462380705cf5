//! Reads processes and the host from `/proc`. Entries can vanish at any time, and their content is not trusted.

mod cmdline;
pub mod host;
pub mod quota;
mod scan;
mod vm;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use procfs::process::{FDTarget, Process};

pub use cmdline::CommandLines;
pub use scan::{Examination, Examinations, Scanner};
pub use vm::vm_from_cmdline;

use crate::model::facts::{ProcessFacts, ProcessId, TICK_NS, ThreadFacts};

/// Bytes of any other file that are read.
const MAX_FILE: u64 = 64 << 10;
/// Descriptors that are looked at for `/dev/kvm`, which QEMU opens early.
const MAX_FDS: usize = 1024;
/// Threads that are looked at.
const MAX_THREADS: usize = 4096;

/// All that [`ProcessFacts`] holds; `None` when the process is gone. Its arguments may come later ([`CommandLines::of`]).
///
/// What `/proc` refuses (no permission, gone meanwhile) is left empty.
#[must_use]
pub fn facts(id: ProcessId, lines: &mut CommandLines) -> Option<ProcessFacts> {
    whole_facts(&open(id)?, lines)
}

/// The same of whatever process has this id now.
#[must_use]
pub fn facts_now(pid: u32, lines: &mut CommandLines) -> Option<ProcessFacts> {
    whole_facts(&open_now(pid)?, lines)
}

/// As [`facts`], without threads, descriptors and arguments.
#[must_use]
pub fn name_facts_of(id: ProcessId) -> Option<ProcessFacts> {
    name_facts(&open(id)?)
}

/// The same of whatever process has this id now.
fn scan_facts(pid: u32) -> Option<ProcessFacts> {
    name_facts(&open_now(pid)?)
}

/// As [`scan_facts`], with arguments: what [`RuleSet::scan`](crate::identify::rules::RuleSet::scan) needs.
fn scan_facts_with(pid: u32, lines: &mut CommandLines) -> Option<ProcessFacts> {
    let process = open_now(pid)?;
    let mut facts = name_facts(&process)?;
    facts.learn(lines.of(facts.id(), &process));
    Some(facts)
}

/// The cgroup of a process; `None` when it is gone.
#[must_use]
pub fn cgroup_of(process: &Process) -> Option<String> {
    let raw = read(process.open_relative("cgroup").ok()?, MAX_FILE)?;
    cgroup_path(&String::from_utf8_lossy(&raw))
}

/// The name of the process with this id while `tracer` traces it (ptrace); `None` when that does not.
#[must_use]
pub fn traced_name(pid: u32, tracer: ProcessId) -> Option<String> {
    let (traced, tracer) = (open_now(pid)?, open(tracer)?);
    let raw = read(traced.open_relative("status").ok()?, MAX_FILE)?;
    let text = String::from_utf8_lossy(&raw);
    let by = text.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
    // Still there after that was read, its id was nobody else's.
    let (name, alive) = (traced.stat().ok()?.comm, tracer.stat().is_ok());
    (by.trim().parse() == Ok(tracer.pid()) && alive).then_some(name)
}

/// The threads of a process now; empty when it is gone.
#[must_use]
pub fn threads(id: ProcessId) -> Vec<ThreadFacts> {
    open(id).map(|process| threads_of(&process)).unwrap_or_default()
}

/// The directory of a process; `None` when it is gone or its id is another's.
///
/// All that is read below is this process' own: an open `/proc/PID` stands for its `struct pid`, and once that has no task any more,
/// lookups below it fail (`proc_pident_lookup`, fs/proc/base.c, 5.10 to 7.3), whoever has the number by then.
pub(crate) fn open(id: ProcessId) -> Option<Process> {
    open_now(id.pid).filter(|process| id_of(process) == Some(id))
}

/// The directory of whatever process has this id now.
pub(crate) fn open_now(pid: u32) -> Option<Process> {
    Process::new(i32::try_from(pid).ok()?).ok()
}

/// Which process a directory is of; `None` once that is gone.
pub(crate) fn id_of(process: &Process) -> Option<ProcessId> {
    let start_ticks = process.stat().ok()?.starttime;
    Some(ProcessId { pid: u32::try_from(process.pid()).ok()?, start_ticks })
}

/// The processes of this host now, each with a number that changes when its id is another's: the inode of its directory goes with its
/// `struct pid` (`proc_flush_pid`, kernel/exit.c, 5.10 to 7.3). It may also change for the same process when the kernel is short of memory.
pub(crate) fn all() -> Vec<(u32, u64)> {
    use std::os::unix::fs::DirEntryExt as _;
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pid = |entry: &std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    entries.flatten().filter_map(|entry| Some((pid(&entry)?, entry.ino()))).collect()
}

fn whole_facts(process: &Process, lines: &mut CommandLines) -> Option<ProcessFacts> {
    let mut facts = name_facts(process)?;
    facts.threads = threads_of(process);
    facts.has_kvm = holds(process, Path::new("/dev/kvm"));
    facts.learn(lines.of(facts.id(), process));
    Some(facts)
}

fn name_facts(process: &Process) -> Option<ProcessFacts> {
    let stat = process.stat().ok()?;
    Some(ProcessFacts {
        pid: u32::try_from(process.pid()).ok()?,
        comm: stat.comm,
        exe: process.exe().ok().map(|path| path.to_string_lossy().into_owned()),
        cmdline: Vec::new(),
        unread: None,
        cgroup: cgroup_of(process),
        has_kvm: false,
        threads: Vec::new(),
        started_boottime_ns: boottime_ns(stat.starttime),
    })
}

/// At most `limit` bytes; what was read before an error counts.
fn read(file: File, limit: u64) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    match file.take(limit).read_to_end(&mut content) {
        Err(_) if content.is_empty() => None,
        _ => Some(content),
    }
}

/// The path of `/proc/PID/cgroup`: v2's, unless that is the root and a v1 hierarchy has more.
fn cgroup_path(text: &str) -> Option<String> {
    let mut v2 = None;
    let mut v1: Option<&str> = None;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(hierarchy), Some(_), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if hierarchy == "0" {
            v2 = Some(path);
        } else if v1.is_none_or(|longest| path.len() > longest.len()) {
            v1 = Some(path);
        }
    }
    match (v2, v1) {
        (Some("/") | None, Some(v1)) => Some(v1),
        (v2, _) => v2,
    }
    .map(str::to_owned)
}

fn threads_of(process: &Process) -> Vec<ThreadFacts> {
    let Ok(tasks) = process.tasks() else { return Vec::new() };
    tasks
        .take(MAX_THREADS)
        .flatten()
        .filter_map(|task| {
            let stat = task.stat().ok()?;
            Some(ThreadFacts {
                tid: u32::try_from(task.tid).ok()?,
                comm: stat.comm,
                started_boottime_ns: boottime_ns(stat.starttime),
            })
        })
        .collect()
}

/// Whether one of the first descriptors of a process is `file`.
fn holds(process: &Process, file: &Path) -> bool {
    let Ok(descriptors) = process.fd() else { return false };
    descriptors
        .take(MAX_FDS)
        .flatten()
        .any(|descriptor| matches!(descriptor.target, FDTarget::Path(path) if path == file))
}

/// `starttime` of `/proc/PID/stat` in ns.
const fn boottime_ns(ticks: u64) -> u64 {
    ticks.saturating_mul(TICK_NS)
}

#[cfg(test)]
#[path = "tests/mod.rs"]
mod tests;
