//! Queue pairs as streams.

use std::sync::Arc;

use dwcp_observer_ebpf::hist::{Hist, RUNQ_BUCKETS};

use super::*;
use crate::{
    model::{
        queue_pair::DataPath,
        record::{Mode, Transport},
    },
    rdma,
};

/// The queue pair of the source or of the destination.
fn queue_pair(process: u32, source: bool, written: u64) -> FlowReading {
    let mut qp = rdma::tests::queue_pair();
    let latency = Hist { sum: written * 10, count: written, buckets: [0; RUNQ_BUCKETS] };
    qp.latency = Some(Box::new(latency));
    let payload = Payload { queued: written, delivered: written, received: 0 };
    FlowReading {
        slot: process | rdma::SLOT_OF_QP,
        send_tid: 0,
        recv_tid: 0,
        ca_ns: None,
        snapshot: Snapshot::default(),
        payload: if source { payload } else { Payload::default() },
        queue_pair: Some(Arc::new(qp)),
        ..flow(0, process, 40000, source, 0)
    }
}

#[test]
fn two_queue_pairs_of_one_connection_are_one_migration_over_rdma() {
    let (mut registry, world) = (registry(), world(&[1, 2]));
    let pair = |written| vec![queue_pair(1, true, written), queue_pair(2, false, 0)];
    registry.look_at(&observation(0.0, pair(0), &[1, 2]), &world);
    let look = observation(1.0, pair(5_000_000), &[1, 2]);
    registry.look_at(&look, &world);
    let found = records(&registry, &look);
    assert_eq!(found.len(), 1, "{found:#?}");
    let record = &found[0];
    assert_eq!(record.transport, Some(Transport::Rdma));
    assert_eq!(record.mode.map(Mode::as_str), Some("datacenter"));
    let roles: Vec<(Role, u32)> = record.ends.iter().map(|end| (end.role, end.pid)).collect();
    assert_eq!(roles, [(Role::Source, 1001), (Role::Destination, 1002)]);
    // The target of a write sees nothing of it.
    assert_eq!((bytes(record).delivered, bytes(record).received), (5_000_000, 5_000_000));
    let stream = &record.streams[0];
    assert!(stream.tcp.is_none(), "no figures of a socket");
    let qp = stream.queue_pair.as_ref().unwrap();
    assert_eq!((qp.end, qp.qpn, qp.data_path), (Some(Role::Source), 17, DataPath::Completions));
    assert_eq!(record.connection_key.as_deref(), Some("rdma:127.0.0.1:40000>127.0.0.1:49152"));
}

#[test]
fn queue_pairs_that_cannot_be_timed_have_no_verdict() {
    for timed in [true, false] {
        let (mut registry, world) = (registry(), world(&[1]));
        let flows = |written| {
            let mut flow = queue_pair(1, true, written);
            if let Some(qp) = flow.queue_pair.as_mut().filter(|_| !timed) {
                Arc::make_mut(qp).latency = None;
            }
            vec![flow]
        };
        registry.look_at(&observation(0.0, flows(0), &[1]), &world);
        let look = observation(1.0, flows(5_000_000), &[1]);
        registry.look_at(&look, &world);
        let verdict = records(&registry, &look).remove(0).verdict;
        assert_eq!(verdict.is_some(), timed, "{verdict:?}");
        if let Some(verdict) = verdict {
            assert_eq!(verdict.state.as_str(), "healthy", "{}", verdict.sentence);
        }
    }
}

#[test]
fn what_a_device_moves_without_the_kernel_is_absent_and_not_zero() {
    let (mut registry, world) = (registry(), world(&[1]));
    let hidden = || {
        let mut flow = queue_pair(1, true, 0);
        let qp = Arc::make_mut(flow.queue_pair.as_mut().unwrap());
        (qp.visible, qp.bytes_sent, qp.latency) = (DataPath::Counters, None, None);
        flow
    };
    for second in 0..3 {
        registry.look_at(&observation(f64::from(second), vec![hidden()], &[1]), &world);
    }
    let look = observation(3.0, vec![hidden()], &[1]);
    registry.look_at(&look, &world);
    let record = records(&registry, &look).remove(0);
    assert_eq!(record.bytes, None);
    assert_eq!(record.streams[0].bytes, None);
    assert_eq!(record.throughput_bytes_per_second, None);
    let entry = registry.entries(look.now_ns, look.wall).remove(0);
    let samples = entry.history.lock().unwrap().samples();
    assert!(samples.len() > 1 && samples.iter().all(|sample| sample.bytes.is_none()));

    // Over software iWARP the connection under it is seen.
    let socket = flow(0, 1, 40000, true, 1 << 20);
    let look = observation(4.0, vec![hidden(), socket], &[1]);
    registry.look_at(&look, &world);
    let record = records(&registry, &look).remove(0);
    assert_eq!(record.transport, Some(Transport::Rdma));
    assert_eq!(bytes(&record).delivered, 1 << 20);
    let seen = record.streams.iter().filter(|stream| stream.bytes.is_some()).count();
    assert_eq!((record.streams.len(), seen), (2, 1));
    assert!(record.throughput_bytes_per_second.is_some());
}
