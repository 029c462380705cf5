//! Retransmits and the times in which a stream was busy, limited by the receiver's window or by its
//! own send buffer: the record's figures are those of TCP_INFO.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use dwcp_observer_lab::faults::{Loss, Shaper, Stopped};
use dwcp_observer_lab::guest::Guest;
use dwcp_observer_lab::migration::{MigrationPlan, Pair};
use dwcp_observer_lab::netns::Wire;
use dwcp_observer_lab::observer::{Observer, binary};
use dwcp_observer_lab::qemu::{QemuSpec, Role};
use dwcp_observer_lab::tcp_info::{ForeignSocket, TcpInfo};
use dwcp_observer_model::record::{Migration, Stream, TcpStream};

const LIMIT: Duration = Duration::from_secs(120);
const RATE: u64 = 60_000_000;
/// The kernel counts these times in its timer ticks, at most 10 ms each.
const TICK_SECONDS: f64 = 0.0101;
/// The observer lets a span that ran when it last saw the socket run on until its own reading: it
/// may have ended in between.
const RUN_ON_SECONDS: f64 = 0.1;

/// Source sockets by their own address.
type Sockets = BTreeMap<String, ForeignSocket>;
type Infos = BTreeMap<String, TcpInfo>;

fn all_infos(sockets: &Sockets) -> Infos {
    sockets.iter().map(|(local, socket)| (local.clone(), socket.info().unwrap())).collect()
}

fn tcp(stream: &Stream) -> &TcpStream {
    stream.tcp.as_ref().unwrap()
}

fn times(tcp: &TcpStream) -> [f64; 3] {
    [tcp.busy_seconds, tcp.rwnd_limited_seconds, tcp.sndbuf_limited_seconds]
}

fn kernel_times(info: &TcpInfo) -> [f64; 3] {
    [info.busy_seconds, info.rwnd_limited_seconds, info.sndbuf_limited_seconds]
}

/// A reading of the observer between two of the kernel: all these figures only grow, so each one
/// of the record's lies between the kernel's before and after.
fn sandwich(observer: &Observer, id: &str, sockets: &Sockets, moment: &str) -> Migration {
    let before = all_infos(sockets);
    observer.wait_cycles().unwrap();
    let record = observer.record(id).unwrap();
    let after = all_infos(sockets);
    for stream in &record.streams {
        let (before, after) = (&before[&stream.local], &after[&stream.local]);
        let tcp = tcp(stream);
        let context = format!("{moment}: {stream:#?}\n{before:?}\n{after:?}");
        for (counted, range) in [
            (tcp.retransmitted_segments, before.total_retrans..=after.total_retrans),
            (tcp.bytes_retransmitted, before.bytes_retrans..=after.bytes_retrans),
        ] {
            assert!(range.contains(&counted), "{counted} in {range:?}: {context}");
        }
        let limits = kernel_times(before).into_iter().zip(kernel_times(after));
        for (seconds, (least, most)) in times(tcp).into_iter().zip(limits) {
            let fits =
                seconds >= least - TICK_SECONDS && seconds <= most + TICK_SECONDS + RUN_ON_SECONDS;
            assert!(fits, "{seconds} s in {least} to {most} s: {context}");
        }
        println!(
            "{moment:<20} {:<21} retransmits {:>5} ({}..{})  busy {:.3} ({:.3}..{:.3})  rwnd {:.3} ({:.3}..{:.3})  sndbuf {:.3} ({:.3}..{:.3})",
            stream.local,
            tcp.retransmitted_segments,
            before.total_retrans,
            after.total_retrans,
            tcp.busy_seconds,
            before.busy_seconds,
            after.busy_seconds,
            tcp.rwnd_limited_seconds,
            before.rwnd_limited_seconds,
            after.rwnd_limited_seconds,
            tcp.sndbuf_limited_seconds,
            before.sndbuf_limited_seconds,
            after.sndbuf_limited_seconds,
        );
    }
    record
}

fn sum(record: &Migration, figure: fn(&TcpStream) -> f64) -> f64 {
    record.streams.iter().map(tcp).map(figure).sum()
}

#[test]
fn what_held_a_stream_back_is_what_tcp_info_says() {
    let wire = Wire::new().unwrap();
    // A send buffer smaller than what is under way: it is a limit of its own.
    wire.end(Role::Source).set("ipv4/tcp_wmem", "4096 32768 32768").unwrap();
    // And a receive buffer that is full soon after nobody reads it any more.
    wire.end(Role::Destination).set("ipv4/tcp_rmem", "4096 262144 262144").unwrap();
    let shaper = Shaper::new(&wire, RATE).unwrap();
    let guest = Guest { memory_mib: 768, working_set_mib: 8, ..Guest::default() };
    let spec = QemuSpec { guest, wire: Some(wire.clone()), ..QemuSpec::default() };
    let plan = MigrationPlan {
        multifd_channels: Some(2),
        host: Some(Wire::address(Role::Destination)),
        ..MigrationPlan::default()
    };
    let mut pair = Pair::start(&spec).unwrap();
    let observer = Observer::start(&binary().unwrap(), &[]).unwrap();
    pair.migrate(&plan).unwrap();
    let record = observer
        .wait_records(Duration::from_secs(10), |records| {
            records.first().is_some_and(|record| record.streams.len() == 3)
        })
        .unwrap()
        .remove(0);
    let id = record.id;
    let sockets: Sockets = record
        .streams
        .iter()
        .map(|stream| {
            let local: SocketAddr = stream.local.parse().unwrap();
            (stream.local.clone(), ForeignSocket::find(pair.source.pid(), local).unwrap())
        })
        .collect();

    let clean = sandwich(&observer, &id, &sockets, "clean");
    let loss = Loss::new(&wire, 3).unwrap();
    let lossy = sandwich(&observer, &id, &sockets, "3 % lost");
    drop(loss);
    let stopped = Stopped::new(pair.destination.pid()).unwrap();
    let held = sandwich(&observer, &id, &sockets, "receiver stopped");
    drop(stopped);
    let after = sandwich(&observer, &id, &sockets, "afterwards");

    let retransmitted = |record: &Migration| sum(record, |tcp| tcp.retransmitted_segments as f64);
    assert!(retransmitted(&lossy) > retransmitted(&clean), "{lossy:#?}");
    let limited = |record: &Migration| sum(record, |tcp| tcp.rwnd_limited_seconds);
    assert!(limited(&held) > limited(&lossy) + 0.5, "{held:#?}");
    assert!(sum(&after, |tcp| tcp.busy_seconds) > 1.0, "{after:#?}");
    assert!(sum(&after, |tcp| tcp.sndbuf_limited_seconds) > 0.1, "{after:#?}");

    // A duplicate would keep its connection open.
    drop(sockets);
    drop(shaper);
    let figures = pair.wait_end(LIMIT).unwrap();
    assert_eq!(figures.status, "completed", "{figures:?}");
    observer.wait_finished(1).unwrap();
    assert!(observer.stop().unwrap().status.success());
}
