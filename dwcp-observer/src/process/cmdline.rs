//! Reads command lines in threads that may block, because arguments are in the process' own memory.
//!
//! A read of `/proc/PID/cmdline` takes the `mmap_lock` of the process (`__access_remote_vm`, mm/memory.c, 5.10 to 7.3), and a thread
//! that waits for a page of a slow file system or for memory can hold this lock. The wait ends when the process or the observer ends, because
//! it is killable (`mmap_read_lock_killable`).

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    os::fd::OwnedFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use procfs::process::Process;
use rustix::event::{EventfdFlags, eventfd};

use super::read;
use crate::model::facts::{ProcessId, Unread};

/// Bytes of a command line that are read.
const MAX_CMDLINE: u64 = 256 << 10;
/// A process that has not answered by then is taken for one without arguments until it does.
const DEADLINE: Duration = Duration::from_secs(1);
/// An answer that nobody comes for is dropped after so long.
const KEPT: Duration = Duration::from_secs(10);
/// Threads that read, those included that hang.
const MAX_READERS: usize = 64;
/// Threads that read beside those that have taken longer than this.
const READERS: usize = 2;
const SLOW: Duration = Duration::from_millis(50);
/// Of these, how many may hang over processes of one user other than root.
const MAX_SILENT_OF_USER: usize = 4;
/// Processes that wait to be read.
const MAX_WAITING: usize = 8192;
/// A new program has no arguments yet: it is read so often again, after so long.
const AGAIN: (u32, Duration) = (3, Duration::from_millis(1));

/// Reads command lines, and never waits for one.
#[derive(Debug)]
pub struct CommandLines {
    jobs: HashMap<ProcessId, Job>,
    shared: Arc<Shared>,
    readers: usize,
    /// Some answer was not there when it was asked for.
    missed: bool,
    /// Processes that did not answer, and those that were not asked for want of readers.
    losses: [u64; 2],
}

#[derive(Debug)]
struct Job {
    begun: Instant,
    user: u32,
    silent: bool,
    answer: Arc<OnceLock<Vec<u8>>>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
    /// Becomes readable with each answer.
    done: Option<OwnedFd>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(File, Arc<OnceLock<Vec<u8>>>)>,
    idle: usize,
    over: bool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CommandLines {
    /// Nothing is read yet.
    #[must_use]
    pub fn new() -> Self {
        let done = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .inspect_err(|error| log::warn!("command lines are read once a second only: {error}"));
        let shared = Shared { queue: Mutex::default(), more: Condvar::new(), done: done.ok() };
        Self {
            jobs: HashMap::new(),
            shared: Arc::new(shared),
            readers: 0,
            missed: false,
            losses: [0; 2],
        }
    }

    /// The arguments of a process as they are when it is first asked; each answer is handed out once.
    ///
    /// # Errors
    /// They are not known, or not yet.
    pub fn of(&mut self, id: ProcessId, process: &Process) -> Result<Vec<String>, Unread> {
        if !self.jobs.contains_key(&id) {
            self.begin(id, process)?;
        }
        let answer = self.answer(id);
        if answer == Err(Unread::Awaited) {
            self.missed = true;
            self.add_reader();
        }
        answer
    }

    /// Has a command line read that will be asked for soon.
    pub fn expect(&mut self, id: ProcessId) {
        if !self.jobs.contains_key(&id)
            && let Some(process) = super::open(id)
            && let Err(refusal) = self.begin(id, &process)
        {
            log::debug!("the command line of process {} {}", id.pid, refusal.why());
        }
    }

    fn answer(&mut self, id: ProcessId) -> Result<Vec<String>, Unread> {
        let Some(job) = self.jobs.get_mut(&id) else { return Err(Unread::Crowded) };
        if let Some(raw) = job.answer.get() {
            let line = arguments(raw);
            self.jobs.remove(&id);
            return Ok(line);
        }
        if job.silent {
            return Err(Unread::Silent);
        }
        if job.begun.elapsed() < DEADLINE {
            return Err(Unread::Awaited);
        }
        job.silent = true;
        self.losses[0] += 1;
        Err(Unread::Silent)
    }

    fn begin(&mut self, id: ProcessId, process: &Process) -> Result<(), Unread> {
        let user = user_of(process);
        if !self.has_room(user) {
            self.losses[1] += 1;
            return Err(Unread::Crowded);
        }
        let answer = Arc::new(OnceLock::new());
        // Opening it asks nothing of the process, and it stays that process'.
        match process.open_relative("cmdline") {
            Ok(file) => self.hand_over(file, Arc::clone(&answer)),
            Err(_) => answer.set(Vec::new()).unwrap_or_default(),
        }
        self.jobs.insert(id, Job { begun: Instant::now(), user, silent: false, answer });
        Ok(())
    }

    fn hand_over(&mut self, file: File, answer: Arc<OnceLock<Vec<u8>>>) {
        let mut queue = self.shared.queue();
        queue.waiting.push_back((file, answer));
        drop(queue);
        self.shared.more.notify_one();
        self.add_reader();
    }

    /// Starts a thread where all others are busy, and too many of them for long.
    fn add_reader(&mut self) {
        let slow = |job: &&Job| job.answer.get().is_none() && job.begun.elapsed() >= SLOW;
        let wanted = READERS + self.jobs.values().filter(slow).count();
        let queue = self.shared.queue();
        let busy = queue.waiting.len() > queue.idle;
        drop(queue);
        if busy && self.readers < wanted.min(MAX_READERS) {
            self.start();
        }
    }

    fn has_room(&self, user: u32) -> bool {
        let silent = |job: &&Job| job.answer.get().is_none() && job.begun.elapsed() >= DEADLINE;
        let of_user = self.jobs.values().filter(silent).filter(|job| job.user == user).count();
        (user == 0 || of_user < MAX_SILENT_OF_USER)
            && self.jobs.values().filter(silent).count() < MAX_READERS
            && self.shared.queue().waiting.len() < MAX_WAITING
    }

    fn start(&mut self) {
        let shared = Arc::clone(&self.shared);
        match thread::Builder::new().name("cmdline".to_owned()).spawn(move || serve(&shared)) {
            // One that hangs is not waited for: it ends with the process that it reads, or with the observer.
            Ok(_) => self.readers += 1,
            Err(error) => log::warn!("cannot start a thread that reads command lines: {error}"),
        }
    }

    /// Forgets what nobody came for. What does not answer is kept, for it holds a reader.
    pub fn renew(&mut self) {
        self.jobs.retain(|_, job| job.answer.get().is_none() || job.begun.elapsed() < KEPT);
        self.add_reader();
    }

    /// Becomes readable when something was answered.
    #[must_use]
    pub fn wake_fd(&self) -> Option<OwnedFd> {
        self.shared.done.as_ref()?.try_clone().ok()
    }

    /// Whether something is known by now that was asked for in vain.
    pub fn has_news(&mut self) -> bool {
        if let Some(done) = &self.shared.done {
            // Empty, or read by nobody else.
            let _ = rustix::io::read(done, &mut [0; 8]);
        }
        let news = self.missed && self.jobs.values().any(|job| job.answer.get().is_some());
        self.missed &= !news;
        news
    }

    /// What was not read, by reason.
    #[must_use]
    pub const fn losses(&self) -> [(&'static str, u64); 2] {
        [("cmdlines:silent", self.losses[0]), ("cmdlines:full", self.losses[1])]
    }
}

impl Default for CommandLines {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for CommandLines {
    fn drop(&mut self) {
        self.shared.queue().over = true;
        self.shared.more.notify_all();
    }
}

/// Reads one command line after the other.
fn serve(shared: &Shared) {
    loop {
        let mut queue = shared.queue();
        queue.idle += 1;
        let next = loop {
            if queue.over {
                return;
            }
            match queue.waiting.pop_front() {
                Some(next) => break next,
                None => queue = shared.more.wait(queue).unwrap_or_else(PoisonError::into_inner),
            }
        };
        queue.idle -= 1;
        drop(queue);
        let (file, answer) = next;
        // Nobody else writes it.
        let _ = answer.set(content(&file));
        if let Some(done) = &shared.done
            && let Err(error) = rustix::io::write(done, &1u64.to_ne_bytes())
        {
            log::debug!("command lines are processed with the next cycle only: {error}");
        }
    }
}

fn content(file: &File) -> Vec<u8> {
    for _ in 0..AGAIN.0 {
        let content = file.try_clone().ok().and_then(|file| read(file, MAX_CMDLINE));
        match content {
            Some(content) if !content.is_empty() => return content,
            // Gone, or a program that begins (`get_mm_cmdline`, fs/proc/base.c: without an end of its arguments there are none).
            _ => thread::sleep(AGAIN.1),
        }
    }
    Vec::new()
}

/// Who runs a process (real user id); root where that cannot be told.
fn user_of(process: &Process) -> u32 {
    let status = process.open_relative("status").ok().and_then(|file| read(file, super::MAX_FILE));
    let text = status.map(|raw| String::from_utf8_lossy(&raw).into_owned()).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Uid:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// The NUL-separated arguments of `/proc/PID/cmdline`; a process may have put anything there.
pub(super) fn arguments(raw: &[u8]) -> Vec<String> {
    let raw = raw.strip_suffix(b"\0").unwrap_or(raw);
    if raw.is_empty() {
        return Vec::new();
    }
    raw.split(|&byte| byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}
