//! The one-second cycle: reads the kernel side, advances the registry, publishes.

mod answers;
pub mod published;
mod wake;
mod watchdog;

use std::{
    collections::BTreeSet,
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use aya::maps::{MapData, RingBuf};
use dwcp_observer_ebpf::{
    EVENT_FREEZE, EVENT_PROCESS,
    hist::{HOST_HIST_RTT, HOST_HIST_RUNQ, HostHist},
};
use jiff::Timestamp;
use tokio::time::{MissedTickBehavior, interval_at};

pub use self::wake::pollable;
use self::{
    wake::{listen, readable, wait},
    watchdog::Watchdog,
};
use crate::{
    anomaly::{
        self, features,
        feed::{Feed, Inputs, Transfer},
    },
    component::{self, Migrations},
    config::ProgramStats as StatsMode,
    cycle::published::{Board, Published},
    history::Event,
    identify::rules::{RuleSet, may_be_qemu},
    keeper::{Kernel, ProcessReading, decode_event},
    kernel::{clock_error_seconds, clock_ns, stats},
    ledger::{Ledger, Second},
    migration::{
        clock::WallClock,
        entry::Entry,
        look::{Actions, Observation},
        quantiles::exposition,
        questions::Answers,
        registry::{self, Registry},
    },
    model::{
        facts::ProcessFacts,
        histogram::Histogram,
        record::ThreadRole,
        status::{CycleStats, KernelStatus},
    },
    phase::{self, MarkReading, TextReading},
    process::{self, CommandLines, Scanner, host::HostSampler},
    rdma::{self, MemoryReading, Rdma, RdmaStatus},
    sched,
    sla::decide::Anomaly,
    tcp::FlowReading,
};

/// Length of a cycle.
const PERIOD: Duration = Duration::from_secs(1);
/// A lifecycle event is looked at this long after it came, together with those that follow it.
const GATHER: Duration = Duration::from_millis(10);
/// While a look is due, events are read this often.
const NOTICE: Duration = Duration::from_millis(5);
/// Least time between two looks outside the cycle, on average, and how many times the last look's own duration it is at least: however
/// many events come, looks take at most a tenth of a core.
const LEAST_GAP: Duration = Duration::from_millis(50);
const LEAST_GAP_LOOKS: u32 = 10;
/// Looks that may come without that gap after a quiet time: a connection is opened, it carries data, its process is gone.
const BURST: u32 = 4;
/// With sampled program statistics: how often and for how long the kernel times program runs.
const STATS_EVERY: u64 = 10;
const STATS_FOR: Duration = Duration::from_millis(100);
/// Without a migration, tasks are swept this often, in cycles: events tell of new ones, this repairs what they missed.
const IDLE_SWEEP_EVERY: u64 = 10;
/// Buckets of the cycle's own duration and jitter, seconds.
const CYCLE_BUCKETS: [f64; 10] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0];

/// What a look costs and finds, and what the observer needs between looks.
pub struct Cycle {
    kernel: Kernel,
    registry: Registry,
    rules: RuleSet,
    board: Board,
    scanner: Scanner,
    lines: CommandLines,
    host: HostSampler,
    host_usage: Option<process::host::HostUsage>,
    started_at: Timestamp,
    stats_mode: StatsMode,
    stats_fd: Option<OwnedFd>,
    number: u64,
    last_look: Duration,
    kernel_status: KernelStatus,
    cycle: CycleStats,
    rdma: Rdma,
    rdma_flows: rdma::Flows,
    rdma_tally: rdma::Tally,
    rdma_status: RdmaStatus,
    ledger: Ledger,
    components: component::Shared,
    anomalies: Feed,
    /// Phase functions passed since the last look.
    marks: Vec<MarkReading>,
    /// What migrators said of errors since.
    texts: Vec<TextReading>,
}

impl Cycle {
    /// A cycle over an attached kernel side.
    #[must_use]
    pub fn new(
        kernel: Kernel,
        registry: Registry,
        rules: RuleSet,
        board: Board,
        stats_mode: StatsMode,
        rdma: Rdma,
        ledger: Ledger,
    ) -> Self {
        let histogram = || Histogram::new(Arc::from(CYCLE_BUCKETS));
        Self {
            kernel,
            registry,
            rules,
            board,
            scanner: Scanner::default(),
            lines: CommandLines::new(),
            host: HostSampler::default(),
            host_usage: None,
            started_at: Timestamp::now(),
            stats_fd: None,
            stats_mode,
            number: 0,
            last_look: Duration::ZERO,
            kernel_status: KernelStatus::default(),
            marks: Vec::new(),
            texts: Vec::new(),
            rdma,
            rdma_flows: rdma::Flows::default(),
            rdma_tally: rdma::Tally::default(),
            rdma_status: RdmaStatus::default(),
            ledger,
            components: component::Shared::default(),
            anomalies: Feed::default(),
            cycle: CycleStats {
                duration: histogram(),
                jitter: histogram(),
                missed: 0,
                period: PERIOD,
            },
        }
    }

    /// Publishes what is said of the components along with the rest.
    #[must_use]
    pub fn with_components(mut self, components: component::Shared) -> Self {
        self.components = components;
        self
    }

    /// Looks for anomalies with these signals.
    #[must_use]
    pub fn with_anomalies(mut self, anomalies: Feed) -> Self {
        self.anomalies = anomalies;
        self
    }

    /// Runs until `stop` is ready. What the kernel holds is gone when this returns and the cycle is dropped.
    ///
    /// # Errors
    /// The lifecycle ring buffer cannot be polled.
    pub async fn run(&mut self, stop: impl Future<Output = ()>) -> io::Result<()> {
        tokio::pin!(stop);
        let mut events = self
            .kernel
            .take_events()
            .map(pollable)
            .transpose()?
            .ok_or_else(|| io::Error::other("the lifecycle ring buffer is missing"))?;
        if self.stats_mode == StatsMode::Always {
            self.stats_fd = stats::enable()
                .inspect_err(|error| log::warn!("no program statistics: {error}"))
                .ok();
        }
        self.find_by_proc();
        self.look(true);
        let mut due = tokio::time::Instant::now() + PERIOD;
        let mut ticks = interval_at(due, PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut early: Option<tokio::time::Instant> = None;
        let mut connections = None;
        let watchdog = Watchdog::from_environment();
        let phases = self.kernel.phases_fd().and_then(listen);
        let lines = self.lines.wake_fd().and_then(listen);
        // The looks outside the cycle were as many as if they had kept their distance, and the last one would keep it until then.
        let mut paid_until = tokio::time::Instant::now();
        let mut stats_until: Option<tokio::time::Instant> = None;
        let mut gathered: Option<tokio::time::Instant> = None;
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                at = ticks.tick() => {
                    self.keep_time(at, &mut due);
                    self.number += 1;
                    if self.stats_mode == StatsMode::Sampled && self.number % STATS_EVERY == 1 {
                        self.stats_fd = stats::enable().inspect_err(|error| log::debug!("no program statistics: {error}")).ok();
                        stats_until = Some(tokio::time::Instant::now() + STATS_FOR);
                    }
                    self.find_by_proc();
                    self.drain(events.get_mut());
                    // Readers that do not answer are given up.
                    self.kernel.collect_phases();
                    self.look(true);
                    watchdog.alive();
                    // RDMA may come later than the observer.
                    connections = connections.or_else(|| self.rdma.wake_fd().and_then(listen));
                }
                () = readable(connections.as_ref()), if early.is_none() => {
                    early = Some(self.next_look(paid_until));
                }
                // A new migrator is probed before the look that others wait for.
                () = wait(gathered) => {
                    self.drain(events.get_mut());
                    gathered = early.map(|_| tokio::time::Instant::now() + NOTICE);
                }
                () = readable(phases.as_ref()) => {
                    if self.kernel.collect_phases() && early.is_none() {
                        early = Some(self.next_look(paid_until));
                    }
                }
                () = readable(lines.as_ref()) => {
                    if self.lines.has_news() && early.is_none() {
                        early = Some(self.next_look(paid_until));
                    }
                }
                () = wait(stats_until) => {
                    self.stats_fd = None;
                    stats_until = None;
                }
                () = wait(early) => {
                    // What came meanwhile needs no look of its own.
                    self.drain(events.get_mut());
                    early = None;
                    self.look(false);
                    paid_until = paid_until.max(tokio::time::Instant::now()) + self.gap();
                }
                guard = events.readable_mut(), if early.is_none() => {
                    let mut guard = guard?;
                    self.drain(guard.get_inner_mut());
                    guard.clear_ready();
                    early = Some(self.next_look(paid_until));
                    gathered = Some(tokio::time::Instant::now() + NOTICE);
                }
            }
        }
    }

    /// When an event that has just come is looked at.
    fn next_look(&self, paid_until: tokio::time::Instant) -> tokio::time::Instant {
        let soon = tokio::time::Instant::now() + GATHER;
        paid_until.checked_sub(self.gap() * (BURST - 1)).map_or(soon, |earliest| soon.max(earliest))
    }

    fn gap(&self) -> Duration {
        LEAST_GAP.max(self.last_look * LEAST_GAP_LOOKS)
    }

    fn keep_time(&mut self, at: tokio::time::Instant, due: &mut tokio::time::Instant) {
        let late = tokio::time::Instant::now().saturating_duration_since(*due);
        self.cycle.jitter.observe(late.as_secs_f64());
        let next = at + PERIOD;
        let skipped =
            next.saturating_duration_since(*due + PERIOD).as_secs_f64() / PERIOD.as_secs_f64();
        self.cycle.missed += skipped.round() as u64;
        *due = next;
    }

    /// Processes that only `/proc` can recognise: by executable, cgroup or command line.
    fn find_by_proc(&mut self) {
        if self.number != 0 && !self.rules.needs_scan() {
            return;
        }
        let rule = |facts: &ProcessFacts| self.rules.scan(facts);
        let lines = self.rules.needs_cmdline().then_some(&mut self.lines);
        for (process, rule) in self.scanner.scan(rule, lines) {
            self.kernel.adopt(process, rule);
        }
    }

    /// Empties the ring buffer: marks are kept for the next look, all other records are in the arrays.
    fn drain(&mut self, events: &mut RingBuf<MapData>) {
        while let Some(item) = events.next() {
            if let Some(mark) = phase::decode(&item) {
                log::trace!("{mark:?}");
                self.marks.push(mark);
            } else if let Some(text) = phase::decode_text(&item) {
                log::trace!("{text:?}");
                self.texts.push(text);
            } else if let Some(event) = decode_event(&item) {
                log::trace!("kernel event {event:?}");
                if event.kind == EVENT_FREEZE {
                    self.kernel.freeze_began(event.slot);
                } else if event.kind == EVENT_PROCESS {
                    let lines = &mut self.lines;
                    self.kernel.probe_new(event.slot, |process| {
                        // The look that comes with it asks for its arguments.
                        lines.expect(process.id());
                        process::name_facts_of(process.id())
                            .is_some_and(|facts| may_be_qemu(process.rule, &facts))
                    });
                }
            }
        }
    }

    /// One look at the kernel side, and what follows from it.
    fn look(&mut self, tick: bool) {
        let begun = Instant::now();
        self.lines.renew();
        let watched: BTreeSet<u32> = self.registry.watched_pids();
        let due = self.number.is_multiple_of(IDLE_SWEEP_EVERY) || self.kernel.processes_are_full();
        if !watched.is_empty() || (tick && due) {
            self.kernel.sweep_tasks();
        }
        // Between two ticks the events of the sockets are enough.
        for pid in watched.into_iter().filter(|_| tick) {
            self.kernel.sweep_sockets(Some(pid));
        }
        if tick && self.number.is_multiple_of(IDLE_SWEEP_EVERY) {
            for pid in self.registry.undecided_pids() {
                self.kernel.sweep_sockets(Some(pid));
            }
        }
        let mut observation = self.observe(tick);
        if self.step(&mut observation) {
            // What they were adopted for is theirs now, and may be over before the next look.
            let answers = observation.answers.of_processes();
            observation = Observation { answers, ..self.observe(false) };
            self.step(&mut observation);
        }
        observation.tick = tick;
        if tick {
            self.host_usage = Some(self.host.sample());
            self.kernel_status = self.kernel_status();
        }
        self.publish(&observation);
        self.last_look = begun.elapsed();
        if tick {
            self.cycle.duration.observe(self.last_look.as_secs_f64());
        }
    }

    /// Lets the registry take in a look. True when it had processes adopted.
    fn step(&mut self, observation: &mut Observation) -> bool {
        let Self { registry, kernel, lines, .. } = self;
        let mut adopted = false;
        registry.look(observation, |actions, answers| {
            adopted |= !actions.adopt.is_empty();
            act(kernel, &actions);
            answers::answer(kernel, lines, actions.ask, answers);
        });
        adopted
    }

    fn observe(&mut self, tick: bool) -> Observation {
        let clock = self.kernel.clock();
        let processes = self.kernel.processes();
        self.kernel.follow_freezes(&processes);
        let mut flows = self.kernel.flows(clock);
        let boot_offset_ns =
            clock_ns(libc::CLOCK_BOOTTIME).saturating_sub(clock_ns(libc::CLOCK_MONOTONIC));
        registry::find_owners(&mut flows, &processes, boot_offset_ns);
        let memory = self.look_at_rdma(clock.monotonic_ns, &processes, &mut flows);
        let offset_ns = i128::from(clock_ns(libc::CLOCK_REALTIME))
            - i128::from(clock_ns(libc::CLOCK_MONOTONIC));
        Observation {
            now_ns: clock.monotonic_ns,
            boot_offset_ns,
            wall: WallClock { offset_ns, max_error_seconds: clock_error_seconds() },
            tick,
            flows,
            threads: self.kernel.threads(),
            processes,
            memory,
            marks: std::mem::take(&mut self.marks),
            texts: std::mem::take(&mut self.texts),
            answers: Answers::default(),
        }
    }

    /// Queue pairs of processes that may migrate become flows; what is registered is handed back.
    fn look_at_rdma(
        &mut self,
        now_ns: u64,
        processes: &[ProcessReading],
        flows: &mut Vec<FlowReading>,
    ) -> Vec<Arc<MemoryReading>> {
        let Some(snapshot) = self.rdma.poll(now_ns) else { return Vec::new() };
        let slots = processes
            .iter()
            .filter(|process| process.slot != 0)
            .map(|process| (process.id(), process.slot))
            .collect();
        flows.extend(self.rdma_flows.of(&snapshot.qps, &slots));
        self.rdma_tally.add(&mut self.rdma_status.totals, &snapshot.qps);
        let memory = snapshot.memory.clone();
        self.rdma_status.take(snapshot);
        memory
    }

    /// What the kernel side does and what it lost; read at each tick.
    fn kernel_status(&mut self) -> KernelStatus {
        let program_stats_duty = match self.stats_mode {
            StatsMode::Off => 0.0,
            StatsMode::Sampled => {
                STATS_FOR.as_secs_f64() / (PERIOD.as_secs_f64() * STATS_EVERY as f64)
            }
            StatsMode::Always => 1.0,
        };
        let host = |which: u32, unit: f64, powers| {
            self.kernel
                .host_histogram(which)
                .map(|hist: Box<HostHist>| exposition(&hist, unit, powers))
        };
        let rtt = host(HOST_HIST_RTT, 1e-6, 3..=24).unwrap_or_default();
        let runqueue = ThreadRole::ALL
            .into_iter()
            .filter_map(|role| {
                Some((role, host(HOST_HIST_RUNQ + sched::role_number(role), 1e-9, 10..=34)?))
            })
            .collect();
        let mut programs = self.kernel.program_stats();
        if let Some(ebpf) = self.rdma.ebpf() {
            programs.extend(stats::programs(ebpf).unwrap_or_default());
        }
        let mut probes = self.kernel.probes().to_vec();
        let mut losses = self.kernel.losses();
        losses.extend(self.lines.losses());
        if let Some(snapshot) = &self.rdma_status.snapshot {
            probes.extend(snapshot.probes.iter().cloned());
            losses.extend(snapshot.losses.iter().copied());
        }
        KernelStatus {
            probes,
            programs,
            program_stats_duty,
            losses,
            maps: self.kernel.map_use(),
            rtt,
            runqueue,
            probe_delay: self.kernel.probe_delay().cloned(),
        }
    }

    fn publish(&mut self, observation: &Observation) {
        let at = Timestamp::now();
        let entries = self.registry.entries(observation.now_ns, observation.wall);
        let components = self.components.view.latest().unwrap_or_default();
        let totals_v1 = self.registry.totals_v1().cloned();
        if observation.tick {
            let blind = self.kernel_status.blind();
            let unhealthy = components.unhealthy();
            let anomalies = self.signal(at, &entries);
            let second = Second {
                entries: &entries,
                totals: self.registry.totals(),
                host: self.host_usage,
                ended_v1: totals_v1.as_ref().map_or(0, |it| it.finished.values().sum()),
                missed_cycles: self.cycle.missed,
                blind: blind.as_deref(),
                anomalies: Some(&anomalies),
                unhealthy: unhealthy.as_deref(),
            };
            self.ledger.second(at, &second);
        } else {
            self.ledger.look(at, &entries);
        }
        let errors = self.registry.totals().errors.values().sum();
        self.components.migrations.publish(Migrations { entries: entries.clone(), errors });
        self.board.publish(Published {
            at,
            started_at: self.started_at,
            entries,
            totals: self.registry.totals().clone(),
            totals_v1,
            components,
            host: self.host_usage,
            kernel: self.kernel_status.clone(),
            rdma: self.rdma_status.clone(),
            cycle: self.cycle.clone(),
            sla: self.ledger.view(),
            history: self.ledger.history(),
            anomalies: self.anomalies.view(),
        });
    }

    /// Judges the second by what is usual, hands new anomalies to the ledger; those that go on.
    fn signal(&mut self, at: Timestamp, entries: &[Entry]) -> Vec<Anomaly> {
        let seconds = self.registry.seconds();
        let features: Vec<_> = seconds.iter().map(|it| features::of_migration(it.second)).collect();
        let transfers: Vec<Transfer<'_>> = seconds
            .iter()
            .zip(&features)
            .map(|(it, features)| Transfer { migration: it.migration, mode: it.mode, features })
            .collect();
        let inputs = Inputs {
            transfers: &transfers,
            entries,
            totals: self.registry.totals(),
            host: self.host_usage,
        };
        for event in self.anomalies.second(at, &inputs) {
            if event.phase == anomaly::Phase::Began {
                self.ledger.note(Event {
                    at,
                    kind: "anomaly".to_owned(),
                    subject: event.kind.as_str().to_owned(),
                    severity: event.severity.as_str().to_owned(),
                    text: event.why(),
                });
            }
        }
        let active = &self.anomalies.view().active;
        let lasting = active.iter().map(|told| Anomaly {
            anomaly_type: told.event.kind.as_str().to_owned(),
            severity: told.event.severity,
            why: told.why.clone(),
        });
        lasting.collect()
    }
}

/// What the registry wants done, but for its questions.
fn act(kernel: &mut Kernel, actions: &Actions) {
    let Actions {
        watch,
        release_flows,
        release_threads,
        release_processes,
        adopt,
        release_taps,
        roles,
        ask: _,
    } = actions;
    for key in release_taps {
        kernel.release_tap(*key);
    }
    for (slot, on) in watch {
        kernel.watch(*slot, *on);
    }
    for (slot, role) in roles {
        kernel.set_role(*slot, *role);
    }
    for slot in release_flows {
        kernel.release_flow(*slot);
    }
    for slot in release_threads {
        kernel.release_thread(*slot);
    }
    for slot in release_processes {
        kernel.release_process(*slot);
    }
    for process in adopt {
        kernel.adopt(*process, 0);
        kernel.sweep_sockets(Some(process.pid));
    }
    if watch.iter().any(|(_, on)| *on) {
        // Threads of a newly watched process get their records now, not at the next cycle.
        kernel.sweep_tasks();
    }
}
