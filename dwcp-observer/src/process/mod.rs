//! What `/proc` tells about processes and the host. Entries may vanish at any moment, and their content is not trusted.

pub mod host;
pub mod quota;
mod scan;
mod vm;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use procfs::process::{FDTarget, Process};

pub use scan::Scanner;
pub use vm::vm_from_cmdline;

use crate::model::facts::{ProcessFacts, ThreadFacts};

/// Bytes of a command line that are read.
const MAX_CMDLINE: u64 = 256 << 10;
/// Bytes of any other file that are read.
const MAX_FILE: u64 = 64 << 10;
/// Descriptors that are looked at for `/dev/kvm`, which QEMU opens early.
const MAX_FDS: usize = 1024;
/// Threads that are looked at.
const MAX_THREADS: usize = 4096;

/// All that [`ProcessFacts`] holds; `None` when the process is gone.
///
/// What `/proc` refuses (no permission, gone meanwhile) is left empty.
#[must_use]
pub fn facts(pid: u32) -> Option<ProcessFacts> {
    let process = open(pid)?;
    let mut facts = name_facts(&process, pid)?;
    facts.threads = threads_of(&process);
    facts.has_kvm = holds(&process, Path::new("/dev/kvm"));
    Some(facts)
}

/// As [`facts`], without threads and descriptors: what [`RuleSet::scan`](crate::identify::rules::RuleSet::scan) needs.
#[must_use]
pub fn scan_facts(pid: u32) -> Option<ProcessFacts> {
    name_facts(&open(pid)?, pid)
}

/// The cgroup of a process; `None` when it is gone.
#[must_use]
pub fn cgroup_of(pid: u32) -> Option<String> {
    let raw = read(open(pid)?.open_relative("cgroup").ok()?, MAX_FILE)?;
    cgroup_path(&String::from_utf8_lossy(&raw))
}

/// The process that traces another one (ptrace); `None` when none does, or it is gone.
#[must_use]
pub fn tracer_of(pid: u32) -> Option<u32> {
    let raw = read(open(pid)?.open_relative("status").ok()?, MAX_FILE)?;
    let text = String::from_utf8_lossy(&raw);
    let tracer = text.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
    tracer.trim().parse().ok().filter(|tracer| *tracer != 0)
}

/// The threads of a process now; empty when it is gone.
#[must_use]
pub fn threads(pid: u32) -> Vec<ThreadFacts> {
    open(pid).map(|process| threads_of(&process)).unwrap_or_default()
}

fn open(pid: u32) -> Option<Process> {
    Process::new(i32::try_from(pid).ok()?).ok()
}

fn name_facts(process: &Process, pid: u32) -> Option<ProcessFacts> {
    let stat = process.stat().ok()?;
    let read = |path: &str, limit| process.open_relative(path).ok().and_then(|f| read(f, limit));
    Some(ProcessFacts {
        pid,
        comm: stat.comm,
        exe: process.exe().ok().map(|path| path.to_string_lossy().into_owned()),
        cmdline: read("cmdline", MAX_CMDLINE).map(|raw| arguments(&raw)).unwrap_or_default(),
        cgroup: read("cgroup", MAX_FILE)
            .and_then(|raw| cgroup_path(&String::from_utf8_lossy(&raw))),
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

/// The NUL-separated arguments of `/proc/PID/cmdline`; a process may have put anything there.
fn arguments(raw: &[u8]) -> Vec<String> {
    let raw = raw.strip_suffix(b"\0").unwrap_or(raw);
    if raw.is_empty() {
        return Vec::new();
    }
    raw.split(|&byte| byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
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

/// `starttime` of `/proc/PID/stat` (clock ticks since boot, cut, usually to 10 ms) in ns.
fn boottime_ns(ticks: u64) -> u64 {
    let nanos = u128::from(ticks) * 1_000_000_000 / u128::from(procfs::ticks_per_second().max(1));
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A shell that waits for its input to end; killed and reaped on drop.
    struct Shell(Child);

    impl Shell {
        fn start(arguments: &[&OsStr]) -> Self {
            let mut command = Command::new("sh");
            command.args(["-c", "read line"]).args(arguments).stdin(Stdio::piped());
            Self(command.spawn().unwrap())
        }
    }

    impl Drop for Shell {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn of_this_process() {
        let facts = facts(std::process::id()).unwrap();
        let exe = std::env::current_exe().unwrap();
        assert_eq!(facts.exe.as_deref(), exe.to_str());
        assert_eq!(facts.cmdline.len(), std::env::args_os().count());
        assert!(facts.started_boottime_ns > 0);
        let leader = facts.threads.iter().find(|thread| thread.tid == facts.pid).unwrap();
        assert_eq!(leader.comm, facts.comm);
        assert_eq!(leader.started_boottime_ns, facts.started_boottime_ns);
    }

    #[test]
    fn threads_have_their_names_and_starts() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("mig/src/send_7".to_owned());
        let thread = thread.spawn(move || stopped.recv()).unwrap();
        // The new thread sets its name itself: wait for that.
        let found = loop {
            let all = threads(std::process::id());
            if let Some(found) = all.into_iter().find(|thread| thread.comm == "mig/src/send_7") {
                break found;
            }
            assert!(!thread.is_finished());
            std::thread::yield_now();
        };
        let started = facts(std::process::id()).unwrap().started_boottime_ns;
        assert!(found.started_boottime_ns >= started);
        drop(stop);
        thread.join().unwrap().unwrap_err();
    }

    #[test]
    fn gone_processes_are_none() {
        let mut shell = Shell::start(&[]);
        let pid = shell.0.id();
        assert!(facts(pid).is_some());
        shell.0.kill().unwrap();
        // A zombie has a name and no command line.
        while facts(pid).is_some_and(|facts| !facts.cmdline.is_empty()) {
            std::thread::yield_now();
        }
        shell.0.wait().unwrap();
        assert_eq!(facts(pid), None);
        assert_eq!(threads(pid), []);
        assert_eq!(facts(0), None);
        assert_eq!(facts(u32::MAX), None);
    }

    #[test]
    fn hostile_command_lines() {
        let raw = OsStr::from_bytes(b"\xff\xfe -name \x1b[2J");
        let huge = "x".repeat(100_000);
        let huge = OsStr::new(&huge);
        let shell = Shell::start(&[raw, huge, huge, huge, huge]);
        // Until `exec`, the child has the command line of this process.
        let facts = loop {
            let facts = facts(shell.0.id()).unwrap();
            if facts.cmdline.first().is_some_and(|program| program == "sh") {
                break facts;
            }
            std::thread::yield_now();
        };
        assert_eq!(facts.cmdline[3], "\u{fffd}\u{fffd} -name \u{1b}[2J");
        let read: usize = facts.cmdline.iter().map(|argument| argument.len() + 1).sum();
        assert!(read > 250_000 && read <= 256 * 1024 + 8, "{read}");
    }

    #[test]
    fn open_files_are_found() {
        let this = open(std::process::id()).unwrap();
        let full = File::open("/dev/full").unwrap();
        assert!(holds(&this, Path::new("/dev/full")));
        assert!(!holds(&this, Path::new("/dev/no-such-device")));
        drop(full);
    }

    #[test]
    fn command_lines() {
        let arguments = |raw: &[u8]| arguments(raw);
        assert_eq!(arguments(b""), Vec::<String>::new());
        assert_eq!(arguments(b"a\0b c\0"), ["a", "b c"]);
        assert_eq!(arguments(b"a\0\0b"), ["a", "", "b"]);
        assert_eq!(arguments(b"\0"), Vec::<String>::new());
    }

    #[test]
    fn cgroups() {
        for (text, expected) in [
            (
                "0::/machine.slice/machine-qemu-1.scope\n",
                Some("/machine.slice/machine-qemu-1.scope"),
            ),
            ("12:cpu:/a\n11:memory:/a/longer\n0::/\n", Some("/a/longer")),
            ("11:memory:/a/longer\n0::/v2\n", Some("/v2")),
            ("0::/\n", Some("/")),
            ("0::/with:colon\n", Some("/with:colon")),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(cgroup_path(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn start_times() {
        let second = procfs::ticks_per_second();
        assert_eq!(boottime_ns(3 * second), 3_000_000_000);
        assert_eq!(boottime_ns(u64::MAX), u64::MAX);
    }
}
