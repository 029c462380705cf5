//! All of the cycle that needs privileges: the kernel side, `/proc` and RDMA. It reads what the registry is given, does what the registry
//! wants done, and answers what it asks.

use std::{collections::BTreeSet, io, os::fd::OwnedFd};

use aya::maps::{MapData, RingBuf};
use dwcp_observer_ebpf::{
    EVENT_FREEZE, EVENT_PROCESS,
    hist::{HOST_HIST_RTT, HOST_HIST_RUNQ, HostHist},
};

use super::{answers, rdma::RdmaIntake};
use crate::{
    identify::rules::{RuleSet, may_be_qemu},
    keeper::{Kernel, decode_event},
    kernel::{clock_error_seconds, clock_ns},
    migration::{
        clock::WallClock,
        observation::{Actions, Observation},
        questions::Answers,
        registry::{self, Registry},
    },
    model::{facts::ProcessFacts, quantiles::exposition, record::ThreadRole, status::KernelStatus},
    phase::{self, MarkReading, TextReading},
    process::{self, CommandLines, Scanner},
    rdma::{Rdma, RdmaStatus},
    sched,
};

/// Without a migration, tasks are swept this often, in cycles: events tell of new ones, this repairs what they missed.
const IDLE_SWEEP_EVERY: u64 = 10;

/// What the observer reads and changes of the system.
pub(super) struct System {
    kernel: Kernel,
    rules: RuleSet,
    scanner: Scanner,
    lines: CommandLines,
    rdma: RdmaIntake,
    /// Phase functions passed since the last look.
    marks: Vec<MarkReading>,
    /// What migrators said of errors since.
    texts: Vec<TextReading>,
}

impl System {
    pub(super) fn new(kernel: Kernel, rules: RuleSet, rdma: Rdma) -> Self {
        Self {
            kernel,
            rules,
            scanner: Scanner::default(),
            lines: CommandLines::new(),
            rdma: RdmaIntake::new(rdma),
            marks: Vec::new(),
            texts: Vec::new(),
        }
    }

    /// The lifecycle ring buffer.
    ///
    /// # Errors
    /// It was taken already.
    pub(super) fn take_events(&mut self) -> io::Result<RingBuf<MapData>> {
        let events = self.kernel.take_events();
        events.ok_or_else(|| io::Error::other("the lifecycle ring buffer is missing"))
    }

    /// What becomes readable with news of phase functions.
    pub(super) fn phases_fd(&self) -> Option<OwnedFd> {
        self.kernel.phases_fd()
    }

    /// Takes such news in, and gives up readers that do not answer; true when there was some.
    pub(super) fn collect_phases(&mut self) -> bool {
        self.kernel.collect_phases()
    }

    /// What becomes readable with arguments that were waited for.
    pub(super) fn lines_fd(&self) -> Option<OwnedFd> {
        self.lines.wake_fd()
    }

    /// Whether some have come.
    pub(super) fn has_lines(&mut self) -> bool {
        self.lines.has_news()
    }

    /// What becomes readable with a new RDMA connection; `None` as long as there is no RDMA.
    pub(super) fn connections_fd(&self) -> Option<OwnedFd> {
        self.rdma.wake_fd()
    }

    /// RDMA on this host.
    pub(super) const fn rdma_status(&self) -> &RdmaStatus {
        self.rdma.status()
    }

    /// Processes that only `/proc` can recognise: by executable, cgroup or command line.
    pub(super) fn find_by_proc(&mut self, number: u64) {
        if number != 0 && !self.rules.needs_scan() {
            return;
        }
        let rule = |facts: &ProcessFacts| self.rules.scan(facts);
        let lines = self.rules.needs_cmdline().then_some(&mut self.lines);
        for (process, rule) in self.scanner.scan(rule, lines) {
            self.kernel.adopt(process, rule);
        }
    }

    /// Empties the ring buffer: marks are kept for the next look, all other records are in the arrays.
    pub(super) fn drain(&mut self, events: &mut RingBuf<MapData>) {
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

    /// Has tasks and sockets read that no event may have told of, before a look.
    pub(super) fn sweep(&mut self, registry: &Registry, tick: bool, number: u64) {
        self.lines.renew();
        let watched: BTreeSet<u32> = registry.watched_pids();
        let due = number.is_multiple_of(IDLE_SWEEP_EVERY) || self.kernel.processes_are_full();
        if !watched.is_empty() || (tick && due) {
            self.kernel.sweep_tasks();
        }
        // Between two ticks the events of the sockets are enough.
        for pid in watched.into_iter().filter(|_| tick) {
            self.kernel.sweep_sockets(Some(pid));
        }
        if tick && number.is_multiple_of(IDLE_SWEEP_EVERY) {
            for pid in registry.undecided_pids() {
                self.kernel.sweep_sockets(Some(pid));
            }
        }
    }

    /// All readings.
    pub(super) fn observe(&mut self, tick: bool) -> Observation {
        let clock = self.kernel.clock();
        let processes = self.kernel.processes();
        self.kernel.follow_freezes(&processes);
        let mut flows = self.kernel.flows(clock);
        let boot_offset_ns =
            clock_ns(libc::CLOCK_BOOTTIME).saturating_sub(clock_ns(libc::CLOCK_MONOTONIC));
        registry::find_owners(&mut flows, &processes, boot_offset_ns);
        let memory = self.rdma.observe(clock.monotonic_ns, &processes, &mut flows);
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

    /// Does what the registry wants done, and answers what it asks.
    pub(super) fn act(&mut self, actions: Actions, answers: &mut Answers) {
        act(&mut self.kernel, &actions);
        answers::answer(&mut self.kernel, &mut self.lines, actions.ask, answers);
    }

    /// What the kernel side does and what it lost; read at each tick.
    pub(super) fn status(&self, program_stats_duty: f64) -> KernelStatus {
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
        programs.extend(self.rdma.programs());
        let mut probes = self.kernel.probes().to_vec();
        let mut losses = self.kernel.losses();
        losses.extend(self.lines.losses());
        if let Some(snapshot) = &self.rdma.status().snapshot {
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
