//! `/proc` of processes that the tests start.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::model::facts::Unread;

mod mmap_lock;
mod reused;

/// The facts of a process, its arguments included.
fn settled(pid: u32) -> Option<ProcessFacts> {
    let mut lines = CommandLines::new();
    loop {
        let facts = facts_now(pid, &mut lines)?;
        if !facts.is_awaited() {
            return Some(facts);
        }
        std::thread::yield_now();
    }
}

fn id(pid: u32) -> ProcessId {
    id_of(&open_now(pid).unwrap()).unwrap()
}

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
    let facts = settled(std::process::id()).unwrap();
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
        let all = threads(id(std::process::id()));
        if let Some(found) = all.into_iter().find(|thread| thread.comm == "mig/src/send_7") {
            break found;
        }
        assert!(!thread.is_finished());
        std::thread::yield_now();
    };
    let started = settled(std::process::id()).unwrap().started_boottime_ns;
    assert!(found.started_boottime_ns >= started);
    drop(stop);
    thread.join().unwrap().unwrap_err();
}

#[test]
fn gone_processes_are_none() {
    let mut shell = Shell::start(&[]);
    let pid = shell.0.id();
    let known = id(pid);
    assert!(settled(pid).is_some());
    shell.0.kill().unwrap();
    // A zombie has a name and no command line.
    while settled(pid).is_some_and(|facts| !facts.cmdline.is_empty()) {
        std::thread::yield_now();
    }
    shell.0.wait().unwrap();
    assert_eq!(settled(pid), None);
    assert_eq!(threads(known), []);
    assert_eq!(settled(0), None);
    assert_eq!(settled(u32::MAX), None);
}

#[test]
fn hostile_command_lines() {
    let raw = OsStr::from_bytes(b"\xff\xfe -name \x1b[2J");
    let huge = "x".repeat(100_000);
    let huge = OsStr::new(&huge);
    let shell = Shell::start(&[raw, huge, huge, huge, huge]);
    // Until `exec`, the child has the command line of this process.
    let facts = loop {
        let facts = settled(shell.0.id()).unwrap();
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
    let this = open_now(std::process::id()).unwrap();
    let full = File::open("/dev/full").unwrap();
    assert!(holds(&this, Path::new("/dev/full")));
    assert!(!holds(&this, Path::new("/dev/no-such-device")));
    drop(full);
}

#[test]
fn command_lines() {
    let arguments = |raw: &[u8]| cmdline::arguments(raw);
    assert_eq!(arguments(b""), Vec::<String>::new());
    assert_eq!(arguments(b"a\0b c\0"), ["a", "b c"]);
    assert_eq!(arguments(b"a\0\0b"), ["a", "", "b"]);
    assert_eq!(arguments(b"\0"), Vec::<String>::new());
}

#[test]
fn cgroups() {
    for (text, expected) in [
        ("0::/machine.slice/machine-qemu-1.scope\n", Some("/machine.slice/machine-qemu-1.scope")),
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
