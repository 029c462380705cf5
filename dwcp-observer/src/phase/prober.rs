//! Starts a `reader` for each executable, and abandons those that do not answer.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};

use super::reader::{self, Answer, COMMAND, Request, Rung};

/// How long a reader may take. An executable that is cached takes 10 ms, one on a cold disk some hundreds.
const DEADLINE: Duration = Duration::from_secs(5);
/// Readers at the same time; what comes meanwhile waits for its turn.
const MAX_JOBS: usize = 8;
/// Readers that were killed and have not died: beyond, no executable is read until one has.
const MAX_STUCK: usize = 32;

/// The programs of phase functions, loaded.
#[derive(Debug)]
pub struct Programs {
    /// How they are placed.
    pub rung: Rung,
    /// Entry and return; with [`Rung::Event`], one per place.
    pub fds: Vec<OwnedFd>,
}

/// Readers at work.
#[derive(Debug)]
pub struct Prober {
    /// What is started as a reader: the observer itself.
    reader: PathBuf,
    programs: Programs,
    deadline: Duration,
    jobs: Vec<Job>,
    /// Done or killed, not yet reaped.
    leaving: Vec<Leaving>,
}

#[derive(Debug)]
struct Job {
    executable: u32,
    child: Child,
    socket: OwnedFd,
    begun: Instant,
}

#[derive(Debug)]
struct Leaving {
    child: Child,
    killed: bool,
}

/// What came of reading one executable.
#[derive(Debug)]
pub struct Done {
    /// Its number.
    pub executable: u32,
    /// What was found.
    pub answer: Answer,
    /// What holds the probes.
    pub links: Vec<OwnedFd>,
    /// It did not answer in time.
    pub late: bool,
}

/// Whether another executable can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Now.
    Free,
    /// When one of the readers is done.
    Later,
    /// Too many do not answer, and cannot be killed.
    Stuck,
}

impl Prober {
    /// Starts `reader` for each executable.
    #[must_use]
    pub const fn new(reader: PathBuf, programs: Programs) -> Self {
        Self { reader, programs, deadline: DEADLINE, jobs: Vec::new(), leaving: Vec::new() }
    }

    /// Whether another executable can be read now.
    #[must_use]
    pub fn room(&self) -> Room {
        if self.stuck() >= MAX_STUCK {
            Room::Stuck
        } else if self.jobs.len() >= MAX_JOBS {
            Room::Later
        } else {
            Room::Free
        }
    }

    /// Readers that were killed and have not died.
    #[must_use]
    pub fn stuck(&self) -> usize {
        self.leaving.iter().filter(|leaving| leaving.killed).count()
    }

    /// What is placed.
    #[must_use]
    pub const fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Has an executable read and probed; `file` need only name it. Returns what becomes readable with the answer.
    ///
    /// # Errors
    /// No process can be started.
    pub fn start(&mut self, executable: u32, file: BorrowedFd<'_>) -> io::Result<BorrowedFd<'_>> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let request = Request { executable, rung: self.programs.rung };
        let programs = self.programs.fds.iter().map(|fd| fd.as_fd());
        let fds: Vec<_> = std::iter::once(file).chain(programs).collect();
        reader::send(ours.as_fd(), &request, &fds)?;
        let child = Command::new(&self.reader)
            .arg(COMMAND)
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let at = self.jobs.len();
        self.jobs.push(Job { executable, child, socket: ours, begun: Instant::now() });
        Ok(self.jobs[at].socket.as_fd())
    }

    /// Readers that have answered, ended, or let their time pass. Waits for nothing.
    pub fn done(&mut self) -> Vec<Done> {
        self.leaving.retain_mut(|leaving| matches!(leaving.child.try_wait(), Ok(None)));
        let mut done = Vec::new();
        for job in std::mem::take(&mut self.jobs) {
            match reader::receive::<Answer>(job.socket.as_fd(), RecvFlags::DONTWAIT) {
                Ok(Some((answer, links))) => {
                    done.push(Done { executable: job.executable, answer, links, late: false });
                    self.leaving.push(Leaving { child: job.child, killed: false });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if job.begun.elapsed() < self.deadline {
                        self.jobs.push(job);
                    } else {
                        done.push(self.give_up(job, true, "does not answer"));
                    }
                }
                // The limits on its memory and time end it, too.
                Ok(None) | Err(_) => done.push(self.give_up(job, false, "cannot be read")),
            }
        }
        done
    }

    fn give_up(&mut self, mut job: Job, late: bool, why: &str) -> Done {
        if let Err(error) = job.child.kill() {
            log::debug!("the reader of executable {}: {error}", job.executable);
        }
        self.leaving.push(Leaving { child: job.child, killed: late });
        Done {
            executable: job.executable,
            answer: Answer::Refused(why.to_owned()),
            links: Vec::new(),
            late,
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        for job in &mut self.jobs {
            // One that cannot die is not waited for.
            let _ = job.child.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        os::unix::fs::PermissionsExt as _,
        thread::sleep,
    };

    use super::*;

    /// A prober whose readers are this script.
    fn prober(name: &str, script: &str, deadline: Duration) -> (Prober, PathBuf) {
        let path = std::env::temp_dir().join(format!("dwcp-{name}-{}", std::process::id()));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let programs = Programs { rung: Rung::Multi, fds: Vec::new() };
        let mut prober = Prober::new(path.clone(), programs);
        prober.deadline = deadline;
        (prober, path)
    }

    fn wait(prober: &mut Prober, count: usize) -> Vec<Done> {
        let mut all = Vec::new();
        while all.len() < count {
            all.extend(prober.done());
            sleep(Duration::from_millis(5));
        }
        all
    }

    #[test]
    fn readers_that_do_not_answer_are_given_up_and_make_room() {
        let (mut prober, path) = prober("silent", "exec sleep 1000", Duration::from_secs(600));
        let exe = File::open("/proc/self/exe").unwrap();
        for number in 1..=MAX_JOBS as u32 {
            assert_eq!(prober.room(), Room::Free);
            prober.start(number, exe.as_fd()).unwrap();
        }
        assert_eq!(prober.room(), Room::Later, "what comes meanwhile is not refused");
        assert!(prober.done().is_empty(), "nothing is waited for");
        prober.deadline = Duration::ZERO;
        let done = wait(&mut prober, MAX_JOBS);
        assert!(done.iter().all(|done| done.late && done.links.is_empty()));
        assert!(matches!(&done[0].answer, Answer::Refused(why) if why == "does not answer"));
        assert_eq!(prober.room(), Room::Free);
        while prober.stuck() > 0 {
            prober.done();
        }
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_reader_that_ends_without_an_answer_refuses() {
        let (mut prober, path) = prober("broken", "exit 1", Duration::from_secs(600));
        prober.start(1, File::open("/proc/self/exe").unwrap().as_fd()).unwrap();
        let done = wait(&mut prober, 1);
        assert!(matches!(&done[0].answer, Answer::Refused(why) if why == "cannot be read"));
        assert!(!done[0].late);
        fs::remove_file(path).unwrap();
    }
}
