//! TCP sockets of the observer's network namespace, by `NETLINK_SOCK_DIAG` (`include/uapi/linux/inet_diag.h`, `tcp.h`): what
//! `ss -ti` shows.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use netlink_packet_core::{NLM_F_DUMP, NlasIterator};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use crate::netlink::Dialogue;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_INFO: u16 = 2;
const TCP_ESTABLISHED: u8 = 1;
const TCP_LISTEN: u8 = 10;
/// Length of `struct inet_diag_msg`.
const MESSAGE: usize = 72;
/// Sockets that one look takes; more are cut, and said to be.
const MAX_SOCKETS: usize = 65_536;

/// One socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    /// Own address.
    pub local: SocketAddr,
    /// Peer's address.
    pub peer: SocketAddr,
    /// The kernel's name of the socket: never used again.
    pub cookie: u64,
    /// Inode, as in `/proc/PID/fd`; 0 when no process holds it.
    pub inode: u64,
    /// Listening: connections that wait for `accept()`; else bytes that wait for the process.
    pub receive_queue: u32,
    /// Listening: most connections that may wait; else bytes not yet acknowledged.
    pub send_queue: u32,
    /// Absent for a listening socket.
    pub counters: Option<Counters>,
}

/// What an established socket has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Acknowledged by the peer, bytes.
    pub sent: u64,
    /// Received in order, bytes.
    pub received: u64,
    /// Segments sent again.
    pub retransmitted: u64,
    /// Segments on their way.
    pub unacknowledged: u32,
    /// Since the last acknowledgement, ms.
    pub last_acknowledged_ms: u32,
    /// Since data last came, ms.
    pub last_received_ms: u32,
}

impl TcpSocket {
    /// Whether it waits for connections.
    #[must_use]
    pub const fn listens(&self) -> bool {
        self.counters.is_none()
    }
}

/// All sockets at one moment.
#[derive(Clone, Debug, Default)]
pub struct Sockets {
    /// Listening and established ones.
    pub all: Vec<TcpSocket>,
    /// There were more.
    pub cut: bool,
}

/// Listening and established TCP sockets, IPv4 and IPv6.
///
/// # Errors
/// What the kernel says: no `CONFIG_INET_DIAG`, or not allowed.
pub fn read() -> io::Result<Sockets> {
    let mut kernel = Dialogue::open(NETLINK_SOCK_DIAG)?;
    let mut found = Sockets::default();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut request = vec![family as u8, libc::IPPROTO_TCP as u8, 1 << (INET_DIAG_INFO - 1), 0];
        request.extend((1_u32 << TCP_ESTABLISHED | 1 << TCP_LISTEN).to_ne_bytes());
        // struct inet_diag_sockid: any.
        request.resize(56, 0);
        kernel.ask(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &request, |payload| {
            if found.all.len() >= MAX_SOCKETS {
                found.cut = true;
            } else {
                found.all.extend(parse(payload));
            }
        })?;
    }
    Ok(found)
}

/// `struct inet_diag_msg` and its attributes; `None` where it is damaged.
fn parse(payload: &[u8]) -> Option<TcpSocket> {
    let (family, state) = (*payload.first()?, *payload.get(1)?);
    let big = |at: usize| payload.get(at..at + 2)?.first_chunk().map(|it| u16::from_be_bytes(*it));
    let counters = if state == TCP_LISTEN {
        None
    } else {
        let attributes = payload.get(MESSAGE..)?;
        let info = NlasIterator::new(attributes)
            .map_while(Result::ok)
            .find(|attribute| attribute.kind() == INET_DIAG_INFO)?;
        Some(tcp_info(info.value())?)
    };
    Some(TcpSocket {
        local: SocketAddr::new(address(family, payload.get(8..24)?)?, big(4)?),
        peer: SocketAddr::new(address(family, payload.get(24..40)?)?, big(6)?),
        cookie: u64::from(word(payload, 44)?) | u64::from(word(payload, 48)?) << 32,
        inode: u64::from(word(payload, 68)?),
        receive_queue: word(payload, 56)?,
        send_queue: word(payload, 60)?,
        counters,
    })
}

/// `struct tcp_info`, as far as it is needed.
fn tcp_info(info: &[u8]) -> Option<Counters> {
    let long = |at: usize| info.get(at..at + 8)?.first_chunk().map(|it| u64::from_ne_bytes(*it));
    Some(Counters {
        sent: long(120)?,
        received: long(128)?,
        retransmitted: u64::from(word(info, 100)?),
        unacknowledged: word(info, 24)?,
        last_received_ms: word(info, 52)?,
        last_acknowledged_ms: word(info, 56)?,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.first_chunk().map(|it| u32::from_ne_bytes(*it))
}

fn address(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    if i32::from(family) == libc::AF_INET {
        return bytes.first_chunk::<4>().map(|it| Ipv4Addr::from(*it).into());
    }
    let address: &[u8; 16] = bytes.first_chunk()?;
    Some(Ipv6Addr::from(*address).to_canonical())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
        os::fd::AsRawFd as _,
    };

    use super::*;
    use crate::component::processes::socket_inodes;

    fn find(local: SocketAddr, peer: Option<SocketAddr>) -> TcpSocket {
        let sockets = read().unwrap();
        let found = sockets.all.into_iter().find(|socket| {
            socket.local == local && peer.map_or(socket.listens(), |peer| socket.peer == peer)
        });
        found.unwrap()
    }

    fn inode(socket: &impl std::os::fd::AsRawFd) -> u64 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let text = link.to_str().unwrap();
        text.strip_prefix("socket:[").unwrap().strip_suffix(']').unwrap().parse().unwrap()
    }

    #[test]
    fn own_sockets_are_found_with_their_counts() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                assert!(!std::path::Path::new("/proc/net/if_inet6").exists(), "{address}");
                continue;
            };
            let local = listener.local_addr().unwrap();
            let mut client = TcpStream::connect(local).unwrap();
            let listening = find(local, None);
            assert_eq!((listening.receive_queue, listening.inode), (1, inode(&listener)));
            assert!(listening.send_queue >= 1 && listening.cookie != 0);

            let (mut server, peer) = listener.accept().unwrap();
            client.write_all(&[7; 10_000]).unwrap();
            let mut half = [0; 4_000];
            server.read_exact(&mut half).unwrap();
            let caller = find(peer, Some(local));
            assert_eq!(caller.inode, inode(&client));
            let called = find(local, Some(peer));
            assert_eq!(called.inode, inode(&server));
            let counters = called.counters.unwrap();
            assert_eq!((counters.received, counters.sent), (10_000, 0));
            assert_eq!(called.receive_queue, 6_000);
            // connect() counts the SYN as acknowledged; the peer may take its time with the rest.
            assert!(caller.counters.unwrap().sent <= 10_001);
            let this = crate::process::open_now(std::process::id()).unwrap();
            let held = socket_inodes(crate::process::id_of(&this).unwrap());
            assert!([&listening, &caller, &called].iter().all(|it| held.contains(&it.inode)));
            assert!(client.as_raw_fd() > 0);
        }
    }

    #[test]
    fn damaged_messages_are_left_out() {
        let mut whole = vec![0; MESSAGE];
        whole[0] = libc::AF_INET as u8;
        whole[1] = TCP_LISTEN;
        assert!(parse(&whole).is_some());
        for length in 0..MESSAGE {
            assert_eq!(parse(&whole[..length]), None, "{length}");
        }
        whole[1] = TCP_ESTABLISHED;
        assert_eq!(parse(&whole), None, "established without counters");
    }
}
