//! `dwcp-observer rdma`: prints the RDMA queue pairs of the host, from the running observer.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use super::{
    client::{Url, get},
    table::completion_errors,
    text::{NONE, Table, bytes, clean, rtt, section},
};
use crate::model::rdma::Rdma;

const EXAMPLES: &str = "\
Examples:
  dwcp-observer rdma                             devices, queue pairs, connections, registered memory
  dwcp-observer rdma --json | jq '.queue_pairs[] | {comm, qpn, operations}'

Exit codes: 0 printed; 1 no observer answers; 2 wrong arguments.";

/// Show all RDMA devices and queue pairs of this host
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RdmaArgs {
    /// Print the observer's JSON unchanged
    #[arg(long)]
    json: bool,
    /// URL of the observer
    #[arg(long, default_value = "http://127.0.0.1:8080", value_parser = Url::parse)]
    url: Url,
}

/// Runs the command.
///
/// # Errors
/// No observer answers.
pub(super) fn run(args: &RdmaArgs) -> anyhow::Result<ExitCode> {
    let body = get(&args.url, "/api/v1/rdma")?;
    let page = if args.json { format!("{}\n", body.text) } else { render(&body.read()?) };
    match io::stdout().write_all(page.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        result => result.map(|()| ExitCode::SUCCESS).map_err(Into::into),
    }
}

fn render(view: &Rdma) -> String {
    if view.devices.is_empty() && view.queue_pairs.is_empty() {
        return "no RDMA device and no queue pair on this host\n".to_owned();
    }
    let mut output = String::new();
    section("DEVICES", &devices(view), &mut output);
    section("QUEUE PAIRS", &queue_pairs(view), &mut output);
    section("REGISTERED MEMORY", &memory(view), &mut output);
    output
}

fn devices(view: &Rdma) -> Table {
    let mut table = Table::new(&["DEVICE", "DRIVER", "PORT", "STATE", "SENT", "RECEIVED"]);
    table.right(&[2, 4, 5]);
    for device in &view.devices {
        for port in &device.ports {
            table.row(vec![
                clean(&device.name),
                clean(&device.driver),
                port.port.to_string(),
                clean(&port.state),
                carried(port.sent_bytes, port.sent_packets),
                carried(port.received_bytes, port.received_packets),
            ]);
        }
    }
    table
}

fn queue_pairs(view: &Rdma) -> Table {
    let mut table = Table::new(&[
        "PID", "COMM", "DEVICE", "QPN", "PEER", "STATE", "SENT", "RECEIVED", "READ", "P50", "P99",
        "ERRORS",
    ]);
    table.shrinks(&[4]);
    table.right(&[0, 3, 6, 7, 8, 9, 10]);
    let seen = |count: Option<u64>| count.map_or_else(|| "not seen".to_owned(), bytes);
    for of_host in &view.queue_pairs {
        let qp = &of_host.queue_pair;
        let state = of_host.close_reason.map_or(qp.qp_state.as_str(), |reason| reason.as_str());
        table.row(vec![
            of_host.pid.to_string(),
            clean(&of_host.comm),
            clean(&qp.device),
            qp.qpn.to_string(),
            of_host.peer.as_deref().map_or_else(|| NONE.to_owned(), clean),
            state.to_owned(),
            seen(of_host.bytes_sent),
            seen(of_host.bytes_received),
            seen(of_host.bytes_read),
            rtt(qp.completion_latency.map(|latency| latency.p50_seconds)),
            rtt(qp.completion_latency.map(|latency| latency.p99_seconds)),
            completion_errors(qp),
        ]);
    }
    table
}

fn memory(view: &Rdma) -> Table {
    let mut table =
        Table::new(&["PID", "COMM", "REGISTRATIONS", "REGISTERED", "MOST", "PINNED", "SECONDS"]);
    table.right(&[0, 2, 3, 4, 5, 6]);
    for process in &view.registered_memory {
        table.row(vec![
            process.pid.to_string(),
            clean(&process.comm),
            process.registrations.to_string(),
            bytes(process.bytes_registered_now),
            bytes(process.bytes_registered_peak),
            bytes(process.bytes_pinned_peak),
            format!("{:.3}", process.seconds),
        ]);
    }
    table
}

/// Bytes where the port counts them, else packets.
fn carried(count: Option<u64>, packets: Option<u64>) -> String {
    let packets = || packets.map(|count| format!("{count} packets"));
    count.map(bytes).or_else(packets).unwrap_or_else(|| NONE.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdma::{RdmaStatus, Snapshot, tests::queue_pair};

    #[test]
    fn a_queue_pair_and_a_host_without_any() {
        let text = render(&Rdma::default());
        assert!(text.contains("no RDMA device") && text.lines().count() == 1, "{text}");
        let mut qp = queue_pair();
        qp.errors[10] = 2;
        let snapshot = Snapshot { qps: vec![qp.into()], ..Snapshot::default() };
        let mut status = RdmaStatus::default();
        status.take(snapshot);
        let page = render(&status.view());
        for expected in ["qemu-system-x86", "rxe0", "10.9.0.1:4444", "RTS", "2 REM_ACCESS_ERR"] {
            assert!(page.contains(expected), "{expected} in\n{page}");
        }
    }
}
