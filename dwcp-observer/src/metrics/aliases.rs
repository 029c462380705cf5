//! Further metric names that operators, scripts and dashboards of DWCP v3 use (contract, 1.2).

use prometheus::proto::MetricFamily;

use super::{
    exporter::{MODES, active_records, mode_label, seconds_since_1970, single},
    family::Family,
    table,
};
use crate::{
    cycle::published::Published,
    model::record::{Role, State, Version},
    sla::{SlaType, Window, judge::nearest_rank},
};

/// Streams that DWCP v3's transport has at most.
const STREAM_LIMIT: f64 = 512.0;
const GIGABYTE: f64 = 1e9;
/// The script's label.
const PHASE: &str = "6";

/// Appends those that can be given.
pub(super) fn aliases(published: &Published, node: &str, families: &mut Vec<MetricFamily>) {
    let rates: Vec<f64> = active_records(published, Version::V3)
        .filter_map(|record| record.throughput_bytes_per_second)
        .collect();
    let rate = (!rates.is_empty()).then(|| rates.iter().sum::<f64>());
    single(&table::AMST_THROUGHPUT_BYTES, rate, families);
    single(&table::AMST_THROUGHPUT, rate.map(|rate| rate / GIGABYTE), families);
    single(&table::AMST_THROUGHPUT_GBPS, rate.map(|rate| rate / GIGABYTE), families);
    single(&table::THROUGHPUT_PER_SEC, rate, families);
    let streams = open_streams(published);
    single(&table::AMST_UTILIZATION, Some(streams / STREAM_LIMIT), families);
    single(&table::AMST_UTILIZATION_PERCENT, Some(streams / STREAM_LIMIT * 100.0), families);
    single(&table::ACTIVE_CONNECTIONS, Some(streams), families);

    let mut blackouts: Vec<f64> = published
        .entries
        .iter()
        .map(|entry| entry.record.as_ref())
        .filter(|it| it.state == State::Finished && it.version != Some(Version::V1))
        .filter_map(|record| Some(record.blackout.as_ref()?.seconds? * 1e3))
        .collect();
    blackouts.sort_by(f64::total_cmp);
    for (definition, percent) in
        [(&table::LATENCY_P50, 50), (&table::LATENCY_P95, 95), (&table::LATENCY_P99, 99)]
    {
        single(definition, nearest_rank(&blackouts, percent), families);
    }
    let hour = published.sla.window(Window::Hour);
    let error_rate = hour.and_then(|hour| hour.level(SlaType::ErrorRate).value);
    single(&table::ERROR_RATE, error_rate.map(|rate| rate * 100.0), families);

    let mut network = Family::new(&table::NETWORK_BYTES);
    for mode in MODES {
        for (role, direction) in [(Role::Source, "sent"), (Role::Destination, "received")] {
            let sum = published.totals.bytes.get(&(role, mode)).copied().unwrap_or_default();
            let again = if role == Role::Source { sum.retransmitted } else { 0 };
            network.add(&[node, mode_label(mode), direction], (sum.transferred + again) as f64);
        }
    }
    network.finish(families);

    let mut status = Family::new(&table::COLLECTOR_STATUS);
    let works = published.kernel.blind().is_none();
    status.add(&[PHASE], f64::from(u8::from(works)));
    status.finish(families);
    let mut last_run = Family::new(&table::COLLECTOR_LAST_RUN);
    last_run.add(&[PHASE], seconds_since_1970(published.at));
    last_run.finish(families);
}

fn open_streams(published: &Published) -> f64 {
    active_records(published, Version::V3)
        .flat_map(|record| &record.streams)
        .filter(|stream| stream.ended_at.is_none())
        .count() as f64
}
