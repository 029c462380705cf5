//! RDMA over software iWARP, whose data path the observer does not see, but the TCP connection under it. Needs a kernel with `siw`:
//! `cargo xtask vm-test --kernel 6.12 --test rdma-iwarp` builds the driver and runs this in a VM.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::time::{Duration, Instant};

use dwcp_observer_lab::guest::Guest;
use dwcp_observer_lab::migration::{MigrationPlan, Pair, Transport};
use dwcp_observer_lab::observer::{Observer, binary};
use dwcp_observer_lab::qemu::QemuSpec;
use dwcp_observer_lab::rdma::{ADDRESS, Driver, SoftDevice, server_and_client};
use dwcp_observer_model::queue_pair::DataPath;
use dwcp_observer_model::record::{
    Migration, Mode, Outcome, Role, State, Stream, Transport as Carrier,
};

const LIMIT: Duration = Duration::from_secs(120);

fn observer() -> Observer {
    Observer::start(&binary().unwrap(), &[]).unwrap()
}

/// The records, once there is a finished one.
fn finished(observer: &Observer) -> Vec<Migration> {
    let begun = Instant::now();
    loop {
        let records = observer.migrations().unwrap();
        let unknown = Some(Outcome::Unknown);
        let is_over = |one: &Migration| one.state == State::Finished && one.outcome != unknown;
        if records.iter().any(is_over) {
            return records;
        }
        assert!(begun.elapsed() < LIMIT, "{records:#?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
#[ignore = "needs siw: cargo xtask vm-test --kernel 6.12 --test rdma-iwarp"]
fn a_migration_over_iwarp_is_one_record_with_the_bytes_of_its_tcp_connection() {
    let device = SoftDevice::new(Driver::Siw, "mig").unwrap();
    for (transport, port) in [(Transport::Rdma, 4445), (Transport::RdmaPinAll, 4446)] {
        let observer = observer();
        let guest = Guest { memory_mib: 64, working_set_mib: 4, ..Guest::default() };
        let mut pair = Pair::start(&QemuSpec { guest, ..QemuSpec::default() }).unwrap();
        let host = Some(ADDRESS.parse().unwrap());
        let plan = MigrationPlan { transport, host, port, ..MigrationPlan::default() };
        pair.migrate(&plan).unwrap();
        let figures = pair.wait_end(LIMIT).unwrap();
        assert_eq!(figures.status, "completed", "{:?}", figures.error);
        let records = finished(&observer);
        assert_eq!(records.len(), 1, "{records:#?}");
        let record = &records[0];
        let (blackout, bytes) = (record.blackout_seconds(), record.bytes.unwrap());
        let duration = record.duration_seconds;
        println!(
            "{transport:?}: {duration} s, {bytes:?}, blackout {blackout:?} s; QEMU {figures:?}"
        );
        let path = (record.transport, record.mode);
        assert_eq!(path, (Some(Carrier::Rdma), Some(Mode::Datacenter)));
        assert_eq!(record.outcome, Some(Outcome::Completed), "{record:#?}");
        let roles: Vec<Role> = record.ends.iter().map(|end| end.role).collect();
        assert_eq!(roles, [Role::Source, Role::Destination]);
        assert!(blackout.is_some_and(|seconds| seconds > 0.0), "{record:#?}");

        let streams = &record.streams;
        let (pairs, sockets): (Vec<&Stream>, Vec<&Stream>) =
            streams.iter().partition(|stream| stream.queue_pair.is_some());
        assert_eq!((pairs.len(), sockets.len()), (1, 1), "{streams:#?}");
        let queue_pair = pairs[0].queue_pair.as_ref().unwrap();
        assert_eq!(queue_pair.device, device.name());
        assert_eq!(queue_pair.data_path, DataPath::None);
        assert!(pairs[0].bytes.is_none(), "what is not seen is not zero: {streams:#?}");
        let [pair, socket] = [pairs[0], sockets[0]].map(|stream| (&stream.local, &stream.peer));
        assert_eq!(pair, socket);
        assert_eq!(sockets[0].bytes.unwrap().bytes_delivered, bytes.delivered);
        let off = bytes.delivered as f64 / figures.transferred as f64 - 1.0;
        // Headers of iWARP are in it.
        assert!((0.0..0.02).contains(&off), "{off}: {bytes:?}, QEMU {figures:?}");
        let registered = &record.registered_memory;
        assert!(registered.iter().any(|memory| memory.end == Role::Source), "{registered:?}");
        assert!(observer.stop().unwrap().status.success());
    }
}

#[test]
#[ignore = "needs siw: cargo xtask vm-test --kernel 6.12 --test rdma-iwarp"]
fn a_program_that_uses_iwarp_is_no_migration() {
    let _device = SoftDevice::new(Driver::Siw, "tools").unwrap();
    let observer = observer();
    let rounds = |end| [end, "-a", ADDRESS, "-C", "50", "-S", "4096"];
    server_and_client("rping", &rounds("-s"), &rounds("-c"), LIMIT).unwrap();
    observer.wait_cycles().unwrap();
    assert!(observer.records().unwrap().is_empty(), "it moves no VM");
    assert!(observer.stop().unwrap().status.success());
}
