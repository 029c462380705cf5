//! `dwcp-observer rdma`: prints the RDMA queue pairs of the host, from the running observer.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use serde_json::Value;

use super::{
    client::{Url, get},
    table::completion_errors,
    text::{Table, array, bytes, integer, number, rtt, section, text, text_or},
};

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
    let page = if args.json { format!("{}\n", body.text) } else { render(&body.value) };
    match io::stdout().write_all(page.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        result => result.map(|()| ExitCode::SUCCESS).map_err(Into::into),
    }
}

fn render(view: &Value) -> String {
    if array(view, "devices").is_empty() && array(view, "queue_pairs").is_empty() {
        return "no RDMA device and no queue pair on this host\n".to_owned();
    }
    let mut output = String::new();
    let mut devices = Table::new(&["DEVICE", "DRIVER", "PORT", "STATE", "SENT", "RECEIVED"]);
    devices.right(&[2, 4, 5]);
    for device in array(view, "devices") {
        for port in array(device, "ports") {
            devices.row(vec![
                text(device, "name"),
                text(device, "driver"),
                integer(port, "port").to_string(),
                text(port, "state"),
                carried(port, "sent"),
                carried(port, "received"),
            ]);
        }
    }
    section("DEVICES", &devices, &mut output);
    let mut pairs = Table::new(&[
        "PID", "COMM", "DEVICE", "QPN", "PEER", "STATE", "SENT", "RECEIVED", "READ", "P50", "P99",
        "ERRORS",
    ]);
    pairs.shrinks(&[4]);
    pairs.right(&[0, 3, 6, 7, 8, 9, 10]);
    for qp in array(view, "queue_pairs") {
        let seen = |key: &str| {
            qp.get(key).and_then(Value::as_u64).map_or_else(|| "not seen".to_owned(), bytes)
        };
        let quantile =
            |key: &str| rtt(qp.get("completion_latency").and_then(|found| number(found, key)));
        pairs.row(vec![
            integer(qp, "pid").to_string(),
            text(qp, "comm"),
            text(qp, "device"),
            integer(qp, "qpn").to_string(),
            text_or(qp, "peer", "-"),
            text_or(qp, "close_reason", &text(qp, "qp_state")),
            seen("bytes_sent"),
            seen("bytes_received"),
            seen("bytes_read"),
            quantile("p50_seconds"),
            quantile("p99_seconds"),
            completion_errors(qp),
        ]);
    }
    section("QUEUE PAIRS", &pairs, &mut output);
    let mut memory =
        Table::new(&["PID", "COMM", "REGISTRATIONS", "REGISTERED", "MOST", "PINNED", "SECONDS"]);
    memory.right(&[0, 2, 3, 4, 5, 6]);
    for process in array(view, "registered_memory") {
        memory.row(vec![
            integer(process, "pid").to_string(),
            text(process, "comm"),
            integer(process, "registrations").to_string(),
            bytes(integer(process, "bytes_registered_now")),
            bytes(integer(process, "bytes_registered_peak")),
            bytes(integer(process, "bytes_pinned_peak")),
            format!("{:.3}", number(process, "seconds").unwrap_or(0.0)),
        ]);
    }
    section("REGISTERED MEMORY", &memory, &mut output);
    output
}

/// Bytes where the port counts them, else packets.
fn carried(port: &Value, direction: &str) -> String {
    let count = |unit: &str| port.get(format!("{direction}_{unit}")).and_then(Value::as_u64);
    count("bytes")
        .map(bytes)
        .or_else(|| count("packets").map(|count| format!("{count} packets")))
        .unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdma::{RdmaStatus, Snapshot, View, tests::queue_pair};

    #[test]
    fn a_queue_pair_and_a_host_without_any() {
        let empty = serde_json::to_value(View::new(&RdmaStatus::default())).unwrap();
        let text = render(&empty);
        assert!(text.contains("no RDMA device") && text.lines().count() == 1, "{text}");
        let mut qp = queue_pair();
        qp.errors[10] = 2;
        let snapshot = Snapshot { qps: vec![qp.into()], ..Snapshot::default() };
        let mut status = RdmaStatus::default();
        status.take(snapshot);
        let page = render(&serde_json::to_value(View::new(&status)).unwrap());
        for expected in ["qemu-system-x86", "rxe0", "10.9.0.1:4444", "RTS", "2 REM_ACCESS_ERR"] {
            assert!(page.contains(expected), "{expected} in\n{page}");
        }
    }
}
