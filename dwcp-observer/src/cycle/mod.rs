//! The one-second cycle: reads the kernel side, advances the registry, publishes.
//!
//! It conducts four things that do not know each other: [`Pace`] (when), [`System`] (all that needs privileges), the registry (which is
//! pure), and [`Publisher`] (what readers get).

mod answers;
mod pace;
mod program_stats;
pub mod published;
mod publisher;
mod rdma;
mod readiness;
mod system;
mod watchdog;

use std::{io, time::Instant};

use aya::maps::{MapData, RingBuf};
use tokio::time::{Instant as Time, MissedTickBehavior, interval_at};

pub use self::readiness::pollable;
use self::{
    pace::{PERIOD, Pace},
    program_stats::ProgramStats,
    published::Board,
    publisher::Publisher,
    readiness::{listen, readable, wait},
    system::System,
    watchdog::Watchdog,
};
use crate::{
    anomaly::feed::Feed,
    component,
    config::ProgramStats as StatsMode,
    identify::rules::RuleSet,
    journal::Journal,
    keeper::Kernel,
    migration::{observation::Observation, registry::Registry},
    rdma::Rdma,
};

/// What happens each second, and between two seconds when an event is worth a look.
pub struct Cycle {
    system: System,
    registry: Registry,
    publisher: Publisher,
    pace: Pace,
    program_stats: ProgramStats,
    /// Seconds since the start.
    number: u64,
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
        journal: Journal,
    ) -> Self {
        Self {
            system: System::new(kernel, rules, rdma),
            registry,
            publisher: Publisher::new(board, journal),
            pace: Pace::new(Time::now()),
            program_stats: ProgramStats::new(stats_mode),
            number: 0,
        }
    }

    /// Publishes what is said of the components along with the rest.
    #[must_use]
    pub fn with_components(mut self, components: component::Shared) -> Self {
        self.publisher.components = components;
        self
    }

    /// Looks for anomalies with these signals.
    #[must_use]
    pub fn with_anomalies(mut self, anomalies: Feed) -> Self {
        self.publisher.anomalies = anomalies;
        self
    }

    /// Runs until `stop` is ready. What the kernel holds is gone when this returns and the cycle is dropped.
    ///
    /// # Errors
    /// The lifecycle ring buffer cannot be polled.
    pub async fn run(&mut self, stop: impl Future<Output = ()>) -> io::Result<()> {
        tokio::pin!(stop);
        let mut events = pollable(self.system.take_events()?)?;
        self.program_stats.begin();
        self.system.find_by_proc(self.number);
        self.look(true);
        let mut ticks = interval_at(self.pace.begin(Time::now()), PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let watchdog = Watchdog::from_environment();
        let phases = self.system.phases_fd().and_then(listen);
        let lines = self.system.lines_fd().and_then(listen);
        let mut connections = None;
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                at = ticks.tick() => {
                    self.pace.tick(at, Time::now());
                    self.second(events.get_mut());
                    watchdog.alive();
                    // RDMA may come later than the observer.
                    connections = connections.or_else(|| self.system.connections_fd().and_then(listen));
                }
                () = readable(connections.as_ref()), if self.pace.early().is_none() => {
                    self.pace.hasten(Time::now());
                }
                // A new migrator is probed before the look that others wait for.
                () = wait(self.pace.notice()) => {
                    self.system.drain(events.get_mut());
                    self.pace.noticed(Time::now());
                }
                () = readable(phases.as_ref()) => {
                    if self.system.collect_phases() {
                        self.pace.hasten(Time::now());
                    }
                }
                () = readable(lines.as_ref()) => {
                    if self.system.has_lines() {
                        self.pace.hasten(Time::now());
                    }
                }
                () = wait(self.program_stats.until()) => self.program_stats.end_sample(),
                () = wait(self.pace.early()) => {
                    // What came meanwhile needs no look of its own.
                    self.system.drain(events.get_mut());
                    self.look(false);
                    self.pace.pay(Time::now());
                }
                guard = events.readable_mut(), if self.pace.early().is_none() => {
                    let mut guard = guard?;
                    self.system.drain(guard.get_inner_mut());
                    guard.clear_ready();
                    self.pace.hasten(Time::now());
                    self.pace.noticed(Time::now());
                }
            }
        }
    }

    /// What happens in each second.
    fn second(&mut self, events: &mut RingBuf<MapData>) {
        self.number += 1;
        self.program_stats.second(self.number, Time::now());
        self.system.find_by_proc(self.number);
        self.system.drain(events);
        self.system.collect_phases();
        self.look(true);
    }

    /// One look at the system, and what follows from it.
    fn look(&mut self, tick: bool) {
        let begun = Instant::now();
        self.system.sweep(&self.registry, tick, self.number);
        let observation = self.take_in(tick);
        if tick {
            self.publisher.second(self.system.status(self.program_stats.duty()));
        }
        let rdma = self.system.rdma_status();
        self.publisher.publish(&self.registry, &observation, rdma, self.pace.stats());
        self.pace.looked(begun.elapsed(), tick);
    }

    /// The registry takes in all readings; they are handed back.
    fn take_in(&mut self, tick: bool) -> Observation {
        let mut observation = self.system.observe(tick);
        if self.step(&mut observation) {
            // What they were adopted for is theirs now, and may be over before the next look.
            let answers = observation.answers.of_processes();
            observation = Observation { answers, ..self.system.observe(false) };
            self.step(&mut observation);
        }
        Observation { tick, ..observation }
    }

    /// Step by step, with what each one asks. True when processes were adopted.
    fn step(&mut self, observation: &mut Observation) -> bool {
        let mut adopted = false;
        self.registry.look(observation, |actions, answers| {
            adopted |= !actions.adopt.is_empty();
            self.system.act(actions, answers);
        });
        adopted
    }
}
