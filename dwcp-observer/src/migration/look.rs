//! One look at the kernel side: what the registry is given, what it asks for, and how readings are taken in.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use dwcp_observer_ebpf::{
    netdev::{Tap, TapKey},
    sched::SchedTotals,
};

use super::{
    clock::WallClock,
    end::{EndState, EndThread, StreamFlow},
    index::key,
};
use crate::model::record::Quantiles;
use crate::{
    config::ModeThresholds,
    keeper::ProcessReading,
    migration::v1::V1Rule,
    model::facts::{ProcessFacts, ProcessId, ThreadFacts, Unread},
    phase::{MarkReading, TextReading, attach::Coverage},
    rdma::MemoryReading,
    sched::ThreadReading,
    tcp::FlowReading,
};

/// What the registry asks for beyond the readings.
pub trait World {
    /// Facts about a process; `None` when it is gone. Its arguments may come later.
    fn facts(&mut self, process: ProcessId) -> Option<ProcessFacts>;
    /// Facts about whatever process has this id now.
    fn facts_now(&mut self, pid: u32) -> Option<ProcessFacts>;
    /// Arguments that were not known when its facts were asked for.
    fn cmdline(&mut self, process: ProcessId) -> Result<Vec<String>, Unread>;
    /// The name of the process with this id while `tracer` traces it.
    fn traced_name(&mut self, pid: u32, tracer: ProcessId) -> Option<String>;
    /// Threads of a process now.
    fn threads(&mut self, process: ProcessId) -> Vec<ThreadFacts>;
    /// RTT quantiles of a flow that still holds its slot.
    fn flow_rtt(&self, slot: u32) -> Option<Quantiles>;
    /// Probes a process' phase functions; `None` while they are looked for, and when it is gone.
    fn phases(&mut self, process: &ProcessReading, facts: &ProcessFacts) -> Option<Coverage>;
    /// Watches the tap devices of a process, from now on.
    fn watch_taps(&mut self, process: ProcessId) -> Vec<TapKey>;
    /// What a watched device has carried.
    fn tap(&self, key: TapKey) -> Option<Tap>;
    /// Where the CPU quota of a process' cgroup shows.
    fn quota_file(&mut self, process: ProcessId) -> Option<PathBuf>;
    /// How long the CPU quota behind this file has held its cgroup back so far, ns; `None` without one.
    fn quota_throttled_ns(&mut self, file: &Path) -> Option<u64>;
    /// Whether a process is stopped by a signal.
    fn is_stopped(&mut self, process: ProcessId) -> bool;
    /// Run-queue waits of a thread that still holds its slot.
    fn thread_waits(&self, slot: u32) -> Option<Quantiles>;
}

/// One look at the kernel side.
#[derive(Clone, Debug)]
pub struct Observation {
    /// `CLOCK_MONOTONIC` ns.
    pub now_ns: u64,
    /// `CLOCK_BOOTTIME` minus `CLOCK_MONOTONIC`, ns.
    pub boot_offset_ns: u64,
    /// Wall time.
    pub wall: WallClock,
    /// Whether a second has passed: rates and history advance.
    pub tick: bool,
    /// Flows that hold a slot.
    pub flows: Vec<FlowReading>,
    /// Threads that hold a slot.
    pub threads: Vec<ThreadReading>,
    /// Processes that hold a slot.
    pub processes: Vec<ProcessReading>,
    /// Memory that processes have registered with RDMA devices.
    pub memory: Vec<Arc<MemoryReading>>,
    /// Phase functions passed since the last look, in order.
    pub marks: Vec<MarkReading>,
    /// What migrators said of errors since the last look, in order.
    pub texts: Vec<TextReading>,
}

/// What the kernel side is to do next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    /// Processes whose threads are to be measured, or no longer.
    pub watch: Vec<(u32, bool)>,
    /// Flow slots to free.
    pub release_flows: Vec<u32>,
    /// Thread slots to free.
    pub release_threads: Vec<u32>,
    /// Process slots to free.
    pub release_processes: Vec<u32>,
    /// Processes to be given a slot: a flow of theirs is a migration.
    pub adopt: Vec<ProcessId>,
    /// Tap devices to watch no longer.
    pub release_taps: Vec<TapKey>,
    /// Roles found out by behaviour: thread slot and role number.
    pub roles: Vec<(u32, u32)>,
}

/// Bounds and thresholds.
#[derive(Clone, Debug)]
pub struct Options {
    /// Flows of one process about which nothing is known, beyond which the oldest are given up.
    pub crowd: usize,
    /// The same of all flows on migration ports whose process is not recognised.
    pub strangers: usize,
    /// Finished records that are kept.
    pub max_finished: usize,
    /// Samples of history per migration.
    pub history: usize,
    /// Mode thresholds.
    pub mode: ModeThresholds,
    /// Tells DWCP v1 from v3; `None` without a rule.
    pub v1: Option<V1Rule>,
}

/// Takes in a flow's reading. What a socket counted never goes back.
pub(super) fn take_in(end: &mut EndState, reading: &FlowReading, world: &impl World) {
    let tid = if reading.send_tid != 0 { reading.send_tid } else { reading.recv_tid };
    let Some(flow) = end.flows.get_mut(&key(reading)) else {
        let flow = StreamFlow {
            reading: reading.clone(),
            rtt: world.flow_rtt(reading.slot),
            thread_comm: thread_comm(&end.threads, &end.facts, tid),
        };
        end.flows.insert(key(reading), flow);
        end.fold();
        return;
    };
    let before = flow.reading.payload;
    if reading.closed || flow.reading.snapshot.delivered != reading.snapshot.delivered {
        flow.rtt = world.flow_rtt(reading.slot);
    }
    if flow.thread_comm.is_none()
        || (flow.reading.send_tid, flow.reading.recv_tid) != (reading.send_tid, reading.recv_tid)
    {
        flow.thread_comm = thread_comm(&end.threads, &end.facts, tid).or(flow.thread_comm.take());
    }
    flow.reading.clone_from(reading);
    if !reading.closed {
        // A sweep may read a socket in the middle of a change; the record of a closed one is exact.
        let now = &mut flow.reading.payload;
        now.queued = now.queued.max(before.queued);
        now.delivered = now.delivered.max(before.delivered);
        now.received = now.received.max(before.received);
    }
}

/// A thread that was created after the first connection did all its work for this migration, also before it was measured.
/// `born_ns`: the migration's start and the difference to `CLOCK_MONOTONIC`, `CLOCK_BOOTTIME` ns.
pub(super) fn since_birth(
    reading: &ThreadReading,
    (started_ns, offset_ns): (u64, u64),
) -> ThreadReading {
    let mut reading = reading.clone();
    if reading.start_boottime_ns >= started_ns {
        let at_ns = reading.start_boottime_ns.saturating_sub(offset_ns);
        reading.base = SchedTotals { at_ns, ..SchedTotals::default() };
    }
    reading
}

/// The name of a thread of an end.
fn thread_comm(
    threads: &BTreeMap<u32, EndThread>,
    facts: &ProcessFacts,
    tid: u32,
) -> Option<String> {
    let named = threads.get(&tid).map(|thread| &thread.reading.comm);
    let comm = named.or_else(|| {
        facts.threads.iter().find(|thread| thread.tid == tid).map(|thread| &thread.comm)
    });
    comm.cloned()
}
