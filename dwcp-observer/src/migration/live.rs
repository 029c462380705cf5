//! A migration in memory: its ends, their flows and threads, and what changes from one second to the next.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use dwcp_observer_ebpf::process::FlowOverflow;

use super::{
    fate,
    history::History,
    machine::{Life, Patience, Streams},
    outcome::Judgement,
    second,
};
use crate::{
    freeze::FreezeReading,
    identify::roles::ThreadUse,
    model::{facts::ProcessFacts, verdict::Verdict},
    netdev::TapReading,
    phase::{attach::Coverage, remaining::Look, timeline::Timeline},
    rdma::MemoryReading,
    sched::ThreadReading,
    tcp::FlowReading,
    verdict::Judge,
};
use crate::{
    model::record::{Evidence, Mode, Quantiles, Role, ThreadRole, Transport, Version},
    verdict::inputs::Second,
};

/// A flow's identity: slot and generation.
pub type FlowKey = (u32, u32);

/// A flow that carries a stream.
#[derive(Clone, Debug)]
pub struct StreamFlow {
    /// Its last reading.
    pub reading: FlowReading,
    /// RTT quantiles at that time.
    pub rtt: Option<Quantiles>,
    /// Name of the thread that last moved data on it.
    pub thread_comm: Option<String>,
}

/// A thread, its last reading and its waits.
#[derive(Clone, Debug)]
pub struct EndThread {
    /// Last reading.
    pub reading: ThreadReading,
    /// What it does, by its name or by the streams it moves data on.
    pub role: ThreadRole,
    /// Run-queue waits so far.
    pub waits: Option<Quantiles>,
    /// Its reading when the migration ended: what the record says; later ones show where the guest runs.
    pub at_end: Option<ThreadReading>,
}

/// A migrator process on this host.
#[derive(Clone, Debug)]
pub struct EndState {
    /// Slot of the process on the kernel side.
    pub process: u32,
    /// What `/proc` told.
    pub facts: ProcessFacts,
    /// The process that it dumps, by its command line: id and name.
    pub dumped: Option<(u32, String)>,
    /// What it has stopped to dump it.
    pub freeze: Option<FreezeReading>,
    /// Role by evidence, until the bytes tell.
    pub hinted: Option<Role>,
    /// Flows by identity.
    pub flows: BTreeMap<FlowKey, StreamFlow>,
    /// Connections over which disks are copied along, no streams: NBD.
    pub storage: BTreeMap<FlowKey, FlowReading>,
    /// Threads by id.
    pub threads: BTreeMap<u32, EndThread>,
    /// Totals of closed flows whose detail was given up.
    pub folded: FlowOverflow,
    /// Latest close among these, `CLOCK_MONOTONIC` ns.
    pub last_folded_close_ns: u64,
    /// Some flow among these was open before the observer saw it.
    pub folded_found_open: bool,
    /// The process' flows without a slot, before this migration.
    pub overflow_base: FlowOverflow,
    /// The same now.
    pub overflow: FlowOverflow,
    /// When the process exited, `CLOCK_MONOTONIC` ns.
    pub exited_ns: Option<u64>,
    /// How it exited, as `wait(2)` tells.
    pub exit_code: u32,
    /// What its phase functions told of this attempt.
    pub timeline: Timeline,
    /// Whether its phase functions are probed; `None` not tried yet.
    pub coverage: Option<Coverage>,
    /// Rate limiter and page requests before this migration, and now.
    pub own_work: [OwnWork; 2],
    /// Its tap devices and what they have carried since the migration began.
    pub taps: Vec<TapReading>,
    /// Where the CPU quota of its cgroup shows.
    pub quota_file: Option<PathBuf>,
    /// CPU quota of its cgroup has held it back so long, ns; `None` without a quota.
    pub quota_throttled_ns: Option<u64>,
    /// The process is stopped by a signal.
    pub stopped: bool,
    /// Memory that it has registered with RDMA devices.
    pub registered: Option<Arc<MemoryReading>>,
    /// What earlier migrations of the process account for of that.
    pub registered_base: Registrations,
    /// How guest CPUs without telling names were found.
    pub guest_cpus_found: Option<&'static str>,
}

/// Totals of registrations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registrations {
    /// Number.
    pub count: u64,
    /// Bytes.
    pub bytes: u64,
    /// Time, ns.
    pub ns: u64,
}

impl Registrations {
    /// The totals of a reading.
    #[must_use]
    pub const fn of(reading: &MemoryReading) -> Self {
        Self {
            count: reading.registrations,
            bytes: reading.bytes_registered,
            ns: reading.nanoseconds,
        }
    }

    /// What has come since.
    #[must_use]
    pub const fn since(self, base: Self) -> Self {
        Self {
            count: self.count.saturating_sub(base.count),
            bytes: self.bytes.saturating_sub(base.bytes),
            ns: self.ns.saturating_sub(base.ns),
        }
    }
}

/// What a migrator itself says of its work, totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnWork {
    /// Time in its rate limiter, ns.
    pub limited_ns: u64,
    /// Pages that it asked for as a postcopy destination.
    pub page_requests: u64,
    /// What it last told to be left to send.
    pub remaining: Option<Look>,
}

/// Streams of one end that keep their detail; the oldest closed ones beyond are folded into totals.
const MAX_STREAMS: usize = 2048;
/// Payload one way before the bytes outvote the hint.
const TELLING_BYTES: u64 = 64 << 10;

impl EndState {
    /// Whether its phase functions are probed.
    #[must_use]
    pub const fn probed(&self) -> bool {
        matches!(self.coverage, Some(Coverage::Probed { .. }))
    }

    /// Whether its phase functions were probed at `at_ns`.
    #[must_use]
    pub fn probed_since(&self, at_ns: u64) -> bool {
        matches!(self.coverage, Some(Coverage::Probed { since_ns, .. }) if since_ns <= at_ns)
    }

    /// Whether a function is probed: its silence says that it was not passed.
    #[must_use]
    pub fn probes(&self, symbol: &str) -> bool {
        matches!(&self.coverage, Some(Coverage::Probed { missing, .. }) if !missing.contains(&symbol))
    }

    /// Payload sent and received over all flows.
    #[must_use]
    pub fn sums(&self) -> (u64, u64) {
        self.flows.values().fold((0, 0), |(sent, received), flow| {
            (sent + flow.reading.payload.queued, received + flow.reading.payload.received)
        })
    }

    /// Which end this is: who sends more, once that is clear.
    #[must_use]
    pub fn role(&self) -> Role {
        let (sent, received) = self.sums();
        if sent >= received + TELLING_BYTES {
            Role::Source
        } else if received >= sent + TELLING_BYTES {
            Role::Destination
        } else {
            self.hinted.unwrap_or_else(|| {
                let active = self.flows.values().next().and_then(|flow| flow.reading.active_open());
                if active == Some(false) { Role::Destination } else { Role::Source }
            })
        }
    }

    /// Flows without detail that belong to this migration: those without a slot, and those folded.
    #[must_use]
    pub fn overflow_here(&self) -> FlowOverflow {
        let (now, base, folded) = (self.overflow, self.overflow_base, self.folded);
        let here = |now: u64, base: u64, folded: u64| now.saturating_sub(base) + folded;
        FlowOverflow {
            flows: here(now.flows, base.flows, folded.flows),
            closed: here(now.closed, base.closed, folded.closed),
            bytes_queued: here(now.bytes_queued, base.bytes_queued, folded.bytes_queued),
            bytes_delivered: here(
                now.bytes_delivered,
                base.bytes_delivered,
                folded.bytes_delivered,
            ),
            bytes_received: here(now.bytes_received, base.bytes_received, folded.bytes_received),
            bytes_retrans: here(now.bytes_retrans, base.bytes_retrans, folded.bytes_retrans),
            segs_retrans: here(now.segs_retrans, base.segs_retrans, folded.segs_retrans),
        }
    }

    /// Gives up the detail of the oldest closed flow when there are too many: memory stays bounded, totals stay exact.
    pub fn fold(&mut self) {
        while self.flows.len() > MAX_STREAMS {
            let oldest = self
                .flows
                .iter()
                .filter(|(_, flow)| flow.reading.closed)
                .min_by_key(|(_, flow)| flow.reading.opened_ns());
            let Some(key) = oldest.map(|(key, _)| *key) else { return };
            let Some(flow) = self.flows.remove(&key) else { return };
            let (payload, snapshot) = (flow.reading.payload, flow.reading.snapshot);
            self.last_folded_close_ns =
                self.last_folded_close_ns.max(flow.reading.closed_ns().unwrap_or_default());
            self.folded_found_open |= flow.reading.found_open();
            let folded = &mut self.folded;
            folded.flows += 1;
            folded.closed += 1;
            folded.bytes_queued += payload.queued;
            folded.bytes_delivered += payload.delivered;
            folded.bytes_received += payload.received;
            folded.bytes_retrans += snapshot.bytes_retrans;
            folded.segs_retrans += u64::from(snapshot.total_retrans);
        }
    }

    /// Drops the oldest exited threads when there are too many.
    pub fn fold_threads(&mut self) {
        while self.threads.len() > MAX_STREAMS {
            let gone =
                self.threads.iter().find(|(_, thread)| thread.reading.exited).map(|(tid, _)| *tid);
            let Some(tid) = gone else { return };
            self.threads.remove(&tid);
        }
    }

    /// Which streams each thread moves data on.
    #[must_use]
    pub fn thread_uses(&self) -> HashMap<u32, ThreadUse> {
        let main =
            self.flows.iter().min_by_key(|(_, flow)| flow.reading.opened_ns()).map(|(key, _)| *key);
        let mut uses: HashMap<u32, ThreadUse> = HashMap::new();
        for (key, flow) in &self.flows {
            let (send, recv) = (flow.reading.send_tid, flow.reading.recv_tid);
            if Some(*key) == main {
                uses.entry(send).or_default().sends_main = true;
                uses.entry(recv).or_default().receives_main = true;
            } else {
                uses.entry(send).or_default().moves_other = true;
                uses.entry(recv).or_default().moves_other = true;
            }
        }
        uses
    }
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

/// A migration.
#[derive(Debug)]
pub struct Live {
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
    pub last_second: Option<second::Totals>,
    /// What was said of the last second; `None` when it is over.
    pub verdict: Option<Verdict>,
    /// What it rests on; `None` when that second is over.
    pub judged: Option<Second>,
    /// What the global counters already hold, by role.
    pub counted: BTreeMap<Role, EndTotals>,
    /// Errors that the global counters already hold, by flow.
    pub errors_counted: std::collections::BTreeSet<(FlowKey, u32)>,
}

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

impl Live {
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
    pub fn remaining(&self) -> Option<Look> {
        let source = self.end(Role::Source).filter(|_| !self.life.is_finished())?;
        let stopped_ns = source.timeline.stop.map_or(0, |stop| stop.asked.at_ns);
        let since_ns = stopped_ns.max(self.started_ns);
        source.own_work[1].remaining.filter(|look| look.at_ns >= since_ns)
    }

    /// All flows of all ends.
    pub fn flows(&self) -> impl Iterator<Item = &StreamFlow> {
        self.ends.iter().flat_map(|end| end.flows.values())
    }

    /// What the state machine needs to know.
    #[must_use]
    pub fn streams(&self, now_ns: u64) -> Streams {
        let mut streams = Streams::default();
        for flow in self.flows() {
            let reading = &flow.reading;
            let ended = match (reading.closed_ns(), reading.shut_ns()) {
                (Some(closed), _) if reading.closed => closed,
                (_, Some(shut)) => {
                    streams.draining += 1;
                    shut
                }
                _ => {
                    streams.open += 1;
                    continue;
                }
            };
            streams.last_close_ns = streams.last_close_ns.max(ended);
        }
        for end in &self.ends {
            streams.last_close_ns = streams.last_close_ns.max(end.last_folded_close_ns);
            let overflow = end.overflow_here();
            if overflow.flows > overflow.closed && end.exited_ns.is_none() {
                streams.open += u32::try_from(overflow.flows - overflow.closed).unwrap_or(u32::MAX);
            }
        }
        streams.held = fate::is_held(self, streams.last_close_ns, now_ns);
        streams.over_ns = fate::over_ns(self);
        streams.last_close_ns = streams.last_close_ns.max(fate::settled_ns(self));
        streams
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
}
