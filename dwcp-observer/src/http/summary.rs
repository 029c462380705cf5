//! `/metrics/summary`: the contract's JSON fields, in the units of their names.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    cycle::published::Published,
    model::record::{Migration, Outcome, Role, State, Version},
    sla::{SlaType, Window, judge::nearest_rank},
};

const GIGABYTE: f64 = 1e9;

/// The body. Latency is the blackout, in ms, over the finished records still held with both instants known. Throughput is in GB/s (1e9 bytes per second): `current_gbps` is the sum of the rates of the active
/// migrations; `average_gbps` the mean over the finished records still held, each with its bytes over its duration;
/// `max_gbps` the highest of all these single figures. `sla` is the compliance over the last hour. What was not measured is missing.
/// Migrations of DWCP v1 are no part of it.
pub(super) fn summary(published: Option<&Published>, now: Timestamp) -> Value {
    let mut body = json!({
        "latency": {},
        "throughput": {},
        "timestamp": now.to_string(),
    });
    let Some(published) = published else {
        return body;
    };
    let records = || {
        let records = published.entries.iter().map(|entry| entry.record.as_ref());
        records.filter(|record| record.version != Some(Version::V1))
    };
    let current: Vec<f64> = records()
        .filter(|record| record.state == State::Active)
        .filter_map(|record| record.throughput_bytes_per_second)
        .collect();
    let averages: Vec<f64> = records()
        .filter(|record| record.state == State::Finished && record.duration_seconds > 0.0)
        .filter_map(|record| Some(transferred(record)? as f64 / record.duration_seconds))
        .collect();
    let mut blackouts: Vec<f64> = records()
        .filter(|record| record.state == State::Finished)
        .filter_map(|record| record.blackout.as_ref()?.seconds)
        .map(|seconds| seconds * 1e3)
        .collect();
    blackouts.sort_by(f64::total_cmp);
    if let Some(max) = blackouts.last() {
        let percentile = |percent: usize| nearest_rank(&blackouts, percent);
        body["latency"] = json!({
            "p50_ms": percentile(50),
            "p95_ms": percentile(95),
            "p99_ms": percentile(99),
            "avg_ms": blackouts.iter().sum::<f64>() / blackouts.len() as f64,
            "max_ms": max,
        });
    }
    if !current.is_empty() {
        body["throughput"]["current_gbps"] = json!(current.iter().sum::<f64>() / GIGABYTE);
    }
    if !averages.is_empty() {
        let mean = averages.iter().sum::<f64>() / averages.len() as f64;
        body["throughput"]["average_gbps"] = json!(mean / GIGABYTE);
    }
    if let Some(max) = current.iter().chain(&averages).copied().reduce(f64::max) {
        body["throughput"]["max_gbps"] = json!(max / GIGABYTE);
    }
    let finished: u64 = published.totals.finished.values().sum();
    if finished > 0 {
        let failed: u64 = published
            .totals
            .finished
            .iter()
            .filter(|((outcome, _), _)| *outcome == Outcome::Failed)
            .map(|(_, count)| *count)
            .sum();
        body["error_rate"] = json!(failed as f64 / finished as f64);
    }
    let view = published.sla.as_ref();
    body["decision"] = json!(view.decision.decision);
    let hour = view.window(Window::Hour);
    for sla in SlaType::ALL {
        if let Some(compliant) = hour.and_then(|hour| hour.level(sla).compliant) {
            body["sla"][sla.as_str()] = json!(compliant);
        }
    }
    body
}

/// Delivered bytes where the source is here, else what the destination received; `None` where neither is seen.
fn transferred(record: &Migration) -> Option<u64> {
    let bytes = record.bytes?;
    let sent = record.ends.iter().any(|end| end.role == Role::Source);
    Some(if sent { bytes.delivered } else { bytes.received })
}
