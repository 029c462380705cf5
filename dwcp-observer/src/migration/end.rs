//! One end of a migration in memory: a process of this host, its flows and its threads.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
};

use dwcp_observer_ebpf::process::FlowOverflow;

use crate::{
    freeze::FreezeReading,
    identify::roles::ThreadUse,
    model::{
        facts::ProcessFacts,
        record::{Quantiles, Role, ThreadRole},
    },
    netdev::TapReading,
    phase::{attach::Coverage, remaining::Remaining, timeline::Timeline},
    rdma::MemoryReading,
    sched::ThreadReading,
    tcp::FlowReading,
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
    /// Its tap devices are watched and its quota is found.
    pub is_surveyed: bool,
    /// Whether its command line, which is new, names a process that it dumps is still to be asked.
    pub names_dumped: bool,
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
    /// Where the CPU quotas of its cgroup and of those around it show.
    pub quota_files: Vec<PathBuf>,
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
    pub remaining: Option<Remaining>,
}

/// Streams of one end that keep their detail; the oldest closed ones beyond are folded into totals.
const MAX_STREAMS: usize = 2048;
/// Payload one way before the bytes outvote the hint.
pub(super) const TELLING_BYTES: u64 = 64 << 10;

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
