//! Which flows belong to which migration, from one look at the kernel side to the next. Pure: the kernel and `/proc` are behind
//! [`World`], time comes with the [`Observation`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex},
};

use dwcp_observer_ebpf::{netdev::Tap, process::FlowOverflow};

use super::{
    account,
    build::{self, WallClock},
    ends,
    history::History,
    index::{Index, key},
    live::{EndState, FlowKey, Live, OwnWork, Registrations},
    look::{Actions, Observation, Options, World, take_in},
    machine::Life,
    record::{Migration, Outcome, Role},
};
use crate::{
    identify::{
        classify::{Context, Decision, OtherEnd, Sibling, classify},
        facts::{FlowFacts, ProcessFacts},
        rules::RuleSet,
    },
    kernel::ProcessReading,
    netdev::TapReading,
    phase::{MarkReading, attach::Coverage, timeline::Timeline},
    publish::{Entry, Totals},
    rdma::MemoryReading,
    tcp::FlowReading,
    verdict::Judge,
};

/// Flows of a process that stand for all its migration flows when another one is judged.
const MAX_SIBLINGS: usize = 8;

/// A candidate process.
#[derive(Debug)]
struct Known {
    reading: ProcessReading,
    facts: ProcessFacts,
    /// Overflow totals that earlier migrations account for.
    overflow_base: FlowOverflow,
    /// Memory that it has registered with RDMA devices.
    registered: Option<MemoryReading>,
    /// What earlier migrations account for of that.
    registered_base: Registrations,
    /// A migration into it is over.
    incoming_done: bool,
    /// Its threads were read in this look.
    threads_fresh: bool,
    /// Whether its phase functions are probed; `None` not tried yet.
    coverage: Option<Coverage>,
    /// What they told of its present attempt to migrate.
    timeline: Timeline,
}

/// What is known of a flow that is in no migration.
#[derive(Clone, Debug, Default, PartialEq)]
struct Candidate {
    /// Slot of its process.
    process: u32,
    /// Of the reading that was last judged.
    seen: (u64, u64, u32, u32, u32, bool),
    /// Final answer, unless its other end or a sibling says otherwise.
    rejected: Option<String>,
    /// Last answer.
    waiting: Option<String>,
}

/// All migrations of this host.
#[derive(Debug)]
pub struct Registry {
    rules: RuleSet,
    options: Options,
    processes: HashMap<u32, Known>,
    candidates: HashMap<FlowKey, Candidate>,
    live: Vec<Live>,
    index: Index,
    finished: VecDeque<Entry>,
    totals: Totals,
}

impl Registry {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(rules: RuleSet, options: Options) -> Self {
        Self {
            rules,
            options,
            processes: HashMap::new(),
            candidates: HashMap::new(),
            live: Vec::new(),
            index: Index::default(),
            finished: VecDeque::new(),
            totals: Totals::default(),
        }
    }

    /// Totals since the start.
    #[must_use]
    pub const fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Processes whose sockets should be read at the next look: those of running migrations, by id.
    #[must_use]
    pub fn watched_pids(&self) -> BTreeSet<u32> {
        self.live
            .iter()
            .flat_map(|live| live.ends.iter())
            .filter(|end| end.exited_ns.is_none())
            .map(|end| end.facts.pid)
            .collect()
    }

    /// Processes with flows that are not decided yet: what these have moved since their last event shows in a sweep only.
    #[must_use]
    pub fn undecided_pids(&self) -> BTreeSet<u32> {
        let waiting = self.candidates.values().filter(|candidate| candidate.rejected.is_none());
        let slots: HashSet<u32> = waiting.map(|candidate| candidate.process).collect();
        slots
            .iter()
            .filter_map(|slot| self.processes.get(slot))
            .map(|known| known.facts.pid)
            .collect()
    }

    /// Records of all migrations: running ones first, then finished ones, newest first.
    #[must_use]
    pub fn entries(&self, now_ns: u64, wall: WallClock) -> Vec<Entry> {
        let (running, over): (Vec<&Live>, Vec<&Live>) =
            self.live.iter().partition(|live| !live.life.is_finished());
        let built = |live: &Live| Entry {
            record: Arc::new(build::record(live, now_ns, wall)),
            history: Arc::clone(&live.history),
        };
        running
            .into_iter()
            .map(built)
            .chain(over.into_iter().rev().map(built))
            .chain(self.finished.iter().cloned())
            .collect()
    }

    /// Takes in one look.
    pub fn step(&mut self, observation: &Observation, world: &mut impl World) -> Actions {
        let mut actions = Actions::default();
        self.update_processes(observation, world);
        self.update_registrations(observation);
        self.update_phases(observation, world);
        self.update_members(observation, world);
        // A flow that is called a migration may settle what its other end and its siblings are.
        let mut joined = self.judge_candidates(observation, world, &mut actions);
        while joined {
            joined = self.judge_again(observation, world, &mut actions);
        }
        ends::update_threads(&mut self.live, observation, world, &mut actions);
        ends::update_taps(&mut self.live, world);
        if observation.tick {
            ends::update_hindrances(&mut self.live, world);
        }
        for live in &mut self.live {
            account::advance(live, observation, &self.options.mode, &mut self.totals);
        }
        self.retire(observation, &mut actions);
        self.release(observation, &mut actions);
        actions
    }

    fn update_processes(&mut self, observation: &Observation, world: &mut impl World) {
        for reading in &observation.processes {
            let known = self
                .processes
                .get_mut(&reading.slot)
                .filter(|known| known.reading.generation == reading.generation);
            let Some(known) = known else {
                let facts =
                    world.facts(reading.tgid).filter(|_| reading.slot != 0).unwrap_or_else(|| {
                        ProcessFacts {
                            pid: reading.tgid,
                            comm: reading.comm.clone(),
                            started_boottime_ns: reading.start_boottime_ns,
                            ..ProcessFacts::default()
                        }
                    });
                let known = Known {
                    reading: reading.clone(),
                    facts,
                    overflow_base: FlowOverflow::default(),
                    registered: None,
                    registered_base: Registrations::default(),
                    incoming_done: false,
                    threads_fresh: true,
                    coverage: None,
                    timeline: Timeline::default(),
                };
                self.processes.insert(reading.slot, known);
                continue;
            };
            known.reading.clone_from(reading);
            known.threads_fresh = false;
            for end in self
                .live
                .iter_mut()
                .flat_map(|live| live.ends.iter_mut())
                .filter(|end| end.process == reading.slot)
            {
                end.overflow = reading.overflow;
                end.exited_ns = reading.exited_ns;
                end.exit_code = reading.exit_code;
                end.own_work[1] = own_work(reading);
            }
        }
    }

    fn update_registrations(&mut self, observation: &Observation) {
        for reading in &observation.memory {
            for known in self.processes.values_mut().filter(|known| known.facts.pid == reading.tgid)
            {
                known.registered = Some(reading.clone());
            }
            let ends = self.live.iter_mut().flat_map(|live| live.ends.iter_mut());
            for end in ends.filter(|end| end.facts.pid == reading.tgid) {
                end.registered = Some(reading.clone());
            }
        }
    }

    /// Probes new processes, and takes in what their phase functions told.
    fn update_phases(&mut self, observation: &Observation, world: &mut impl World) {
        for (_, known) in self.processes.iter_mut().filter(|(slot, known)| {
            **slot != 0 && known.coverage.is_none() && known.reading.exited_ns.is_none()
        }) {
            known.coverage = world.phases(known.facts.pid);
            if let Some(Coverage::Probed { version, .. }) = &known.coverage {
                known.timeline = Timeline::new(*version);
            }
        }
        let by_queue_pairs = sent_by_queue_pairs(observation, &self.live);
        for mark in &observation.marks {
            let known = self
                .processes
                .get_mut(&mark.process)
                .filter(|known| known.reading.generation == mark.generation);
            if let Some(known) = known {
                // What queue pairs had sent is known as of this look, a few tens of milliseconds after the mark.
                let more = by_queue_pairs.get(&mark.process).copied().unwrap_or_default();
                let sent_bytes = mark.sent_bytes + more;
                known.timeline.push(&MarkReading { sent_bytes, ..*mark });
            }
        }
        let marked: HashSet<u32> = observation.marks.iter().map(|mark| mark.process).collect();
        let ends = self.live.iter_mut().flat_map(|live| live.ends.iter_mut());
        for end in ends.filter(|end| marked.contains(&end.process)) {
            let Some(known) = self.processes.get(&end.process) else { continue };
            // A later attempt belongs to the next migration.
            if end.timeline.states.is_empty() || end.timeline.attempt == known.timeline.attempt {
                end.timeline.clone_from(&known.timeline);
            }
        }
    }

    /// New readings of flows that are in a migration.
    fn update_members(&mut self, observation: &Observation, world: &impl World) {
        let mut closed = false;
        for reading in &observation.flows {
            let Some(live) = self.index.member(key(reading)).and_then(|at| self.live.get_mut(at))
            else {
                continue;
            };
            for end in live.ends.iter_mut().filter(|end| end.flows.contains_key(&key(reading))) {
                take_in(end, reading, world);
            }
            closed |= reading.closed;
        }
        if closed {
            self.index = Index::new(&self.live);
        }
    }

    /// Judges flows that are in no migration and have changed. True when one was called a migration.
    fn judge_candidates(
        &mut self,
        observation: &Observation,
        world: &mut impl World,
        actions: &mut Actions,
    ) -> bool {
        let mut joined = false;
        for reading in &observation.flows {
            if reading.process == 0 || self.index.member(key(reading)).is_some() {
                continue;
            }
            let payload = reading.payload;
            let seen = (
                payload.queued,
                payload.received,
                reading.send_tid,
                reading.recv_tid,
                reading.tgid,
                reading.closed,
            );
            let candidate = self.candidates.entry(key(reading)).or_default();
            let unchanged = candidate.seen == seen && candidate.waiting.is_some();
            if unchanged || candidate.rejected.is_some() {
                continue;
            }
            candidate.seen = seen;
            candidate.process = reading.process;
            let decision = self.judge(reading, observation, world);
            joined |= self.follow(reading, decision, observation, world, actions);
        }
        joined
    }

    /// Other ends and siblings of flows that have just been called migrations, whatever was thought of them before.
    /// True when one of them was called a migration.
    fn judge_again(
        &mut self,
        observation: &Observation,
        world: &mut impl World,
        actions: &mut Actions,
    ) -> bool {
        let migrating: HashSet<u32> =
            self.live.iter().flat_map(|live| live.ends.iter().map(|end| end.process)).collect();
        let mut joined = false;
        for reading in &observation.flows {
            let related =
                migrating.contains(&reading.process) || self.index.other_end(reading).is_some();
            if reading.process == 0 || !related || self.index.member(key(reading)).is_some() {
                continue;
            }
            let decision = self.judge(reading, observation, world);
            joined |= self.follow(reading, decision, observation, world, actions);
        }
        joined
    }

    /// Does what a decision asks for. True when the flow has become part of a migration.
    fn follow(
        &mut self,
        reading: &FlowReading,
        decision: Decision,
        observation: &Observation,
        world: &mut impl World,
        actions: &mut Actions,
    ) -> bool {
        match decision {
            Decision::Migration { migrator, confidence, evidence, role_hint } => {
                let place = self.place(reading, migrator, observation);
                self.join(place, reading, role_hint, world, actions);
                if let Some(live) = self.live.get_mut(place) {
                    // The other end is called a migration because of this one: its word adds nothing.
                    let own_evidence = !evidence.iter().any(|line| line.kind == "peer");
                    if live.evidence.is_empty() || (own_evidence && confidence > live.confidence) {
                        live.confidence = confidence;
                        live.evidence = evidence;
                    }
                }
                true
            }
            Decision::NotMigration { reason } => {
                self.candidates.entry(key(reading)).or_default().rejected = Some(reason);
                false
            }
            Decision::Undecided { reason } => {
                self.candidates.entry(key(reading)).or_default().waiting = Some(reason);
                false
            }
        }
    }

    fn judge(
        &mut self,
        reading: &FlowReading,
        observation: &Observation,
        world: &mut impl World,
    ) -> Decision {
        let siblings = self.siblings(reading.process, observation.boot_offset_ns);
        let other_end = self.index.other_end(reading).and_then(|(at, other)| {
            let live = self.live.get(at)?;
            let role =
                live.roles().find_map(|(role, end)| end.flows.contains_key(&other).then_some(role));
            Some(OtherEnd { migrator: live.migrator.clone(), confidence: live.confidence, role })
        });
        let Some(known) = self.processes.get_mut(&reading.process) else {
            return Decision::Undecided { reason: "its process is not known yet".to_owned() };
        };
        let unknown =
            |tid: u32| tid != 0 && !known.facts.threads.iter().any(|thread| thread.tid == tid);
        if !known.threads_fresh && (unknown(reading.send_tid) || unknown(reading.recv_tid)) {
            let threads = world.threads(known.facts.pid);
            if !threads.is_empty() {
                known.facts.threads = threads;
            }
            known.threads_fresh = true;
        }
        let opened_ns = reading.opened_ns();
        let flow = FlowFacts {
            local: reading.local,
            peer: reading.peer,
            active_open: reading.active_open(),
            opener_pid: (reading.opener_tgid != 0 && reading.opener_tgid != known.facts.pid)
                .then_some(reading.opener_tgid),
            send_tid: reading.send_tid,
            recv_tid: reading.recv_tid,
            bytes_queued: reading.payload.queued,
            bytes_received: reading.payload.received,
            age_ns: observation.now_ns.saturating_sub(opened_ns),
            opened_boottime_ns: opened_ns + observation.boot_offset_ns,
            rdma: reading.queue_pair.is_some(),
            closed: reading.closed,
        };
        let context = Context {
            siblings: &siblings,
            other_end: other_end.as_ref(),
            incoming_done: known.incoming_done,
        };
        classify(&self.rules, &known.facts, known.reading.rule, &flow, &context)
    }

    /// Some flows of the process that are in a running migration: enough to know its peer and when it began.
    fn siblings(&self, process: u32, boot_offset_ns: u64) -> Vec<Sibling> {
        let mut siblings = Vec::new();
        for live in self.live.iter().filter(|live| !live.life.is_finished()) {
            for (role, end) in live.roles().filter(|(_, end)| end.process == process) {
                siblings.extend(end.flows.values().take(MAX_SIBLINGS).map(|flow| Sibling {
                    local: flow.reading.local,
                    peer: flow.reading.peer,
                    role,
                    opened_boottime_ns: flow.reading.opened_ns() + boot_offset_ns,
                }));
            }
        }
        siblings
    }

    /// Position of the migration that the flow belongs to; a new one when there is none.
    fn place(
        &mut self,
        reading: &FlowReading,
        migrator: String,
        observation: &Observation,
    ) -> usize {
        let paired = self.index.other_end(reading).map(|(at, _)| at);
        let own = self.own_migration(reading, &migrator);
        match (paired, own) {
            (Some(paired), Some(own)) if paired != own => self.merge(paired, own),
            (Some(at), _) | (None, Some(at)) => at,
            (None, None) => {
                self.live.push(self.begin(reading, migrator, observation));
                self.live.len() - 1
            }
        }
    }

    /// Makes a flow part of the migration at position `at`.
    fn join(
        &mut self,
        at: usize,
        reading: &FlowReading,
        role_hint: Option<Role>,
        world: &mut impl World,
        actions: &mut Actions,
    ) {
        self.candidates.remove(&key(reading));
        self.index.insert(at, reading);
        let Some(known) = self.processes.get(&reading.process) else { return };
        let Some(live) = self.live.get_mut(at) else { return };
        live.started_ns = live.started_ns.min(reading.opened_ns());
        if !live.ends.iter().any(|end| end.process == reading.process) {
            live.ends.push(EndState {
                process: reading.process,
                facts: known.facts.clone(),
                hinted: role_hint,
                flows: BTreeMap::new(),
                threads: BTreeMap::new(),
                folded: FlowOverflow::default(),
                last_folded_close_ns: 0,
                folded_found_open: false,
                overflow_base: known.overflow_base,
                overflow: known.reading.overflow,
                exited_ns: known.reading.exited_ns,
                exit_code: known.reading.exit_code,
                timeline: known.timeline.clone(),
                coverage: known.coverage.clone(),
                own_work: [own_work(&known.reading); 2],
                taps: watch_taps(known.facts.pid, world),
                quota_file: world.quota_file(known.facts.pid),
                quota_throttled_ns: None,
                stopped: false,
                guest_cpus_found: None,
                registered: known.registered.clone(),
                registered_base: known.registered_base,
            });
            actions.watch.push((reading.process, true));
        }
        if let Some(end) = live.ends.iter_mut().find(|end| end.process == reading.process) {
            take_in(end, reading, world);
        }
    }

    /// The running migration of this process that the flow joins. One process moves one VM, except daemons: one per peer.
    fn own_migration(&self, reading: &FlowReading, migrator: &str) -> Option<usize> {
        self.live.iter().position(|live| {
            !live.life.is_finished()
                && live.ends.iter().any(|end| end.process == reading.process)
                && (migrator == "qemu"
                    || migrator == "cloud-hypervisor"
                    || live.peer == reading.peer.ip())
        })
    }

    fn begin(&self, reading: &FlowReading, migrator: String, observation: &Observation) -> Live {
        let started_ns = reading.opened_ns();
        let pid =
            self.processes.get(&reading.process).map_or(reading.tgid, |known| known.facts.pid);
        let peer: IpAddr = reading.peer.ip();
        Live {
            id: format!("{}-{pid}", observation.wall.at(started_ns).as_millisecond()),
            migrator,
            confidence: 0.0,
            evidence: Vec::new(),
            ends: Vec::new(),
            peer,
            started_ns,
            observed_ns: reading.tagged_ns,
            life: Life::Active,
            outcome: None,
            history: Arc::new(Mutex::new(History::new(self.options.history))),
            mode: None,
            peak_rate: 0.0,
            rate: None,
            last_tick: None,
            judge: Judge::new(),
            last_second: None,
            verdict: None,
            counted: BTreeMap::new(),
            errors_counted: BTreeSet::new(),
        }
    }

    /// Two ends that were taken for two migrations turn out to be one.
    fn merge(&mut self, into: usize, from: usize) -> usize {
        let joins = self.live.get(into).is_some_and(|live| live.ends.len() == 1)
            && self.live.get(from).is_some_and(|live| live.ends.len() == 1);
        if !joins {
            return into;
        }
        let gone = self.live.remove(from);
        let into = if from < into { into - 1 } else { into };
        if let Some(live) = self.live.get_mut(into) {
            live.started_ns = live.started_ns.min(gone.started_ns);
            live.ends.extend(gone.ends);
            live.counted.extend(gone.counted);
            live.errors_counted.extend(gone.errors_counted);
        }
        self.index = Index::new(&self.live);
        into
    }

    /// Moves migrations whose totals are final to the finished ones.
    fn retire(&mut self, observation: &Observation, actions: &mut Actions) {
        let done = |live: &Live| {
            live.outcome.is_some()
                && matches!(live.life, Life::Finished { drained: true, .. })
                && !awaits_packet(live, observation.now_ns)
        };
        let (over, running): (Vec<Live>, Vec<Live>) =
            std::mem::take(&mut self.live).into_iter().partition(done);
        self.live = running;
        if over.is_empty() {
            return;
        }
        self.index = Index::new(&self.live);
        for live in over {
            let record: Migration = build::record(&live, observation.now_ns, observation.wall);
            if let Ok(mut history) = live.history.lock() {
                history.seal();
            }
            self.finished
                .push_front(Entry { record: Arc::new(record), history: Arc::clone(&live.history) });
            for (role, end) in live.roles() {
                if let Some(known) = self.processes.get_mut(&end.process) {
                    known.overflow_base = end.overflow;
                    known.registered_base =
                        end.registered.as_ref().map(Registrations::of).unwrap_or_default();
                    known.incoming_done |= role == Role::Destination;
                }
                if !self
                    .live
                    .iter()
                    .any(|other| other.ends.iter().any(|some| some.process == end.process))
                {
                    actions.watch.push((end.process, false));
                    actions.release_taps.extend(end.taps.iter().map(|reading| reading.key));
                    let running = end.threads.values().filter(|thread| !thread.reading.exited);
                    actions.release_threads.extend(running.map(|thread| thread.reading.slot));
                }
            }
        }
        self.finished.truncate(self.options.max_finished);
    }

    /// Frees slots of what is gone and was taken in.
    fn release(&mut self, observation: &Observation, actions: &mut Actions) {
        for reading in observation.flows.iter().filter(|reading| reading.closed) {
            if let Some(candidate) = self.candidates.remove(&key(reading))
                && let Some(reason) = candidate.rejected.or(candidate.waiting)
            {
                *self.totals.rejected_flows.entry(account::reason_class(&reason)).or_default() += 1;
            }
            actions.release_flows.push(reading.slot);
        }
        let busy: HashSet<u32> = self
            .live
            .iter()
            .flat_map(|live| live.ends.iter().map(|end| end.process))
            .chain(
                observation
                    .flows
                    .iter()
                    .filter(|reading| !reading.closed)
                    .map(|reading| reading.process),
            )
            .collect();
        for reading in observation
            .processes
            .iter()
            .filter(|reading| reading.exited_ns.is_some() && !busy.contains(&reading.slot))
        {
            self.processes.remove(&reading.slot);
            actions.release_processes.push(reading.slot);
        }
        actions.release_threads.sort_unstable();
        actions.release_threads.dedup();
    }
}

/// Payload that each process' queue pairs were posted for, those included that are closed.
fn sent_by_queue_pairs(observation: &Observation, live: &[Live]) -> HashMap<u32, u64> {
    let mut sent: HashMap<u32, u64> = HashMap::new();
    for flow in observation.flows.iter().filter(|flow| flow.queue_pair.is_some()) {
        *sent.entry(flow.process).or_default() += flow.payload.queued;
    }
    for end in live.iter().flat_map(|live| &live.ends) {
        let flows = end.flows.values().filter(|flow| flow.reading.queue_pair.is_some());
        let known: u64 = flows.map(|flow| flow.reading.payload.queued).sum();
        let sent = sent.entry(end.process).or_default();
        *sent = known.max(*sent);
    }
    sent
}

/// Whether the first packet of the guest is still to come out of the destination's device, for a while after the end.
fn awaits_packet(live: &Live, now_ns: u64) -> bool {
    const PATIENCE_NS: u64 = 5_000_000_000;
    let Life::Finished { ended_ns, .. } = live.life else { return false };
    let completed = live.outcome.as_ref().is_some_and(|(found, _)| *found == Outcome::Completed);
    let taps = live.end(Role::Destination).map(|end| end.taps.as_slice()).unwrap_or_default();
    let silent = !taps.is_empty() && taps.iter().all(|reading| reading.tap.packets == 0);
    completed && silent && now_ns.saturating_sub(ended_ns) < PATIENCE_NS
}

fn watch_taps(pid: u32, world: &mut impl World) -> Vec<TapReading> {
    let watched = world.watch_taps(pid).into_iter();
    watched.map(|key| TapReading { key, tap: Tap::default() }).collect()
}

fn own_work(reading: &ProcessReading) -> OwnWork {
    OwnWork { limited_ns: reading.limited_ns, page_requests: reading.page_requests }
}
