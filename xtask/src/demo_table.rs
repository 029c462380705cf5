//! The demo's picture of one migration: the record beside QEMU's figures.

use std::fmt::Write as _;

use dwcp_observer_lab::migration::QemuFigures;
use dwcp_observer_model::record::{Evidence, Method, Migration, Thread};

use crate::checks::{Check, whole};

/// The whole text, ending with a line for each check.
pub(crate) fn render(record: &Migration, qemu: &QemuFigures, checks: &[Check]) -> String {
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

fn head(record: &Migration) -> String {
    let vm = &record.vm;
    let memory = vm.memory_bytes.map_or("-".to_owned(), mib);
    let mut text = format!(
        "Migration {}: {}, {}\n  VM        {}, uuid {}, memory {memory}\n  transport {}, mode {}\n  \
         from {} to {}\n",
        record.id,
        record.state.as_str(),
        record.outcome.map_or("-", |outcome| outcome.as_str()),
        show(vm.name.as_ref()),
        show(vm.uuid.as_ref()),
        record.transport.map_or("-", |transport| transport.as_str()),
        record.mode.map_or("-", |mode| mode.as_str()),
        record.started_at,
        show(record.ended_at),
    );
    for end in &record.ends {
        let (role, exe) = (end.role.as_str(), show(end.exe.as_ref()));
        let _ = writeln!(text, "  {role:<11} pid {}, {exe}", end.pid);
    }
    text
}

fn figures(record: &Migration, qemu: &QemuFigures) -> String {
    let mut rows = vec![["".to_owned(), "observer".into(), "QEMU".into(), "difference".into()]];
    let duration = record.duration_seconds * 1000.0;
    let total = qemu.total_time_ms.map(whole);
    rows.push([
        "duration".to_owned(),
        format!("{duration:.3} ms"),
        total.map_or("-".to_owned(), |ms| format!("{ms:.0} ms")),
        total.map_or("-".to_owned(), |total| format!("{:+.3} ms", duration - total)),
    ]);
    let delivered = record.bytes.map(|bytes| bytes.delivered);
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
    for (key, bytes) in [
        ("queued", record.bytes.map(|bytes| bytes.queued)),
        ("received", record.bytes.map(|bytes| bytes.received)),
        ("retransmitted", record.bytes.map(|bytes| bytes.retransmitted)),
    ] {
        rows.push([
            format!("bytes {key}"),
            bytes.map_or("-".to_owned(), |bytes| format!("{bytes} B")),
            "not known".to_owned(),
            String::new(),
        ]);
    }
    rows.push([
        "streams".to_owned(),
        record.streams.len().to_string(),
        "not known".to_owned(),
        String::new(),
    ]);
    rows.push([
        "blackout, downtime".to_owned(),
        milliseconds(record.blackout_seconds()),
        qemu.downtime_ms.map_or("-".to_owned(), |ms| format!("{ms} ms")),
        match (record.blackout_seconds(), qemu.downtime_ms.map(whole)) {
            (Some(seconds), Some(downtime)) => format!("{:+.3} ms", seconds * 1000.0 - downtime),
            _ => "-".to_owned(),
        },
    ]);
    rows.push([
        "rounds".to_owned(),
        record.rounds.len().to_string(),
        qemu.dirty_sync_count.to_string(),
        String::new(),
    ]);
    table(&rows)
}

/// Where the blackout went, what each method says, and the phases.
fn course(record: &Migration) -> String {
    let blackout = record.blackout.as_ref();
    let parts = blackout.and_then(|blackout| blackout.breakdown).unwrap_or_default();
    let mut rows = vec![["blackout".to_owned(), "time".to_owned()]];
    rows.extend(parts.named().map(|(part, seconds)| [part.to_owned(), milliseconds(seconds)]));
    let by_method = blackout.map(|blackout| blackout.by_method).unwrap_or_default();
    for (method, seconds) in [
        (Method::PhaseFunctions, by_method.phase_functions),
        (Method::VcpuScheduling, by_method.vcpu_scheduling),
    ] {
        rows.push([format!("all by {}", method.as_str()), milliseconds(seconds)]);
    }
    let mut text = table(&rows);
    let mut rows = vec![["phase".to_owned(), "time".to_owned()]];
    for phase in &record.phases {
        rows.push([phase.phase.as_str().to_owned(), milliseconds(Some(phase.seconds))]);
    }
    text.push('\n');
    text.push_str(&table(&rows));
    text
}

fn milliseconds(seconds: Option<f64>) -> String {
    seconds.map_or("-".to_owned(), |seconds| format!("{:.3} ms", seconds * 1000.0))
}

fn streams(record: &Migration) -> String {
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
    for stream in &record.streams {
        let (bytes, tcp) = (stream.bytes, stream.tcp.as_ref());
        rows.push([
            stream.role.as_str().to_owned(),
            stream.local.clone(),
            stream.peer.clone(),
            show(bytes.map(|bytes| bytes.bytes_queued)),
            show(bytes.map(|bytes| bytes.bytes_delivered)),
            show(bytes.map(|bytes| bytes.bytes_received)),
            show(tcp.map(|tcp| tcp.retransmitted_segments)),
            scaled(tcp.and_then(|tcp| tcp.srtt_seconds), 1e6),
            scaled(tcp.and_then(|tcp| tcp.min_rtt_seconds), 1e6),
        ]);
    }
    table(&rows)
}

fn threads(record: &Migration) -> String {
    let header = ["end", "thread role", "comm", "tid", "on CPU ms", "run-queue wait ms"];
    let mut threads: Vec<&Thread> = record.threads.iter().collect();
    // The source first, as the data flows.
    threads.sort_by_key(|thread| (thread.end, thread.role.as_str(), &thread.comm, thread.tid));
    let mut rows = vec![header.map(str::to_owned)];
    for thread in threads {
        rows.push([
            thread.end.as_str().to_owned(),
            thread.role.as_str().to_owned(),
            thread.comm.clone(),
            thread.tid.to_string(),
            scaled(Some(thread.on_cpu_seconds), 1e3),
            scaled(Some(thread.runqueue_wait_seconds), 1e3),
        ]);
    }
    table(&rows)
}

fn evidence(record: &Migration) -> String {
    let mut text = "Evidence\n".to_owned();
    for Evidence { kind, detail, .. } in &record.evidence {
        let _ = writeln!(text, "  {kind:<10} {detail}");
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

fn show(value: Option<impl ToString>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

fn scaled(value: Option<f64>, factor: f64) -> String {
    value.map_or("-".to_owned(), |number| format!("{:.1}", number * factor))
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checks;

    #[test]
    fn a_record_is_shown_whole() {
        let mut record = checks::tests::record();
        (record.duration_seconds, record.vm.memory_bytes) = (1.5, Some(256 << 20));
        record.bytes.as_mut().unwrap().delivered = 1010;
        record.ends[0].exe = Some("/usr/bin/qemu".to_owned());
        record.threads = vec![
            serde_json::from_value(json!({
                "end": "source", "tid": 8, "role": "vcpu", "comm": "CPU 0/TCG",
                "on_cpu_seconds": 0.25, "off_cpu_seconds": 0.0, "runqueue_wait_seconds": 0.0,
                "wakeups": 0, "context_switches": 0, "cpu_moves": 0,
            }))
            .unwrap(),
        ];
        let evidence =
            Evidence { kind: "comm".to_owned(), detail: "qemu".to_owned(), weight: Some(1.0) };
        record.evidence = vec![evidence];
        let qemu =
            QemuFigures { total_time_ms: Some(1498), transferred: 1000, ..Default::default() };
        let checks = [Check { name: "sum", passed: false, detail: "1 B, 2 B".to_owned() }];
        let text = render(&record, &qemu, &checks);
        for part in [
            "VM        -, uuid -, memory 256 MiB",
            "+2.000 ms",
            "+1.000 %",
            "pid 1, /usr/bin/qemu",
            "250.0",
            "  comm       qemu\n",
            "FAILED sum: 1 B, 2 B",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
