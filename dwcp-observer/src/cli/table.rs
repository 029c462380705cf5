//! Renders the records of the API for a terminal. Works on JSON, so that it shows whatever an older or newer observer sends.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::Value;

use super::text::{
    NONE, Table, array, bytes, clean, count, duration, flag, integer, number, per_second, rtt,
    section, text, text_or,
};

/// Seconds of history in the detail.
const HISTORY_LINES: usize = 10;

/// Live and finished migrations from the body of `/api/v1/migrations`.
/// `now` decides whether a start needs its date.
pub(super) fn render_list(body: &Value, now: Timestamp) -> String {
    let all = array(body, "migrations");
    let of_state = |state: &str| -> Vec<&Value> {
        all.iter().filter(|migration| text(migration, "state") == state).collect()
    };
    let (active, finished) = (of_state("active"), of_state("finished"));
    let mut output = format!("{} active, {} finished\n", active.len(), finished.len());
    if !active.is_empty() {
        output.push_str("\nACTIVE\n");
        output.push_str(&migrations(&active, now, false));
    }
    if !finished.is_empty() {
        output.push_str("\nFINISHED\n");
        output.push_str(&migrations(&finished, now, true));
    }
    output
}

fn migrations(records: &[&Value], now: Timestamp, finished: bool) -> String {
    let last: [&str; 2] = if finished { ["BLACKOUT", "OUTCOME"] } else { ["STR", "VERDICT"] };
    let [eighth, ninth] = last;
    let mut table = Table::new(&[
        "ID",
        "VM",
        "FROM -> TO",
        "START UTC",
        "TIME",
        "BYTES",
        "RATE",
        "RTT",
        eighth,
        ninth,
    ]);
    table.shrinks(&[1, 2, 3]);
    table.right(&[4, 5, 6, 7, 8]);
    for record in records {
        let mut row = vec![
            text(record, "id"),
            vm_name(record),
            path(record),
            started(&text(record, "started_at"), now),
            found_late(record, duration(number(record, "duration_seconds"))),
            amount(transferred(record)),
            rate(record),
            rtt(mean_rtt(record)),
        ];
        if finished {
            row.extend([blackout_length(record), text_or(record, "outcome", "unknown")]);
        } else {
            let found = verdict(record).unwrap_or_else(|| NONE.to_owned());
            row.extend([stream_count(record).to_string(), found]);
        }
        table.row(row);
    }
    let mut output = table.render();
    let note = if finished { "/reason/text" } else { "/verdict/sentence" };
    for record in records {
        if let Some(sentence) = record.pointer(note).and_then(Value::as_str) {
            // Writing to a String cannot fail.
            let _ = writeln!(output, "{}: {}", text(record, "id"), clean(sentence));
        }
    }
    output
}

/// Marks what began before the observer saw it.
fn found_late(record: &Value, duration: String) -> String {
    if flag(record, "found_under_way") { format!("> {duration}") } else { duration }
}

/// State and cause, as `slow: network`.
fn verdict(record: &Value) -> Option<String> {
    let verdict = record.get("verdict")?;
    let state = text(verdict, "state");
    let cause = verdict.get("cause").and_then(Value::as_str).map(clean);
    Some(cause.map_or_else(|| state.clone(), |cause| format!("{state}: {cause}")))
}

/// Length of the blackout; the half that was seen goes without a figure.
fn blackout_length(record: &Value) -> String {
    let seconds = record.pointer("/blackout/seconds").and_then(Value::as_f64);
    seconds.map_or_else(|| NONE.to_owned(), fine)
}

/// A short time to the microsecond.
fn fine(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.3} ms", seconds * 1e3) } else { format!("{seconds:.3} s") }
}

/// One migration from the body of `/api/v1/migrations/{id}`.
pub(super) fn render_detail(record: &Value) -> String {
    let mut output = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(output, "{name:<12} {value}");
    };
    line("migration", text(record, "id"));
    let outcome = text_or(record, "outcome", "");
    line("state", format!("{} {outcome}", text(record, "state")).trim_end().to_owned());
    if let Some(reason) = record.pointer("/reason/text").and_then(Value::as_str) {
        line("reason", clean(reason));
    }
    if flag(record, "split_brain") {
        line("SPLIT BRAIN", "the guest was let run at both ends: stop one of them".to_owned());
    }
    let memory = record.pointer("/vm/memory_bytes").and_then(Value::as_u64);
    let vm = [
        Some(vm_name(record)),
        record.pointer("/vm/uuid").and_then(Value::as_str).map(clean),
        memory.map(|bytes| format!("{} MiB memory", bytes >> 20)),
    ];
    line("vm", vm.into_iter().flatten().collect::<Vec<_>>().join(", "));
    let mode = text_or(record, "mode", "unknown");
    let transport = text_or(record, "transport", "no connection seen");
    let kind = [text(record, "migrator"), transport, format!("mode {mode}")];
    line("migrator", kind.join(", "));
    for end in array(record, "ends") {
        let exe = text_or(end, "exe", "");
        let pid = integer(end, "pid");
        let value = format!("pid {pid} {} {exe}", text(end, "comm"));
        line(&text(end, "role"), value.trim_end().to_owned());
    }
    line("started", text(record, "started_at"));
    if flag(record, "found_under_way") {
        line("observed", format!("from {}: it was under way", text(record, "observed_from")));
    }
    if let Some(ended) = record.get("ended_at").and_then(Value::as_str) {
        line("ended", clean(ended));
    }
    line("duration", duration(number(record, "duration_seconds")));
    line(
        "bytes",
        record.get("bytes").map_or_else(
            || "not seen".to_owned(),
            |sums| {
                let total = |key: &str| bytes(integer(sums, key));
                format!(
                    "{} queued, {} delivered, {} received, {} retransmitted",
                    total("queued"),
                    total("delivered"),
                    total("received"),
                    total("retransmitted"),
                )
            },
        ),
    );
    line("rate", rate(record));
    if let Some(left) = record.get("remaining_bytes").and_then(Value::as_u64) {
        line("remaining", bytes(left));
    }
    if let Some(key) = record.get("connection_key").and_then(Value::as_str) {
        line("connection", clean(key));
    }
    if let Some(found) = verdict(record) {
        line("verdict", found);
        line(
            "",
            record
                .pointer("/verdict/sentence")
                .and_then(Value::as_str)
                .map_or_else(String::new, clean),
        );
        for (name, value) in course(record) {
            line(name, value);
        }
    }
    if record.get("blackout").is_some_and(|blackout| !blackout.is_null()) {
        line("blackout", blackout(record));
    }
    if let Some(frozen) = record.pointer("/dumped_process/frozen") {
        line("frozen", freeze(frozen));
    }
    if let Some(still) = record.get("standstill") {
        line("standstill", standstill(still));
    }
    let breaks = record.pointer("/postcopy/interruptions").and_then(Value::as_array);
    for found in breaks.into_iter().flatten() {
        line("interrupted", interruption(found));
    }
    parts(record, &mut output);
    phases(record, &mut output);
    streams(record, &mut output);
    disks(record, &mut output);
    if text(record, "transport") == "rdma" {
        queue_pairs(record, &mut output);
    }
    threads(record, &mut output);
    evidence(record, &mut output);
    history(record, &mut output);
    output
}

/// Where the last second went, when it will end, how even the streams are.
fn course(record: &Value) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let verdict = record.get("verdict").unwrap_or(&Value::Null);
    if let Some(Value::Object(fractions)) = verdict.get("fractions") {
        let shares: Vec<String> = fractions
            .iter()
            .filter_map(|(cause, share)| {
                let share = share.as_f64().filter(|share| *share >= 0.005)?;
                Some(format!("{} {:.0} %", clean(cause), share * 100.0))
            })
            .collect();
        lines.push(("time", shares.join(", ")));
    }
    let bound = |key: &str| number(verdict, key);
    if let (Some(eta), Some(low), Some(high)) =
        (bound("eta_seconds"), bound("eta_low_seconds"), bound("eta_high_seconds"))
    {
        let [eta, low, high] = [eta, low, high].map(|seconds| duration(Some(seconds)));
        lines.push(("eta", format!("{eta} ({low} to {high})")));
    }
    if let (Some(jain), Some(most)) = (bound("stream_jain_index"), bound("stream_max_over_mean")) {
        lines.push(("streams", format!("Jain's index {jain:.3}, fastest {most:.2} x mean")));
    }
    lines
}

fn blackout(record: &Value) -> String {
    let blackout = record.get("blackout").unwrap_or(&Value::Null);
    let how = text(blackout, "method");
    let by_method = |key: &str| {
        let seconds = blackout.pointer(&format!("/by_method/{key}")).and_then(Value::as_f64);
        seconds.map_or_else(|| NONE.to_owned(), fine)
    };
    let length = match number(blackout, "seconds") {
        Some(seconds) => fine(seconds),
        None => format!("not complete: {}", text_or(blackout, "incomplete", "an end was not seen")),
    };
    let after = if flag(blackout, "ran_on_at_source") { ", then ran on at the source" } else { "" };
    format!(
        "{length}{after} by {how} (phase_functions {}, vcpu_scheduling {})",
        by_method("phase_functions"),
        by_method("vcpu_scheduling"),
    )
}

/// How long a dumped process stood still, and what ended that.
fn freeze(frozen: &Value) -> String {
    let Some(seconds) = number(frozen, "seconds") else {
        return format!("not known: {}", text(frozen, "incomplete"));
    };
    let end = text(frozen, "ended_by").replace('_', " ");
    format!("{}, until its {end}, {} tasks", fine(seconds), integer(frozen, "tasks"))
}

/// Where the guest stands still, since when and for what.
fn standstill(still: &Value) -> String {
    let length = duration(number(still, "seconds"));
    let pid = still.get("pid").map_or_else(String::new, |pid| format!(" (pid {pid})"));
    format!("{length} at the {}{pid}, awaits {}", text(still, "at"), text(still, "awaits"))
}

/// A time in which postcopy had no connection.
fn interruption(found: &Value) -> String {
    let recovered = found.get("recovered_at").and_then(Value::as_str);
    let end = recovered.map_or_else(|| "not recovered".to_owned(), |at| clock(&clean(at)));
    let length = duration(number(found, "seconds"));
    format!("{length}, from {} to {end}", clock(&text(found, "broken_at")))
}

/// Where the blackout went.
fn parts(record: &Value, output: &mut String) {
    let mut table = Table::new(&["STOP", "RAM", "DEVICE", "NETWORK", "LOAD", "RESUME", "START"]);
    table.right(&[0, 1, 2, 3, 4, 5, 6]);
    if let Some(parts) = record.pointer("/blackout/breakdown") {
        let part = |name| number(parts, name).map_or_else(|| NONE.to_owned(), fine);
        table.row(
            ["stop", "ram", "device", "network", "load", "resume", "start"].map(part).to_vec(),
        );
    }
    section("BLACKOUT", &table, output);
}

/// Phases; rounds over RAM are summed up.
fn phases(record: &Value, output: &mut String) {
    let mut table = Table::new(&["PHASE", "START UTC", "TIME"]);
    table.right(&[2]);
    for phase in array(record, "phases") {
        let took = number(phase, "seconds").map_or_else(|| NONE.to_owned(), fine);
        table.row(vec![text(phase, "phase"), clock(&text(phase, "started_at")), took]);
    }
    section("PHASES", &table, output);
    let rounds = array(record, "rounds");
    let mut table = Table::new(&["ROUND", "START UTC", "TIME", "BYTES", "LEFT", "DIRTIED"]);
    table.right(&[0, 2, 3, 4, 5]);
    for round in &rounds[rounds.len().saturating_sub(HISTORY_LINES)..] {
        table.row(vec![
            integer(round, "round").to_string(),
            clock(&text(round, "started_at")),
            number(round, "seconds").map_or_else(|| NONE.to_owned(), fine),
            amount(count(round, "bytes")),
            amount(count(round, "remaining_bytes")),
            per_second(number(round, "dirty_bytes_per_second")),
        ]);
    }
    section("LAST ROUNDS", &table, output);
}

fn streams(record: &Value, output: &mut String) {
    let mut table = Table::new(&[
        "#",
        "ROLE",
        "FROM",
        "TO",
        "DELIVERED",
        "RECEIVED",
        "RETR",
        "SRTT",
        "MIN RTT",
        "STATE",
    ]);
    table.shrinks(&[2, 3]);
    table.right(&[0, 4, 5, 6, 7, 8]);
    for (index, stream) in array(record, "streams").iter().enumerate() {
        table.row(vec![
            index.to_string(),
            text(stream, "role"),
            text(stream, "local"),
            text(stream, "peer"),
            amount(count(stream, "bytes_delivered")),
            amount(count(stream, "bytes_received")),
            number(stream, "retransmitted_segments")
                .map_or_else(|| NONE.to_owned(), |count| format!("{count}")),
            rtt(number(stream, "srtt_seconds")),
            rtt(number(stream, "min_rtt_seconds")),
            text_or(stream, "last_error", &text_or(stream, "tcp_state", &qp_state(stream))),
        ]);
    }
    section("STREAMS", &table, output);
    let without = integer(record, "streams_without_detail");
    if without > 0 {
        let _ = writeln!(output, "and {without} streams without detail: the kernel table was full");
    }
}

/// Disks that are copied along.
fn disks(record: &Value, output: &mut String) {
    let Some(storage) = record.get("storage") else { return };
    let mut table = Table::new(&["FROM", "TO", "DELIVERED", "START UTC", "STATE"]);
    table.right(&[2]);
    for stream in array(storage, "streams") {
        table.row(vec![
            text(stream, "local"),
            text(stream, "peer"),
            amount(count(stream, "bytes_delivered")),
            clock(&text(stream, "started_at")),
            if stream.get("ended_at").is_some() { "closed" } else { "open" }.to_owned(),
        ]);
    }
    section("DISKS COPIED ALONG", &table, output);
    let lag = count(storage, "lag_bytes");
    let lag = lag.map_or_else(String::new, |lag| format!(", {} not acknowledged yet", bytes(lag)));
    let now = number(storage, "throughput_bytes_per_second");
    let rate = per_second(now.or_else(|| number(storage, "mean_throughput_bytes_per_second")));
    let took = duration(number(storage, "seconds"));
    let _ = writeln!(output, "in {took}, at {rate}{lag}");
}

fn qp_state(stream: &Value) -> String {
    stream.get("queue_pair").map_or_else(|| NONE.to_owned(), |qp| text(qp, "qp_state"))
}

/// What stands behind the streams of an RDMA migration.
fn queue_pairs(record: &Value, output: &mut String) {
    let mut pairs = Table::new(&[
        "#",
        "DEVICE",
        "QPN",
        "DATA PATH",
        "SENDS",
        "WRITES",
        "P50",
        "P99",
        "RNR",
        "ERRORS",
    ]);
    pairs.right(&[0, 2, 4, 5, 6, 7, 8]);
    for (index, stream) in array(record, "streams").iter().enumerate() {
        let Some(qp) = stream.get("queue_pair") else { continue };
        let completed = |operation: &str| {
            let found = qp.get("operations").and_then(|all| all.get(operation));
            found.map_or(0, |found| integer(found, "completed")).to_string()
        };
        let latency =
            |key: &str| rtt(qp.get("completion_latency").and_then(|found| number(found, key)));
        pairs.row(vec![
            index.to_string(),
            text(qp, "device"),
            integer(qp, "qpn").to_string(),
            text(qp, "data_path"),
            completed("send"),
            completed("rdma_write"),
            latency("p50_seconds"),
            latency("p99_seconds"),
            number(qp, "rnr_waits").map_or_else(|| NONE.to_owned(), |count| format!("{count}")),
            completion_errors(qp),
        ]);
    }
    let mut memory = Table::new(&["END", "REGISTRATIONS", "REGISTERED", "MOST PINNED", "TOOK"]);
    memory.right(&[1, 2, 3, 4]);
    for end in array(record, "registered_memory") {
        memory.row(vec![
            text(end, "end"),
            integer(end, "registrations").to_string(),
            bytes(integer(end, "bytes")),
            bytes(integer(end, "pinned_peak_bytes")),
            duration(number(end, "seconds")),
        ]);
    }
    section("QUEUE PAIRS", &pairs, output);
    section("REGISTERED MEMORY", &memory, output);
}

/// Completions that failed, by status.
pub(super) fn completion_errors(qp: &Value) -> String {
    let errors = qp.get("completion_errors").and_then(Value::as_object);
    let texts = errors.into_iter().flatten().map(|(status, count)| format!("{count} {status}"));
    texts.collect::<Vec<_>>().join(", ")
}

fn threads(record: &Value, output: &mut String) {
    let mut sums: Vec<(String, String, u64, f64, f64)> = Vec::new();
    for thread in array(record, "threads") {
        let (end, role) = (text(thread, "end"), text(thread, "role"));
        let on_cpu = number(thread, "on_cpu_seconds").unwrap_or(0.0);
        let wait = number(thread, "runqueue_wait_seconds").unwrap_or(0.0);
        match sums.iter_mut().find(|sum| sum.0 == end && sum.1 == role) {
            Some(sum) => {
                sum.2 += 1;
                sum.3 += on_cpu;
                sum.4 += wait;
            }
            None => sums.push((end, role, 1, on_cpu, wait)),
        }
    }
    let mut table = Table::new(&["END", "ROLE", "THREADS", "ON CPU", "WAITED FOR CPU"]);
    table.right(&[2, 3, 4]);
    for (end, role, count, on_cpu, wait) in sums {
        table.row(vec![end, role, count.to_string(), duration(Some(on_cpu)), duration(Some(wait))]);
    }
    section("THREADS", &table, output);
}

fn evidence(record: &Value, output: &mut String) {
    let mut table = Table::new(&["EVIDENCE", "WEIGHT", "SEEN"]);
    table.shrinks(&[2]);
    table.right(&[1]);
    for evidence in array(record, "evidence") {
        let weight = number(evidence, "weight");
        table.row(vec![
            text(evidence, "kind"),
            weight.map_or_else(|| NONE.to_owned(), |weight| format!("{weight:.2}")),
            text(evidence, "detail"),
        ]);
    }
    section("WHY", &table, output);
}

fn history(record: &Value, output: &mut String) {
    let samples = array(record, "history");
    let mut table = Table::new(&[
        "SECOND",
        "RATE",
        "IN FLIGHT",
        "RETR",
        "SRTT",
        "CWND",
        "STREAMS",
        "VCPU",
        "VERDICT",
    ]);
    table.right(&[1, 2, 3, 4, 5, 6, 7]);
    for sample in &samples[samples.len().saturating_sub(HISTORY_LINES)..] {
        table.row(vec![
            clock(&text(sample, "at")),
            per_second(number(sample, "bytes_per_second")),
            amount(count(sample, "bytes_in_flight")),
            integer(sample, "retransmitted_segments").to_string(),
            rtt(number(sample, "srtt_seconds")),
            bytes(integer(sample, "cwnd_bytes")),
            integer(sample, "streams").to_string(),
            duration(number(sample, "vcpu_cpu_seconds")),
            [text_or(sample, "verdict", NONE), text_or(sample, "cause", "")].join(" "),
        ]);
    }
    section("LAST SECONDS", &table, output);
}

fn vm_name(record: &Value) -> String {
    if let Some(process) = record.get("dumped_process") {
        return format!("{} (pid {})", text(process, "name"), integer(process, "pid"));
    }
    record.get("vm").map_or_else(|| NONE.to_owned(), |vm| text(vm, "name"))
}

fn path(record: &Value) -> String {
    let Some(stream) = array(record, "streams").first() else {
        return NONE.to_owned();
    };
    let host = |key: &str| {
        let address = text(stream, key);
        address.rsplit_once(':').map_or(address.clone(), |(host, _)| host.to_owned())
    };
    format!("{} -> {}", host("local"), host("peer"))
}

fn has_source(record: &Value) -> bool {
    array(record, "ends").iter().any(|end| text(end, "role") == "source")
}

/// Delivered bytes where the source is seen, else what the destination received; `None` where neither is seen.
fn transferred(record: &Value) -> Option<u64> {
    let key = if has_source(record) { "delivered" } else { "received" };
    count(record.get("bytes")?, key)
}

fn amount(count: Option<u64>) -> String {
    count.map_or_else(|| NONE.to_owned(), bytes)
}

/// The rate now, or of the whole when it is over.
fn rate(record: &Value) -> String {
    let now = number(record, "throughput_bytes_per_second");
    if text(record, "state") != "finished" {
        return per_second(now);
    }
    per_second(number(record, "mean_throughput_bytes_per_second"))
}

fn stream_count(record: &Value) -> u64 {
    array(record, "streams").len() as u64 + integer(record, "streams_without_detail")
}

fn mean_rtt(record: &Value) -> Option<f64> {
    let streams = array(record, "streams").iter();
    let samples: Vec<f64> = streams.filter_map(|stream| number(stream, "srtt_seconds")).collect();
    (!samples.is_empty()).then(|| samples.iter().sum::<f64>() / samples.len() as f64)
}

/// Time of day, with the date when it is not today's (UTC).
fn started(at: &str, now: Timestamp) -> String {
    let today = now.to_string();
    match (at.get(..10), today.get(..10)) {
        (Some(date), Some(today)) if date != today => {
            let (month_day, minute) = (at.get(5..10), at.get(11..16));
            format!("{} {}", month_day.unwrap_or(NONE), minute.unwrap_or(NONE))
        }
        _ => clock(at),
    }
}

fn clock(at: &str) -> String {
    at.get(11..19).map_or_else(|| NONE.to_owned(), str::to_owned)
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
