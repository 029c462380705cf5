//! TCP sockets of the observer's network namespace, by `NETLINK_SOCK_DIAG` (`include/uapi/linux/inet_diag.h`, `tcp.h`): what
//! `ss -ti` shows.

use std::{io, net::SocketAddr};

use netlink_packet_core::{Emitable as _, NLM_F_DUMP, Parseable as _};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, IPPROTO_TCP, SOCK_DIAG_BY_FAMILY, TCP_LISTEN,
    inet::{
        ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags,
        nlas::{Nla, TcpInfo},
    },
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use crate::netlink::Dialogue;

/// Sockets that one look takes; more are left out.
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

impl From<&TcpInfo> for Counters {
    fn from(info: &TcpInfo) -> Self {
        Self {
            sent: info.bytes_acked,
            received: info.bytes_received,
            retransmitted: u64::from(info.total_retrans),
            unacknowledged: info.unacked,
            last_received_ms: info.last_data_recv,
            last_acknowledged_ms: info.last_ack_recv,
        }
    }
}

/// Listening and established TCP sockets, IPv4 and IPv6.
///
/// # Errors
/// What the kernel says: no `CONFIG_INET_DIAG`, or not allowed.
pub fn read() -> io::Result<Vec<TcpSocket>> {
    let mut kernel = Dialogue::open(NETLINK_SOCK_DIAG)?;
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::INFO,
            states: StateFlags::ESTABLISHED | StateFlags::LISTEN,
            // Any.
            socket_id: SocketId::new_v4(),
        };
        let mut message = vec![0; request.buffer_len()];
        request.emit(&mut message);
        kernel.ask(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &message, |answer| {
            if found.len() < MAX_SOCKETS {
                found.extend(parse(answer));
            }
        })?;
    }
    Ok(found)
}

/// One socket of an answer; `None` where that is damaged.
fn parse(answer: &[u8]) -> Option<TcpSocket> {
    let InetResponse { header, nlas } = InetResponse::parse(answer).ok()?;
    let info = nlas.iter().find_map(|attribute| match attribute {
        Nla::TcpInfo(info) => Some(info.into()),
        _ => None,
    });
    let id = header.socket_id;
    Some(TcpSocket {
        local: SocketAddr::new(id.source_address.to_canonical(), id.source_port),
        peer: SocketAddr::new(id.destination_address.to_canonical(), id.destination_port),
        cookie: u64::from_ne_bytes(id.cookie),
        inode: u64::from(header.inode),
        receive_queue: header.recv_queue,
        send_queue: header.send_queue,
        counters: if header.state == TCP_LISTEN { None } else { Some(info?) },
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
        os::fd::AsRawFd as _,
    };

    use netlink_packet_sock_diag::TCP_ESTABLISHED;

    use super::*;
    use crate::component::processes::socket_inodes;

    fn find(local: SocketAddr, peer: Option<SocketAddr>) -> TcpSocket {
        let found = read().unwrap().into_iter().find(|socket| {
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
        let mut whole = vec![0; 72];
        (whole[0], whole[1]) = (AF_INET, TCP_LISTEN);
        assert!(parse(&whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), None, "{length}");
        }
        whole[1] = TCP_ESTABLISHED;
        assert_eq!(parse(&whole), None, "established without counters");
    }
}
