//! Tracks which processes are probed since when: one set of probes per executable, attached when its first process may migrate, removed when
//! its last one exits. Nothing here blocks: [`super::prober`] reads executables, and a separate thread removes probes.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{Arc, mpsc},
    thread,
};

use procfs::process::Process;
use rustix::{
    event::{PollFd, PollFlags, Timespec, epoll, poll},
    fs::{AtFlags, OFlags, StatxFlags},
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::{
    FUNCTIONS,
    prober::{Done, Prober, Programs, Room},
    reader::{Answer, Rung},
    states::Names,
};
use crate::{
    kernel::clock_ns,
    model::{facts::ProcessId, histogram::Histogram, qemu::Version},
    process,
};

/// Executables that are probed at the same time: far more than a host runs, few enough that nobody fills the kernel with probes.
const MAX_EXECUTABLES: usize = 256;
/// Threads that close links at the same time; each waits for the same grace periods.
const CLOSERS: usize = 16;
/// Buckets of the time from a process' start to its probes, seconds.
const DELAY_BUCKETS: [f64; 10] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0];
/// Marks readers in the epoll set, where other numbers are process ids.
const READER: u64 = u64::MAX;

/// What is known of a process' phase functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// All that a blackout needs are probed.
    Probed {
        /// QEMU's version.
        version: Option<Version>,
        /// What its numbers mean.
        names: Arc<Names>,
        /// Since when, `CLOCK_MONOTONIC` ns; what happened before left no mark.
        since_ns: u64,
        /// Functions that this executable does not export.
        missing: Vec<&'static str>,
    },
    /// They are not: why.
    Unprobed(String),
}

/// Identifies an executable whatever its path: device and inode. Two mounts of one image are two.
type FileId = (u32, u32, u64);

/// A process that is to be probed.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its place in the kernel's array.
    pub slot: u32,
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// When it started, `CLOCK_BOOTTIME` ns.
    pub started_boottime_ns: u64,
}

impl Candidate {
    const fn id(&self) -> ProcessId {
        ProcessId::new(self.pid, self.started_boottime_ns)
    }
}

/// Tells the kernel side whose probes count for a process.
pub type Own<'a> = dyn FnMut(Owner) + 'a;

/// Whose probes count for a process.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// Its place in the kernel's array.
    pub slot: u32,
    /// The process that is meant: the place may have passed on.
    pub process: ProcessId,
    /// Number of its executable.
    pub executable: u32,
    /// How that tells what is left: one of `PENDING_*`, or 0.
    pub pending_form: u32,
}

/// Attached probes, by executable.
#[derive(Debug)]
pub struct Attacher {
    prober: Prober,
    wake: OwnedFd,
    executables: HashMap<FileId, Executable>,
    processes: HashMap<u32, Probed>,
    last_number: u32,
    closer: Option<(mpsc::Sender<Vec<OwnedFd>>, thread::JoinHandle<()>)>,
    /// When the observer began, `CLOCK_BOOTTIME` ns: processes before were not waited for.
    begun_boottime_ns: u64,
    /// What was not probed for want of room, and executables that did not answer.
    losses: [u64; 2],
    delay: Histogram,
}

#[derive(Debug)]
struct Executable {
    number: u32,
    state: State,
    processes: usize,
}

#[derive(Debug)]
enum State {
    /// It is being read.
    Asked,
    Probed(Probes),
    Unprobed(String),
}

#[derive(Debug)]
struct Probes {
    version: Option<Version>,
    names: Arc<Names>,
    missing: Vec<&'static str>,
    links: Vec<OwnedFd>,
}

#[derive(Debug)]
struct Probed {
    file: FileId,
    /// Readable once the process has ended with all of its threads.
    alive: OwnedFd,
    candidate: Candidate,
    /// Since when its probes count, `CLOCK_MONOTONIC` ns.
    since_ns: Option<u64>,
}

impl Attacher {
    /// Nothing is probed yet.
    ///
    /// # Errors
    /// No epoll set or no thread can be had.
    pub fn new(reader: std::path::PathBuf, programs: Programs) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel::<Vec<OwnedFd>>();
        let closer = thread::Builder::new().name("detach".to_owned()).spawn(move || {
            while let Ok(mut links) = receiver.recv() {
                links.extend(receiver.try_iter().flatten());
                close(links);
            }
        })?;
        Ok(Self {
            prober: Prober::new(reader, programs),
            wake: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            executables: HashMap::new(),
            processes: HashMap::new(),
            last_number: 0,
            closer: Some((sender, closer)),
            begun_boottime_ns: clock_ns(libc::CLOCK_BOOTTIME),
            losses: [0; 2],
            delay: Histogram::new(Arc::from(DELAY_BUCKETS)),
        })
    }

    /// Probes the executable of a process that may migrate. `None` while it is being read, and when the process is gone.
    pub fn attach(&mut self, candidate: Candidate, own: &mut Own<'_>) -> Option<Coverage> {
        let pid = candidate.pid;
        if self.processes.get(&pid).is_some_and(|process| ended(&process.alive)) {
            self.forget(pid);
        }
        if let Some(process) = self.processes.get_mut(&pid) {
            if process.candidate.id() != candidate.id() {
                // It is gone: its id is that one's.
                return None;
            }
            process.candidate = candidate;
        } else if let Err(refusal) = self.admit(candidate)? {
            return Some(Coverage::Unprobed(refusal));
        }
        self.settle(pid, own);
        self.coverage(pid)
    }

    /// Takes a process in, and has its executable read if that has not been done. `None`: gone, or not now.
    fn admit(&mut self, candidate: Candidate) -> Option<Result<(), String>> {
        let pid = i32::try_from(candidate.pid).ok().and_then(Pid::from_raw)?;
        // Opened before its start is compared, it stands for the same process.
        let alive = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let (file, exe) = identify(&process::open(candidate.id())?)?;
        if !self.executables.contains_key(&file) {
            match self.prober.room() {
                Room::Later => return None,
                Room::Stuck => {
                    return Some(Err(
                        self.lose(1, "is not read: too many other executables have not answered")
                    ));
                }
                Room::Free if self.executables.len() >= MAX_EXECUTABLES => {
                    return Some(
                        Err(self.lose(0, "is not probed: too many other executables are")),
                    );
                }
                Room::Free => {}
            }
            self.ask(file, exe.as_fd());
        }
        let data = epoll::EventData::new_u64(candidate.pid.into());
        epoll::add(&self.wake, &alive, data, epoll::EventFlags::IN).ok()?;
        if let Some(executable) = self.executables.get_mut(&file) {
            executable.processes += 1;
        }
        self.processes.insert(candidate.pid, Probed { file, alive, candidate, since_ns: None });
        Some(Ok(()))
    }

    fn lose(&mut self, which: usize, why: &str) -> String {
        self.losses[which] += 1;
        why.to_owned()
    }

    fn ask(&mut self, file: FileId, exe: BorrowedFd<'_>) {
        self.last_number = self.last_number.wrapping_add(1).max(1);
        let number = self.last_number;
        let state = match self.prober.start(number, exe) {
            Ok(socket) => {
                let data = epoll::EventData::new_u64(READER);
                if let Err(error) = epoll::add(&self.wake, socket, data, epoll::EventFlags::IN) {
                    log::debug!("answers of readers are polled once a second: {error}");
                }
                State::Asked
            }
            Err(error) => {
                State::Unprobed(format!("cannot be read: starting a reader failed ({error})"))
            }
        };
        self.executables.insert(file, Executable { number, state, processes: 0 });
    }

    /// Becomes readable when [`Self::collect`] has something to do.
    #[must_use]
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Takes in what readers have answered and which processes have ended. True when something is known that was not.
    pub fn collect(&mut self, own: &mut Own<'_>) -> bool {
        for pid in self.ended() {
            self.forget(pid);
        }
        let done = self.prober.done();
        let news = !done.is_empty();
        for done in done {
            self.take_in(done);
        }
        if news {
            for pid in self.processes.keys().copied().collect::<Vec<_>>() {
                self.settle(pid, own);
            }
        }
        news
    }

    /// Processes that have ended since the last look.
    fn ended(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 64];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let found = epoll::wait(&self.wake, &mut events[..], Some(&now)).unwrap_or_default();
        for event in &events[..found] {
            pids.extend(u32::try_from({ event.data }.u64()).ok());
        }
        pids
    }

    fn take_in(&mut self, done: Done) {
        self.losses[1] += u64::from(done.late);
        let mut asked = self.executables.values_mut();
        let Some(executable) = asked.find(|known| known.number == done.executable) else {
            // Its last process has ended meanwhile.
            self.detach(done.links);
            return;
        };
        executable.state = match done.answer {
            Answer::Probed { binary, missing } => {
                let mut missing: Vec<_> = missing
                    .iter()
                    .filter_map(|place| Some(FUNCTIONS.get(*place)?.symbol()))
                    .collect();
                missing.dedup();
                let names = Arc::new(binary.meaning());
                State::Probed(Probes { version: binary.version, names, missing, links: done.links })
            }
            Answer::Refused(reason) => State::Unprobed(reason),
        };
    }

    /// From now on the probes of its executable count for a process.
    fn settle(&mut self, pid: u32, own: &mut Own<'_>) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let Some(executable) = self.executables.get(&process.file) else { return };
        let State::Probed(probes) = &executable.state else { return };
        own(Owner {
            slot: process.candidate.slot,
            process: process.candidate.id(),
            executable: executable.number,
            pending_form: probes.names.pending_form(),
        });
        if process.since_ns.is_none() {
            process.since_ns = Some(clock_ns(libc::CLOCK_MONOTONIC));
            let since = process.candidate.started_boottime_ns.max(self.begun_boottime_ns);
            let delay_ns = clock_ns(libc::CLOCK_BOOTTIME).saturating_sub(since);
            self.delay.observe(delay_ns as f64 * 1e-9);
            log::debug!("probed process {pid} {delay_ns} ns after it could be probed");
        }
    }

    fn coverage(&self, pid: u32) -> Option<Coverage> {
        let process = self.processes.get(&pid)?;
        match &self.executables.get(&process.file)?.state {
            State::Asked => None,
            State::Unprobed(reason) => Some(Coverage::Unprobed(reason.clone())),
            State::Probed(probes) => Some(Coverage::Probed {
                version: probes.version,
                names: Arc::clone(&probes.names),
                since_ns: process.since_ns?,
                missing: probes.missing.clone(),
            }),
        }
    }

    /// A process has ended. With the last one of its executable its probes go: they keep the file and its file system busy.
    fn forget(&mut self, pid: u32) {
        let Some(process) = self.processes.remove(&pid) else { return };
        let Some(executable) = self.executables.get_mut(&process.file) else { return };
        executable.processes = executable.processes.saturating_sub(1);
        if executable.processes == 0
            && let Some(Executable { state: State::Probed(probes), .. }) =
                self.executables.remove(&process.file)
        {
            self.detach(probes.links);
        }
    }

    fn detach(&self, links: Vec<OwnedFd>) {
        if let Some((closer, _)) = &self.closer
            && let Err(mpsc::SendError(links)) = closer.send(links)
        {
            close(links);
        }
    }

    /// Whether some executable is probed.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.executables.values().any(|known| matches!(known.state, State::Probed(_)))
    }

    /// The programs that serve all places, where they are not the object's own.
    pub fn shared_programs(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let programs = self.prober.programs();
        let shared = if programs.rung == Rung::Multi { programs.fds.as_slice() } else { &[] };
        shared.iter().map(|fd| fd.as_fd())
    }

    /// What was not probed, by reason.
    #[must_use]
    pub const fn losses(&self) -> [(&'static str, u64); 2] {
        [("executables:full", self.losses[0]), ("executables:silent", self.losses[1])]
    }

    /// Time from a process' start to its probes, seconds.
    #[must_use]
    pub const fn delay(&self) -> &Histogram {
        &self.delay
    }
}

impl Drop for Attacher {
    fn drop(&mut self) {
        let links = self.executables.drain().filter_map(|(_, executable)| match executable.state {
            State::Probed(probes) => Some(probes.links),
            State::Asked | State::Unprobed(_) => None,
        });
        close(links.flatten().collect());
        if let Some((sender, closer)) = self.closer.take() {
            drop(sender);
            let _ = closer.join();
        }
    }
}

/// Takes probes off: each link waits for the same grace periods, so that many at a time cost hardly more than one.
fn close(mut links: Vec<OwnedFd>) {
    thread::scope(|scope| {
        let share = links.len().div_ceil(CLOSERS).max(1);
        while links.len() > share {
            let part = links.split_off(links.len() - share);
            if let Err(error) = thread::Builder::new().spawn_scoped(scope, move || drop(part)) {
                log::debug!("removing probes one after the other: {error}");
            }
        }
        drop(links);
    });
}

/// Whether a process has ended with all of its threads.
fn ended(alive: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(alive, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
}

/// The executable of a process, and a descriptor that names it. Neither asks its file system anything: `O_PATH` opens nothing, and the
/// inode answers from what it knows (`AT_STATX_DONT_SYNC`; FUSE: `fuse_update_get_attr`, Linux 6.18). The link leads to the file that
/// runs, in whatever mount namespace, also after an upgrade has replaced its path.
fn identify(process: &Process) -> Option<(FileId, OwnedFd)> {
    let exe = process.open_relative_flags("exe", OFlags::PATH | OFlags::CLOEXEC).ok()?;
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(&exe, "", flags, StatxFlags::INO).ok()?;
    Some(((found.stx_dev_major, found.stx_dev_minor, found.stx_ino), exe.into()))
}
