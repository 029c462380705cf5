//! Renders the records of the API for a terminal.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::text::{NONE, Table, bytes, clean, duration, per_second, rtt, section};
use crate::model::{
    record::{
        Blackout, End, Frozen, Interruption, Migration, QueuePair, Role, Sample, Standstill, State,
        Storage, Stream, Thread, ThreadRole, Transport,
    },
    verdict::Verdict,
};

/// Seconds of history in the detail.
const HISTORY_LINES: usize = 10;

/// Live and finished migrations from the body of `/api/v1/migrations`.
/// `now` decides whether a start needs its date.
pub(super) fn render_list(all: &[Migration], now: Timestamp) -> String {
    let of_state = |state: State| -> Vec<&Migration> {
        all.iter().filter(|migration| migration.state == state).collect()
    };
    let (active, finished) = (of_state(State::Active), of_state(State::Finished));
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

fn migrations(records: &[&Migration], now: Timestamp, finished: bool) -> String {
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
            clean(&record.id),
            vm_name(record),
            path(record),
            started(record.started_at, now),
            found_late(record, duration(Some(record.duration_seconds))),
            amount(record.transferred()),
            rate(record),
            rtt(mean_rtt(record)),
        ];
        if finished {
            let outcome = record.outcome.map_or("unknown", |outcome| outcome.as_str());
            row.extend([short(record.blackout_seconds()), outcome.to_owned()]);
        } else {
            let found = record.verdict.as_ref().map_or_else(|| NONE.to_owned(), verdict);
            row.extend([record.stream_count().to_string(), found]);
        }
        table.row(row);
    }
    let mut output = table.render();
    for record in records {
        let note = match &record.verdict {
            Some(verdict) if !finished => Some(&verdict.sentence),
            _ => record.reason.as_ref().filter(|_| finished).map(|reason| &reason.text),
        };
        if let Some(sentence) = note {
            // Writing to a String cannot fail.
            let _ = writeln!(output, "{}: {}", clean(&record.id), clean(sentence));
        }
    }
    output
}

/// Marks what began before the observer saw it.
fn found_late(record: &Migration, duration: String) -> String {
    if record.found_under_way { format!("> {duration}") } else { duration }
}

/// State and cause, as `slow: network`.
fn verdict(verdict: &Verdict) -> String {
    let state = verdict.state.as_str();
    verdict.cause.map_or_else(|| state.to_owned(), |cause| format!("{state}: {}", cause.as_str()))
}

/// A short time to the microsecond.
fn fine(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.3} ms", seconds * 1e3) } else { format!("{seconds:.3} s") }
}

/// The same of a time that may not be known.
fn short(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| NONE.to_owned(), fine)
}

/// One migration from the body of `/api/v1/migrations/{id}`.
pub(super) fn render_detail(record: &Migration) -> String {
    let mut output = String::new();
    for (name, value) in facts(record) {
        // Writing to a String cannot fail.
        let _ = writeln!(output, "{name:<12} {value}");
    }
    parts(record, &mut output);
    phases(record, &mut output);
    streams(record, &mut output);
    if let Some(storage) = &record.storage {
        disks(storage, &mut output);
    }
    if record.transport == Some(Transport::Rdma) {
        queue_pairs(record, &mut output);
    }
    threads(&record.threads, &mut output);
    evidence(record, &mut output);
    history(record.history.as_deref().unwrap_or_default(), &mut output);
    output
}

/// What takes one line each.
fn facts(record: &Migration) -> Vec<(&'static str, String)> {
    let outcome = record.outcome.map_or("", |outcome| outcome.as_str());
    let mut lines = vec![
        ("migration", clean(&record.id)),
        ("state", format!("{} {outcome}", record.state.as_str()).trim_end().to_owned()),
    ];
    if let Some(reason) = &record.reason {
        lines.push(("reason", clean(&reason.text)));
    }
    if record.split_brain {
        let what = "the guest was let run at both ends: stop one of them".to_owned();
        lines.push(("SPLIT BRAIN", what));
    }
    lines.extend([("vm", vm(record)), ("migrator", migrator(record))]);
    lines.extend(record.ends.iter().map(|end| (end.role.as_str(), process(end))));
    lines.push(("started", record.started_at.to_string()));
    if record.found_under_way {
        lines.push(("observed", format!("from {}: it was under way", record.observed_from)));
    }
    lines.extend(record.ended_at.map(|at| ("ended", at.to_string())));
    lines.push(("duration", duration(Some(record.duration_seconds))));
    lines.extend([("bytes", amounts(record)), ("rate", rate(record))]);
    lines.extend(record.remaining_bytes.map(|left| ("remaining", bytes(left))));
    lines.extend(record.connection_key.as_deref().map(|key| ("connection", clean(key))));
    if let Some(found) = &record.verdict {
        lines.extend([("verdict", verdict(found)), ("", clean(&found.sentence))]);
        lines.extend(course(found));
    }
    lines.extend(record.blackout.as_ref().map(|found| ("blackout", blackout(found))));
    lines.extend(record.dumped_process.as_ref().map(|process| ("frozen", freeze(&process.frozen))));
    lines.extend(record.standstill.as_ref().map(|still| ("standstill", standstill(still))));
    let breaks = record.postcopy.iter().flat_map(|postcopy| &postcopy.interruptions);
    lines.extend(breaks.map(|found| ("interrupted", interruption(found))));
    lines
}

fn vm(record: &Migration) -> String {
    let memory = record.vm.memory_bytes.map(|bytes| format!("{} MiB memory", bytes >> 20));
    let known = [Some(vm_name(record)), record.vm.uuid.as_deref().map(clean), memory];
    known.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn migrator(record: &Migration) -> String {
    let transport = record.transport.map_or("no connection seen", |transport| transport.as_str());
    let mode = record.mode.map_or("unknown", |mode| mode.as_str());
    format!("{}, {transport}, mode {mode}", clean(&record.migrator))
}

fn process(end: &End) -> String {
    let exe = end.exe.as_deref().map(clean).unwrap_or_default();
    format!("pid {} {} {exe}", end.pid, clean(&end.comm)).trim_end().to_owned()
}

fn amounts(record: &Migration) -> String {
    record.bytes.map_or_else(
        || "not seen".to_owned(),
        |sums| {
            format!(
                "{} queued, {} delivered, {} received, {} retransmitted",
                bytes(sums.queued),
                bytes(sums.delivered),
                bytes(sums.received),
                bytes(sums.retransmitted),
            )
        },
    )
}

/// Where the last second went, when it will end, how even the streams are.
fn course(verdict: &Verdict) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let Some(fractions) = &verdict.fractions {
        let shares: Vec<String> = fractions
            .iter()
            .filter(|(_, share)| *share >= 0.005)
            .map(|(cause, share)| format!("{} {:.0} %", cause.as_str(), share * 100.0))
            .collect();
        lines.push(("time", shares.join(", ")));
    }
    if let Some(eta) = verdict.eta {
        let [eta, low, high] = [eta.eta_seconds, eta.eta_low_seconds, eta.eta_high_seconds]
            .map(|seconds| duration(Some(seconds)));
        lines.push(("eta", format!("{eta} ({low} to {high})")));
    }
    if let Some(balance) = &verdict.balance {
        let (jain, most) = (balance.stream_jain_index, balance.stream_max_over_mean);
        lines.push(("streams", format!("Jain's index {jain:.3}, fastest {most:.2} x mean")));
    }
    lines
}

fn blackout(blackout: &Blackout) -> String {
    let length = blackout.seconds.map_or_else(
        || {
            let why = blackout.incomplete.as_deref().map(clean);
            format!("not complete: {}", why.unwrap_or_else(|| "an end was not seen".to_owned()))
        },
        fine,
    );
    let after = if blackout.ran_on_at_source { ", then ran on at the source" } else { "" };
    format!(
        "{length}{after} by {} (phase_functions {}, vcpu_scheduling {})",
        blackout.method.as_str(),
        short(blackout.by_method.phase_functions),
        short(blackout.by_method.vcpu_scheduling),
    )
}

/// How long a dumped process stood still, and what ended that.
fn freeze(frozen: &Frozen) -> String {
    let Some(seconds) = frozen.seconds else {
        let why = frozen.incomplete.as_deref().map_or_else(|| NONE.to_owned(), clean);
        return format!("not known: {why}");
    };
    let end = frozen.ended_by.map_or(NONE, |end| end.as_str()).replace('_', " ");
    format!("{}, until its {end}, {} tasks", fine(seconds), frozen.tasks.unwrap_or(0))
}

/// Where the guest stands still, since when and for what.
fn standstill(still: &Standstill) -> String {
    let standing = still.standing;
    let length = duration(Some(standing.seconds));
    let pid = standing.pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
    let (at, awaits) = (standing.at.as_str(), standing.awaits.as_str());
    format!("{length} at the {at}{pid}, awaits {awaits}")
}

/// A time in which postcopy had no connection.
fn interruption(found: &Interruption) -> String {
    let end = found.recovered_at.map_or_else(|| "not recovered".to_owned(), clock);
    let length = duration(Some(found.seconds));
    format!("{length}, from {} to {end}", clock(found.broken_at))
}

/// Where the blackout went.
fn parts(record: &Migration, output: &mut String) {
    let mut table = Table::new(&["STOP", "RAM", "DEVICE", "NETWORK", "LOAD", "RESUME", "START"]);
    table.right(&[0, 1, 2, 3, 4, 5, 6]);
    if let Some(parts) = record.blackout.as_ref().and_then(|blackout| blackout.breakdown) {
        table.row(parts.named().map(|(_, seconds)| short(seconds)).to_vec());
    }
    section("BLACKOUT", &table, output);
}

/// Phases; rounds over RAM are summed up.
fn phases(record: &Migration, output: &mut String) {
    let mut table = Table::new(&["PHASE", "START UTC", "TIME"]);
    table.right(&[2]);
    for phase in &record.phases {
        let name = phase.phase.as_str().to_owned();
        table.row(vec![name, clock(phase.started_at), fine(phase.seconds)]);
    }
    section("PHASES", &table, output);
    let rounds = &record.rounds;
    let mut table = Table::new(&["ROUND", "START UTC", "TIME", "BYTES", "LEFT", "DIRTIED"]);
    table.right(&[0, 2, 3, 4, 5]);
    for round in &rounds[rounds.len().saturating_sub(HISTORY_LINES)..] {
        table.row(vec![
            round.round.to_string(),
            clock(round.started_at),
            fine(round.seconds),
            amount(round.bytes),
            amount(round.remaining_bytes),
            per_second(round.dirty_bytes_per_second),
        ]);
    }
    section("LAST ROUNDS", &table, output);
}

fn streams(record: &Migration, output: &mut String) {
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
    for (index, stream) in record.streams.iter().enumerate() {
        let tcp = stream.tcp.as_ref();
        table.row(vec![
            index.to_string(),
            stream.role.as_str().to_owned(),
            clean(&stream.local),
            clean(&stream.peer),
            amount(stream.bytes.map(|bytes| bytes.bytes_delivered)),
            amount(stream.bytes.map(|bytes| bytes.bytes_received)),
            number(tcp.map(|tcp| tcp.retransmitted_segments)),
            rtt(tcp.and_then(|tcp| tcp.srtt_seconds)),
            rtt(tcp.and_then(|tcp| tcp.min_rtt_seconds)),
            stream_state(stream),
        ]);
    }
    section("STREAMS", &table, output);
    let without = record.streams_without_detail;
    if without > 0 {
        let _ = writeln!(output, "and {without} streams without detail: the kernel table was full");
    }
}

/// Disks that are copied along.
fn disks(storage: &Storage, output: &mut String) {
    let mut table = Table::new(&["FROM", "TO", "DELIVERED", "START UTC", "STATE"]);
    table.right(&[2]);
    for stream in &storage.streams {
        table.row(vec![
            clean(&stream.local),
            clean(&stream.peer),
            bytes(stream.bytes_delivered),
            clock(stream.started_at),
            if stream.ended_at.is_some() { "closed" } else { "open" }.to_owned(),
        ]);
    }
    section("DISKS COPIED ALONG", &table, output);
    let lag = storage
        .lag_bytes
        .map_or_else(String::new, |lag| format!(", {} not acknowledged yet", bytes(lag)));
    let now = storage.throughput_bytes_per_second;
    let rate = per_second(now.or(storage.mean_throughput_bytes_per_second));
    let took = duration(Some(storage.seconds));
    let _ = writeln!(output, "in {took}, at {rate}{lag}");
}

/// What went wrong with it, else its state.
fn stream_state(stream: &Stream) -> String {
    match (&stream.tcp, &stream.queue_pair) {
        (Some(tcp), _) => clean(tcp.last_error.as_deref().unwrap_or(&tcp.tcp_state)),
        (None, Some(qp)) => qp.qp_state.as_str().to_owned(),
        (None, None) => NONE.to_owned(),
    }
}

/// What stands behind the streams of an RDMA migration.
fn queue_pairs(record: &Migration, output: &mut String) {
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
    for (index, stream) in record.streams.iter().enumerate() {
        let Some(qp) = &stream.queue_pair else { continue };
        let completed = |operation: &str| {
            qp.operations.get(operation).map_or(0, |found| found.completed).to_string()
        };
        pairs.row(vec![
            index.to_string(),
            clean(&qp.device),
            qp.qpn.to_string(),
            qp.data_path.as_str().to_owned(),
            completed("send"),
            completed("rdma_write"),
            rtt(qp.completion_latency.map(|latency| latency.p50_seconds)),
            rtt(qp.completion_latency.map(|latency| latency.p99_seconds)),
            number(qp.rnr_waits),
            completion_errors(qp),
        ]);
    }
    let mut memory = Table::new(&["END", "REGISTRATIONS", "REGISTERED", "MOST PINNED", "TOOK"]);
    memory.right(&[1, 2, 3, 4]);
    for memory_of in &record.registered_memory {
        memory.row(vec![
            memory_of.end.as_str().to_owned(),
            memory_of.registrations.to_string(),
            bytes(memory_of.bytes),
            bytes(memory_of.pinned_peak_bytes),
            duration(Some(memory_of.seconds)),
        ]);
    }
    section("QUEUE PAIRS", &pairs, output);
    section("REGISTERED MEMORY", &memory, output);
}

/// Completions that failed, by status.
pub(super) fn completion_errors(qp: &QueuePair) -> String {
    let errors = qp.completion_errors.iter();
    errors
        .map(|(status, count)| format!("{count} {}", clean(status)))
        .collect::<Vec<_>>()
        .join(", ")
}

fn threads(threads: &[Thread], output: &mut String) {
    let mut sums: Vec<(Role, ThreadRole, u64, f64, f64)> = Vec::new();
    for thread in threads {
        let (on_cpu, wait) = (thread.on_cpu_seconds, thread.runqueue_wait_seconds);
        match sums.iter_mut().find(|sum| sum.0 == thread.end && sum.1 == thread.role) {
            Some(sum) => {
                sum.2 += 1;
                sum.3 += on_cpu;
                sum.4 += wait;
            }
            None => sums.push((thread.end, thread.role, 1, on_cpu, wait)),
        }
    }
    let mut table = Table::new(&["END", "ROLE", "THREADS", "ON CPU", "WAITED FOR CPU"]);
    table.right(&[2, 3, 4]);
    for (end, role, count, on_cpu, wait) in sums {
        let [on_cpu, wait] = [on_cpu, wait].map(|seconds| duration(Some(seconds)));
        let (end, role) = (end.as_str().to_owned(), role.as_str().to_owned());
        table.row(vec![end, role, count.to_string(), on_cpu, wait]);
    }
    section("THREADS", &table, output);
}

fn evidence(record: &Migration, output: &mut String) {
    let mut table = Table::new(&["EVIDENCE", "WEIGHT", "SEEN"]);
    table.shrinks(&[2]);
    table.right(&[1]);
    for evidence in &record.evidence {
        table.row(vec![
            clean(&evidence.kind),
            evidence.weight.map_or_else(|| NONE.to_owned(), |weight| format!("{weight:.2}")),
            clean(&evidence.detail),
        ]);
    }
    section("WHY", &table, output);
}

fn history(samples: &[Sample], output: &mut String) {
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
            clock(sample.at),
            per_second(sample.bytes.map(|bytes| bytes.bytes_per_second)),
            amount(sample.bytes.map(|bytes| bytes.bytes_in_flight)),
            sample.retransmitted_segments.to_string(),
            rtt(sample.srtt_seconds),
            bytes(sample.cwnd_bytes),
            sample.streams.to_string(),
            duration(Some(sample.vcpu_cpu_seconds)),
            [
                sample.verdict.map_or(NONE, |verdict| verdict.as_str()),
                sample.cause.map_or("", |cause| cause.as_str()),
            ]
            .join(" "),
        ]);
    }
    section("LAST SECONDS", &table, output);
}

fn vm_name(record: &Migration) -> String {
    if let Some(process) = &record.dumped_process {
        return format!("{} (pid {})", clean(&process.name), process.pid);
    }
    record.vm.name.as_deref().map_or_else(|| NONE.to_owned(), clean)
}

fn path(record: &Migration) -> String {
    let Some(stream) = record.streams.first() else {
        return NONE.to_owned();
    };
    let host = |address: &str| {
        let address = clean(address);
        address.rsplit_once(':').map_or(address.clone(), |(host, _)| host.to_owned())
    };
    format!("{} -> {}", host(&stream.local), host(&stream.peer))
}

fn amount(count: Option<u64>) -> String {
    count.map_or_else(|| NONE.to_owned(), bytes)
}

fn number(count: Option<u64>) -> String {
    count.map_or_else(|| NONE.to_owned(), |count| count.to_string())
}

/// The rate now, or of the whole when it is over.
fn rate(record: &Migration) -> String {
    per_second(match record.state {
        State::Active => record.throughput_bytes_per_second,
        State::Finished => record.mean_throughput_bytes_per_second,
    })
}

fn mean_rtt(record: &Migration) -> Option<f64> {
    let sockets = record.streams.iter().filter_map(|stream| stream.tcp.as_ref());
    let samples: Vec<f64> = sockets.filter_map(|tcp| tcp.srtt_seconds).collect();
    (!samples.is_empty()).then(|| samples.iter().sum::<f64>() / samples.len() as f64)
}

/// Time of day, with the date when it is not today's (UTC).
fn started(at: Timestamp, now: Timestamp) -> String {
    let day = |at: Timestamp| at.strftime("%F").to_string();
    if day(at) == day(now) { clock(at) } else { at.strftime("%m-%d %H:%M").to_string() }
}

fn clock(at: Timestamp) -> String {
    at.strftime("%T").to_string()
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
