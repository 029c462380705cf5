//! A receiver that stops reading: the totals stay right each second while nothing moves.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use dwcp_observer_lab::flows::{FlowHelper, SteadyReport};
use dwcp_observer_lab::observer::{Observer, binary};
use dwcp_observer_lab::record::RecordExt as _;
use dwcp_observer_lab::tcp_info::{ForeignSocket, TcpInfo};
use dwcp_observer_model::record::{State, Stream};

/// What the observer shows may be a cycle old.
const CYCLE_SECONDS: f64 = 1.1;

/// Stops a process while the value lives.
struct Stopped(i32);

impl Stopped {
    fn new(pid: i32) -> Self {
        signal(pid, libc::SIGSTOP);
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(self.0, libc::SIGCONT);
    }
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: takes integers; the process is a child of a child that has not reaped it.
    let result = unsafe { libc::kill(pid, signal) };
    assert_eq!(result, 0, "signal {signal} to {pid}");
}

/// A reading of the observer and one of the kernel between which nothing has moved.
fn compare(observer: &Observer, socket: &ForeignSocket, second: u32) -> (Stream, TcpInfo) {
    let before = socket.info().unwrap();
    observer.wait_cycles().unwrap();
    let stream = observer.records().unwrap().remove(0).streams.remove(0);
    let after = socket.info().unwrap();
    assert_eq!(before.bytes_acked, after.bytes_acked, "it does stall");
    let context = format!("reading {second}: {stream:#?} {after:?}");
    let (tcp, bytes) = (stream.tcp.as_ref().unwrap(), stream.bytes.unwrap());
    assert_eq!(tcp.socket.bytes_acked, after.bytes_acked, "{context}");
    // One more for the SYN.
    assert_eq!(bytes.bytes_delivered, after.bytes_acked - 1, "{context}");
    let outstanding = u64::from(socket.outstanding().unwrap());
    assert!(outstanding > 0, "{context}");
    assert_eq!(bytes.bytes_queued - bytes.bytes_delivered, outstanding, "{context}");
    for (ours, kernel) in [
        (tcp.busy_seconds, after.busy_seconds),
        (tcp.rwnd_limited_seconds, after.rwnd_limited_seconds),
    ] {
        // The kernel's figure grows on while the observer's is of its last cycle.
        assert!(kernel - ours <= CYCLE_SECONDS && ours - kernel <= 0.1, "{context}");
    }
    (stream, after)
}

#[test]
fn figures_are_right_while_nothing_moves() {
    let observer = Observer::start(&binary().unwrap(), &[]).unwrap();
    let mut helper = FlowHelper::start(
        Path::new(env!("CARGO_BIN_EXE_lab-flows")),
        "criu",
        &["steady", "--connections", "1", "--first-bytes", "1000000", "--rate", "100000000"],
    )
    .unwrap();
    let _: serde_json::Value = helper.line().unwrap();
    let sender = helper.pid();
    let children = std::fs::read_to_string(format!("/proc/{sender}/task/{sender}/children"));
    let receiver: i32 = children.unwrap().trim().parse().unwrap();
    let record = observer
        .wait_records(Duration::from_secs(30), |records| {
            records.first().is_some_and(|record| record.totals().delivered > 1_000_000)
        })
        .unwrap()
        .remove(0);
    let local: SocketAddr = record.streams[0].local.parse().unwrap();
    let socket = ForeignSocket::find(sender, local).unwrap();

    let stopped = Stopped::new(receiver);
    // Until all buffers are full.
    let mut last = socket.info().unwrap();
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let now = socket.info().unwrap();
        if now.bytes_acked == last.bytes_acked {
            break;
        }
        last = now;
    }
    let readings: Vec<_> = (1..=3).map(|second| compare(&observer, &socket, second)).collect();
    let (first, first_info) = &readings[0];
    let (third, third_info) = &readings[2];
    // The stall itself shows: the receiver's window is the limit, all the time.
    let limited = |stream: &Stream| stream.tcp.as_ref().unwrap().rwnd_limited_seconds;
    let grown = limited(third) - limited(first);
    let kernel = third_info.rwnd_limited_seconds - first_info.rwnd_limited_seconds;
    assert!(kernel > 1.0 && (grown - kernel).abs() <= CYCLE_SECONDS, "{grown} s, {kernel} s");
    let record = observer.records().unwrap().remove(0);
    assert_eq!(record.state, State::Active);
    let last = observer.record(&record.id).unwrap().history.unwrap().pop().unwrap();
    assert_eq!(last.bytes.unwrap().bytes_per_second, 0.0, "{last:?}");

    drop(stopped);
    drop(socket);
    helper.tell_stop().unwrap();
    let report: SteadyReport = helper.finish().unwrap().remove(0);
    let record = observer.wait_finished(1).unwrap().remove(0);
    let bytes = (record.totals().queued, record.totals().delivered, record.totals().received);
    assert_eq!(bytes, (report.bytes_written, report.bytes_written, report.bytes_read));
    println!(
        "stalled at {} B for {kernel:.1} s: 0 B off TCP_INFO, rwnd-limited {:.3} s, TCP_INFO {:.3} s; {} B at the end, 0 B off",
        third_info.bytes_acked,
        limited(third),
        third_info.rwnd_limited_seconds,
        report.bytes_written,
    );
    assert!(observer.stop().unwrap().status.success());
}
