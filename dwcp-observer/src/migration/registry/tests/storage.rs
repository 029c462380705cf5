//! Disks that are copied along over NBD are a part of their own.

use dwcp_observer_ebpf::tcp::{FLOW_RECEIVED_FIRST, FLOW_SENT_FIRST};

use super::*;
use crate::model::record::Storage;

/// What an NBD client and its server answer each other, beside the disk.
const ANSWERS: u64 = 4096;

/// The client's (`source` true) or the server's socket of an NBD connection that was opened so many seconds before `START`; the main
/// loop moves its data.
fn mirror(slot: u32, process: u32, source: bool, bytes: u64, before: u64) -> FlowReading {
    let mut reading = flow(slot, process, 41000, source, bytes);
    let opened = START - before * SECOND;
    (reading.tagged_ns, reading.first_data_ns, reading.state_ns[1]) = (opened, opened, opened);
    reading.flags |= if source { FLOW_RECEIVED_FIRST } else { FLOW_SENT_FIRST };
    if source {
        reading.payload.received = ANSWERS;
        reading.peer = address(49153);
    } else {
        reading.payload.queued = ANSWERS;
        reading.local = address(49153);
    }
    (reading.send_tid, reading.recv_tid) = (1000 + process, 1000 + process);
    reading
}

fn ram(slot: u32, process: u32, source: bool, bytes: u64) -> FlowReading {
    let mut reading = flow(slot, process, 40000, source, bytes);
    reading.flags |= if source { FLOW_SENT_FIRST } else { FLOW_RECEIVED_FIRST };
    reading
}

/// libvirt's destination, whose main loop reads the disk and the guest alike.
fn hosts(processes: &[u32]) -> Proc {
    let mut world = world(processes);
    if let Some(facts) = world.0.get_mut(&1002) {
        facts.cmdline.extend(["-incoming", "defer"].map(str::to_owned));
    }
    world
}

fn storage(record: &Migration) -> &Storage {
    record.storage.as_ref().unwrap()
}

#[test]
fn a_mirror_and_then_the_guest_are_one_record_whose_figures_are_of_the_guest() {
    let (mut registry, world) = (registry(), hosts(&[1, 2]));
    let disks = |bytes| vec![mirror(2, 1, true, bytes, 6), mirror(3, 2, false, bytes, 6)];
    let look = observation(0.2, disks(50 << 20), &[1, 2]);
    registry.look_at(&look, &world);
    assert!(records(&registry, &look).is_empty(), "a copied disk alone is no migration");
    for (seconds, disk) in [(1.0, 60_u64 << 20), (2.0, 70 << 20)] {
        let mut flows = disks(disk);
        flows.extend([ram(0, 1, true, 8 << 20), ram(1, 2, false, 8 << 20)]);
        registry.look_at(&observation(seconds, flows, &[1, 2]), &world);
    }
    let look = observation(2.0, Vec::new(), &[1, 2]);
    let found = records(&registry, &look);
    assert_eq!((found.len(), found[0].streams.len()), (1, 1), "{found:#?}");
    assert_eq!(bytes(&found[0]).delivered, 8 << 20);
    assert_eq!(found[0].started_at, look.wall.at(START));
    let disk = storage(&found[0]);
    assert_eq!((disk.bytes.delivered, disk.bytes.received), (70 << 20, 70 << 20));
    assert_eq!(disk.throughput_bytes_per_second, Some(f64::from(10 << 20)));
    assert_eq!((disk.seconds, disk.lag_bytes, disk.streams.len()), (8.0, Some(0), 1));
}

#[test]
fn the_record_does_not_wait_for_the_mirror_to_close() {
    let (mut registry, world) = (registry(), hosts(&[1, 2]));
    let mut flows = vec![mirror(2, 1, true, 9 << 20, 6), mirror(3, 2, false, 9 << 20, 6)];
    flows.extend([ram(0, 1, true, 8 << 20), ram(1, 2, false, 8 << 20)]);
    registry.look_at(&observation(1.0, flows.clone(), &[1, 2]), &world);
    let end = START + 3 * SECOND / 2;
    let ends = |flow: FlowReading| if flow.slot < 2 { close(flow, end) } else { flow };
    let flows = flows.into_iter().map(ends).collect();
    let look = observation(2.0, flows, &[1, 2]);
    registry.look_at(&look, &world);
    let found = records(&registry, &look);
    assert_eq!((found[0].state, found[0].ended_at), (State::Finished, Some(look.wall.at(end))));
    let disk = storage(&found[0]);
    assert_eq!((disk.ended_at, disk.seconds), (None, 7.5));
    assert_eq!(disk.throughput_bytes_per_second, None);
}

#[test]
fn each_host_alone_tells_the_disk_from_the_guest() {
    for (slot, source) in [(1, true), (2, false)] {
        let (mut registry, world) = (registry(), hosts(&[1, 2]));
        let disk = mirror(2, slot, source, 50 << 20, 6);
        registry.look_at(&observation(0.2, vec![disk.clone()], &[slot]), &world);
        let look = observation(1.0, vec![disk, ram(0, slot, source, 8 << 20)], &[slot]);
        registry.look_at(&look, &world);
        let found = records(&registry, &look);
        assert_eq!((found.len(), found[0].streams.len()), (1, 1), "{found:#?}");
        let disk = storage(&found[0]);
        assert_eq!((disk.bytes.delivered, disk.lag_bytes), (50 << 20, source.then_some(0)));
    }
}

#[test]
fn a_disk_that_qemu_was_started_with_is_not_copied_along() {
    let (mut registry, mut world) = (registry(), hosts(&[1]));
    world.0.get_mut(&1001).unwrap().started_boottime_ns = START - 7 * SECOND;
    let flows = |before| vec![mirror(2, 1, true, 50 << 20, before), ram(0, 1, true, 8 << 20)];
    let mut look = observation(1.0, flows(6), &[1]);
    look.processes[0].start_boottime_ns = START - 7 * SECOND;
    registry.look_at(&look, &world);
    assert!(records(&registry, &look)[0].storage.is_none());
}

#[test]
fn a_display_at_the_migrations_peer_is_no_disk() {
    let (mut registry, world) = (registry(), hosts(&[1]));
    // A VNC server greets as well; what it sends goes the other way.
    let mut display = mirror(2, 1, false, 4096, 6);
    display.payload.queued = 50 << 20;
    let look = observation(1.0, vec![display, ram(0, 1, true, 8 << 20)], &[1]);
    registry.look_at(&look, &world);
    assert!(records(&registry, &look)[0].storage.is_none());
}
