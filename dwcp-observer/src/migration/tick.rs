//! What one tick saw, for the difference to the next.

use std::collections::HashMap;

use super::end::{FlowKey, Registrations, StreamFlow};

/// What one tick saw.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// When, `CLOCK_MONOTONIC` ns.
    pub at_ns: u64,
    /// Bytes delivered so far.
    pub delivered: u64,
    /// Segments retransmitted so far.
    pub segments: u64,
    /// CPU time and run-queue wait of migration threads and guest CPUs, ns.
    pub cpu: [u64; 4],
}

/// Totals of one end, for deltas between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndTotals {
    /// Payload queued.
    pub queued: u64,
    /// Payload acknowledged (source) or received (destination).
    pub transferred: u64,
    /// Bytes retransmitted.
    pub retransmitted: u64,
    /// Segments retransmitted.
    pub segments: u64,
}

/// Totals of a migration at the last tick, for the next difference.
#[derive(Clone, Debug, Default)]
pub struct TickTotals {
    pub(super) at_ns: u64,
    pub(super) delivered: u64,
    pub(super) flows: HashMap<FlowKey, FlowTotals>,
    /// CPU time and run-queue wait, ns, and stays on a CPU, by thread.
    pub(super) threads: HashMap<u32, [u64; 3]>,
    /// Registrations of memory, by process.
    pub(super) registered: HashMap<u32, Registrations>,
    pub(super) limited_ns: u64,
    /// Time for which the CPU quota was used up, at the tick before and at this one, by process.
    pub(super) quota_ns: HashMap<u32, [u64; 2]>,
    pub(super) stolen_ns: u64,
}

/// Those of one flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlowTotals {
    pub(super) delivered: u64,
    pub(super) queued: u64,
    /// Busy, rwnd-limited, sndbuf-limited seconds.
    pub(super) chrono: [f64; 3],
    /// Fast recovery and loss, ns.
    pub(super) recovering: [u64; 2],
    pub(super) retransmitted: u32,
    pub(super) sent: u32,
    /// Of a queue pair: RNR waits, and completions.
    pub(super) rnr_waits: u64,
    pub(super) completions: u64,
}

impl FlowTotals {
    /// As of its last reading.
    pub(super) fn of(flow: &StreamFlow) -> Self {
        let reading = &flow.reading;
        let qp = reading.queue_pair.as_deref();
        Self {
            delivered: reading.payload.delivered,
            queued: reading.payload.queued,
            chrono: qp.map_or(reading.chrono_seconds, |qp| {
                [qp.latency.as_ref().map_or(0.0, |hist| hist.sum as f64 / 1e9), 0.0, 0.0]
            }),
            rnr_waits: qp.and_then(|qp| qp.rnr_waits).unwrap_or_default(),
            completions: qp.and_then(|qp| qp.latency.as_ref()).map_or(0, |hist| hist.count),
            // Without the tracepoint, retransmissions alone tell of loss.
            recovering: reading.ca_ns.map_or([0; 2], |times| [times[3], times[4]]),
            retransmitted: reading.snapshot.total_retrans,
            sent: reading.snapshot.data_segs_out,
        }
    }
}
