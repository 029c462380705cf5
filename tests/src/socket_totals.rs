//! The kernel's own final byte counters of each TCP socket: the oracle for exact totals.
//!
//! The kernel tells listeners of the `sock_diag` destroy groups about every TCP socket that it
//! destroys, with the same `tcp_info` that `TCP_INFO` returns, so nothing is sampled.
//!
//! One kind of socket is not told: one whose own end closed with a reset (`SO_LINGER` of 0). The
//! kernel disconnects it first, which clears its peer and its counters. Its other end is told.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use netlink_packet_core::{NetlinkBuffer, Parseable as _};
use netlink_packet_sock_diag::SOCK_DIAG_BY_FAMILY;
use netlink_packet_sock_diag::inet::{InetResponse, nlas::Nla};
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use serde::Serialize;

/// `SKNLGRP_INET_TCP_DESTROY` and `SKNLGRP_INET6_TCP_DESTROY`, as a mask.
const DESTROY_GROUPS: u32 = (1 << 0) | (1 << 2);
/// Bytes that may wait to be read.
const BUFFER: usize = 64 << 20;

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
    socket: Socket,
    pending: VecDeque<SocketTotals>,
}

impl SocketWatch {
    /// Starts to listen; sockets destroyed from now on are told.
    ///
    /// # Errors
    /// When the kernel refuses: it needs `CAP_NET_ADMIN`.
    pub fn start() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG).context("socket diagnosis")?;
        socket.set_non_blocking(true)?;
        // Beyond the limit for everybody.
        set_socket_recv_buffer_size_force(&socket, BUFFER)
            .context("receive buffer (needs root)")?;
        let groups = NetlinkAddr::new(0, DESTROY_GROUPS);
        socket.bind(&groups).context("destroy groups (needs root)")?;
        Ok(Self { socket, pending: VecDeque::new() })
    }

    /// All sockets destroyed since the last call.
    ///
    /// # Errors
    /// When messages were lost (the caller cannot trust the set then) or are not understood.
    pub fn take(&mut self) -> Result<Vec<SocketTotals>> {
        loop {
            match self.socket.recv_from_full() {
                Ok((messages, _)) => self.pending.extend(parse(&messages)?),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(self.pending.drain(..).collect());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("socket totals were lost"),
            }
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
    while !messages.is_empty() {
        let message = NetlinkBuffer::new_checked(messages)?;
        if message.message_type() == SOCK_DIAG_BY_FAMILY {
            all.extend(parse_socket(message.payload())?);
        }
        let length = (message.length() as usize).next_multiple_of(4);
        messages = messages.get(length..).unwrap_or_default();
    }
    Ok(all)
}

/// `None` for a socket without a peer: never connected, or reset by its own end.
fn parse_socket(message: &[u8]) -> Result<Option<SocketTotals>> {
    let InetResponse { header, nlas } = InetResponse::parse(message)?;
    let info = nlas.iter().find_map(|attribute| match attribute {
        Nla::TcpInfo(info) => Some(info),
        _ => None,
    });
    let id = header.socket_id;
    let Some(info) = info.filter(|_| id.destination_port != 0) else { return Ok(None) };
    Ok(Some(SocketTotals {
        // An IPv6 socket of an IPv4 connection has mapped addresses.
        local: SocketAddr::new(id.source_address.to_canonical(), id.source_port),
        peer: SocketAddr::new(id.destination_address.to_canonical(), id.destination_port),
        bytes_acked: info.bytes_acked,
        bytes_received: info.bytes_received,
        bytes_sent: info.bytes_sent,
        bytes_retrans: info.bytes_retrans,
        segments_retransmitted: info.total_retrans,
        min_rtt_us: info.min_rtt,
        busy_us: info.busy_time,
        rwnd_limited_us: info.rwnd_limited,
        sndbuf_limited_us: info.sndbuf_limited,
    }))
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
        assert!(parse_socket(&[2; 71]).is_err());
    }
}
