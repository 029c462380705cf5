//! A real migration under the observer's eyes, and the comparison of its record with the kernel's
//! and QEMU's own figures.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dwcp_observer_model::record::Migration;

use crate::metrics::Metrics;
use crate::migration::{MigrationPlan, Pair, QemuFigures};
use crate::observer::{Observer, shared_host};
use crate::record::RecordExt as _;
use crate::socket_totals::{SocketTotals, SocketWatch};

const LIMIT: Duration = Duration::from_secs(120);
/// The unit in which the kernel counts a stream's limited times, where it is longest.
const TICK_SECONDS: f64 = 0.0101;

/// A finished migration: what the observer says, and what it is compared with.
#[derive(Debug)]
pub struct Watched {
    /// The one record.
    pub record: Migration,
    /// QEMU's figures.
    pub figures: QemuFigures,
    /// Final counters of the source's sockets, by their own address.
    pub source: BTreeMap<SocketAddr, SocketTotals>,
    /// Final counters of the destination's sockets, by the source's address.
    pub destination: BTreeMap<SocketAddr, SocketTotals>,
    /// A scrape after the end.
    pub metrics: Metrics,
}

impl Watched {
    /// Waits for the end of a migration that runs by `plan`, for its sockets and for its record.
    ///
    /// # Errors
    /// When it does not complete, or the observer does not have exactly one record of it.
    pub fn finish(
        observer: &Observer,
        pair: &mut Pair,
        plan: &MigrationPlan,
        sockets: &mut SocketWatch,
    ) -> Result<Self> {
        let figures = pair.wait_end(LIMIT)?;
        ensure!(figures.status == "completed", "{figures:?}");
        let server = plan.address();
        // Migration ports are ephemeral ports, too: before QEMU listened, a request to the observer may have come from there.
        let http = observer.address();
        let ends = sockets.wait(2 * plan.connections(), LIMIT, |end| {
            let ends = [end.local, end.peer];
            ends.contains(&server) && !ends.contains(&http)
        })?;
        let (source, destination): (Vec<_>, Vec<_>) =
            ends.into_iter().partition(|end| end.peer == server);
        let record = observer.wait_finished(1)?.pop().context("no record")?;
        Ok(Self {
            record,
            figures,
            source: source.into_iter().map(|end| (end.local, end)).collect(),
            destination: destination.into_iter().map(|end| (end.peer, end)).collect(),
            metrics: observer.metrics()?,
        })
    }

    /// Payload that the source's sockets carried, bytes.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.source.values().map(SocketTotals::payload_sent).sum()
    }

    /// Each stream's counters are those of its sockets, to the byte, and the totals are their sum.
    ///
    /// # Errors
    /// The first difference.
    pub fn check_sockets(&self, plan: &MigrationPlan) -> Result<()> {
        let record = &self.record;
        ensure!(
            record.streams.len() == plan.connections()
                && self.source.len() == plan.connections()
                && self.destination.len() == plan.connections(),
            "{} connections, {} and {} sockets, but: {record:#?}",
            plan.connections(),
            self.source.len(),
            self.destination.len()
        );
        for stream in &record.streams {
            let local: SocketAddr = stream.local.parse()?;
            ensure!(stream.peer.parse::<SocketAddr>()? == plan.address(), "{stream:?}");
            let source = self.source.get(&local).with_context(|| format!("{stream:?}"))?;
            let destination =
                self.destination.get(&local).with_context(|| format!("{stream:?}"))?;
            let payload = source.payload_sent();
            let context = || format!("{stream:#?}\n{source:#?}\n{destination:#?}");
            ensure!(payload > 0, "no bytes: {}", context());
            let seen = stream.bytes.with_context(context)?;
            for bytes in [seen.bytes_queued, seen.bytes_delivered, seen.bytes_received] {
                ensure!(bytes == payload, "{bytes} B instead of {payload} B: {}", context());
            }
            let tcp = stream.tcp.as_ref().with_context(context)?;
            ensure!(tcp.socket.bytes_acked == source.bytes_acked, context());
            ensure!(tcp.socket.bytes_received == destination.bytes_received, context());
            ensure!(tcp.bytes_retransmitted == source.bytes_retrans, context());
            let segments = u64::from(source.segments_retransmitted);
            ensure!(tcp.retransmitted_segments == segments, context());
            for (seconds, kernel_us) in [
                (tcp.busy_seconds, source.busy_us),
                (tcp.rwnd_limited_seconds, source.rwnd_limited_us),
                (tcp.sndbuf_limited_seconds, source.sndbuf_limited_us),
            ] {
                let kernel = kernel_us as f64 / 1e6;
                ensure!((seconds - kernel).abs() <= TICK_SECONDS, "{kernel} s: {}", context());
            }
            let min_rtt = tcp.min_rtt_seconds.with_context(context)?;
            ensure!((min_rtt * 1e6 - f64::from(source.min_rtt_us)).abs() < 0.5, context());
        }
        let carried = self.carried();
        let bytes = record.totals();
        ensure!(
            (bytes.queued, bytes.delivered, bytes.received) == (carried, carried, carried),
            "{carried} B are right: {bytes:?}"
        );
        Ok(())
    }

    /// Delivered bytes minus QEMU's `transferred`, as a share of it: at most 0.5 % either way.
    ///
    /// # Errors
    /// When it is more.
    pub fn check_transferred(&self) -> Result<f64> {
        let transferred = self.figures.transferred as f64;
        let share = (self.record.totals().delivered as f64 - transferred) / transferred;
        ensure!(share.abs() <= 0.005, "{share}: {:?} {:?}", self.record.bytes, self.figures);
        Ok(share)
    }

    /// The record's duration minus QEMU's `total-time`, ms. QEMU closes its sockets from its main
    /// loop some time after it took that time, so a busy machine lengthens it.
    ///
    /// # Errors
    /// When QEMU has no figure.
    pub fn late_ms(&self) -> Result<f64> {
        let total = self.figures.total_time_ms.context("no total-time")? as f64;
        Ok(self.record.duration_seconds * 1e3 - total)
    }

    /// The counters since the observer's start are those of this one record.
    ///
    /// # Errors
    /// The first difference.
    pub fn check_metrics(&self) -> Result<()> {
        if shared_host() {
            println!("counters are not compared: other migrations may run on this host");
            return Ok(());
        }
        let record = &self.record;
        let outcome = record.outcome.context("no outcome")?.as_str();
        let id = ("migration_id", record.id.as_str());
        let streams = record.streams.len() as u64;
        for (name, labels, expected) in [
            (
                "dwcp_v3_bytes_transferred_total",
                vec![("direction", "sent")],
                record.totals().delivered,
            ),
            (
                "dwcp_v3_bytes_transferred_total",
                vec![("direction", "received")],
                record.totals().received,
            ),
            ("dwcp_v3_bytes_queued_total", vec![], record.totals().queued),
            (
                "dwcp_v3_retransmitted_bytes_total",
                vec![("role", "source")],
                record.totals().retransmitted,
            ),
            ("dwcp_v3_migrations_total", vec![], 1),
            ("dwcp_v3_migrations_total", vec![("outcome", outcome)], 1),
            ("dwcp_v3_migration_duration_seconds_count", vec![], 1),
            ("dwcp_v3_migrations_active", vec![], 0),
            ("dwcp_v3_amst_active_streams", vec![], 0),
            ("dwcp_v3_migration_streams", vec![id], streams),
            ("dwcp_v3_migration_bytes", vec![id, ("kind", "delivered")], record.totals().delivered),
            (
                "dwcp_v3_migration_stream_bytes",
                vec![id, ("kind", "delivered")],
                record.totals().delivered,
            ),
            (
                "dwcp_v3_migration_stream_bytes",
                vec![id, ("kind", "received")],
                record.totals().received,
            ),
        ] {
            let found = self.metrics.sum(name, &labels)?;
            ensure!(found == expected as f64, "{name} {labels:?}: {found} instead of {expected}");
        }
        let duration = self.metrics.sum("dwcp_v3_migration_duration_seconds_sum", &[])?;
        ensure!((duration - record.duration_seconds).abs() < 1e-6, "{duration}: {record:#?}");
        let vm = record.vm.name.as_deref().unwrap_or_default();
        self.metrics.sum("dwcp_v3_migration_info", &[id, ("vm", vm), ("role", "both")])?;
        for map in ["flows", "threads", "processes", "events"] {
            let lost = self.metrics.sum("dwcp_observer_lost_total", &[("map", map)])?;
            ensure!(lost == 0.0, "{lost} lost in {map}");
        }
        Ok(())
    }
}
