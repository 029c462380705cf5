//! A process id that is another process' by now.

use std::{os::fd::AsRawFd as _, time::Duration};

use super::*;
use crate::{component, netdev};

/// A child that does nothing; killed and reaped on drop.
struct Idle(libc::pid_t);

impl Idle {
    /// With this id, if there is one to be had; `None` without the right to choose (`clone3(2)`, `set_tid`).
    fn start(pid: Option<libc::pid_t>) -> Option<Self> {
        let mut wanted = pid.unwrap_or_default();
        // SAFETY: all zero is a valid `clone_args`.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        arguments.exit_signal = libc::SIGCHLD as u64;
        if pid.is_some() {
            arguments.set_tid = (&raw mut wanted) as u64;
            arguments.set_tid_size = 1;
        }
        // SAFETY: the arguments outlive the call, and the child does nothing that is not async-signal-safe.
        let child = unsafe {
            libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>())
        };
        if child == 0 {
            loop {
                // SAFETY: waits for a signal.
                unsafe { libc::pause() };
            }
        }
        (child > 0).then(|| Self(libc::pid_t::try_from(child).unwrap()))
    }

    fn pid(&self) -> u32 {
        self.0.cast_unsigned()
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a signal to a child that is not reaped yet.
        unsafe { libc::kill(self.0, signal) };
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.signal(libc::SIGKILL);
        // SAFETY: the child is this process' own.
        unsafe { libc::waitpid(self.0, std::ptr::null_mut(), 0) };
    }
}

/// A process that is gone, its directory, and who has its id now.
fn reuse() -> Option<(ProcessId, Process, Idle)> {
    let former = Idle::start(None).unwrap();
    let pid = former.0;
    let directory = open_now(former.pid()).unwrap();
    let id = id_of(&directory).unwrap();
    drop(former);
    // Its start must be of another clock tick.
    std::thread::sleep(Duration::from_nanos(2 * TICK_NS));
    let Some(successor) = Idle::start(Some(pid)) else {
        eprintln!("no right to choose a process id: not tested");
        return None;
    };
    assert_eq!(successor.pid(), id.pid);
    Some((id, directory, successor))
}

#[test]
fn nothing_of_a_successor_is_taken_for_the_former_process() {
    let Some((former, _, successor)) = reuse() else { return };
    let now = id(successor.pid());
    assert_ne!(now, former);
    let mut lines = CommandLines::new();
    assert!(facts(now, &mut lines).is_some());
    assert_eq!(facts(former, &mut lines), None);
    assert_eq!(name_facts_of(former), None);
    assert_eq!((threads(now).len(), threads(former).len()), (1, 0));
    successor.signal(libc::SIGSTOP);
    while !quota::is_stopped(now) {
        std::thread::yield_now();
    }
    assert!(!quota::is_stopped(former));
    assert_eq!(quota::files_of(former), Vec::<std::path::PathBuf>::new());
    assert_eq!(netdev::taps_of(former), []);
    assert_eq!(traced_name(successor.pid(), former), None);
}

#[test]
fn a_directory_that_is_open_stays_that_of_the_former_process() {
    let Some((_, directory, _successor)) = reuse() else { return };
    assert!(directory.stat().is_err() && directory.tasks().is_err() && directory.fd().is_err());
    assert!(directory.open_relative("cmdline").is_err() && directory.exe().is_err());
    assert_eq!(cgroup_of(&directory), None);
}

#[test]
fn sockets_of_a_successor_are_not_the_former_process() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
    let Some((former, _, successor)) = reuse() else { return };
    let inode = |text: &str| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    let inode: u64 = inode(link.to_str().unwrap()).unwrap();
    // Children have the sockets of this process.
    let held = component::processes::socket_inodes;
    assert!(held(id(successor.pid())).contains(&inode));
    assert!(held(former).is_empty());
}

#[test]
fn the_number_of_a_directory_changes_with_its_process() {
    let number = |pid| all().into_iter().find(|(other, _)| *other == pid).map(|(_, number)| number);
    let former = Idle::start(None).unwrap();
    let (pid, before) = (former.pid(), number(former.pid()));
    assert_eq!(before, number(pid), "the same while it lives");
    let raw = former.0;
    drop(former);
    let Some(_successor) = Idle::start(Some(raw)) else { return };
    assert_ne!(number(pid), before);
}
