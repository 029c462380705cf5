//! Socket calls that the standard library does not have.

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Socket, Type};

/// Gives this thread, and those that it starts from now on, the name `comm` (15 bytes are kept).
///
/// # Errors
/// When the name holds a zero byte.
pub fn set_comm(comm: &str) -> Result<()> {
    let name = CString::new(comm).context("process name")?;
    // SAFETY: the pointer is to a string that ends with a zero byte and lives through the call.
    let result = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error()).context("process name");
    }
    Ok(())
}

/// Lets more connections wait than the standard library's 128: beyond that a SYN is dropped and
/// its connection takes a second longer.
pub(super) fn lengthen_backlog(listener: &TcpListener) -> Result<()> {
    // SAFETY: takes integers; the descriptor is open and listens already.
    let result = unsafe { libc::listen(listener.as_raw_fd(), 4096) };
    if result != 0 {
        return Err(io::Error::last_os_error()).context("backlog");
    }
    Ok(())
}

/// Below the ports that the kernel gives out by itself, among which are ports of migrations: what has one of these is followed whoever made
/// it, and takes another kind of slot.
const CALLERS: Range<u16> = 10_000..32_768;

/// Connects over loopback from a port that no other connection of this process had before, nor one of a migration, and returns that address.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn connect_from_new_port(receiver: SocketAddr) -> Result<(TcpStream, SocketAddr)> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // Where a process begins differs from the one before.
    let first = std::process::id() as usize * 1009;
    for _ in 0..CALLERS.len() {
        let offset = (first + NEXT.fetch_add(1, Ordering::Relaxed)) % CALLERS.len();
        let local = SocketAddr::new(receiver.ip(), CALLERS.start + u16::try_from(offset)?);
        let socket = Socket::new(Domain::for_address(receiver), Type::STREAM, None)?;
        // Connections that are over keep their ports for a minute.
        socket.set_reuse_address(true)?;
        let connected = socket.bind(&local.into()).and_then(|()| socket.connect(&receiver.into()));
        match connected {
            Ok(()) => return Ok((socket.into(), local)),
            Err(error) if is_taken(&error) => {}
            Err(error) => return Err(error).context(format!("connection to {receiver}")),
        }
    }
    bail!("all ports from {CALLERS:?} are taken")
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

/// Closes with a reset instead of a FIN.
pub(super) fn reset(stream: TcpStream) -> Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: pointer and length describe `linger`; the descriptor is open.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error()).context("linger");
    }
    drop(stream);
    Ok(())
}

/// Waits until the other end has acknowledged all that was written.
pub(super) fn wait_acknowledged(stream: &TcpStream) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(60);
    let start = Instant::now();
    loop {
        let mut unacknowledged: libc::c_int = 0;
        // SAFETY: SIOCOUTQ writes one int; the descriptor is open.
        let result =
            unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut unacknowledged) };
        if result != 0 {
            return Err(io::Error::last_os_error()).context("output queue");
        }
        if unacknowledged == 0 {
            return Ok(());
        }
        if start.elapsed() > LIMIT {
            bail!("{unacknowledged} bytes are not acknowledged after {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Raises the limit of open files of this process to the highest allowed.
///
/// # Errors
/// When the kernel refuses.
pub fn raise_file_limit() -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a whole rlimit.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error()).context("limit of open files");
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is to a whole rlimit.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error()).context("limit of open files");
    }
    Ok(())
}
