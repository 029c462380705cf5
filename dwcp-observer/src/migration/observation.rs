//! One look at the kernel side: what the registry is given, what it wants done, and how readings are taken in.

use std::{collections::BTreeMap, sync::Arc};

use dwcp_observer_ebpf::{netdev::TapKey, sched::SchedTotals};

use super::{
    clock::WallClock,
    end::{EndState, EndThread, StreamFlow},
    index::key,
    questions::{Answers, Questions},
    v1::V1Rule,
};
use crate::{
    config::ModeThresholds,
    keeper::ProcessReading,
    model::facts::{ProcessFacts, ProcessId},
    phase::{MarkReading, TextReading},
    rdma::MemoryReading,
    sched::ThreadReading,
    tcp::FlowReading,
};

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
    /// What the registry has asked in this look, answered.
    pub answers: Answers,
}

/// What the kernel side is to do next.
#[derive(Clone, Debug, Default)]
pub struct Actions {
    /// What is to be answered before the look is over.
    pub ask: Questions,
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

/// Takes in a flow's reading, and asks for its RTT where that has changed. What a socket counted never goes back.
pub(super) fn take_in(end: &mut EndState, reading: &FlowReading, ask: &mut Questions) {
    let tid = if reading.send_tid != 0 { reading.send_tid } else { reading.recv_tid };
    let Some(flow) = end.flows.get_mut(&key(reading)) else {
        let flow = StreamFlow {
            reading: reading.clone(),
            rtt: None,
            thread_comm: thread_comm(&end.threads, &end.facts, tid),
        };
        ask.rtts.push(key(reading));
        end.flows.insert(key(reading), flow);
        end.fold();
        return;
    };
    let before = flow.reading.payload;
    if reading.closed || flow.reading.snapshot.delivered != reading.snapshot.delivered {
        ask.rtts.push(key(reading));
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
