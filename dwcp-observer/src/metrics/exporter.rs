//! Renders one cycle's values as the text that Prometheus scrapes.

use std::collections::BTreeMap;

use prometheus::{
    TextEncoder,
    proto::{Metric, MetricFamily},
};

use super::{ProcessUsage, family::Family, live, table};
use crate::model::histogram::{DURATION_BUCKETS, FINE_BLACKOUT_BUCKETS};
use crate::{
    anomaly::feed::View,
    config::Component,
    cycle::published::Published,
    migration::totals::{ByteTotals, ErrorType, Totals},
    model::{
        histogram::Histogram,
        record::{Method, Migration, Mode, Outcome, ReasonClass, Role, State, Version},
        status::{KernelStatus, ProgramStats},
        verdict::Cause,
    },
};

/// How many live migrations and streams get series of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesLimits {
    /// Migrations, active ones first.
    pub migrations: usize,
    /// Streams over all these migrations, in order of opening.
    pub streams: usize,
}

impl Default for SeriesLimits {
    /// 100 migrations; 512 streams, the stream limit of DWCP v3.
    fn default() -> Self {
        Self { migrations: 100, streams: 512 }
    }
}

/// Counters of the HTTP server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpCounts {
    /// Answered requests by endpoint and status code.
    pub requests: BTreeMap<(&'static str, u16), u64>,
    /// Open connections.
    pub open: u64,
    /// Accepted connections.
    pub accepted: u64,
    /// Closed at once: all others were being answered.
    pub rejected: u64,
    /// Closed to let a new one in.
    pub evicted: u64,
    /// Closed because the client was too slow.
    pub timed_out: u64,
}

/// Everything that one exposition is made from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The last cycle; `None` before the first, and then only the observer's own metrics appear.
    pub published: Option<&'a Published>,
    /// The HTTP server's counters.
    pub http: &'a HttpCounts,
    /// The observer's own use of resources.
    pub process: &'a ProcessUsage,
}

fn anomalies(view: &View, families: &mut Vec<MetricFamily>) {
    let mut family = Family::new(&table::ANOMALIES);
    for (kind, severity, count) in &view.counts {
        family.add(&[kind.as_str(), severity.as_str()], *count as f64);
    }
    family.finish(families);
    single(&table::ANOMALY_UNWATCHED, Some(view.samples_not_watched as f64), families);
}

/// The exposition could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot encode the metrics: {0}")]
pub struct RenderError(#[from] prometheus::Error);

/// Turns what the cycle published into metric families.
#[derive(Clone, Debug)]
pub struct Exporter {
    node: String,
    limits: SeriesLimits,
}

impl Exporter {
    /// `node` is the value of the labels `node` and `node_id`.
    #[must_use]
    pub fn new(node: String, limits: SeriesLimits) -> Self {
        Self { node, limits }
    }

    /// The families in the order of the table; those without a sample are left out.
    #[must_use]
    pub fn families(&self, input: &Input<'_>) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        if let Some(published) = input.published {
            self.migrations(published, &mut families);
            super::components::components(&published.components, &mut families);
            super::aliases::aliases(published, &self.node, &mut families);
            super::v1::v1(published, &self.node, &mut families);
            super::sla::sla(&published.sla, &mut families);
            anomalies(&published.anomalies, &mut families);
            super::rdma::rdma(&published.rdma, &mut families);
            let dropped = live::families(published, self.limits, &mut families);
            build_info(&mut families);
            kernel(&published.kernel, &mut families);
            rejected_flows(&published.totals, &mut families);
            cycle(published, &mut families);
            let mut family = Family::new(&table::LIVE_SERIES_DROPPED);
            family.add(&["migration"], dropped.migrations as f64);
            family.add(&["stream"], dropped.streams as f64);
            family.finish(&mut families);
            super::history::history(&published.history, &mut families);
            super::components::scrapes(&published.components, &mut families);
        } else {
            build_info(&mut families);
        }
        http(input.http, &mut families);
        process(input.process, &mut families);
        families
    }

    /// The text format 0.0.4.
    ///
    /// # Errors
    /// When the encoder refuses a family.
    pub fn render(&self, input: &Input<'_>) -> Result<String, RenderError> {
        let mut text = TextEncoder::new().encode_to_string(&self.families(input))?;
        if let Some(published) = input.published {
            // What components say of themselves; no name of it is in the table.
            text.push_str(&published.components.carried);
        }
        Ok(text)
    }

    /// The same of one component alone: what is measured of it, and what it says of itself.
    ///
    /// # Errors
    /// When the encoder refuses a family.
    pub fn render_component(
        &self,
        input: &Input<'_>,
        component: Component,
    ) -> Result<String, RenderError> {
        let prefix = format!("dwcp_v3_{}_", component.as_str());
        let is_of = |metric: &Metric| {
            let mut labels = metric.get_label().iter();
            labels.any(|it| it.name() == "component" && it.value() == component.as_str())
        };
        let mut families = self.families(input);
        families.retain_mut(|family| {
            if !family.name().starts_with(&prefix) {
                family.mut_metric().retain(is_of);
            }
            !family.get_metric().is_empty()
        });
        let mut text = TextEncoder::new().encode_to_string(&families)?;
        let view = input.published.and_then(|published| published.components.get(component));
        text.push_str(view.map_or("", |view| &view.carried));
        Ok(text)
    }

    fn migrations(&self, published: &Published, families: &mut Vec<MetricFamily>) {
        let totals = &published.totals;
        throughput(published, Version::V3, &table::THROUGHPUT, families);
        errors(totals, &table::ERRORS, families);

        let mut family = Family::new(&table::RESOURCE_UTILIZATION);
        if let Some(host) = &published.host {
            for (resource, percent) in [("cpu", host.cpu_percent), ("memory", host.memory_percent)]
            {
                family.add_some(&[resource, &self.node], percent);
            }
        }
        family.finish(families);

        let mut family = Family::new(&table::DURATION);
        let none = Histogram::new(DURATION_BUCKETS.into());
        for mode in MODES {
            let histogram = totals.durations.get(&mode).unwrap_or(&none);
            family.add_histogram(&[&self.node, mode_label(mode)], histogram);
        }
        family.finish(families);

        let mut family = Family::new(&table::LATENCY);
        for ((path, mode), histogram) in &totals.blackouts.by_path {
            let labels = [&path.source, &path.destination, &path.vm_size, mode_label(*mode)]
                .map(|s| s as &str);
            family.add_histogram(&labels, histogram);
        }
        family.finish(families);

        let mut family = Family::new(&table::BLACKOUT);
        let none = Histogram::new(FINE_BLACKOUT_BUCKETS.into());
        for method in Method::ALL {
            for mode in MODES {
                let histogram = totals.blackouts.fine.get(&(mode, method)).unwrap_or(&none);
                family.add_histogram(&[mode_label(mode), method.as_str()], histogram);
            }
        }
        family.finish(families);

        let mut family = Family::new(&table::MIGRATIONS);
        for outcome in Outcome::ALL {
            for mode in MODES {
                let count = totals.finished.get(&(outcome, mode)).copied().unwrap_or(0);
                family.add(&[outcome.as_str(), mode_label(mode)], count as f64);
            }
        }
        family.finish(families);

        let mut family = Family::new(&table::REASONS);
        for reason in ReasonClass::ALL {
            let count = totals.reasons.get(&reason).copied().unwrap_or(0);
            family.add(&[reason.as_str()], count as f64);
        }
        family.finish(families);

        single(&table::SPLIT_BRAINS, Some(totals.split_brains as f64), families);

        let mut family = Family::new(&table::VERDICT_SECONDS);
        for ((state, cause), seconds) in &totals.verdicts {
            let cause = cause.map_or("unknown", Cause::as_str);
            family.add(&[state.as_str(), cause], *seconds);
        }
        family.finish(families);
        single(&table::GUEST_CPU_STOLEN, Some(totals.guest_cpu_stolen_seconds), families);

        active(published, families);
        self.bytes(totals, families);

        let mut family = Family::new(&table::RTT);
        family.add_histogram(&[], &published.kernel.rtt);
        family.finish(families);
        let mut family = Family::new(&table::RUNQUEUE_WAIT);
        for (role, histogram) in &published.kernel.runqueue {
            family.add_histogram(&[role.as_str()], histogram);
        }
        family.finish(families);
    }

    fn bytes(&self, totals: &Totals, families: &mut Vec<MetricFamily>) {
        let mut transferred = Family::new(&table::BYTES_TRANSFERRED);
        let mut queued = Family::new(&table::BYTES_QUEUED);
        let mut bytes = Family::new(&table::RETRANSMITTED_BYTES);
        let mut segments = Family::new(&table::RETRANSMITTED_SEGMENTS);
        let node = self.node.as_str();
        for mode in MODES {
            let label = mode_label(mode);
            for (role, direction) in [(Role::Source, "sent"), (Role::Destination, "received")] {
                let sum: ByteTotals = totals.bytes.get(&(role, mode)).copied().unwrap_or_default();
                transferred.add(&[node, label, direction], sum.transferred as f64);
                if role == Role::Source {
                    queued.add(&[node, label], sum.queued as f64);
                }
                bytes.add(&[node, label, role.as_str()], sum.retransmitted as f64);
                segments.add(&[node, label, role.as_str()], sum.retransmitted_segments as f64);
            }
        }
        for family in [transferred, queued, bytes, segments] {
            family.finish(families);
        }
    }
}

/// Every value of the label `mode`; `None` is `unknown`.
pub(super) const MODES: [Option<Mode>; 4] =
    [Some(Mode::Datacenter), Some(Mode::Internet), Some(Mode::Hybrid), None];

pub(super) fn mode_label(mode: Option<Mode>) -> &'static str {
    mode.map_or("unknown", Mode::as_str)
}

fn has_end(record: &Migration, role: Role) -> bool {
    record.ends.iter().any(|end| end.role == role)
}

/// Running migrations of one version; what nobody tells apart is v3.
pub(super) fn active_records(
    published: &Published,
    version: Version,
) -> impl Iterator<Item = &Migration> {
    let records = published.entries.iter().map(|entry| entry.record.as_ref());
    records.filter(move |record| {
        record.state == State::Active && record.version.unwrap_or(Version::V3) == version
    })
}

pub(super) fn throughput(
    published: &Published,
    version: Version,
    definition: &'static table::Definition,
    families: &mut Vec<MetricFamily>,
) {
    let mut family = Family::new(definition);
    for (role, direction) in [(Role::Source, "tx"), (Role::Destination, "rx")] {
        let mut by_transport: BTreeMap<&'static str, f64> = BTreeMap::new();
        for record in active_records(published, version).filter(|record| has_end(record, role)) {
            if let (Some(rate), Some(transport)) =
                (record.throughput_bytes_per_second, record.transport)
            {
                *by_transport.entry(transport.as_str()).or_default() += rate;
            }
        }
        for (transport, rate) in by_transport {
            family.add(&["amst", direction, transport], rate);
        }
    }
    family.finish(families);
}

pub(super) fn errors(
    totals: &Totals,
    definition: &'static table::Definition,
    families: &mut Vec<MetricFamily>,
) {
    let mut family = Family::new(definition);
    for error in ErrorType::ALL {
        let severity = match error {
            ErrorType::ProcessDied | ErrorType::MigrationFailed => "critical",
            ErrorType::ConnectionReset
            | ErrorType::ConnectionRefused
            | ErrorType::NetworkTimeout
            | ErrorType::SocketError
            | ErrorType::RdmaCompletion
            | ErrorType::MigrationCancelled => "warning",
        };
        let count = totals.errors.get(&error).copied().unwrap_or(0);
        family.add(&["amst", error.as_str(), severity], count as f64);
    }
    family.finish(families);
}

fn active(published: &Published, families: &mut Vec<MetricFamily>) {
    let mut family = Family::new(&table::ACTIVE_STREAMS);
    let open = active_records(published, Version::V3)
        .flat_map(|record| &record.streams)
        .filter(|stream| stream.ended_at.is_none())
        .count();
    family.add(&[], open as f64);
    family.finish(families);
    let mut family = Family::new(&table::MIGRATIONS_ACTIVE);
    for role in [Role::Source, Role::Destination] {
        let count = active_records(published, Version::V3).filter(|it| has_end(it, role)).count();
        family.add(&[role.as_str()], count as f64);
    }
    family.finish(families);
}

fn build_info(families: &mut Vec<MetricFamily>) {
    let mut family = Family::new(&table::BUILD_INFO);
    family.add(&[env!("CARGO_PKG_VERSION"), std::env::consts::ARCH], 1.0);
    family.finish(families);
}

fn kernel(kernel: &KernelStatus, families: &mut Vec<MetricFamily>) {
    let mut family = Family::new(&table::PROBE_ATTACHED);
    for probe in &kernel.probes {
        let live = if probe.attached { 1.0 } else { 0.0 };
        family.add(&[probe.probe, probe.rung.unwrap_or("none")], live);
    }
    family.finish(families);

    // Two programs may share a name after its 15 characters; a series must not appear twice.
    let mut programs: BTreeMap<&str, Vec<&ProgramStats>> = BTreeMap::new();
    for program in &kernel.programs {
        programs.entry(&program.name).or_default().push(program);
    }
    let mut seconds = Family::new(&table::PROGRAM_RUN_SECONDS);
    let mut runs = Family::new(&table::PROGRAM_RUNS);
    let mut missed = Family::new(&table::PROGRAM_MISSED_RUNS);
    let mut verified = Family::new(&table::PROGRAM_VERIFIED);
    for (name, programs) in programs {
        let sum =
            |of: fn(&ProgramStats) -> u64| programs.iter().map(|it| of(it)).sum::<u64>() as f64;
        if kernel.program_stats_duty > 0.0 {
            seconds.add(&[name], sum(|it| it.run_time_ns) / 1e9);
            runs.add(&[name], sum(|it| it.run_count));
        }
        if programs.iter().all(|it| it.missed_runs.is_some()) {
            missed.add(&[name], sum(|it| it.missed_runs.unwrap_or_default()));
        }
        verified.add(&[name], sum(|it| it.verified_instructions.into()));
    }
    seconds.finish(families);
    runs.finish(families);
    missed.finish(families);
    let mut family = Family::new(&table::PROGRAM_STATS_DUTY);
    family.add(&[], kernel.program_stats_duty);
    family.finish(families);
    verified.finish(families);

    let mut losses: BTreeMap<&str, u64> = BTreeMap::new();
    for (name, count) in &kernel.losses {
        *losses.entry(name).or_default() += count;
    }
    let mut family = Family::new(&table::LOST);
    for (name, count) in losses {
        let (map, reason) = name.split_once(':').unwrap_or((name, ""));
        family.add(&[map, reason], count as f64);
    }
    family.finish(families);

    if let Some(delay) = &kernel.probe_delay {
        let mut family = Family::new(&table::PROBE_DELAY);
        family.add_histogram(&[], delay);
        family.finish(families);
    }

    let mut slots = Family::new(&table::MAP_SLOTS);
    let mut used = Family::new(&table::MAP_SLOTS_USED);
    for map in &kernel.maps {
        slots.add(&[map.map], f64::from(map.capacity));
        used.add(&[map.map], f64::from(map.used));
    }
    slots.finish(families);
    used.finish(families);
}

fn rejected_flows(totals: &Totals, families: &mut Vec<MetricFamily>) {
    let mut family = Family::new(&table::REJECTED_FLOWS);
    for (reason, count) in &totals.rejected_flows {
        family.add(&[reason.as_str()], *count as f64);
    }
    family.finish(families);
}

fn cycle(published: &Published, families: &mut Vec<MetricFamily>) {
    let cycle = &published.cycle;
    for (definition, histogram) in
        [(&table::CYCLE_DURATION, &cycle.duration), (&table::CYCLE_JITTER, &cycle.jitter)]
    {
        let mut family = Family::new(definition);
        family.add_histogram(&[], histogram);
        family.finish(families);
    }
    single(&table::CYCLES_MISSED, Some(cycle.missed as f64), families);
    single(&table::LAST_CYCLE, Some(seconds_since_1970(published.at)), families);
}

pub(super) fn seconds_since_1970(at: jiff::Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

fn http(counts: &HttpCounts, families: &mut Vec<MetricFamily>) {
    let mut family = Family::new(&table::HTTP_REQUESTS);
    for ((endpoint, code), count) in &counts.requests {
        family.add(&[endpoint, &code.to_string()], *count as f64);
    }
    family.finish(families);
    for (definition, count) in [
        (&table::HTTP_CONNECTIONS, counts.open),
        (&table::HTTP_ACCEPTED, counts.accepted),
        (&table::HTTP_REJECTED, counts.rejected),
        (&table::HTTP_EVICTED, counts.evicted),
        (&table::HTTP_TIMED_OUT, counts.timed_out),
    ] {
        single(definition, Some(count as f64), families);
    }
}

fn process(usage: &ProcessUsage, families: &mut Vec<MetricFamily>) {
    let whole = |value: Option<u64>| value.map(|value| value as f64);
    for (definition, value) in [
        (&table::PROCESS_CPU, usage.cpu_seconds),
        (&table::PROCESS_RESIDENT, whole(usage.resident_bytes)),
        (&table::PROCESS_VIRTUAL, whole(usage.virtual_bytes)),
        (&table::PROCESS_OPEN_FDS, whole(usage.open_fds)),
        (&table::PROCESS_MAX_FDS, whole(usage.max_fds)),
        (&table::PROCESS_START, usage.start_time_seconds),
        (&table::PROCESS_THREADS, whole(usage.threads)),
    ] {
        single(definition, value, families);
    }
}

pub(super) fn single(
    definition: &'static table::Definition,
    value: Option<f64>,
    families: &mut Vec<MetricFamily>,
) {
    let mut family = Family::new(definition);
    family.add_some(&[], value);
    family.finish(families);
}

#[cfg(test)]
#[path = "tests/exporter.rs"]
mod tests;
