//! RDMA netlink: devices, queue pairs and counters from the kernel's resource tracking
//! (`include/uapi/rdma/rdma_netlink.h`).

use std::{io, net::SocketAddr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NlasIterator, parse_string, parse_u8, parse_u32, parse_u64,
};
use netlink_sys::protocols::NETLINK_RDMA;

use super::connection;
use crate::netlink::Dialogue;

/// `RDMA_NL_GET_TYPE(RDMA_NL_NLDEV, command)`.
const fn nldev(command: u16) -> u16 {
    5 << 10 | command
}

const GET: u16 = nldev(1);
const RES_QP_GET: u16 = nldev(10);
const RES_CM_ID_GET: u16 = nldev(11);
const GET_CHARDEV: u16 = nldev(15);
const STAT_GET: u16 = nldev(17);

const DEV_INDEX: u16 = 1;
const DEV_NAME: u16 = 2;
const PORT_INDEX: u16 = 3;
const RES_QP: u16 = 19;
const RES_QP_ENTRY: u16 = 20;
const RES_LQPN: u16 = 21;
const RES_RQPN: u16 = 22;
const RES_TYPE: u16 = 26;
const RES_STATE: u16 = 27;
const RES_PID: u16 = 28;
const RES_CM_ID: u16 = 30;
const RES_CM_ID_ENTRY: u16 = 31;
const RES_SRC_ADDR: u16 = 33;
const RES_DST_ADDR: u16 = 34;
const RES_CM_IDN: u16 = 63;
const CHARDEV_TYPE: u16 = 69;
const UVERBS_DRIVER_ID: u16 = 73;
const HWCOUNTERS: u16 = 80;
const HWCOUNTER_ENTRY: u16 = 81;
const HWCOUNTER_NAME: u16 = 82;
const HWCOUNTER_VALUE: u16 = 83;

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeviceInfo {
    pub(super) index: u32,
    pub(super) name: String,
    /// Number of its ports.
    pub(super) ports: u32,
}

/// A queue pair that belongs to a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct QpInfo {
    pub(super) qpn: u32,
    pub(super) remote_qpn: u32,
    pub(super) kind: u32,
    pub(super) state: u32,
    pub(super) pid: u32,
}

/// An identifier of the connection manager with both its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CmInfo {
    pub(super) cm_id: u32,
    pub(super) qpn: u32,
    pub(super) pid: u32,
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
}

/// A connection to the kernel's resource tracking.
pub(super) struct Netlink(Dialogue);

impl Netlink {
    /// # Errors
    /// The kernel has no RDMA netlink (`ib_core` is not loaded).
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self(Dialogue::open(NETLINK_RDMA)?))
    }

    /// # Errors
    /// What the kernel says.
    pub(super) fn devices(&mut self) -> io::Result<Vec<DeviceInfo>> {
        let mut devices = Vec::new();
        self.0.ask(GET, NLM_F_DUMP, &[], |payload| devices.extend(device(payload)))?;
        Ok(devices)
    }

    /// Queue pairs of processes; those of the kernel's own users are left out.
    ///
    /// # Errors
    /// What the kernel says: `EINVAL` when the device is gone.
    pub(super) fn queue_pairs(&mut self, device: u32) -> io::Result<Vec<QpInfo>> {
        let mut found = Vec::new();
        let request = attribute(DEV_INDEX, &device.to_ne_bytes());
        self.0
            .ask(RES_QP_GET, NLM_F_DUMP, &request, |payload| found.extend(queue_pairs(payload)))?;
        Ok(found)
    }

    /// Connections whose queue pair is known.
    ///
    /// # Errors
    /// What the kernel says: `EINVAL` when the device is gone.
    pub(super) fn connections(&mut self, device: u32) -> io::Result<Vec<CmInfo>> {
        let mut found = Vec::new();
        let request = attribute(DEV_INDEX, &device.to_ne_bytes());
        self.0.ask(RES_CM_ID_GET, NLM_F_DUMP, &request, |payload| found.extend(cm_ids(payload)))?;
        Ok(found)
    }

    /// The driver's counters of a port.
    ///
    /// # Errors
    /// What the kernel says: `EINVAL` when the driver has none.
    pub(super) fn counters(&mut self, device: u32, port: u32) -> io::Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        let mut request = attribute(DEV_INDEX, &device.to_ne_bytes());
        request.extend(attribute(PORT_INDEX, &port.to_ne_bytes()));
        self.0.ask(STAT_GET, NLM_F_ACK, &request, |payload| found.extend(counters(payload)))?;
        Ok(found)
    }

    /// The driver behind a device (`enum rdma_driver_id`).
    ///
    /// # Errors
    /// What the kernel says: no verbs for user space.
    pub(super) fn driver(&mut self, device: u32) -> io::Result<Option<u32>> {
        let mut found = None;
        let mut request = attribute(CHARDEV_TYPE, b"uverbs\0");
        request.extend(attribute(DEV_INDEX, &device.to_ne_bytes()));
        self.0.ask(GET_CHARDEV, NLM_F_ACK, &request, |payload| {
            found = attributes(payload).find(|(kind, _)| *kind == UVERBS_DRIVER_ID).and_then(
                |(_, value)| match value.len() {
                    8 => parse_u64(&value).ok().and_then(|id| u32::try_from(id).ok()),
                    _ => parse_u32(&value).ok(),
                },
            );
        })?;
        Ok(found)
    }
}

/// One attribute, padded.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The attributes of a payload; what is damaged ends them.
fn attributes(payload: &[u8]) -> impl Iterator<Item = (u16, Vec<u8>)> {
    NlasIterator::new(payload).map_while(Result::ok).map(|nla| (nla.kind(), nla.value().to_vec()))
}

fn device(payload: &[u8]) -> Option<DeviceInfo> {
    let (mut index, mut name, mut ports) = (None, None, 0);
    for (kind, value) in attributes(payload) {
        match kind {
            DEV_INDEX => index = parse_u32(&value).ok(),
            DEV_NAME => name = parse_string(&value).ok(),
            // Here it is the number of ports.
            PORT_INDEX => ports = parse_u32(&value).unwrap_or_default(),
            _ => {}
        }
    }
    Some(DeviceInfo { index: index?, name: name?, ports })
}

fn queue_pairs(payload: &[u8]) -> Vec<QpInfo> {
    let tables = attributes(payload).filter(|(kind, _)| *kind == RES_QP);
    let mut found = Vec::new();
    for (_, table) in tables {
        for (kind, entry) in attributes(&table) {
            if kind != RES_QP_ENTRY {
                continue;
            }
            let mut qp = QpInfo::default();
            for (kind, value) in attributes(&entry) {
                match kind {
                    RES_LQPN => qp.qpn = parse_u32(&value).unwrap_or_default(),
                    RES_RQPN => qp.remote_qpn = parse_u32(&value).unwrap_or_default(),
                    RES_TYPE => qp.kind = parse_u8(&value).unwrap_or_default().into(),
                    RES_STATE => qp.state = parse_u8(&value).unwrap_or_default().into(),
                    RES_PID => qp.pid = parse_u32(&value).unwrap_or_default(),
                    _ => {}
                }
            }
            // A queue pair of the kernel's own users has a name and no process.
            if qp.pid != 0 {
                found.push(qp);
            }
        }
    }
    found
}

fn cm_ids(payload: &[u8]) -> Vec<CmInfo> {
    let tables = attributes(payload).filter(|(kind, _)| *kind == RES_CM_ID);
    let mut found = Vec::new();
    for (_, table) in tables {
        for (_, entry) in attributes(&table).filter(|(kind, _)| *kind == RES_CM_ID_ENTRY) {
            let (mut cm_id, mut qpn, mut pid, mut local, mut peer) = (0, 0, 0, None, None);
            for (kind, value) in attributes(&entry) {
                // `struct __kernel_sockaddr_storage`, which begins as any other.
                let address = || value.first_chunk().and_then(connection::address);
                match kind {
                    RES_CM_IDN => cm_id = parse_u32(&value).unwrap_or_default(),
                    RES_LQPN => qpn = parse_u32(&value).unwrap_or_default(),
                    RES_PID => pid = parse_u32(&value).unwrap_or_default(),
                    RES_SRC_ADDR => local = address(),
                    RES_DST_ADDR => peer = address(),
                    _ => {}
                }
            }
            if let (Some(local), Some(peer)) = (local, peer)
                && qpn != 0
                && pid != 0
            {
                found.push(CmInfo { cm_id, qpn, pid, local, peer });
            }
        }
    }
    found
}

fn counters(payload: &[u8]) -> Vec<(String, u64)> {
    let tables = attributes(payload).filter(|(kind, _)| *kind == HWCOUNTERS);
    let mut found = Vec::new();
    for (_, table) in tables {
        for (_, entry) in attributes(&table).filter(|(kind, _)| *kind == HWCOUNTER_ENTRY) {
            let (mut name, mut count) = (None, None);
            for (kind, value) in attributes(&entry) {
                match kind {
                    HWCOUNTER_NAME => name = parse_string(&value).ok(),
                    HWCOUNTER_VALUE => count = parse_u64(&value).ok(),
                    _ => {}
                }
            }
            found.extend(name.zip(count));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
        attribute(kind | 0x8000, &parts.concat())
    }

    fn number(kind: u16, value: u32) -> Vec<u8> {
        attribute(kind, &value.to_ne_bytes())
    }

    #[test]
    fn reads_devices_queue_pairs_and_counters() {
        let payload =
            [number(DEV_INDEX, 3), attribute(DEV_NAME, b"rxe0\0"), number(PORT_INDEX, 1)].concat();
        assert_eq!(device(&payload), Some(DeviceInfo { index: 3, name: "rxe0".into(), ports: 1 }));
        let of_a_process = nested(
            RES_QP_ENTRY,
            &[
                number(RES_LQPN, 17),
                number(RES_RQPN, 18),
                attribute(RES_TYPE, &[2]),
                attribute(RES_STATE, &[3]),
                number(RES_PID, 4711),
            ],
        );
        let of_the_kernel =
            nested(RES_QP_ENTRY, &[number(RES_LQPN, 1), attribute(29, b"ib_mad\0")]);
        let payload =
            [number(DEV_INDEX, 3), nested(RES_QP, &[of_the_kernel, of_a_process])].concat();
        let expected = QpInfo { qpn: 17, remote_qpn: 18, kind: 2, state: 3, pid: 4711 };
        assert_eq!(queue_pairs(&payload), [expected]);
        let entry = |name: &[u8], value: u64| {
            nested(
                HWCOUNTER_ENTRY,
                &[
                    attribute(HWCOUNTER_NAME, name),
                    attribute(HWCOUNTER_VALUE, &value.to_ne_bytes()),
                ],
            )
        };
        let payload =
            nested(HWCOUNTERS, &[entry(b"sent_pkts\0", 5 << 33), entry(b"rcvd_rnr_err\0", 2)]);
        assert_eq!(
            counters(&payload),
            [("sent_pkts".to_owned(), 5 << 33), ("rcvd_rnr_err".to_owned(), 2)]
        );
    }

    #[test]
    fn a_connection_is_listed_with_both_addresses_and_a_listener_is_not() {
        let sockaddr = |port: u16| {
            let mut bytes = vec![0u8; 128];
            bytes[..2].copy_from_slice(&2u16.to_ne_bytes());
            bytes[2..4].copy_from_slice(&port.to_be_bytes());
            bytes[4..8].copy_from_slice(&[10, 9, 0, 1]);
            bytes
        };
        let connected = nested(
            RES_CM_ID_ENTRY,
            &[
                number(RES_CM_IDN, 4),
                number(RES_LQPN, 17),
                number(RES_PID, 4711),
                attribute(RES_SRC_ADDR, &sockaddr(40_000)),
                attribute(RES_DST_ADDR, &sockaddr(4445)),
            ],
        );
        let listener = nested(
            RES_CM_ID_ENTRY,
            &[
                number(RES_CM_IDN, 3),
                number(RES_PID, 4712),
                attribute(RES_SRC_ADDR, &sockaddr(4445)),
                attribute(RES_DST_ADDR, &[0; 128]),
            ],
        );
        let seen = cm_ids(&nested(RES_CM_ID, &[listener, connected]));
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].cm_id, seen[0].qpn, seen[0].pid), (4, 17, 4711));
        assert_eq!(seen[0].local.to_string(), "10.9.0.1:40000");
        assert_eq!(seen[0].peer.to_string(), "10.9.0.1:4445");
    }

    proptest! {
        #[test]
        fn survives_damage(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = device(&bytes);
            let _ = counters(&bytes);
            let _ = cm_ids(&bytes);
            prop_assert!(queue_pairs(&bytes).len() <= bytes.len());
        }
    }
}
