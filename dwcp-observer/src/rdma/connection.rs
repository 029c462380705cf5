//! Builds connections from the events of the connection manager's tracepoints.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use dwcp_observer_ebpf::rdma::{CmEvent, CmKind};

use super::{
    netlink::CmInfo,
    reading::{Connection, ConnectionState},
};

/// Connections that are remembered; beyond, the oldest ended one makes room.
const MAX_CONNECTIONS: usize = 4096;

/// `enum rdma_cm_event_type`, include/uapi/rdma/rdma_user_cm.h order, include/rdma/rdma_cm.h.
mod event {
    pub(super) const CONNECT_REQUEST: u32 = 4;
    pub(super) const CONNECT_RESPONSE: u32 = 5;
    pub(super) const CONNECT_ERROR: u32 = 6;
    pub(super) const UNREACHABLE: u32 = 7;
    pub(super) const REJECTED: u32 = 8;
    pub(super) const ESTABLISHED: u32 = 9;
    pub(super) const DISCONNECTED: u32 = 10;
    pub(super) const DEVICE_REMOVAL: u32 = 11;
}

/// What tells connections apart: their identifiers are unique per device only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    local: SocketAddr,
    peer: SocketAddr,
    cm_id: u32,
}

/// The connections of this host.
#[derive(Debug, Default)]
pub(super) struct Connections {
    known: BTreeMap<Key, Connection>,
    /// Connections for which there was no room.
    dropped: u64,
}

impl Connections {
    /// Takes one step.
    pub(super) fn step(&mut self, step: &CmEvent) {
        let (Some(kind), Some(local), Some(peer)) =
            (CmKind::from_number(step.kind), address(&step.source), address(&step.destination))
        else {
            return;
        };
        let key = self.key(Key { local, peer, cm_id: step.cm_id });
        let wanted = match kind {
            CmKind::SendRequest | CmKind::SendReply => true,
            CmKind::Event => step.event == event::CONNECT_REQUEST,
            _ => false,
        };
        if !self.known.contains_key(&key) {
            // A listener, or an identifier that never asked for anything.
            if !wanted || !self.make_room() {
                return;
            }
            self.known.insert(key, begin(key, step.at_ns));
        }
        if let Some(connection) = self.known.get_mut(&key) {
            apply(connection, kind, step);
        }
    }

    /// Takes over a connection that the kernel lists and whose beginning was not seen.
    pub(super) fn adopt(&mut self, listed: &CmInfo, now_ns: u64) {
        let key = Key { local: listed.local, peer: listed.peer, cm_id: listed.cm_id };
        if self.known.contains_key(&key) || !self.make_room() {
            return;
        }
        let connection = Connection {
            qpn: Some(listed.qpn),
            tgid: Some(listed.pid),
            // Its queue pair has been given to it: the request or the reply has gone out.
            state: ConnectionState::Established,
            ..begin(key, now_ns)
        };
        self.known.insert(key, connection);
    }

    /// An identifier gets its number when it is bound to a device: until then it is 0.
    fn key(&mut self, key: Key) -> Key {
        if key.cm_id == 0 {
            let named = Key { cm_id: 0, ..key }..=Key { cm_id: u32::MAX, ..key };
            let live = |connection: &Connection| connection.destroyed_ns.is_none();
            let mut candidates = self.known.range(named).filter(|(_, known)| live(known));
            return candidates.next().map_or(key, |(known, _)| *known);
        }
        let unnamed = Key { cm_id: 0, ..key };
        if let Some(mut connection) = self.known.remove(&unnamed) {
            connection.cm_id = key.cm_id;
            self.known.insert(key, connection);
        }
        key
    }

    fn make_room(&mut self) -> bool {
        if self.known.len() < MAX_CONNECTIONS {
            return true;
        }
        let ended = self.known.iter().find(|(_, known)| known.destroyed_ns.is_some());
        let Some(key) = ended.map(|(key, _)| *key) else {
            self.dropped += 1;
            return false;
        };
        self.known.remove(&key);
        true
    }

    /// All connections, the ended ones for the last time.
    pub(super) fn take(&mut self) -> Vec<Connection> {
        let all = self.known.values().cloned().collect();
        self.known.retain(|_, known| known.destroyed_ns.is_none());
        all
    }

    /// Connections that found no room.
    pub(super) const fn dropped(&self) -> u64 {
        self.dropped
    }
}

fn begin(key: Key, at_ns: u64) -> Connection {
    Connection {
        cm_id: key.cm_id,
        local: key.local,
        peer: key.peer,
        active_open: None,
        qpn: None,
        tgid: None,
        private_data: None,
        state: ConnectionState::Connecting,
        first_ns: at_ns,
        requested_ns: None,
        established_ns: None,
        ended_ns: None,
        destroyed_ns: None,
    }
}

fn apply(connection: &mut Connection, kind: CmKind, step: &CmEvent) {
    match kind {
        CmKind::SendRequest | CmKind::SendReply => {
            connection.active_open = Some(kind == CmKind::SendRequest);
            connection.qpn = Some(step.qpn);
            connection.tgid = Some(step.tgid);
            connection.private_data = step.private_data.checked_sub(1);
            connection.requested_ns.get_or_insert(step.at_ns);
        }
        // The active side of a user-space queue pair is established when it says so itself.
        CmKind::SendReady => establish(connection, step.at_ns),
        CmKind::SendReject => end(connection, ConnectionState::Rejected(0), step.at_ns),
        CmKind::Disconnect | CmKind::SentDisconnect => {
            end(connection, ConnectionState::Disconnected, step.at_ns);
        }
        CmKind::Destroy => {
            connection.destroyed_ns = Some(step.at_ns);
            // A program that just closes its identifier disconnects by it.
            if connection.state == ConnectionState::Established {
                end(connection, ConnectionState::Disconnected, step.at_ns);
            }
        }
        CmKind::Event => match step.event {
            event::CONNECT_REQUEST => {
                connection.active_open = Some(false);
                connection.requested_ns.get_or_insert(step.at_ns);
            }
            event::CONNECT_RESPONSE if step.status != 0 => {
                end(connection, ConnectionState::Failed(step.status), step.at_ns);
            }
            event::ESTABLISHED => establish(connection, step.at_ns),
            event::CONNECT_ERROR => {
                end(connection, ConnectionState::Failed(step.status), step.at_ns);
            }
            event::UNREACHABLE => {
                end(connection, ConnectionState::Unreachable(step.status), step.at_ns);
            }
            event::REJECTED => {
                end(connection, ConnectionState::Rejected(step.status), step.at_ns);
            }
            event::DISCONNECTED => {
                end(connection, ConnectionState::Disconnected, step.at_ns);
            }
            event::DEVICE_REMOVAL => {
                end(connection, ConnectionState::DeviceRemoved, step.at_ns);
            }
            _ => {}
        },
    }
}

/// Also for a connection that was listed before its events came.
fn establish(connection: &mut Connection, at_ns: u64) {
    if matches!(connection.state, ConnectionState::Connecting | ConnectionState::Established) {
        connection.state = ConnectionState::Established;
        connection.established_ns.get_or_insert(at_ns);
    }
}

/// The first end counts: a disconnection is seen two or three times.
fn end(connection: &mut Connection, state: ConnectionState, at_ns: u64) {
    if matches!(connection.state, ConnectionState::Connecting | ConnectionState::Established) {
        // One that was listed, and whose beginning no event told, was there all the same.
        if connection.state == ConnectionState::Established {
            connection.established_ns.get_or_insert(connection.first_ns);
        }
        connection.state = state;
        connection.ended_ns = Some(at_ns);
    }
}

/// A `struct sockaddr_in` or `sockaddr_in6`; `None` for any other family, as of InfiniBand's native addresses.
pub(super) fn address(bytes: &[u8; 28]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes([bytes[2], bytes[3]]);
    let ip = match i32::from(u16::from_ne_bytes([bytes[0], bytes[1]])) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7])),
        libc::AF_INET6 => unmapped(*bytes[8..24].first_chunk()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// An address of sixteen bytes, IPv4-mapped ones as IPv4.
fn unmapped(bytes: [u8; 16]) -> IpAddr {
    let address = Ipv6Addr::from(bytes);
    address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
}

/// The address behind a GID of RoCE v2; `None` for an unset GID and for InfiniBand's own, which are no addresses.
pub(super) fn gid_address(gid: [u8; 16]) -> Option<IpAddr> {
    let address = unmapped(gid);
    match address {
        IpAddr::V4(address) if !address.is_unspecified() => Some(IpAddr::V4(address)),
        // fe80::/64 with an interface identifier is both a link-local address and InfiniBand's default GID.
        IpAddr::V6(address) if !address.is_unspecified() && !address.is_unicast_link_local() => {
            Some(IpAddr::V6(address))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockaddr(ip: [u8; 4], port: u16) -> [u8; 28] {
        let mut bytes = [0; 28];
        bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        bytes[4..8].copy_from_slice(&ip);
        bytes
    }

    const HERE: [u8; 4] = [10, 9, 0, 1];

    fn step(kind: CmKind, cm_id: u32, at_ns: u64, from: u16, to: u16) -> CmEvent {
        CmEvent {
            kind: kind as u32,
            cm_id,
            at_ns,
            tgid: 100 + u32::from(from),
            tid: 1,
            qpn: 0,
            event: 0,
            status: 0,
            private_data: 0,
            source: sockaddr(HERE, from),
            destination: sockaddr(HERE, to),
        }
    }

    fn wire(number: u32, status: i32, cm_id: u32, at_ns: u64, from: u16, to: u16) -> CmEvent {
        CmEvent { event: number, status, ..step(CmKind::Event, cm_id, at_ns, from, to) }
    }

    /// The steps of a migration within one host, in the order of the kernel.
    fn migration() -> Vec<CmEvent> {
        vec![
            wire(0, 0, 0, 1, 40_000, 4445),
            wire(2, 0, 5, 2, 40_000, 4445),
            CmEvent { qpn: 17, private_data: 57, ..step(CmKind::SendRequest, 5, 10, 40_000, 4445) },
            wire(event::CONNECT_REQUEST, 0, 0, 12, 4445, 40_000),
            CmEvent { qpn: 18, private_data: 1, ..step(CmKind::SendReply, 6, 20, 4445, 40_000) },
            wire(event::CONNECT_RESPONSE, 0, 5, 25, 40_000, 4445),
            step(CmKind::SendReady, 5, 30, 40_000, 4445),
            wire(event::ESTABLISHED, 0, 6, 35, 4445, 40_000),
            step(CmKind::Disconnect, 5, 90, 40_000, 4445),
            step(CmKind::SentDisconnect, 5, 91, 40_000, 4445),
            wire(event::DISCONNECTED, 0, 6, 95, 4445, 40_000),
        ]
    }

    #[test]
    fn both_ends_of_a_migration_within_one_host_are_told_apart() {
        let mut connections = Connections::default();
        migration().iter().for_each(|step| connections.step(step));
        let all = connections.take();
        assert_eq!(all.len(), 2);
        let source = all.iter().find(|connection| connection.active_open == Some(true)).unwrap();
        let destination =
            all.iter().find(|connection| connection.active_open == Some(false)).unwrap();
        assert_eq!((source.cm_id, source.qpn, source.private_data), (5, Some(17), Some(56)));
        assert_eq!(
            (destination.cm_id, destination.qpn, destination.private_data),
            (6, Some(18), Some(0))
        );
        assert_eq!((source.established_ns, destination.established_ns), (Some(30), Some(35)));
        assert_eq!(source.connect_seconds(), Some(20e-9));
        assert_eq!(destination.connect_seconds(), Some(23e-9));
        assert_eq!((source.ended_ns, destination.ended_ns), (Some(90), Some(95)));
        assert_eq!(source.tgid, Some(40_100));
        assert_eq!(destination.state, ConnectionState::Disconnected);
    }

    #[test]
    fn an_ended_connection_is_shown_once_more_and_forgotten() {
        let mut connections = Connections::default();
        migration().iter().for_each(|step| connections.step(step));
        connections.step(&step(CmKind::Destroy, 5, 100, 40_000, 4445));
        assert_eq!(connections.take().len(), 2);
        let left = connections.take();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].active_open, Some(false));
    }

    #[test]
    fn a_connection_from_before_the_observer_is_followed_to_its_end() {
        let mut connections = Connections::default();
        let listed = CmInfo {
            cm_id: 5,
            qpn: 17,
            pid: 4711,
            local: "10.9.0.1:40000".parse().unwrap(),
            peer: "10.9.0.1:4445".parse().unwrap(),
        };
        connections.adopt(&listed, 50);
        connections.adopt(&listed, 60);
        connections.step(&wire(event::DISCONNECTED, 0, 5, 95, 40_000, 4445));
        let all = connections.take();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].qpn, all[0].tgid, all[0].first_ns), (Some(17), Some(4711), 50));
        assert_eq!((all[0].active_open, all[0].connect_seconds()), (None, None));
        assert_eq!((all[0].state, all[0].ended_ns), (ConnectionState::Disconnected, Some(95)));
        // Without it an iWARP queue pair that ends in the same look was never connected, and its stream never ends.
        assert_eq!(all[0].established_ns, Some(50));
    }

    #[test]
    fn a_rejection_keeps_its_reason_and_what_follows_does_not_hide_it() {
        let mut connections = Connections::default();
        connections.step(&step(CmKind::SendRequest, 5, 10, 40_000, 4445));
        connections.step(&wire(event::REJECTED, 8, 5, 12, 40_000, 4445));
        connections.step(&step(CmKind::Disconnect, 5, 13, 40_000, 4445));
        let seen = &connections.take()[0];
        assert_eq!(seen.state, ConnectionState::Rejected(8));
        assert_eq!((seen.ended_ns, seen.established_ns), (Some(12), None));
        assert_eq!(seen.connect_seconds(), None);
    }

    #[test]
    fn a_closed_identifier_ends_its_connection_and_listeners_are_none() {
        let mut connections = Connections::default();
        connections.step(&wire(event::CONNECT_REQUEST, 0, 6, 12, 4445, 40_000));
        connections.step(&wire(event::ESTABLISHED, 0, 6, 20, 4445, 40_000));
        connections.step(&step(CmKind::Destroy, 6, 50, 4445, 40_000));
        connections.step(&step(CmKind::Destroy, 9, 60, 4445, 0));
        let all = connections.take();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].state, all[0].ended_ns), (ConnectionState::Disconnected, Some(50)));
    }

    #[test]
    fn connections_are_bounded_and_what_finds_no_room_is_counted() {
        let mut connections = Connections::default();
        for index in 0..MAX_CONNECTIONS as u32 + 3 {
            connections.step(&step(CmKind::SendRequest, index + 1, 1, 40_000, 4445));
        }
        assert_eq!((connections.known.len(), connections.dropped()), (MAX_CONNECTIONS, 3));
    }

    #[test]
    fn a_gid_is_an_address_only_where_it_is_one() {
        let mut mapped = [0; 16];
        mapped[10..12].fill(0xff);
        mapped[12..].copy_from_slice(&HERE);
        assert_eq!(gid_address(mapped), Some(IpAddr::from(HERE)));
        assert_eq!(gid_address([0; 16]), None);
        let mut infiniband = [0; 16];
        infiniband[..2].copy_from_slice(&[0xfe, 0x80]);
        infiniband[15] = 1;
        assert_eq!(gid_address(infiniband), None);
    }
}
