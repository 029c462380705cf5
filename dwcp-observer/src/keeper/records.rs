//! Reads the maps: records of flows, threads and processes, watched devices, histograms and counters.

use std::ptr::NonNull;

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuArray},
};
use dwcp_observer_ebpf::{
    LEVEL_FLOWS, LEVEL_PROCESSES, LEVEL_THREADS, SLOT_CLOSED, SLOT_FREE, SLOT_LIVE, SLOT_LOST,
    counters::{COUNTERS, Counter},
    hist::{Hist, HostHist, RTT_BUCKETS, RUNQ_BUCKETS},
    netdev::{Tap, TapKey},
    process::{COMM_RULES, CommRule, FlowOverflow, PORT_WORDS, Process, Wanted},
    sched::Thread,
    tcp::Flow,
};

use super::Kernel;
use crate::kernel::{
    clock_ns,
    maps::{MapError, borrow, mapped, pod, take},
    slots::{Levels, Slots, flow_pools, next_epoch},
    sys::{Mapped, peek, poke},
};
use crate::{
    freeze::{self, FreezeReading},
    model::{facts::ProcessId, status::MapUse},
    netdev,
    phase::{attach::Attacher, remaining::Remaining},
    sched::{self, ThreadReading},
    tcp::{self, Clock, FlowReading},
};

pod! {
    PodBank: [u64; COUNTERS];
    PodHist: HostHist;
    PodRtt: Hist<RTT_BUCKETS>;
    PodWaits: Hist<RUNQ_BUCKETS>;
    PodRule: CommRule;
    PodPorts: [u64; PORT_WORDS];
    PodTapKey: TapKey;
    PodTap: Tap;
    PodWanted: Wanted;
}

/// A process that may migrate, as the kernel side knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessReading {
    /// Its place in the kernel's array; 0 is the overflow of processes without a slot.
    pub slot: u32,
    /// Generation of the slot.
    pub generation: u32,
    /// Process id in the initial pid namespace.
    pub tgid: u32,
    /// Number of the comm rule that matched; 0 when a port did.
    pub rule: u32,
    /// Name when it was recognised.
    pub comm: String,
    /// When it started, `CLOCK_BOOTTIME` ns.
    pub start_boottime_ns: u64,
    /// When it exited, `CLOCK_MONOTONIC` ns; `None` while it lives.
    pub exited_ns: Option<u64>,
    /// How it exited, as `wait(2)` tells.
    pub exit_code: u32,
    /// Its flows without a slot.
    pub overflow: FlowOverflow,
    /// Time in its own rate limiter so far, ns; stays 0 without the probes on `migration_rate_limit`.
    pub limited_ns: u64,
    /// Pages that it has asked for as a postcopy destination.
    pub page_requests: u64,
    /// What it has stopped to dump it.
    pub freeze: Option<FreezeReading>,
    /// What it last told to be left to send.
    pub remaining: Option<Remaining>,
}

impl ProcessReading {
    /// Which process it is.
    #[must_use]
    pub const fn id(&self) -> ProcessId {
        ProcessId::new(self.tgid, self.start_boottime_ns)
    }
}

/// The maps that the agent works with.
pub(super) struct Maps {
    flows: Slots<Flow>,
    threads: Slots<Thread>,
    pub(super) processes: Slots<Process>,
    levels: Mapped<Levels>,
    /// Flows that were left out of a look because they were written all the while.
    torn: u64,
    counters: PerCpuArray<MapData, PodBank>,
    histograms: PerCpuArray<MapData, PodHist>,
    flow_rtt: Array<MapData, PodRtt>,
    thread_waits: Array<MapData, PodWaits>,
    pub(super) wanted: HashMap<MapData, u32, PodWanted>,
    taps: HashMap<MapData, PodTapKey, PodTap>,
}

impl Maps {
    /// Fills the rules and the stacks of free slots, before anything is attached.
    pub(super) fn prepare(
        ebpf: &mut Ebpf,
        rules: &[CommRule],
        ports: &[u64; PORT_WORDS],
    ) -> Result<Self, MapError> {
        let mut table: Array<&mut MapData, PodRule> = borrow(ebpf, "COMM_RULE")?;
        for (index, rule) in (0..COMM_RULES as u32).zip(rules) {
            table
                .set(index, PodRule(*rule), 0)
                .map_err(|error| MapError::new("COMM_RULE", error))?;
        }
        let mut bitmap: Array<&mut MapData, PodPorts> = borrow(ebpf, "PORTS")?;
        bitmap.set(0, PodPorts(*ports), 0).map_err(|error| MapError::new("PORTS", error))?;
        Ok(Self {
            flows: Slots::new(ebpf, "FLOWS", LEVEL_FLOWS, flow_pools)?,
            threads: Slots::new(ebpf, "THREADS", LEVEL_THREADS, |slots| {
                vec![("THREAD_FREE", 0..slots)]
            })?,
            processes: Slots::new(ebpf, "PROCESSES", LEVEL_PROCESSES, |slots| {
                vec![("PROCESS_FREE", 1..slots)]
            })?,
            torn: 0,
            levels: mapped(ebpf, "LEVEL", 1)?,
            counters: take(ebpf, "COUNTERS")?,
            histograms: take(ebpf, "HOST_HIST")?,
            flow_rtt: take(ebpf, "FLOW_RTT")?,
            thread_waits: take(ebpf, "THREAD_WAITS")?,
            wanted: take(ebpf, "WANTED")?,
            taps: take(ebpf, "TAPS")?,
        })
    }
}

impl Maps {
    /// The process in a slot, if there is one.
    pub(super) fn process(&mut self, slot: u32) -> Option<ProcessReading> {
        let record = self.processes.slot(slot)?;
        (peek!(record, state) != SLOT_FREE).then(|| read_process(slot, record))
    }
}

impl Kernel {
    /// All flows that hold a slot.
    #[must_use]
    pub fn flows(&mut self, clock: Clock) -> Vec<FlowReading> {
        let mut readings = Vec::with_capacity(self.maps.flows.used() as usize);
        let congestion = self.congestion;
        let (mut lost, mut torn) = (Vec::new(), 0);
        self.maps.flows.give_back_again();
        self.maps.flows.visit(&self.maps.levels, |slot, record| {
            match peek!(record, state) {
                SLOT_FREE => return false,
                SLOT_LOST => lost.push(slot),
                _ => match tcp::read(slot, record, clock, congestion) {
                    Some(reading) => readings.push(reading),
                    None => torn += 1,
                },
            }
            true
        });
        self.maps.torn += torn;
        for slot in lost {
            self.release_flow(slot);
        }
        readings
    }

    /// The RTT samples of a flow, as long as it holds its slot.
    #[must_use]
    pub fn flow_rtt(&self, slot: u32) -> Option<Hist<RTT_BUCKETS>> {
        self.maps.flow_rtt.get(&slot, 0).ok().map(|rtt| rtt.0)
    }

    /// Frees the slot of a flow that has closed or is given up: should its socket still be there, it counts no more.
    pub fn release_flow(&mut self, slot: u32) {
        if let Some(record) = self.maps.flows.slot(slot)
            && peek!(record, state) != SLOT_FREE
        {
            tcp::reset(record);
            clear(
                &mut self.maps.flow_rtt,
                slot,
                PodRtt(Hist { sum: 0, count: 0, buckets: [0; RTT_BUCKETS] }),
            );
            self.maps.flows.give_back(slot);
        }
    }

    /// All threads that hold a slot.
    #[must_use]
    pub fn threads(&mut self) -> Vec<ThreadReading> {
        let mut readings = Vec::with_capacity(self.maps.threads.used() as usize);
        self.maps.threads.give_back_again();
        self.maps.threads.visit(&self.maps.levels, |slot, record| {
            let used = peek!(record, state) != SLOT_FREE;
            if used {
                readings.push(sched::read(slot, record));
            }
            used
        });
        readings
    }

    /// The run-queue waits of a thread, as long as it holds its slot.
    #[must_use]
    pub fn thread_waits(&self, slot: u32) -> Option<Hist<RUNQ_BUCKETS>> {
        self.maps.thread_waits.get(&slot, 0).ok().map(|waits| waits.0)
    }

    /// Tells the kernel side a thread's role, for the histogram by role.
    pub fn set_role(&mut self, slot: u32, role: u32) {
        if let Some(record) = self.maps.threads.slot(slot) {
            poke!(record, role, role);
        }
    }

    /// Frees the slot of a thread, alive or not: a live one is no longer measured.
    pub fn release_thread(&mut self, slot: u32) {
        if let Some(record) = self.maps.threads.slot(slot)
            && peek!(record, state) != SLOT_FREE
        {
            sched::reset(record);
            clear(
                &mut self.maps.thread_waits,
                slot,
                PodWaits(Hist { sum: 0, count: 0, buckets: [0; RUNQ_BUCKETS] }),
            );
            self.maps.threads.give_back(slot);
        }
    }

    /// All processes that hold a slot, and slot 0, the overflow.
    #[must_use]
    pub fn processes(&mut self) -> Vec<ProcessReading> {
        let mut readings = Vec::with_capacity(self.maps.processes.used() as usize + 1);
        let mut lost = Vec::new();
        self.maps.processes.give_back_again();
        if let Some(record) = self.maps.processes.slot(0) {
            readings.push(read_process(0, record));
        }
        self.maps.processes.visit(&self.maps.levels, |slot, record| {
            match peek!(record, state) {
                SLOT_FREE => return false,
                SLOT_LOST => lost.push(slot),
                _ => readings.push(read_process(slot, record)),
            }
            true
        });
        for slot in lost {
            self.free_process(slot);
        }
        readings
    }

    /// Begins a task sweep: the number that it leaves with each process that it meets, and the processes that it should meet.
    pub(super) fn begin_sweep(&mut self) -> Option<Expected> {
        let mut living = Vec::new();
        self.maps.processes.visit(&self.maps.levels, |slot, record| {
            if peek!(record, state) == SLOT_LIVE {
                living.push((slot, peek!(record, generation)));
            }
            peek!(record, state) != SLOT_FREE
        });
        let epoch = next_epoch(&self.maps.levels)?;
        Some(Expected { epoch, living })
    }

    /// Ends the records of processes that the sweep before this one was the last to meet: nobody told of their end. Two in a row, since a thread
    /// that takes its leader's place by `execve` changes its own.
    pub(super) fn end_sweep(&mut self, expected: &Expected) {
        let now = clock_ns(libc::CLOCK_MONOTONIC);
        for &(slot, generation) in &expected.living {
            let Some(record) = self.maps.processes.slot(slot) else { continue };
            let unseen = expected.epoch.wrapping_sub(peek!(record, seen));
            if unseen >= 2
                && peek!(record, generation) == generation
                && peek!(record, state) == SLOT_LIVE
            {
                log::info!("process {} has exited; its exit event was missed", peek!(record, tgid));
                poke!(record, exited_ns, now);
                poke!(record, state, SLOT_CLOSED);
            }
        }
    }

    /// Watches the packets of a tap device, from now on.
    pub fn watch_tap(&mut self, key: TapKey) {
        if let Err(error) = self.maps.taps.insert(PodTapKey(key), PodTap(Tap::default()), 0) {
            log::warn!("{}: cannot watch the first packet: {error}", netdev::name_of(&key));
        }
    }

    /// What a watched device has carried; `None` when it is not watched.
    #[must_use]
    pub fn tap(&self, key: TapKey) -> Option<Tap> {
        self.maps.taps.get(&PodTapKey(key), 0).ok().map(|tap| tap.0)
    }

    /// Watches a device no longer.
    pub fn release_tap(&mut self, key: TapKey) {
        if let Err(error) = self.maps.taps.remove(&PodTapKey(key)) {
            log::debug!("{}: {error}", netdev::name_of(&key));
        }
    }
    /// Frees the slot of a process that is gone, or of one without a rule whose migration is over.
    pub fn release_process(&mut self, slot: u32) {
        if let Some(record) = self.maps.processes.slot(slot)
            && slot != 0
            && peek!(record, state) != SLOT_FREE
        {
            self.free_process(slot);
        }
    }

    fn free_process(&mut self, slot: u32) {
        if let Some(record) = self.maps.processes.slot(slot) {
            let generation = peek!(record, generation);
            poke!(record, generation, generation.wrapping_add(1));
            poke!(record, state, SLOT_FREE);
            self.maps.processes.give_back(slot);
        }
    }

    /// Named loss counters, summed over CPUs.
    #[must_use]
    pub fn losses(&self) -> Vec<(&'static str, u64)> {
        let banks = self.maps.counters.get(&0, 0).ok();
        let executables = self.phases.iter().flat_map(Attacher::losses);
        let torn = ("snapshots:torn", self.maps.torn);
        let counted = Counter::ALL.iter().map(|counter| {
            let sum = banks
                .iter()
                .flat_map(|banks| banks.iter())
                .map(|bank| bank.0[*counter as usize])
                .sum();
            (counter.label(), sum)
        });
        counted.chain(executables).chain([torn]).collect()
    }

    /// One host-wide histogram, summed over CPUs.
    #[must_use]
    pub fn host_histogram(&self, which: u32) -> Option<Box<HostHist>> {
        let banks = self.maps.histograms.get(&which, 0).ok()?;
        let mut total: Option<Box<HostHist>> = None;
        for bank in banks.iter() {
            match &mut total {
                None => total = Some(Box::new(bank.0)),
                Some(total) => {
                    total.sum += bank.0.sum;
                    for (to, from) in total.buckets.iter_mut().zip(bank.0.buckets) {
                        *to += from;
                    }
                }
            }
        }
        total
    }

    /// Use of the record arrays.
    #[must_use]
    pub fn map_use(&self) -> Vec<MapUse> {
        let Maps { flows, threads, processes, .. } = &self.maps;
        let of = |map, (used, capacity)| MapUse { map, used, capacity };
        vec![
            of("flows", flows.usage(0..2)),
            of("flows_by_port", flows.usage(2..3)),
            of("threads", threads.usage(0..1)),
            of("processes", processes.usage(0..1)),
        ]
    }
}

/// What a task sweep should meet.
pub(super) struct Expected {
    epoch: u32,
    /// Slots and generations of the processes that lived when it began.
    living: Vec<(u32, u32)>,
}

/// Zeroes a histogram for the next user of its slot.
fn clear<T: aya::Pod>(histograms: &mut Array<MapData, T>, slot: u32, zero: T) {
    if let Err(error) = histograms.set(slot, zero, 0) {
        log::warn!("cannot clear histogram {slot}: {error}");
    }
}

fn read_process(slot: u32, record: NonNull<Process>) -> ProcessReading {
    let exited = peek!(record, exited_ns);
    ProcessReading {
        slot,
        generation: peek!(record, generation),
        tgid: peek!(record, tgid),
        rule: peek!(record, rule),
        comm: sched::comm(&peek!(record, comm)),
        start_boottime_ns: peek!(record, start_boottime),
        exited_ns: (exited != 0).then_some(exited),
        exit_code: peek!(record, exit_code),
        overflow: peek!(record, overflow),
        limited_ns: limited_ns(record),
        page_requests: peek!(record, page_requests),
        freeze: freeze::read(&peek!(record, freeze)),
        remaining: remaining(record),
    }
}

/// What was left at the last look; its two numbers may be of looks that follow each other.
fn remaining(record: NonNull<Process>) -> Option<Remaining> {
    let at_ns = peek!(record, remaining_ns);
    (at_ns != 0).then(|| Remaining { bytes: peek!(record, remaining_bytes), at_ns })
}

/// Time in the rate limiter, the present stay included.
fn limited_ns(record: NonNull<Process>) -> u64 {
    let (past, since) = (peek!(record, limited_ns), peek!(record, limited_since_ns));
    let present =
        if since == 0 { 0 } else { clock_ns(libc::CLOCK_MONOTONIC).saturating_sub(since) };
    past + present
}
