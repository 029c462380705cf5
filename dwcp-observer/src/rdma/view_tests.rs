use std::{path::Path, sync::Arc};

use dwcp_observer_ebpf::rdma::Count;

use super::*;
use crate::{
    model::queue_pair::{CloseReason, QpReading},
    rdma::{Connection, Port, tests::queue_pair},
};

fn connection(state: ConnectionState) -> Connection {
    Connection {
        cm_id: 1,
        local: "10.9.0.1:40000".parse().unwrap(),
        peer: "10.9.0.1:4444".parse().unwrap(),
        active_open: Some(true),
        qpn: Some(17),
        tgid: Some(4711),
        private_data: Some(56),
        state,
        first_ns: 1,
        requested_ns: Some(1_000_000),
        established_ns: Some(3_500_000),
        ended_ns: None,
        destroyed_ns: None,
    }
}

fn device() -> Device {
    let port = Port {
        number: 1,
        state: "ACTIVE".to_owned(),
        sent_bytes: Some(70_000),
        sent_packets: Some(70),
        hardware: vec![("rnr_nak".to_owned(), 2), ("acks".to_owned(), 1)],
        ..Port::default()
    };
    Device { index: 0, name: "rxe0".to_owned(), driver: "rxe", ports: vec![port] }
}

fn status() -> RdmaStatus {
    let mut failed = queue_pair();
    failed.errors[10] = 2;
    let closed = QpReading {
        closed_ns: Some(9),
        close_reason: Some(CloseReason::ProcessEnded),
        bytes_read: None,
        peer: None,
        ..queue_pair()
    };
    let memory = MemoryReading {
        tgid: 4711,
        start_boottime_ns: 1,
        comm: "qemu-system-x86".to_owned(),
        registrations: 3,
        unfinished: 0,
        deregistrations: 1,
        nanoseconds: 1_500_000,
        last_ns: 5,
        bytes_registered: 3 << 20,
        bytes_registered_now: 2 << 20,
        bytes_registered_peak: 3 << 20,
        bytes_pinned_peak: 4 << 20,
        completion_events: 7,
        ended: false,
    };
    let mut snapshot = Snapshot {
        devices: vec![device()],
        qps: vec![Arc::new(failed), Arc::new(closed)],
        connections: vec![
            connection(ConnectionState::Established),
            connection(ConnectionState::Rejected(-28)),
        ],
        memory: vec![Arc::new(memory)],
        ..Snapshot::default()
    };
    snapshot.overflow.completed[0] = Count { operations: 5, bytes: 50 };
    let mut status = RdmaStatus::default();
    status.take(snapshot);
    status
}

#[test]
fn json_is_golden_byte_by_byte() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/rdma/golden.json");
    let got = serde_json::to_string(&status().view()).unwrap() + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &got).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap();
    assert_eq!(got, want, "UPDATE_GOLDEN=1 writes the file anew");
    let read: rdma::Rdma = serde_json::from_str(&want).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap() + "\n", want);
}
