//! Flows that are in no migration: whether they are one after all.

use std::collections::HashSet;

use super::{
    super::{
        index::key,
        look::{Actions, Observation, World},
    },
    Registry,
};
use crate::{
    identify::{
        classify::{Context, Decision, OtherEnd, Sibling, classify},
        facts::FlowFacts,
    },
    tcp::FlowReading,
};

/// Flows of a process that stand for all its migration flows when another one is judged.
const MAX_SIBLINGS: usize = 8;

/// What is known of a flow that is in no migration.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Candidate {
    /// Slot of its process.
    pub(super) process: u32,
    /// Of the reading that was last judged.
    seen: (u64, u64, u32, u32, u32, bool),
    /// Final answer, unless its other end or a sibling says otherwise.
    pub(super) rejected: Option<String>,
    /// Last answer.
    pub(super) waiting: Option<String>,
}

impl Registry {
    /// Judges flows that are in no migration and have changed. True when one was called a migration.
    pub(super) fn judge_candidates(
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
    pub(super) fn judge_again(
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
                let place = self.place(reading, &migrator, observation);
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
            spoke_first: reading.spoke_first(),
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
}
