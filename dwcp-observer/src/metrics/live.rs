//! Series of single migrations and streams: their number is capped, and they disappear 15 s after the migration's end.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use prometheus::proto::MetricFamily;

use super::{
    LIVE_SERIES_EXPIRY, SeriesLimits,
    exporter::{mode_label, seconds_since_1970},
    family::Family,
    table,
};
use crate::{
    cycle::published::Published,
    model::{
        record::{Bytes, Migration, Role, State, Stream, ThreadRole, Transport},
        verdict::{Cause, Fractions, Verdict},
    },
};

/// What has no series because of the caps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) migrations: usize,
    pub(super) streams: usize,
}

/// Appends the families of the migrations within the caps.
pub(super) fn families(
    published: &Published,
    limits: SeriesLimits,
    families: &mut Vec<MetricFamily>,
) -> Dropped {
    let mut live = LiveSeries::new();
    let mut dropped = Dropped::default();
    let mut seen = HashSet::new();
    let mut streams_left = limits.streams;
    for entry in &published.entries {
        let record = entry.record.as_ref();
        if expired(record, published.at) {
            continue;
        }
        if seen.len() == limits.migrations {
            dropped.migrations += 1;
            dropped.streams += record.streams.len();
            continue;
        }
        if !seen.insert(record.id.as_str()) {
            // A series must not appear twice, whatever the cycle hands over.
            continue;
        }
        live.migration(record);
        let shown = record.streams.len().min(streams_left);
        streams_left -= shown;
        dropped.streams += record.streams.len() - shown;
        for (index, stream) in record.streams.iter().take(shown).enumerate() {
            live.stream(&record.id, index, stream);
        }
    }
    live.finish(families);
    dropped
}

fn expired(record: &Migration, now: jiff::Timestamp) -> bool {
    let Some(ended_at) = record.ended_at else {
        return false;
    };
    // A clock that was set back gives a negative age, which is no age.
    let age = Duration::try_from(now.duration_since(ended_at));
    record.state == State::Finished && age.is_ok_and(|age| age > LIVE_SERIES_EXPIRY)
}

struct LiveSeries {
    info: Family,
    bytes: Family,
    throughput: Family,
    storage_bytes: Family,
    storage_throughput: Family,
    start: Family,
    streams: Family,
    verdict: Family,
    time_fraction: Family,
    eta: Family,
    remaining: Family,
    standstill: Family,
    guest_throttle: Family,
    split_brain: Family,
    balance: Family,
    phase: Family,
    rounds: Family,
    blackout: Family,
    stream_bytes: Family,
    stream_srtt: Family,
    stream_retransmitted: Family,
    stream_cwnd: Family,
    thread_cpu: Family,
    thread_wait: Family,
}

impl LiveSeries {
    fn new() -> Self {
        Self {
            info: Family::new(&table::MIGRATION_INFO),
            bytes: Family::new(&table::MIGRATION_BYTES),
            throughput: Family::new(&table::MIGRATION_THROUGHPUT),
            storage_bytes: Family::new(&table::MIGRATION_STORAGE_BYTES),
            storage_throughput: Family::new(&table::MIGRATION_STORAGE_THROUGHPUT),
            start: Family::new(&table::MIGRATION_START),
            streams: Family::new(&table::MIGRATION_STREAMS),
            verdict: Family::new(&table::MIGRATION_VERDICT),
            time_fraction: Family::new(&table::MIGRATION_TIME_FRACTION),
            eta: Family::new(&table::MIGRATION_ETA),
            remaining: Family::new(&table::MIGRATION_REMAINING),
            standstill: Family::new(&table::MIGRATION_STANDSTILL),
            guest_throttle: Family::new(&table::MIGRATION_GUEST_THROTTLE),
            split_brain: Family::new(&table::MIGRATION_SPLIT_BRAIN),
            balance: Family::new(&table::MIGRATION_BALANCE),
            phase: Family::new(&table::MIGRATION_PHASE),
            rounds: Family::new(&table::MIGRATION_ROUNDS),
            blackout: Family::new(&table::MIGRATION_BLACKOUT),
            stream_bytes: Family::new(&table::STREAM_BYTES),
            stream_srtt: Family::new(&table::STREAM_SRTT),
            stream_retransmitted: Family::new(&table::STREAM_RETRANSMITTED),
            stream_cwnd: Family::new(&table::STREAM_CWND),
            thread_cpu: Family::new(&table::THREAD_CPU),
            thread_wait: Family::new(&table::THREAD_WAIT),
        }
    }

    fn migration(&mut self, record: &Migration) {
        let id = record.id.as_str();
        let role = match (has_end(record, Role::Source), has_end(record, Role::Destination)) {
            (true, true) => "both",
            (true, false) => Role::Source.as_str(),
            (false, true) => Role::Destination.as_str(),
            (false, false) => "",
        };
        let vm = record.vm.name.as_deref().unwrap_or("");
        let uuid = record.vm.uuid.as_deref().unwrap_or("");
        let transport = record.transport.map_or("unknown", Transport::as_str);
        let labels = [id, vm, uuid, &record.migrator, role, transport, mode_label(record.mode)];
        self.info.add(&labels, 1.0);
        if let Some(bytes) = &record.bytes {
            for (kind, bytes) in kinds(bytes) {
                self.bytes.add(&[id, kind], bytes as f64);
            }
        }
        if let Some(storage) = &record.storage {
            for (kind, bytes) in kinds(&storage.bytes) {
                self.storage_bytes.add(&[id, kind], bytes as f64);
            }
            self.storage_throughput.add_some(&[id], storage.throughput_bytes_per_second);
        }
        self.throughput.add_some(&[id], record.throughput_bytes_per_second);
        self.start.add(&[id], seconds_since_1970(record.started_at));
        let streams = record.streams.len() as f64 + record.streams_without_detail as f64;
        self.streams.add(&[id], streams);

        self.course(id, record);
        let mut by_role: BTreeMap<(Role, ThreadRole), (f64, f64)> = BTreeMap::new();
        for thread in &record.threads {
            let sum = by_role.entry((thread.end, thread.role)).or_default();
            sum.0 += thread.on_cpu_seconds;
            sum.1 += thread.runqueue_wait_seconds;
        }
        for ((end, role), (cpu, wait)) in by_role {
            self.thread_cpu.add(&[id, end.as_str(), role.as_str()], cpu);
            self.thread_wait.add(&[id, end.as_str(), role.as_str()], wait);
        }
    }

    /// How it goes and what the guest felt.
    fn course(&mut self, id: &str, record: &Migration) {
        if let Some(verdict) = &record.verdict {
            self.verdict(id, verdict);
        }
        let both = has_end(record, Role::Source) && has_end(record, Role::Destination);
        if both {
            self.split_brain.add(&[id], f64::from(u8::from(record.split_brain)));
        }
        for phase in &record.phases {
            self.phase.add(&[id, phase.phase.as_str()], phase.seconds);
        }
        if !record.rounds.is_empty() {
            self.rounds.add(&[id], record.rounds.len() as f64);
        }
        self.remaining.add_some(&[id], record.remaining_bytes.map(|bytes| bytes as f64));
        let Some(blackout) = &record.blackout else { return };
        self.blackout.add_some(&[id, "total"], blackout.seconds);
        if let Some(parts) = &blackout.breakdown {
            for (part, seconds) in parts.named() {
                self.blackout.add_some(&[id, part], seconds);
            }
        }
    }

    /// What was said of its last second.
    fn verdict(&mut self, id: &str, verdict: &Verdict) {
        let cause = verdict.cause.map_or("unknown", Cause::as_str);
        self.verdict.add(&[id, verdict.state.as_str(), cause], 1.0);
        for (cause, share) in verdict.fractions.iter().flat_map(Fractions::iter) {
            self.time_fraction.add(&[id, cause.as_str()], share);
        }
        if let Some(eta) = verdict.eta {
            self.eta.add(&[id, "estimate"], eta.eta_seconds);
            self.eta.add(&[id, "low"], eta.eta_low_seconds);
            self.eta.add(&[id, "high"], eta.eta_high_seconds);
        }
        if let Some(guest) = verdict.standing {
            let labels = [id, guest.at.as_str(), guest.awaits.as_str()];
            self.standstill.add(&labels, guest.seconds);
        }
        self.guest_throttle.add_some(&[id], verdict.guest_throttle_percent.map(f64::from));
        if let Some(balance) = &verdict.balance {
            self.balance.add(&[id, "max_over_mean"], balance.stream_max_over_mean);
            self.balance.add(&[id, "jain"], balance.stream_jain_index);
            self.balance.add(&[id, "scaling_efficiency"], balance.stream_scaling_efficiency);
        }
    }

    fn stream(&mut self, id: &str, index: usize, stream: &Stream) {
        let index = index.to_string();
        if let Some(bytes) = &stream.bytes {
            for (kind, bytes) in [
                ("queued", bytes.bytes_queued),
                ("delivered", bytes.bytes_delivered),
                ("received", bytes.bytes_received),
            ] {
                self.stream_bytes.add(&[id, &index, kind], bytes as f64);
            }
        }
        let Some(tcp) = &stream.tcp else { return };
        self.stream_bytes.add(&[id, &index, "retransmitted"], tcp.bytes_retransmitted as f64);
        self.stream_srtt.add_some(&[id, &index], tcp.srtt_seconds);
        self.stream_retransmitted.add(&[id, &index], tcp.retransmitted_segments as f64);
        if stream.ended_at.is_none() {
            let cwnd = f64::from(tcp.cwnd_segments) * f64::from(tcp.mss_bytes);
            self.stream_cwnd.add(&[id, &index], cwnd);
        }
    }

    fn finish(self, families: &mut Vec<MetricFamily>) {
        for family in [
            self.info,
            self.bytes,
            self.throughput,
            self.storage_bytes,
            self.storage_throughput,
            self.start,
            self.streams,
            self.verdict,
            self.time_fraction,
            self.eta,
            self.remaining,
            self.standstill,
            self.guest_throttle,
            self.split_brain,
            self.balance,
            self.phase,
            self.rounds,
            self.blackout,
            self.stream_bytes,
            self.stream_srtt,
            self.stream_retransmitted,
            self.stream_cwnd,
            self.thread_cpu,
            self.thread_wait,
        ] {
            family.finish(families);
        }
    }
}

/// The values of the label `kind`.
const fn kinds(bytes: &Bytes) -> [(&'static str, u64); 4] {
    [
        ("queued", bytes.queued),
        ("delivered", bytes.delivered),
        ("received", bytes.received),
        ("retransmitted", bytes.retransmitted),
    ]
}

fn has_end(record: &Migration, role: Role) -> bool {
    record.ends.iter().any(|end| end.role == role)
}
