//! The demo's picture of one migration: the record beside QEMU's figures.

use std::fmt::Write as _;

use dwcp_observer_lab::migration::QemuFigures;
use serde_json::Value;

use crate::checks::{Check, whole};

/// The whole text, ending with a line for each check.
pub(crate) fn render(record: &Value, qemu: &QemuFigures, checks: &[Check]) -> String {
    let mut text = String::new();
    let sections = [
        head(record),
        figures(record, qemu),
        course(record),
        streams(record),
        threads(record),
        evidence(record),
        verdict(checks),
    ];
    for section in sections {
        text.push_str(&section);
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn head(record: &Value) -> String {
    let vm = &record["vm"];
    let memory = vm["memory_bytes"].as_u64().map_or("-".to_owned(), mib);
    let mut text = format!(
        "Migration {}: {}, {}\n  VM        {}, uuid {}, memory {memory}\n  transport {}, mode {}\n  \
         from {} to {}\n",
        show(&record["id"]),
        show(&record["state"]),
        show(&record["outcome"]),
        show(&vm["name"]),
        show(&vm["uuid"]),
        show(&record["transport"]),
        show(&record["mode"]),
        show(&record["started_at"]),
        show(&record["ended_at"]),
    );
    for end in array(&record["ends"]) {
        let _ = writeln!(
            text,
            "  {:<11} pid {}, {}",
            show(&end["role"]),
            show(&end["pid"]),
            show(&end["exe"])
        );
    }
    text
}

fn figures(record: &Value, qemu: &QemuFigures) -> String {
    let bytes = &record["bytes"];
    let mut rows = vec![["".to_owned(), "observer".into(), "QEMU".into(), "difference".into()]];
    let duration = record["duration_seconds"].as_f64().map(|seconds| seconds * 1000.0);
    let total = qemu.total_time_ms.map(whole);
    rows.push([
        "duration".to_owned(),
        duration.map_or("-".to_owned(), |ms| format!("{ms:.3} ms")),
        total.map_or("-".to_owned(), |ms| format!("{ms:.0} ms")),
        match (duration, total) {
            (Some(duration), Some(total)) => format!("{:+.3} ms", duration - total),
            _ => "-".to_owned(),
        },
    ]);
    let delivered = bytes["delivered"].as_u64();
    rows.push([
        "bytes delivered".to_owned(),
        delivered.map_or("-".to_owned(), |bytes| format!("{bytes} B")),
        format!("{} B", qemu.transferred),
        match delivered {
            Some(delivered) if qemu.transferred > 0 => {
                let share = whole(delivered) / whole(qemu.transferred) - 1.0;
                format!("{:+.3} %", share * 100.0)
            }
            _ => "-".to_owned(),
        },
    ]);
    for key in ["queued", "received", "retransmitted"] {
        rows.push([
            format!("bytes {key}"),
            bytes[key].as_u64().map_or("-".to_owned(), |bytes| format!("{bytes} B")),
            "not known".to_owned(),
            String::new(),
        ]);
    }
    rows.push([
        "streams".to_owned(),
        array(&record["streams"]).len().to_string(),
        "not known".to_owned(),
        String::new(),
    ]);
    rows.push([
        "blackout, downtime".to_owned(),
        milliseconds(&record["blackout"]["seconds"]),
        qemu.downtime_ms.map_or("-".to_owned(), |ms| format!("{ms} ms")),
        match (record["blackout"]["seconds"].as_f64(), qemu.downtime_ms.map(whole)) {
            (Some(seconds), Some(downtime)) => format!("{:+.3} ms", seconds * 1000.0 - downtime),
            _ => "-".to_owned(),
        },
    ]);
    rows.push([
        "rounds".to_owned(),
        array(&record["rounds"]).len().to_string(),
        qemu.dirty_sync_count.to_string(),
        String::new(),
    ]);
    table(&rows)
}

/// Where the blackout went, what each method says, and the phases.
fn course(record: &Value) -> String {
    let blackout = &record["blackout"];
    let mut rows = vec![["blackout".to_owned(), "time".to_owned()]];
    for part in ["stop", "ram", "device", "network", "load", "start"] {
        rows.push([part.to_owned(), milliseconds(&blackout["breakdown"][part])]);
    }
    for method in ["phase_functions", "vcpu_scheduling"] {
        rows.push([format!("all by {method}"), milliseconds(&blackout["by_method"][method])]);
    }
    let mut text = table(&rows);
    let mut rows = vec![["phase".to_owned(), "time".to_owned()]];
    for phase in array(&record["phases"]) {
        rows.push([show(&phase["phase"]), milliseconds(&phase["seconds"])]);
    }
    text.push('\n');
    text.push_str(&table(&rows));
    text
}

fn milliseconds(seconds: &Value) -> String {
    seconds.as_f64().map_or("-".to_owned(), |seconds| format!("{:.3} ms", seconds * 1000.0))
}

fn streams(record: &Value) -> String {
    let header = [
        "stream",
        "local",
        "peer",
        "queued",
        "delivered",
        "received",
        "retrans",
        "RTT us",
        "min us",
    ];
    let mut rows = vec![header.map(str::to_owned)];
    for stream in array(&record["streams"]) {
        rows.push([
            show(&stream["role"]),
            show(&stream["local"]),
            show(&stream["peer"]),
            show(&stream["bytes_queued"]),
            show(&stream["bytes_delivered"]),
            show(&stream["bytes_received"]),
            show(&stream["retransmitted_segments"]),
            scaled(&stream["srtt_seconds"], 1e6),
            scaled(&stream["min_rtt_seconds"], 1e6),
        ]);
    }
    table(&rows)
}

fn threads(record: &Value) -> String {
    let header = ["end", "thread role", "comm", "tid", "on CPU ms", "run-queue wait ms"];
    let mut threads: Vec<&Value> = array(&record["threads"]).iter().collect();
    threads.sort_by_key(|thread| {
        let text = |key| show(&thread[key]);
        // The source first, as the data flows.
        (thread["end"] != "source", text("role"), text("comm"), thread["tid"].as_u64())
    });
    let mut rows = vec![header.map(str::to_owned)];
    for thread in threads {
        rows.push([
            show(&thread["end"]),
            show(&thread["role"]),
            show(&thread["comm"]),
            show(&thread["tid"]),
            scaled(&thread["on_cpu_seconds"], 1e3),
            scaled(&thread["runqueue_wait_seconds"], 1e3),
        ]);
    }
    table(&rows)
}

fn evidence(record: &Value) -> String {
    let mut text = "Evidence\n".to_owned();
    for item in array(&record["evidence"]) {
        let _ = match (&item["kind"], &item["detail"]) {
            (Value::Null, _) | (_, Value::Null) => writeln!(text, "  {}", show(item)),
            (kind, detail) => writeln!(text, "  {:<10} {}", show(kind), show(detail)),
        };
    }
    text
}

fn verdict(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let mark = if check.passed { "ok    " } else { "FAILED" };
        let _ = writeln!(text, "{mark} {}: {}", check.name, check.detail);
    }
    text
}

/// Columns as wide as their widest cell; numbers to the right.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            let number =
                cell.starts_with(|first: char| first.is_ascii_digit() || "+-".contains(first));
            let address = cell.contains(':') || cell.contains('.') && cell.matches('.').count() > 1;
            let _ = if number && !address {
                write!(line, "{cell:>width$}  ")
            } else {
                write!(line, "{cell:<width$}  ")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn show(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn scaled(value: &Value, factor: f64) -> String {
    value.as_f64().map_or("-".to_owned(), |number| format!("{:.1}", number * factor))
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_record_is_shown_whole() {
        let record = json!({
            "id": "m-1", "state": "finished", "outcome": "completed",
            "vm": { "name": "vm-1", "uuid": "u", "memory_bytes": 268_435_456 },
            "duration_seconds": 1.5, "bytes": { "delivered": 1010, "queued": 1010 },
            "ends": [{ "role": "source", "pid": 7, "exe": "/usr/bin/qemu" }],
            "streams": [{ "role": "main", "local": "127.0.0.1:9", "srtt_seconds": 0.00012 }],
            "threads": [{ "tid": 8, "role": "vcpu", "comm": "CPU 0/TCG", "on_cpu_seconds": 0.25 }],
            "evidence": ["exe", { "port": 49152 }, { "kind": "comm", "detail": "qemu", "weight": 1 }],
        });
        let qemu =
            QemuFigures { total_time_ms: Some(1498), transferred: 1000, ..Default::default() };
        let checks = [Check { name: "sum", passed: false, detail: "1 B, 2 B".to_owned() }];
        let text = render(&record, &qemu, &checks);
        for part in [
            "VM        vm-1, uuid u, memory 256 MiB",
            "+2.000 ms",
            "+1.000 %",
            "pid 7, /usr/bin/qemu",
            "120.0",
            "250.0",
            "{\"port\":49152}",
            "  comm       qemu\n",
            "FAILED sum: 1 B, 2 B",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn an_empty_record_is_shown_with_dashes() {
        let text = render(&json!({}), &QemuFigures::default(), &[]);
        assert!(text.starts_with("Migration -: -, -\n"), "{text}");
    }
}
