//! A migration in memory: its ends, and what changes from one second to the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex},
};

use super::{
    end::{EndState, FlowKey, StreamFlow, TELLING_BYTES},
    history::History,
    machine::{Life, Patience},
    outcome::Judgement,
    tick::{EndTotals, Tick, TickTotals},
};
use crate::{
    model::{
        record::{Evidence, Mode, Role, Transport, Version},
        verdict::Verdict,
    },
    phase::remaining::Remaining,
    tcp::FlowReading,
    verdict::{Judge, inputs::Second},
};

/// A migration.
#[derive(Debug)]
pub struct LiveMigration {
    /// Identifier for the API.
    pub id: String,
    /// Kind of migrator.
    pub migrator: String,
    /// Version of DWCP; `None` not asked yet, or nothing tells.
    pub version: Option<Version>,
    /// How sure identification is.
    pub confidence: f64,
    /// Why.
    pub evidence: Vec<Evidence>,
    /// One or two ends.
    pub ends: Vec<EndState>,
    /// Peer of the first flow: daemons run several migrations, one per peer; `None` before there is one.
    pub peer: Option<IpAddr>,
    /// The migrator's first word or the first sign of a connection, `CLOCK_MONOTONIC` ns.
    pub started_ns: u64,
    /// When measuring began.
    pub observed_ns: u64,
    /// Its life.
    pub life: Life,
    /// How it ended, once that is settled.
    pub outcome: Option<Judgement>,
    /// Per-second history.
    pub history: Arc<Mutex<History>>,
    /// Path, once known.
    pub mode: Option<Mode>,
    /// Highest rate seen, bytes/s.
    pub peak_rate: f64,
    /// Rate over the last cycle, bytes/s.
    pub rate: Option<f64>,
    /// When the copies of disks were last looked at, `CLOCK_MONOTONIC` ns, and what they had delivered by then, bytes.
    pub storage_tick: Option<(u64, u64)>,
    /// Their rate over the last cycle, bytes/s.
    pub storage_rate: Option<f64>,
    /// What the first tick saw.
    pub first_tick: Option<Tick>,
    /// What the last tick saw.
    pub last_tick: Option<Tick>,
    /// Judges each second.
    pub judge: Judge,
    /// What the next second starts from.
    pub last_second: Option<TickTotals>,
    /// What was said of the last second; `None` when it is over.
    pub verdict: Option<Verdict>,
    /// What it rests on; `None` when that second is over.
    pub judged: Option<Second>,
    /// What the global counters already hold, by role.
    pub counted: BTreeMap<Role, EndTotals>,
    /// Errors that the global counters already hold, by flow.
    pub errors_counted: BTreeSet<(FlowKey, u32)>,
}

impl LiveMigration {
    /// The end with this role.
    #[must_use]
    pub fn end(&self, role: Role) -> Option<&EndState> {
        match self.ends.as_slice() {
            [only] => (only.role() == role).then_some(only),
            // With two ends the one that sends more is the source, whatever small traffic suggests.
            [first, second] => {
                let (sent, received) = first.sums();
                let (other_sent, other_received) = second.sums();
                let first_sends = sent + other_received;
                let second_sends = other_sent + received;
                let first_is_source = if first_sends.abs_diff(second_sends) >= TELLING_BYTES {
                    first_sends > second_sends
                } else {
                    first.role() == Role::Source
                };
                Some(if first_is_source == (role == Role::Source) { first } else { second })
            }
            _ => None,
        }
    }

    /// Whether the bytes tell who sends: from then on no end changes its role.
    #[must_use]
    pub fn roles_are_clear(&self) -> bool {
        let telling = |(sent, received): (u64, u64)| sent.abs_diff(received) >= TELLING_BYTES;
        match self.ends.as_slice() {
            [first, second] => {
                let ((sent, received), (other_sent, other_received)) =
                    (first.sums(), second.sums());
                telling((sent + other_received, received + other_sent))
            }
            ends => ends.iter().all(|end| telling(end.sums())),
        }
    }

    /// Both ends with their roles, source first.
    pub fn roles(&self) -> impl Iterator<Item = (Role, &EndState)> {
        [Role::Source, Role::Destination]
            .into_iter()
            .filter_map(|role| Some((role, self.end(role)?)))
    }

    /// Whether some connection was open before the observer saw either end of it. Known once it has moved data: a sweep may look while
    /// its first call is at work.
    #[must_use]
    pub fn found_under_way(&self) -> bool {
        let seen_at_the_other_end = |found: &FlowReading| {
            self.flows().map(|flow| &flow.reading).any(|other| {
                (other.local, other.peer) == (found.peer, found.local) && !other.found_open()
            })
        };
        let late = |found: &FlowReading| found.found_open() && !seen_at_the_other_end(found);
        self.ends
            .iter()
            .any(|end| end.folded_found_open || end.flows.values().any(|flow| late(&flow.reading)))
    }

    /// What carries its streams; `None` while none is seen.
    #[must_use]
    pub fn transport(&self) -> Option<Transport> {
        let overflows = self.ends.iter().any(|end| end.overflow_here().flows > 0);
        let mut flows = self.flows().peekable();
        if flows.peek().is_none() {
            return overflows.then_some(Transport::Tcp);
        }
        let queue_pairs = flows.any(|flow| flow.reading.queue_pair.is_some());
        Some(if queue_pairs { Transport::Rdma } else { Transport::Tcp })
    }

    /// Whether what it moves is measured. A queue pair over software iWARP has a TCP connection under it, whose bytes are.
    #[must_use]
    pub fn bytes_are_seen(&self) -> bool {
        let seen = |flow: &StreamFlow| flow.reading.payload_is_seen();
        let overflows = self.ends.iter().any(|end| end.overflow_here().flows > 0);
        overflows || self.flows().any(seen)
    }

    /// What the source last told to be left to send. A look from before the guest's stop tells nothing after it.
    #[must_use]
    pub fn remaining(&self) -> Option<Remaining> {
        let source = self.end(Role::Source).filter(|_| !self.life.is_finished())?;
        let stopped_ns = source.timeline.stop.map_or(0, |stop| stop.asked.at_ns);
        let since_ns = stopped_ns.max(self.started_ns);
        source.own_work[1].remaining.filter(|look| look.at_ns >= since_ns)
    }

    /// All flows of all ends.
    pub fn flows(&self) -> impl Iterator<Item = &StreamFlow> {
        self.ends.iter().flat_map(|end| end.flows.values())
    }

    /// How long to wait at the end: QEMU opens all its connections while the first is open, others may go one by one.
    #[must_use]
    pub fn patience(&self) -> Patience {
        const SECOND: u64 = 1_000_000_000;
        let next_stream_ns = if self.migrator == "qemu" { 0 } else { SECOND };
        Patience { next_stream_ns, drain_ns: 2 * SECOND, give_up_ns: 150 * SECOND }
    }

    /// Totals of one end.
    #[must_use]
    pub fn totals(role: Role, end: &EndState) -> EndTotals {
        let over = end.overflow_here();
        let mut totals = match role {
            Role::Source => EndTotals {
                queued: over.bytes_queued,
                transferred: over.bytes_delivered,
                ..EndTotals::default()
            },
            Role::Destination => {
                EndTotals { transferred: over.bytes_received, ..EndTotals::default() }
            }
        };
        totals.retransmitted = over.bytes_retrans;
        totals.segments = over.segs_retrans;
        for flow in end.flows.values() {
            let (payload, snapshot) = (&flow.reading.payload, &flow.reading.snapshot);
            match role {
                Role::Source => {
                    totals.queued += payload.queued;
                    totals.transferred += payload.delivered;
                }
                Role::Destination => totals.transferred += payload.received,
            }
            totals.retransmitted += snapshot.bytes_retrans;
            totals.segments += u64::from(snapshot.total_retrans);
        }
        totals
    }

    /// Bytes that have arrived, and segments sent again, as far as this host sees.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        self.roles().next().map_or((0, 0), |(role, end)| {
            let totals = Self::totals(role, end);
            (totals.transferred, totals.segments)
        })
    }
}
