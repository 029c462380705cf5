//! Metrics of DWCP v1 migrations: the baseline of a rollout.

use prometheus::proto::MetricFamily;

use super::{
    exporter::{MODES, errors, mode_label, throughput},
    family::Family,
    table,
};
use crate::model::histogram::DURATION_BUCKETS;
use crate::{
    cycle::published::Published,
    model::{
        histogram::Histogram,
        record::{Outcome, Role, Version},
    },
};

/// Nothing where nothing tells v1 from v3.
pub(super) fn v1(published: &Published, node: &str, families: &mut Vec<MetricFamily>) {
    let Some(totals) = &published.totals_v1 else { return };
    throughput(published, Version::V1, &table::V1_THROUGHPUT, families);
    errors(totals, &table::V1_ERRORS, families);

    let mut latency = Family::new(&table::V1_LATENCY);
    for ((path, mode), histogram) in &totals.blackouts.by_path {
        let mode = mode_label(*mode);
        let labels = [&path.source, &path.destination, &path.vm_size].map(|text| text as &str);
        let [source, destination, size] = labels;
        latency.add_histogram(&[source, destination, size, mode, "v1"], histogram);
    }
    let mut durations = Family::new(&table::V1_DURATION);
    let mut migrations = Family::new(&table::V1_MIGRATIONS);
    let mut bytes = Family::new(&table::V1_BYTES);
    let none = Histogram::new(DURATION_BUCKETS.into());
    for mode in MODES {
        let histogram = totals.durations.get(&mode).unwrap_or(&none);
        durations.add_histogram(&[node, mode_label(mode)], histogram);
        for outcome in Outcome::ALL {
            let count = totals.finished.get(&(outcome, mode)).copied().unwrap_or(0);
            migrations.add(&[outcome.as_str(), mode_label(mode)], count as f64);
        }
        for (role, direction) in [(Role::Source, "sent"), (Role::Destination, "received")] {
            let sum = totals.bytes.get(&(role, mode)).copied().unwrap_or_default();
            bytes.add(&[node, mode_label(mode), direction], sum.transferred as f64);
        }
    }
    for family in [latency, durations, migrations, bytes] {
        family.finish(families);
    }
}
