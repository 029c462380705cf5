//! Flows that are in no migration: whether they are one after all.

use std::collections::{HashMap, HashSet};

use super::{
    super::{
        index::key,
        observation::{Actions, Observation},
        questions::{Questions, answered},
    },
    Registry,
};
use crate::{
    identify::{
        classify::{Context, Decision, OtherEnd, Sibling, classify},
        rejection::Rejection,
    },
    model::facts::{FlowFacts, ProcessFacts, ProcessId},
    tcp::FlowReading,
};

/// Flows of a process that stand for all its migration flows when another one is judged.
const MAX_SIBLINGS: usize = 8;

/// Flows about which nothing is known are given up after so long where there are too many of them, ns: those of a recognised process, and
/// those of strangers on migration ports.
const CROWD_PATIENCE_NS: u64 = 60_000_000_000;
const STRANGER_PATIENCE_NS: u64 = 10_000_000_000;
/// Processes that are given a slot after one look, since each takes a sweep over all tasks, and how often the same one is tried.
const MAX_ADOPTED: usize = 4;
const ADOPT_EVERY_NS: u64 = 1_000_000_000;
/// Processes without a slot that are looked up in `/proc` in one look, and for how long that holds.
const MAX_ASKED: usize = 32;
const FACTS_FOR_NS: u64 = 1_000_000_000;

/// What a flow is judged anew for: payload both ways, who moves it, and whether it is closed.
type Seen = (u64, u64, u32, u32, u32, bool);

/// What is known of a flow that is in no migration.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Candidate {
    /// Slot of its process; 0 where that is not recognised.
    pub(super) process: u32,
    /// Of the reading that was last judged.
    seen: Seen,
    /// Final answer, unless its other end or a sibling says otherwise.
    pub(super) rejected: Option<Rejection>,
    /// Last answer.
    pub(super) waiting: Option<Rejection>,
    /// When its process, which has no slot, was last asked to be given one: the flow is a migration. `CLOCK_MONOTONIC` ns.
    pub(super) adopted_ns: Option<u64>,
    /// Since when it cannot be judged because the arguments of its process are being read, `CLOCK_MONOTONIC` ns.
    pub(super) awaits_ns: Option<u64>,
}

impl Registry {
    /// Flows that are in no migration and have changed: they are to be judged.
    pub(super) fn find_candidates(&mut self, observation: &Observation) {
        self.pending.clear();
        for (position, reading) in observation.flows.iter().enumerate() {
            if self.index.member(key(reading)).is_some() {
                continue;
            }
            let candidate = self.candidates.entry(key(reading)).or_default();
            let unchanged = candidate.seen == seen(reading) && candidate.waiting.is_some();
            if !unchanged && candidate.rejected.is_none() {
                candidate.process = reading.process;
                self.pending.insert(position);
            }
        }
    }

    /// Judges them, and those that are related to a flow which is called a migration. Those that wait for an answer are judged with it.
    /// True when one was called a migration.
    pub(super) fn judge_pending(
        &mut self,
        observation: &Observation,
        actions: &mut Actions,
    ) -> bool {
        let mut found = false;
        for position in std::mem::take(&mut self.pending) {
            let Some(reading) = observation.flows.get(position) else { continue };
            if self.index.member(key(reading)).is_some() {
                continue;
            }
            let decision = self.judge(reading, observation, &mut actions.ask);
            let candidate = self.candidates.entry(key(reading)).or_default();
            let Some(decision) = decision else {
                candidate.awaits_ns.get_or_insert(observation.now_ns);
                self.pending.insert(position);
                continue;
            };
            (candidate.seen, candidate.awaits_ns) = (seen(reading), None);
            found |= self.follow(reading, decision, observation, actions);
        }
        // A flow that is called a migration may settle what its other end and its siblings are.
        let mut joined = found;
        while joined {
            joined = self.judge_again(observation, actions);
        }
        found
    }

    /// Other ends and siblings of flows that have just been called migrations, whatever was thought of them before.
    /// True when one of them was called a migration.
    fn judge_again(&mut self, observation: &Observation, actions: &mut Actions) -> bool {
        let migrating: HashSet<u32> =
            self.live.iter().flat_map(|live| live.ends.iter().map(|end| end.process)).collect();
        let mut joined = false;
        for (position, reading) in observation.flows.iter().enumerate() {
            let related =
                migrating.contains(&reading.process) || self.index.other_end(reading).is_some();
            if !related || self.index.member(key(reading)).is_some() {
                continue;
            }
            let Some(decision) = self.judge(reading, observation, &mut actions.ask) else {
                self.pending.insert(position);
                continue;
            };
            joined |= self.follow(reading, decision, observation, actions);
        }
        joined
    }

    /// Does what a decision asks for. True when the flow has become part of a migration.
    fn follow(
        &mut self,
        reading: &FlowReading,
        decision: Decision,
        observation: &Observation,
        actions: &mut Actions,
    ) -> bool {
        match decision {
            Decision::Migration { .. } if reading.process == 0 => {
                self.ask_for_process(reading, observation, actions);
                false
            }
            Decision::Migration { migrator, confidence, evidence, role_hint } => {
                let place = self.place(reading, &migrator, observation);
                self.join(place, reading, role_hint, actions);
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
            Decision::NotMigration { class, reason } => {
                log::trace!("{} to {} is not a migration: {reason}", reading.local, reading.peer);
                self.candidates.entry(key(reading)).or_default().rejected = Some(class);
                false
            }
            Decision::Undecided { class, .. } => {
                self.candidates.entry(key(reading)).or_default().waiting = Some(class);
                false
            }
        }
    }

    /// A migration of a process that was not recognised: it is given a slot, and with the next look its flow is judged as its own.
    fn ask_for_process(
        &mut self,
        reading: &FlowReading,
        observation: &Observation,
        actions: &mut Actions,
    ) {
        let candidate = self.candidates.entry(key(reading)).or_default();
        candidate.waiting = None;
        let now_ns = observation.now_ns;
        let asked = candidate.adopted_ns.is_some_and(|at_ns| now_ns < at_ns + ADOPT_EVERY_NS);
        if asked || actions.adopt.len() >= MAX_ADOPTED {
            return;
        }
        let Some(process) = self.strangers.id(holder(reading)) else { return };
        candidate.adopted_ns = Some(now_ns);
        if !actions.adopt.contains(&process) {
            actions.adopt.push(process);
        }
    }

    /// Gives up flows about which nothing is known, where a process, or strangers together, hold too many of them: the oldest first.
    pub(super) fn give_up_crowds(&mut self, observation: &Observation) {
        let mut waiting: HashMap<u32, Vec<&FlowReading>> = HashMap::new();
        for reading in &observation.flows {
            let candidate = self.candidates.get(&key(reading));
            if candidate.is_some_and(|it| it.rejected.is_none() && it.adopted_ns.is_none()) {
                waiting.entry(reading.process).or_default().push(reading);
            }
        }
        for (process, mut readings) in waiting {
            let (most, patience_ns) = match process {
                0 => (self.options.strangers, STRANGER_PATIENCE_NS),
                _ => (self.options.crowd, CROWD_PATIENCE_NS),
            };
            let excess = readings.len().saturating_sub(most);
            readings.sort_by_key(|reading| reading.tagged_ns);
            let old = readings.iter().take(excess).filter(|reading| {
                observation.now_ns.saturating_sub(reading.tagged_ns) >= patience_ns
            });
            for reading in old {
                self.candidates.entry(key(reading)).or_default().rejected = Some(Rejection::Crowd);
            }
        }
    }

    /// `None`: an answer is missing.
    fn judge(
        &mut self,
        reading: &FlowReading,
        observation: &Observation,
        ask: &mut Questions,
    ) -> Option<Decision> {
        let other_end = self.index.other_end(reading).and_then(|(at, other)| {
            let live = self.live.get(at)?;
            let role =
                live.roles().find_map(|(role, end)| end.flows.contains_key(&other).then_some(role));
            Some(OtherEnd { migrator: live.migrator.clone(), confidence: live.confidence, role })
        });
        if reading.process == 0 {
            return self.judge_stranger(reading, other_end.as_ref(), observation, ask);
        }
        if self.processes.get(&reading.process).is_some_and(|known| known.facts.is_awaited()) {
            return None;
        }
        self.judge_own(reading, other_end.as_ref(), observation, ask)
    }

    /// A flow on a migration port of a process that is not recognised: judged by what `/proc` says of whoever moves its data.
    fn judge_stranger(
        &mut self,
        reading: &FlowReading,
        other_end: Option<&OtherEnd>,
        observation: &Observation,
        ask: &mut Questions,
    ) -> Option<Decision> {
        let pid = holder(reading);
        if pid == 0 {
            let (class, reason) = (Rejection::NoData, "no data has moved".to_owned());
            return Some(if reading.closed {
                Decision::NotMigration { class, reason }
            } else {
                Decision::Undecided { class, reason }
            });
        }
        let flow = flow_facts(reading, pid, observation);
        let moved_ns = reading.first_data_ns.max(reading.tagged_ns) + observation.boot_offset_ns;
        let facts = self.strangers.facts(pid, observation, ask)?;
        let Some(facts) = facts.filter(|facts| facts.was_there(moved_ns)) else {
            let reason = format!("process {pid} is gone");
            return Some(Decision::NotMigration { class: Rejection::ProcessUnknown, reason });
        };
        let context = Context { siblings: &[], other_end, incoming_done: false };
        let decision = classify(&self.rules, facts, 0, &flow, &context);
        // It may be gone before its arguments are read: what is a migration without them gets its slot at once, and is judged
        // again with them.
        let early = matches!(decision, Decision::Migration { .. });
        (early || !facts.is_awaited()).then_some(decision)
    }

    fn judge_own(
        &mut self,
        reading: &FlowReading,
        other_end: Option<&OtherEnd>,
        observation: &Observation,
        ask: &mut Questions,
    ) -> Option<Decision> {
        let siblings = self.siblings(reading.process, observation.boot_offset_ns);
        let Some(known) = self.processes.get_mut(&reading.process) else {
            let reason = "its process is not known yet".to_owned();
            return Some(Decision::Undecided { class: Rejection::ProcessUnknown, reason });
        };
        let unknown =
            |tid: u32| tid != 0 && !known.facts.threads.iter().any(|thread| thread.tid == tid);
        if !known.threads_fresh && (unknown(reading.send_tid) || unknown(reading.recv_tid)) {
            let threads = &observation.answers.threads;
            let threads = answered(threads, &mut ask.threads, &known.facts.id())?;
            if !threads.is_empty() {
                known.facts.threads.clone_from(threads);
            }
            known.threads_fresh = true;
        }
        let flow = flow_facts(reading, known.facts.pid, observation);
        let context =
            Context { siblings: &siblings, other_end, incoming_done: known.incoming_done };
        Some(classify(&self.rules, &known.facts, known.reading.rule, &flow, &context))
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
}

const fn seen(reading: &FlowReading) -> Seen {
    let (payload, closed) = (reading.payload, reading.closed);
    let (send, recv) = (reading.send_tid, reading.recv_tid);
    (payload.queued, payload.received, send, recv, reading.tgid, closed)
}

/// Who moves the data of a flow of an unrecognised process, else who opened it; 0 nobody is known.
pub(super) const fn holder(reading: &FlowReading) -> u32 {
    if reading.tgid != 0 { reading.tgid } else { reading.opener_tgid }
}

fn flow_facts(reading: &FlowReading, pid: u32, observation: &Observation) -> FlowFacts {
    let opened_ns = reading.opened_ns();
    FlowFacts {
        local: reading.local,
        peer: reading.peer,
        active_open: reading.active_open(),
        opener_pid: (reading.opener_tgid != 0 && reading.opener_tgid != pid)
            .then_some(reading.opener_tgid),
        spoke_first: reading.spoke_first(),
        send_tid: reading.send_tid,
        recv_tid: reading.recv_tid,
        bytes_queued: reading.payload.queued,
        bytes_received: reading.payload.received,
        opened_boottime_ns: opened_ns + observation.boot_offset_ns,
        rdma: reading.queue_pair.is_some(),
        closed: reading.closed,
    }
}

/// Processes without a slot that speak on migration ports, as `/proc` shows them, for a while.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    known: HashMap<u32, (u64, Option<ProcessFacts>)>,
    /// Asked in this look.
    asked: usize,
}

impl Strangers {
    /// A new look.
    pub(super) fn renew(&mut self, now_ns: u64) {
        self.asked = 0;
        self.known.retain(|_, (at_ns, _)| now_ns.saturating_sub(*at_ns) < FACTS_FOR_NS);
    }

    /// What is known of a process, `Some(None)` when it is gone; `None` while that is asked, or when too many were in this look.
    fn facts(
        &mut self,
        pid: u32,
        observation: &Observation,
        ask: &mut Questions,
    ) -> Option<Option<&ProcessFacts>> {
        let answers = &observation.answers;
        if !self.known.contains_key(&pid) {
            if self.asked >= MAX_ASKED && !answers.strangers.contains_key(&pid) {
                return None;
            }
            let asked = ask.strangers.len();
            let facts = answered(&answers.strangers, &mut ask.strangers, &pid);
            self.asked += ask.strangers.len() - asked;
            self.known.insert(pid, (observation.now_ns, facts?.clone()));
        }
        let (_, facts) = self.known.get_mut(&pid)?;
        if let Some(facts) = facts.as_mut().filter(|facts| facts.is_awaited()) {
            let arguments = answered(&answers.arguments, &mut ask.arguments, &facts.id());
            if let Some(arguments) = arguments {
                facts.learn(arguments.clone());
            }
        }
        Some(facts.as_ref())
    }

    /// Which process was asked for by this id in this look.
    fn id(&self, pid: u32) -> Option<ProcessId> {
        self.known.get(&pid)?.1.as_ref().map(ProcessFacts::id)
    }
}
