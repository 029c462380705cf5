//! `TCP_INFO` of a socket of another process: an oracle that asks the kernel at any moment.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, bail};

/// A socket of another process.
#[derive(Debug)]
pub struct ForeignSocket {
    socket: OwnedFd,
}

/// What `TCP_INFO` says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TcpInfo {
    /// `tcpi_bytes_acked`.
    pub bytes_acked: u64,
    /// `tcpi_bytes_received`.
    pub bytes_received: u64,
    /// `tcpi_busy_time`, seconds.
    pub busy_seconds: f64,
    /// `tcpi_rwnd_limited`, seconds.
    pub rwnd_limited_seconds: f64,
    /// `tcpi_sndbuf_limited`, seconds.
    pub sndbuf_limited_seconds: f64,
    /// `tcpi_total_retrans`, segments.
    pub total_retrans: u64,
    /// `tcpi_bytes_retrans`.
    pub bytes_retrans: u64,
    /// `tcpi_notsent_bytes`.
    pub not_sent_bytes: u32,
    /// `tcpi_unacked`, segments.
    pub unacked_segments: u32,
}

impl ForeignSocket {
    /// Finds the connected socket of `pid` whose own address is `local` and duplicates it. Needs
    /// root. The duplicate keeps the connection open until it is dropped.
    ///
    /// # Errors
    /// When there is no such socket.
    pub fn find(pid: u32, local: SocketAddr) -> Result<Self> {
        let pidfd = syscall_fd(libc::SYS_pidfd_open, [i64::from(pid), 0, 0])
            .with_context(|| format!("process {pid}"))?;
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
            let entry = entry?;
            let is_socket = std::fs::read_link(entry.path())
                .is_ok_and(|target| target.to_string_lossy().starts_with("socket:"));
            let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if !is_socket {
                continue;
            }
            let arguments = [i64::from(pidfd.as_raw_fd()), number, 0];
            let Ok(socket) = syscall_fd(libc::SYS_pidfd_getfd, arguments) else { continue };
            let stream = std::net::TcpStream::from(socket);
            if stream.local_addr().is_ok_and(|found| found == local) && stream.peer_addr().is_ok() {
                return Ok(Self { socket: stream.into() });
            }
        }
        bail!("process {pid} has no connected socket {local}")
    }

    /// Bytes that the application wrote and that are not acknowledged (`SIOCOUTQ`).
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn outstanding(&self) -> Result<u32> {
        let mut bytes: libc::c_int = 0;
        // SAFETY: SIOCOUTQ, which is TIOCOUTQ, writes one int; the descriptor is open.
        let result =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        if result != 0 {
            return Err(io::Error::last_os_error()).context("output queue");
        }
        Ok(u32::try_from(bytes)?)
    }

    /// Asks the kernel.
    ///
    /// # Errors
    /// When the kernel does not answer, or is older than the fields wanted.
    pub fn info(&self) -> Result<TcpInfo> {
        // `libc` knows an older, shorter `struct tcp_info`; offsets are user interface.
        let mut bytes = MaybeUninit::<[u8; 256]>::zeroed();
        let mut length = size_of::<[u8; 256]>() as libc::socklen_t;
        // SAFETY: pointer and length describe `bytes`; the descriptor is open.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                bytes.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error()).context("TCP_INFO");
        }
        if length < 216 {
            bail!("TCP_INFO has only {length} bytes");
        }
        // SAFETY: it was zeroed, so every byte is a value.
        let bytes = unsafe { bytes.assume_init() };
        let u32_at = |at: usize| {
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| {
            let mut value = [0; 8];
            value.copy_from_slice(&bytes[at..at + 8]);
            u64::from_ne_bytes(value)
        };
        let seconds = |at: usize| u64_at(at) as f64 / 1e6;
        Ok(TcpInfo {
            unacked_segments: u32_at(24),
            bytes_acked: u64_at(120),
            bytes_received: u64_at(128),
            not_sent_bytes: u32_at(144),
            busy_seconds: seconds(168),
            rwnd_limited_seconds: seconds(176),
            sndbuf_limited_seconds: seconds(184),
            total_retrans: u64::from(u32_at(100)),
            bytes_retrans: u64_at(208),
        })
    }
}

fn syscall_fd(number: libc::c_long, [a, b, c]: [i64; 3]) -> Result<OwnedFd> {
    // SAFETY: the calls used here take integers only.
    let fd = unsafe { libc::syscall(number, a, b, c) };
    if fd < 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: the descriptor is new and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn counts_of_a_connection_are_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        sender.write_all(&[1; 5000]).unwrap();
        receiver.read_exact(&mut [0; 5000]).unwrap();
        let find = |address| ForeignSocket::find(std::process::id(), address).unwrap();
        let received = find(receiver.local_addr().unwrap()).info().unwrap();
        assert_eq!(received.bytes_received, 5000);
        let sent = find(sender.local_addr().unwrap()).info().unwrap();
        assert!(sent.bytes_acked <= 5001, "{sent:?}");
        assert!(ForeignSocket::find(std::process::id(), "127.0.0.1:1".parse().unwrap()).is_err());
    }
}
