//! The process that reads one executable and attaches its probes. The file is untrusted: it may be huge, broken, or on a file system
//! that never answers, and a thread that waits for it cannot be interrupted (FUSE, Linux 6.18: `request_wait_answer` waits uninterruptibly
//! once the request was read). It receives descriptors of programs and returns those of links; the caller waits for neither.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    process::ExitCode,
};

use dwcp_observer_ebpf::phase::cookie;
use rustix::{
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
    process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    FUNCTIONS,
    binary::{self, Binary},
};
use crate::kernel::uprobe::{Target, c_path, link_multi, link_perf};

/// Argument of the observer's own executable that makes it a reader.
pub const COMMAND: &str = "read-executable";
/// Memory that it may take for data, bytes: the largest names that are read, and itself.
const MEMORY: u64 = 64 << 20;
/// CPU time that it may take, seconds; reading QEMU takes some 10 ms.
const CPU_SECONDS: u64 = 2;
/// Largest message, bytes.
const MESSAGE: usize = 64 << 10;
/// Most descriptors in a message.
const DESCRIPTORS: usize = 64;

const _: () = assert!(FUNCTIONS.len() < DESCRIPTORS);

/// How probes are placed, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rung {
    /// One link per executable and kind of probe, two programs for all places (Linux 6.6).
    Multi,
    /// A perf event per place with a cookie, two programs for all places (5.15).
    Cookie,
    /// A perf event and a program per place.
    Event,
}

impl Rung {
    /// Best first.
    pub const ALL: &[Self] = &[Self::Multi, Self::Cookie, Self::Event];
}

/// What a reader is asked to do. The executable's descriptor comes first, then those of the programs.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Number of the executable, for cookies.
    pub executable: u32,
    /// How to place the probes.
    pub rung: Rung,
}

/// What it found. The descriptors of what it placed come along.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// All that a blackout needs are probed.
    Probed {
        /// What the executable offers.
        binary: Binary,
        /// Places in [`FUNCTIONS`] that are not probed.
        missing: Vec<usize>,
    },
    /// They are not: why.
    Refused(String),
}

/// Reads what the caller's socket, its standard input, asks for.
#[must_use]
pub fn main() -> ExitCode {
    let socket = io::stdin();
    match bound_itself().and_then(|()| serve(socket.as_fd())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Dies with the observer, and never takes more than reading takes.
fn bound_itself() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let at_most = |limit| Rlimit { current: Some(limit), maximum: Some(limit) };
    setrlimit(Resource::Data, at_most(MEMORY))?;
    Ok(setrlimit(Resource::Cpu, at_most(CPU_SECONDS))?)
}

fn serve(socket: BorrowedFd<'_>) -> io::Result<()> {
    let (request, mut fds) = receive::<Request>(socket, RecvFlags::empty())?
        .ok_or_else(|| io::Error::other("empty request"))?;
    if fds.is_empty() {
        return Err(io::Error::other("no executable"));
    }
    let programs = fds.split_off(1);
    // The descriptor only names the file; this opens it.
    let path = PathBuf::from(format!("/proc/self/fd/{}", fds[0].as_raw_fd()));
    let found = File::open(&path)
        .map_err(|error| format!("cannot be opened: {error}"))
        .and_then(|file| binary::read(&file).map_err(|error| error.to_string()));
    let (answer, links) = match found {
        Ok(binary) => place(&request, binary, &path, &programs),
        Err(reason) => (Answer::Refused(reason), Vec::new()),
    };
    let links: Vec<_> = links.iter().map(AsFd::as_fd).collect();
    send(socket, &answer, &links)
}

fn place(
    request: &Request,
    binary: Binary,
    path: &Path,
    programs: &[OwnedFd],
) -> (Answer, Vec<OwnedFd>) {
    let targets: Vec<(usize, Target)> = binary
        .offsets
        .iter()
        .map(|(place, offset)| {
            let function = &FUNCTIONS[*place];
            let cookie = cookie(request.executable, function.number);
            (*place, Target { offset: *offset, cookie, at_return: function.at_return })
        })
        .collect();
    let mut refusal = None;
    let placed = together(request.rung, &targets, path, programs)
        .unwrap_or_else(|| one_by_one(request.rung, &targets, path, programs, &mut refusal));
    let missing: Vec<usize> =
        (0..FUNCTIONS.len()).filter(|place| !placed.iter().any(|(at, _)| at == place)).collect();
    if let Some(place) = missing.iter().find(|place| FUNCTIONS[**place].required) {
        let symbol = FUNCTIONS[*place].symbol();
        let why = match refusal.filter(|_| targets.iter().any(|(at, _)| at == place)) {
            Some(error) => format!("cannot be probed at {symbol}: {error}"),
            None => format!("does not export {symbol}"),
        };
        return (Answer::Refused(why), Vec::new());
    }
    let links = placed.into_iter().filter_map(|(_, link)| link).collect();
    let missing = missing.into_iter().filter(|place| !binary.can_do_without(*place)).collect();
    (Answer::Probed { binary, missing }, links)
}

/// Places, and the link of each; one link may serve many.
type Placed = Vec<(usize, Option<OwnedFd>)>;

/// All places by two links; `None` where that is not possible.
fn together(
    rung: Rung,
    targets: &[(usize, Target)],
    path: &Path,
    programs: &[OwnedFd],
) -> Option<Placed> {
    let (Rung::Multi, [entry, exit]) = (rung, programs) else { return None };
    let file = c_path(path).ok()?;
    let all: Vec<Target> = targets.iter().map(|(_, target)| *target).collect();
    let mut links = vec![link_multi(entry.as_fd(), &file, &all, false).ok()?];
    if all.iter().any(|target| target.at_return) {
        links.push(link_multi(exit.as_fd(), &file, &all, true).ok()?);
    }
    let links = links.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
    Some(targets.iter().map(|(place, _)| *place).zip(links).collect())
}

/// Each place by a link of its own: one that the kernel refuses costs no other.
fn one_by_one(
    rung: Rung,
    targets: &[(usize, Target)],
    path: &Path,
    programs: &[OwnedFd],
    refusal: &mut Option<String>,
) -> Placed {
    let Ok(file) = c_path(path) else { return Vec::new() };
    let mut link = |(place, target): &(usize, Target)| {
        let program = match rung {
            Rung::Event => programs.get(*place),
            Rung::Multi | Rung::Cookie => programs.get(usize::from(target.at_return)),
        };
        let program = program?.as_fd();
        let link = match rung {
            Rung::Multi => link_multi(program, &file, &[*target], target.at_return),
            Rung::Cookie | Rung::Event => link_perf(program, &file, *target, rung == Rung::Cookie),
        };
        let refused = |error: &io::Error| {
            refusal.get_or_insert_with(|| error.to_string());
        };
        Some((*place, Some(link.inspect_err(refused).ok()?)))
    };
    targets.iter().filter_map(&mut link).collect()
}

/// Sends one message.
///
/// # Errors
/// What the socket says.
pub fn send(
    socket: BorrowedFd<'_>,
    message: &impl Serialize,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message and its descriptors; `None`: the other end is gone.
///
/// # Errors
/// What the socket says, or the message is none.
pub fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
    flags: RecvFlags,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&bytes[..got.bytes])?, fds)))
}
