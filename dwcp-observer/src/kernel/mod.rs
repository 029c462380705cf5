//! The kernel side: loading, attaching, reading. Everything above sees plain values.

pub mod btf;
mod host;
pub mod ladder;
pub mod layout;
pub mod load;
mod prealloc;
pub mod stats;
pub mod survey;
pub mod sys;

use std::{collections::BTreeSet, io, os::fd::AsFd as _, ptr::NonNull};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf, Stack},
    programs::Program,
};
use dwcp_observer_ebpf::{
    Event, LEVEL_FLOWS, LEVEL_PROCESSES, LEVEL_THREADS, LEVELS, SLOT_CLOSED, SLOT_FREE,
    counters::{Counter, CounterBank},
    hist::{Hist, HostHist, RTT_BUCKETS, RUNQ_BUCKETS},
    netdev::{Tap, TapKey},
    process::{COMM_RULES, CommRule, FlowOverflow, PORT_WORDS, Process},
    sched::Thread,
    tcp::Flow,
};

use self::sys::{Mapped, peek, poke};
pub use self::{
    host::{clock_error_seconds, clock_ns, privileged},
    load::{LoadError, LoadOptions},
};
use crate::{
    netdev,
    phase::{
        self, FUNCTIONS,
        attach::{Attacher, Coverage},
    },
    publish::{MapUse, ProbeStatus},
    sched::{self, ThreadReading},
    tcp::{self, Clock, FlowReading},
};

macro_rules! pod {
    ($($name:ident: $inner:ty;)*) => {
        $(
            /// The ABI type, readable through aya's maps.
            #[derive(Clone, Copy)]
            #[repr(transparent)]
            struct $name($inner);
            // SAFETY: the ABI type is repr(C), Copy, without padding, and valid for any bit pattern.
            unsafe impl aya::Pod for $name {}
        )*
    };
}

pod! {
    PodBank: CounterBank;
    PodHist: HostHist;
    PodRtt: Hist<RTT_BUCKETS>;
    PodWaits: Hist<RUNQ_BUCKETS>;
    PodRule: CommRule;
    PodPorts: [u64; PORT_WORDS];
    PodTapKey: TapKey;
    PodTap: Tap;
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
}

/// Slots beyond the level that are looked at: two CPUs that raise it at once may lose the higher one.
const MARGIN: u32 = 256;

/// A set of record slots and the stack of free ones.
struct Slots<T> {
    records: Mapped<T>,
    free: Stack<MapData, u32>,
    map: &'static str,
    level: u32,
    /// In use, as of the last look.
    used: u32,
}

impl<T: Copy> Slots<T> {
    fn new(
        ebpf: &mut Ebpf,
        map: &'static str,
        free: &'static str,
        level: u32,
        first: u32,
    ) -> Result<Self, LoadError> {
        let records = mapped(ebpf, map)?;
        let mut stack: Stack<MapData, u32> =
            take(ebpf, free)?.try_into().map_err(|error| map_error(free, error))?;
        // Last in, first out: low slots are handed out first, so that few pages are touched.
        for slot in (first..records.len()).rev() {
            stack.push(slot, 0).map_err(|error| map_error(free, error))?;
        }
        Ok(Self { records, free: stack, map, level, used: 0 })
    }

    fn give_back(&mut self, slot: u32) {
        if let Err(error) = self.free.push(slot, 0) {
            log::warn!("{}: slot {slot} is lost: {error}", self.map);
        }
    }

    /// Slots that were ever used, with their state.
    fn visit(&mut self, levels: &Mapped<Levels>, mut each: impl FnMut(u32, NonNull<T>) -> bool) {
        let level = levels.slot(0).map_or(0, |levels| peek!(levels, 0)[self.level as usize]);
        let top = level.saturating_add(MARGIN).min(self.records.len());
        let mut used = 0;
        for slot in 0..top {
            if let Some(record) = self.records.slot(slot) {
                used += u32::from(each(slot, record));
            }
        }
        self.used = used;
    }
}

/// The level map's one value.
#[derive(Clone, Copy)]
#[repr(C)]
struct Levels([u32; LEVELS + 1]);

/// The attached programs and their maps. Dropping it detaches and removes everything.
pub struct Kernel {
    ebpf: Ebpf,
    _links: Vec<load::Link>,
    on_demand: Vec<(&'static str, &'static str)>,
    /// Links of the hooks that are attached on demand; empty while nothing is watched.
    demanded: Vec<load::Link>,
    /// Slots of watched processes.
    watched: BTreeSet<u32>,
    probes: Vec<ProbeStatus>,
    maps: Maps,
    jiffy_ns: u64,
    /// Whether changes of the congestion state are seen (Linux 5.17).
    congestion: bool,
    /// Whether this kernel's iterators take a process filter (6.1 and later).
    filters: bool,
    /// `None`: the configuration leaves phase functions alone.
    phases: Option<Attacher>,
}

/// The maps that the agent works with.
struct Maps {
    flows: Slots<Flow>,
    threads: Slots<Thread>,
    processes: Slots<Process>,
    levels: Mapped<Levels>,
    counters: PerCpuArray<MapData, PodBank>,
    histograms: PerCpuArray<MapData, PodHist>,
    flow_rtt: Array<MapData, PodRtt>,
    thread_waits: Array<MapData, PodWaits>,
    wanted: HashMap<MapData, u32, u32>,
    taps: HashMap<MapData, PodTapKey, PodTap>,
}

fn take(ebpf: &mut Ebpf, map: &'static str) -> Result<Map, LoadError> {
    ebpf.take_map(map)
        .ok_or_else(|| LoadError::Map { map, source: anyhow::anyhow!("not in the object") })
}

fn borrow<'a, T: aya::Pod>(
    ebpf: &'a mut Ebpf,
    map: &'static str,
) -> Result<Array<&'a mut MapData, T>, LoadError> {
    let found = ebpf
        .map_mut(map)
        .ok_or_else(|| LoadError::Map { map, source: anyhow::anyhow!("not in the object") })?;
    found.try_into().map_err(|error| map_error(map, error))
}

fn map_error(
    map: &'static str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> LoadError {
    LoadError::Map { map, source: error.into() }
}

/// Maps an array; its descriptor stays with the object, which still needs it to load programs.
fn mapped<T: Copy>(ebpf: &Ebpf, map: &'static str) -> Result<Mapped<T>, LoadError> {
    let Some(Map::Array(data)) = ebpf.map(map) else {
        return Err(LoadError::Map {
            map,
            source: anyhow::anyhow!("is not an array of the object"),
        });
    };
    let info = data.info().map_err(|error| map_error(map, error))?;
    if info.value_size() as usize != size_of::<T>() {
        return Err(LoadError::Map {
            map,
            source: anyhow::anyhow!("holds values of {} bytes", info.value_size()),
        });
    }
    Mapped::new(data.fd(), info.max_entries()).map_err(|error| map_error(map, error))
}

impl Maps {
    /// Fills the rules and the stacks of free slots, before anything is attached.
    fn prepare(
        ebpf: &mut Ebpf,
        rules: &[CommRule],
        ports: &[u64; PORT_WORDS],
    ) -> Result<Self, LoadError> {
        let mut table: Array<&mut MapData, PodRule> = borrow(ebpf, "COMM_RULE")?;
        for (index, rule) in (0..COMM_RULES as u32).zip(rules) {
            table.set(index, PodRule(*rule), 0).map_err(|error| map_error("COMM_RULE", error))?;
        }
        let mut bitmap: Array<&mut MapData, PodPorts> = borrow(ebpf, "PORTS")?;
        bitmap.set(0, PodPorts(*ports), 0).map_err(|error| map_error("PORTS", error))?;
        Ok(Self {
            flows: Slots::new(ebpf, "FLOWS", "FLOW_FREE", LEVEL_FLOWS, 0)?,
            threads: Slots::new(ebpf, "THREADS", "THREAD_FREE", LEVEL_THREADS, 0)?,
            processes: Slots::new(ebpf, "PROCESSES", "PROCESS_FREE", LEVEL_PROCESSES, 1)?,
            levels: mapped(ebpf, "LEVEL")?,
            counters: take(ebpf, "COUNTERS")?
                .try_into()
                .map_err(|error| map_error("COUNTERS", error))?,
            histograms: take(ebpf, "HOST_HIST")?
                .try_into()
                .map_err(|error| map_error("HOST_HIST", error))?,
            flow_rtt: take(ebpf, "FLOW_RTT")?
                .try_into()
                .map_err(|error| map_error("FLOW_RTT", error))?,
            thread_waits: take(ebpf, "THREAD_WAITS")?
                .try_into()
                .map_err(|error| map_error("THREAD_WAITS", error))?,
            wanted: take(ebpf, "WANTED")?.try_into().map_err(|error| map_error("WANTED", error))?,
            taps: take(ebpf, "TAPS")?.try_into().map_err(|error| map_error("TAPS", error))?,
        })
    }
}

impl Kernel {
    /// Loads the object, programs the rules, attaches, and sweeps once for what is already there.
    ///
    /// # Errors
    /// [`LoadError`]; nothing stays in the kernel.
    pub fn load(
        options: &LoadOptions,
        rules: &[CommRule],
        ports: &[u64; PORT_WORDS],
    ) -> Result<Self, LoadError> {
        let loaded = load::load(options, |ebpf| Maps::prepare(ebpf, rules, ports))?;
        for reason in &loaded.refused {
            log::info!("a lower rung is used: {reason}");
        }
        for field in &loaded.missing_fields {
            log::warn!("this kernel has no {field}: what rests on it is missing from the output");
        }
        let mut ebpf = loaded.ebpf;
        let mut probes = loaded.probes;
        let congestion =
            probes.iter().any(|probe| probe.probe == "tcp_cong_state_set" && probe.rung.is_some());
        if options.phase_functions {
            probes.extend(phase::attach::load(&mut ebpf));
        }
        let mut kernel = Self {
            ebpf,
            _links: loaded.links,
            on_demand: loaded.on_demand,
            demanded: Vec::new(),
            watched: BTreeSet::new(),
            probes,
            maps: loaded.prepared,
            jiffy_ns: host::jiffy_ns(),
            congestion,
            filters: true,
            phases: options.phase_functions.then(Attacher::default),
        };
        kernel.sweep_tasks();
        kernel.sweep_sockets(None);
        Ok(kernel)
    }

    /// One per hook.
    #[must_use]
    pub fn probes(&self) -> &[ProbeStatus] {
        &self.probes
    }

    /// The eBPF object, for its log map and its programs.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// The lifecycle ring buffer, once.
    pub fn take_events(&mut self) -> Option<RingBuf<MapData>> {
        self.ebpf.take_map("EVENTS")?.try_into().ok()
    }

    /// `CLOCK_MONOTONIC` now, and the length of a jiffy.
    #[must_use]
    pub fn clock(&self) -> Clock {
        Clock { monotonic_ns: clock_ns(libc::CLOCK_MONOTONIC), jiffy_ns: self.jiffy_ns }
    }

    /// Adopts processes by name or by [`Self::adopt`], new threads of known ones, and refreshes all thread totals.
    pub fn sweep_tasks(&mut self) {
        if let Err(error) = self.run("sweep_tasks", None) {
            log::warn!("task sweep failed: {error}");
        }
    }

    /// Reads the sockets of one process, or of all, without waiting for a packet.
    pub fn sweep_sockets(&mut self, process: Option<u32>) {
        let filter = process.filter(|_| self.filters);
        match self.run("sweep_sockets", filter) {
            Err(error) if filter.is_some() && error.raw_os_error() == Some(libc::EINVAL) => {
                self.filters = false;
                self.sweep_sockets(None);
            }
            // The process is gone: its sockets are closed or closing, which events tell.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) => log::warn!("socket sweep failed: {error}"),
            Ok(()) => {}
        }
    }

    fn run(&mut self, program: &str, process: Option<u32>) -> io::Result<()> {
        let Some(Program::Iter(program)) = self.ebpf.program(program) else {
            return Err(io::Error::other("the iterator is not in the object"));
        };
        let fd = program.fd().map_err(io::Error::other)?;
        sys::run_iterator(fd.as_fd(), process)
    }

    /// Probes the phase functions of a process' executable, if that has not been done. `None` when the process is gone.
    pub fn probe_phases(&mut self, pid: u32) -> Option<Coverage> {
        let Some(phases) = &mut self.phases else {
            return Some(Coverage::Unprobed("is not probed, by the configuration".to_owned()));
        };
        let coverage = phases.attach(&mut self.ebpf, pid);
        self.mark_phases();
        coverage
    }

    /// Whether the phase functions of some executable are probed.
    fn mark_phases(&mut self) {
        let attached = self.phases.as_ref().is_some_and(Attacher::is_attached);
        for function in FUNCTIONS {
            for probe in self.probes.iter_mut().filter(|probe| probe.probe == function.place) {
                probe.attached = attached && probe.rung.is_some();
            }
        }
    }

    /// Adopts a process that was recognised by other means than its name.
    pub fn adopt(&mut self, tgid: u32, rule: u32) {
        if let Err(error) = self.maps.wanted.insert(tgid, rule, 0) {
            log::warn!("process {tgid} cannot be tracked: {error}");
            return;
        }
        self.sweep_tasks();
        // The id may be another process' tomorrow.
        if let Err(error) = self.maps.wanted.remove(&tgid) {
            log::warn!("process {tgid} stays wanted: {error}");
        }
    }

    /// All flows that hold a slot.
    #[must_use]
    pub fn flows(&mut self, clock: Clock) -> Vec<FlowReading> {
        let mut readings = Vec::with_capacity(self.maps.flows.used as usize);
        let congestion = self.congestion;
        self.maps.flows.visit(&self.maps.levels, |slot, record| {
            let used = peek!(record, state) != SLOT_FREE;
            if used {
                readings.push(tcp::read(slot, record, clock, congestion));
            }
            used
        });
        readings
    }

    /// The RTT samples of a flow, as long as it holds its slot.
    #[must_use]
    pub fn flow_rtt(&self, slot: u32) -> Option<Hist<RTT_BUCKETS>> {
        self.maps.flow_rtt.get(&slot, 0).ok().map(|rtt| rtt.0)
    }

    /// Frees the slot of a closed flow.
    pub fn release_flow(&mut self, slot: u32) {
        if let Some(record) = self.maps.flows.records.slot(slot)
            && peek!(record, state) == SLOT_CLOSED
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
        let mut readings = Vec::with_capacity(self.maps.threads.used as usize);
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
        if let Some(record) = self.maps.threads.records.slot(slot) {
            poke!(record, role, role);
        }
    }

    /// Frees the slot of a thread, alive or not: a live one is no longer measured.
    pub fn release_thread(&mut self, slot: u32) {
        if let Some(record) = self.maps.threads.records.slot(slot)
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
        let mut readings = Vec::with_capacity(self.maps.processes.used as usize + 1);
        self.maps.processes.visit(&self.maps.levels, |slot, record| {
            let used = peek!(record, state) != SLOT_FREE;
            if used || slot == 0 {
                readings.push(read_process(slot, record));
            }
            used
        });
        readings
    }

    /// Watches the packets of a tap device, from now on.
    pub fn watch_tap(&mut self, key: TapKey) {
        if let Err(error) = self.maps.taps.insert(PodTapKey(key), PodTap(Tap::default()), 0) {
            log::warn!("{}: packets are not watched: {error}", netdev::name_of(&key));
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

    /// Starts or stops measuring the threads of a process.
    pub fn watch(&mut self, slot: u32, on: bool) {
        if let Some(record) = self.maps.processes.records.slot(slot) {
            poke!(record, watch, u32::from(on));
        }
        if on {
            self.watched.insert(slot);
        } else {
            self.watched.remove(&slot);
        }
        self.attach_on_demand();
    }

    /// Attaches the scheduler's hooks while a process is watched.
    fn attach_on_demand(&mut self) {
        let wanted = !self.watched.is_empty();
        if wanted != self.demanded.is_empty() {
            return;
        }
        if wanted {
            for (name, hook) in &self.on_demand {
                let Some(program) = self.ebpf.program_mut(name) else { continue };
                match load::attach(program, hook) {
                    Ok(link) => self.demanded.extend(link),
                    // A module that is not loaded yet: then nothing of it runs.
                    Err(error) if load::is_absent(&error) => log::debug!("{hook}: {error}"),
                    Err(error) => log::warn!("{hook} cannot be attached: {error}"),
                }
            }
        } else {
            self.demanded.clear();
        }
        for probe in &mut self.probes {
            if self.on_demand.iter().any(|(_, hook)| *hook == probe.probe) {
                probe.attached = wanted;
            }
        }
    }

    /// Frees the slot of a process that is gone.
    pub fn release_process(&mut self, slot: u32) {
        if slot == 0 {
            return;
        }
        if let Some(record) = self.maps.processes.records.slot(slot)
            && peek!(record, state) == SLOT_CLOSED
        {
            if let Some(phases) = &mut self.phases {
                phases.detach(peek!(record, tgid));
            }
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
        Counter::ALL
            .iter()
            .map(|counter| {
                let sum = banks
                    .iter()
                    .flat_map(|banks| banks.iter())
                    .map(|bank| bank.0.values[*counter as usize])
                    .sum();
                (counter.label(), sum)
            })
            .collect()
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
        vec![
            MapUse { map: "flows", used: flows.used, capacity: flows.records.len() },
            MapUse { map: "threads", used: threads.used, capacity: threads.records.len() },
            MapUse {
                map: "processes",
                used: processes.used,
                capacity: processes.records.len() - 1,
            },
        ]
    }
}

/// Zeroes a histogram for the next user of its slot.
fn clear<T: aya::Pod>(histograms: &mut Array<MapData, T>, slot: u32, zero: T) {
    if let Err(error) = histograms.set(slot, zero, 0) {
        log::warn!("histogram {slot} is not cleared: {error}");
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
    }
}

/// Time in the rate limiter, the present stay included.
fn limited_ns(record: NonNull<Process>) -> u64 {
    let (past, since) = (peek!(record, limited_ns), peek!(record, limited_since_ns));
    let present =
        if since == 0 { 0 } else { clock_ns(libc::CLOCK_MONOTONIC).saturating_sub(since) };
    past + present
}

/// Decodes one entry of the lifecycle ring buffer; `None` when it has another size.
#[must_use]
pub fn decode_event(bytes: &[u8]) -> Option<Event> {
    let words: [u32; 4] = std::array::from_fn(|index| {
        bytes
            .get(index * 4..index * 4 + 4)
            .and_then(|word| word.try_into().ok())
            .map_or(0, u32::from_ne_bytes)
    });
    (bytes.len() == size_of::<Event>()).then_some(Event {
        kind: words[0],
        slot: words[1],
        tgid: words[2],
        reserved: words[3],
    })
}
