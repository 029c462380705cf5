//! The traffic generator itself: its counts are those of the kernel, to the byte.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use dwcp_observer_lab::flows::{Close, FlowHelper, FlowReport, Listening, SteadyReport, WebReport};
use dwcp_observer_lab::socket_totals::{SocketTotals, SocketWatch};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

fn start(name: &str, args: &[&str]) -> FlowHelper {
    FlowHelper::start(Path::new(env!("CARGO_BIN_EXE_lab-flows")), name, args).unwrap()
}

#[test]
fn counts_of_an_exchange_are_those_of_the_kernel() {
    const FLOWS: usize = 200;
    let mut watch = SocketWatch::start().unwrap();
    let helper = start("dwcpd", &["exchange", "--flows", "200", "--max-bytes", "3000000"]);
    let reports: Vec<FlowReport> = helper.finish().unwrap();
    assert_eq!(reports.len(), FLOWS);
    let servers = [reports[0].receiver.port(), {
        let other = reports.iter().find(|report| report.plan.ipv6 != reports[0].plan.ipv6);
        other.unwrap().receiver.port()
    }];
    let ours = |end: &SocketTotals| {
        servers.contains(&end.local.port()) || servers.contains(&end.peer.port())
    };
    // The kernel keeps no counters of an end that resets.
    let resets = reports.iter().filter(|report| report.plan.close.is_reset()).count();
    assert!(resets > 0);
    let ends = watch.wait(2 * FLOWS - resets, LIMIT, ours).unwrap();
    let by_ends: HashMap<(SocketAddr, SocketAddr), SocketTotals> =
        ends.into_iter().map(|end| ((end.local, end.peer), end)).collect();
    for report in reports {
        let plan = report.plan;
        assert_eq!(report.bytes_written, plan.bytes, "{report:?}");
        assert_eq!(report.bytes_read, plan.bytes, "{report:?}");
        assert_eq!(report.sender.is_ipv6(), plan.ipv6, "{report:?}");
        // Beside the payload: the SYN, and the FIN where there is one.
        let fin = u64::from(!plan.close.is_reset());
        if !plan.close.is_sender_reset() {
            let sender = by_ends[&(report.sender, report.receiver)];
            assert_eq!(sender.payload_sent(), plan.bytes, "{report:?} {sender:?}");
            assert_eq!(sender.bytes_acked, plan.bytes + 1 + fin, "{report:?} {sender:?}");
        }
        if plan.close != Close::ReceiverReset {
            let receiver = by_ends[&(report.receiver, report.sender)];
            let fin = match plan.close {
                // It may be in TIME_WAIT, without its counters, when the FIN comes.
                Close::Receiver => 0..=1,
                _ => fin..=fin,
            };
            let beside = receiver.bytes_received - plan.bytes;
            assert!(fin.contains(&beside), "{report:?} {receiver:?}");
        }
    }
}

#[test]
fn steady_connections_stay_open_under_the_name_given() {
    let args = ["steady", "--connections", "300", "--first-bytes", "1000", "--rate", "3000000"];
    let mut helper = start("criu", &args);
    let ready: Value = helper.line().unwrap();
    assert_eq!(ready["ready"], 300);
    let proc = format!("/proc/{}", helper.pid());
    assert_eq!(std::fs::read_to_string(format!("{proc}/comm")).unwrap(), "criu\n");
    let children = std::fs::read_to_string(format!("{proc}/task/{}/children", helper.pid()));
    let child = children.unwrap().trim().to_owned();
    assert_eq!(std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap(), "criu\n");
    std::thread::sleep(Duration::from_millis(300));
    helper.tell_stop().unwrap();
    let report: Vec<SteadyReport> = helper.finish().unwrap();
    assert_eq!(report.len(), 1);
    assert_eq!(report[0].bytes_read, report[0].bytes_written);
    assert!(report[0].bytes_written > 300_000, "nothing beside the first bytes: {report:?}");
    assert!(!Path::new(&format!("/proc/{child}")).exists(), "the receiver is left");
}

#[test]
fn a_web_server_serves_whole_files() {
    let mut server = start("nginx", &["web-serve", "--port", "0", "--bytes", "1234567"]);
    let listening: Listening = server.line().unwrap();
    for address in [listening.ipv4, listening.ipv6] {
        let args = ["web-get", "--server", &address.to_string(), "--downloads", "2"];
        let report: Vec<WebReport> = start("curl", &args).finish().unwrap();
        assert_eq!(report, [WebReport { downloads: 2, bytes: 2 * 1_234_567 }]);
    }
    assert!(server.finish::<Value>().unwrap().is_empty());
}
