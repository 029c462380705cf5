//! The kernel's own final byte counters of each TCP socket: the oracle for exact totals.
//!
//! The kernel tells listeners of the `sock_diag` destroy groups about every TCP socket that it
//! destroys, with the same `tcp_info` that `TCP_INFO` returns, so nothing is sampled.
//!
//! One kind of socket is not told: one whose own end closed with a reset (`SO_LINGER` of 0). The
//! kernel disconnects it first, which clears its peer and its counters. Its other end is told.

use std::collections::VecDeque;
use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_INFO: u16 = 2;
/// `SKNLGRP_INET_TCP_DESTROY` and `SKNLGRP_INET6_TCP_DESTROY`, as a mask.
const DESTROY_GROUPS: u32 = (1 << 0) | (1 << 2);
/// Size of `struct inet_diag_msg`.
const DIAG_MESSAGE: usize = 72;
/// Offsets in `struct tcp_info`, which is user interface: they never change.
mod tcp_info {
    pub(super) const TOTAL_RETRANS: usize = 100;
    pub(super) const BYTES_ACKED: usize = 120;
    pub(super) const BYTES_RECEIVED: usize = 128;
    pub(super) const MIN_RTT: usize = 148;
    pub(super) const BUSY_TIME: usize = 168;
    pub(super) const RWND_LIMITED: usize = 176;
    pub(super) const SNDBUF_LIMITED: usize = 184;
    pub(super) const BYTES_SENT: usize = 200;
    pub(super) const BYTES_RETRANS: usize = 208;
    pub(super) const END: usize = 216;
}
const NETLINK_HEADER: usize = size_of::<libc::nlmsghdr>();

/// What one end of a connection had counted when it was destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SocketTotals {
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
    /// `tcpi_bytes_acked`: payload that the other end acknowledged, plus 1 for the SYN of the end
    /// that connected, plus 1 for an acknowledged FIN.
    pub bytes_acked: u64,
    /// `tcpi_bytes_received`: payload that came in order, plus 1 for the other end's FIN. An end
    /// that closed first may go to TIME_WAIT before that FIN comes: its figure is without it.
    pub bytes_received: u64,
    /// `tcpi_bytes_sent`: payload sent, retransmissions included, no SYN and no FIN.
    pub bytes_sent: u64,
    /// `tcpi_bytes_retrans`.
    pub bytes_retrans: u64,
    /// `tcpi_total_retrans`: segments sent again.
    pub segments_retransmitted: u32,
    /// `tcpi_min_rtt`, us.
    pub min_rtt_us: u32,
    /// `tcpi_busy_time`, us; the kernel counts it and the next two in its timer ticks.
    pub busy_us: u64,
    /// `tcpi_rwnd_limited`, us.
    pub rwnd_limited_us: u64,
    /// `tcpi_sndbuf_limited`, us.
    pub sndbuf_limited_us: u64,
}

impl SocketTotals {
    /// Payload bytes sent once each. It equals what was delivered if all was acknowledged.
    #[must_use]
    pub fn payload_sent(&self) -> u64 {
        self.bytes_sent - self.bytes_retrans
    }
}

/// Listens for the end of TCP sockets in this network namespace. Needs root.
#[derive(Debug)]
pub struct SocketWatch {
    socket: OwnedFd,
    pending: VecDeque<SocketTotals>,
}

impl SocketWatch {
    /// Starts to listen; sockets destroyed from now on are told.
    ///
    /// # Errors
    /// When the kernel refuses: it needs `CAP_NET_ADMIN`.
    pub fn start() -> Result<Self> {
        // SAFETY: plain system call; the result is checked before it is used.
        let fd = unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                NETLINK_SOCK_DIAG,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("socket diagnosis");
        }
        // SAFETY: the descriptor is open and nobody else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let size: libc::c_int = 64 << 20;
        // SAFETY: pointer and length describe `size`.
        let result = unsafe {
            libc::setsockopt(
                fd,
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                (&raw const size).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error()).context("receive buffer (needs root)");
        }
        // SAFETY: all-zero is a valid sockaddr_nl.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = DESTROY_GROUPS;
        // SAFETY: pointer and length describe `address`.
        let result = unsafe {
            libc::bind(
                fd,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_nl>() as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error()).context("destroy groups (needs root)");
        }
        Ok(Self { socket, pending: VecDeque::new() })
    }

    /// All sockets destroyed since the last call.
    ///
    /// # Errors
    /// When messages were lost (the caller cannot trust the set then) or are not understood.
    pub fn take(&mut self) -> Result<Vec<SocketTotals>> {
        let mut buffer = vec![0_u8; 64 << 10];
        loop {
            // SAFETY: the pointer and the length describe `buffer`.
            let length = unsafe {
                libc::recv(self.socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0)
            };
            let Ok(length) = usize::try_from(length) else {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(self.pending.drain(..).collect()),
                    io::ErrorKind::Interrupted => continue,
                    _ => return Err(error).context("socket totals were lost"),
                }
            };
            self.pending.extend(parse(&buffer[..length])?);
        }
    }

    /// Waits until `count` sockets that satisfy `wanted` are destroyed and returns these.
    ///
    /// # Errors
    /// When that takes longer than `limit`, or messages were lost.
    pub fn wait(
        &mut self,
        count: usize,
        limit: Duration,
        wanted: impl Fn(&SocketTotals) -> bool,
    ) -> Result<Vec<SocketTotals>> {
        let start = Instant::now();
        let mut found = Vec::new();
        loop {
            found.extend(self.take()?.into_iter().filter(&wanted));
            if found.len() >= count {
                return Ok(found);
            }
            if start.elapsed() > limit {
                bail!("only {} of {count} sockets are closed after {limit:?}", found.len());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn parse(mut messages: &[u8]) -> Result<Vec<SocketTotals>> {
    let mut all = Vec::new();
    while messages.len() >= NETLINK_HEADER {
        let length = u32_at(messages, 0) as usize;
        if length < NETLINK_HEADER || length > messages.len() {
            bail!("a netlink message of {length} bytes");
        }
        if u16_at(messages, 4) == SOCK_DIAG_BY_FAMILY {
            all.extend(parse_socket(&messages[NETLINK_HEADER..length]));
        }
        messages = &messages[align(length).min(messages.len())..];
    }
    Ok(all)
}

/// `None` for a socket without a peer: never connected, or reset by its own end.
fn parse_socket(message: &[u8]) -> Option<SocketTotals> {
    if message.len() < DIAG_MESSAGE {
        return None;
    }
    let family = i32::from(message[0]);
    let address = |port: usize, ip: usize| {
        let port = u16::from_be_bytes([message[port], message[port + 1]]);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&message[ip..ip + 16]);
        let ip = if family == libc::AF_INET {
            IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
        } else {
            // An IPv6 socket of an IPv4 connection.
            Ipv6Addr::from(bytes).to_canonical()
        };
        SocketAddr::new(ip, port)
    };
    let (local, peer) = (address(4, 8), address(6, 24));
    if peer.port() == 0 {
        return None;
    }
    let info = attribute(&message[DIAG_MESSAGE..], INET_DIAG_INFO)?;
    if info.len() < tcp_info::END {
        return None;
    }
    Some(SocketTotals {
        local,
        peer,
        bytes_acked: u64_at(info, tcp_info::BYTES_ACKED),
        bytes_received: u64_at(info, tcp_info::BYTES_RECEIVED),
        bytes_sent: u64_at(info, tcp_info::BYTES_SENT),
        bytes_retrans: u64_at(info, tcp_info::BYTES_RETRANS),
        segments_retransmitted: u32_at(info, tcp_info::TOTAL_RETRANS),
        min_rtt_us: u32_at(info, tcp_info::MIN_RTT),
        busy_us: u64_at(info, tcp_info::BUSY_TIME),
        rwnd_limited_us: u64_at(info, tcp_info::RWND_LIMITED),
        sndbuf_limited_us: u64_at(info, tcp_info::SNDBUF_LIMITED),
    })
}

fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while attributes.len() >= 4 {
        let length = usize::from(u16_at(attributes, 0));
        if length < 4 || length > attributes.len() {
            return None;
        }
        if u16_at(attributes, 2) == wanted {
            return Some(&attributes[4..length]);
        }
        attributes = &attributes[align(length).min(attributes.len())..];
    }
    None
}

fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn both_ends_of_a_connection_are_told() {
        if !crate::temp::is_root() {
            return eprintln!("left out: the kernel tells only root of sockets");
        }
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let mut watch = SocketWatch::start().unwrap();
            let listener = TcpListener::bind(address).unwrap();
            let server = listener.local_addr().unwrap();
            let mut sender = TcpStream::connect(server).unwrap();
            let client = sender.local_addr().unwrap();
            let (mut receiver, _) = listener.accept().unwrap();
            sender.write_all(&[7; 12_345]).unwrap();
            drop(sender);
            let mut bytes = Vec::new();
            receiver.read_to_end(&mut bytes).unwrap();
            drop(receiver);
            let ours = |totals: &SocketTotals| totals.local == client || totals.peer == client;
            let ends = watch.wait(2, Duration::from_secs(20), ours).unwrap();
            let sent = ends.iter().find(|end| end.local == client).unwrap();
            let received = ends.iter().find(|end| end.local == server).unwrap();
            assert_eq!((sent.peer, received.peer), (server, client));
            assert_eq!(sent.payload_sent(), 12_345);
            // SYN and FIN count on this side, the FIN on the other.
            assert_eq!(sent.bytes_acked, 12_345 + 2);
            assert_eq!(received.bytes_received, 12_345 + 1);
            assert_eq!(received.bytes_sent, 0);
        }
    }

    #[test]
    fn garbage_is_refused() {
        assert!(parse(&[3, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(parse(&[]).unwrap().is_empty());
        assert!(parse_socket(&[2; DIAG_MESSAGE - 1]).is_none());
    }
}
