//! Processes that may migrate: what is known of them, and what they tell of their own work.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use dwcp_observer_ebpf::{phase::NOT_TOLD, process::FlowOverflow};

use super::{
    super::{
        end::{OwnWork, Registrations},
        live::LiveMigration,
        observation::Observation,
        questions::Questions,
    },
    Registry,
};
use crate::{
    identify::rules::may_be_qemu,
    keeper::ProcessReading,
    model::facts::{ProcessFacts, ProcessId},
    phase::{MarkReading, attach::Coverage, timeline::Timeline},
    rdma::MemoryReading,
};

/// A candidate process.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) reading: ProcessReading,
    pub(super) facts: ProcessFacts,
    /// Overflow totals that earlier migrations account for.
    pub(super) overflow_base: FlowOverflow,
    /// Memory that it has registered with RDMA devices.
    pub(super) registered: Option<Arc<MemoryReading>>,
    /// What earlier migrations account for of that.
    pub(super) registered_base: Registrations,
    /// A migration into it is over.
    pub(super) incoming_done: bool,
    /// Its threads were read in this look.
    pub(super) threads_fresh: bool,
    /// Whether its phase functions are probed; `None` not tried yet.
    pub(super) coverage: Option<Coverage>,
    /// What they told of its present attempt to migrate.
    pub(super) timeline: Timeline,
    /// Attempts that are on record already.
    pub(super) told_attempt: u64,
    /// Its guest has moved to a process of this host: by which migration.
    pub(super) departed: Option<Departed>,
}

/// A guest that has moved away.
#[derive(Clone, Debug)]
pub(super) struct Departed {
    /// The migration.
    pub(super) id: String,
    /// The attempt of the source's process that it was.
    pub(super) attempt: u64,
    /// Slot and generation of the destination's process.
    pub(super) to: (u32, u32),
}

impl Registry {
    /// What must be known of processes before their flows and marks can be taken in.
    pub(super) fn ask_of_processes(&self, observation: &Observation, ask: &mut Questions) {
        let answers = &observation.answers;
        for reading in observation.processes.iter().filter(|reading| reading.slot != 0) {
            let id = reading.id();
            let Some(known) = self.known(reading) else {
                if !answers.facts.contains_key(&id) {
                    ask.facts.push(reading.clone());
                }
                continue;
            };
            if is_to_learn(known, observation) && !answers.arguments.contains_key(&id) {
                ask.arguments.push(id);
            }
            let unprobed = known.coverage.is_none() && reading.exited_ns.is_none();
            if unprobed
                && may_be_qemu(reading.rule, &known.facts)
                && !answers.coverage.contains_key(&id)
            {
                ask.coverage.push(reading.clone());
            }
        }
    }

    fn known(&self, reading: &ProcessReading) -> Option<&Known> {
        let known = self.processes.get(&reading.slot)?;
        (known.reading.generation == reading.generation).then_some(known)
    }

    pub(super) fn update_processes(&mut self, observation: &Observation) {
        let answers = &observation.answers;
        for reading in &observation.processes {
            if self.known(reading).is_none() {
                let facts = answers.facts.get(&reading.id()).cloned().flatten();
                let known = Known::new(reading, facts.unwrap_or_else(|| name_facts(reading)));
                self.processes.insert(reading.slot, known);
                continue;
            }
            let Some(known) = self.processes.get_mut(&reading.slot) else { continue };
            known.reading.clone_from(reading);
            known.threads_fresh = false;
            let arguments = answers.arguments.get(&reading.id());
            let learned = arguments.filter(|_| is_to_learn(known, observation));
            if let Some(arguments) = learned {
                known.facts.learn(arguments.clone());
            }
            let ends = self.live.iter_mut().flat_map(|live| live.ends.iter_mut());
            for end in ends.filter(|end| end.process == reading.slot) {
                end.overflow = reading.overflow;
                end.exited_ns = reading.exited_ns;
                end.exit_code = reading.exit_code;
                end.freeze.clone_from(&reading.freeze);
                end.own_work[1] = own_work(reading);
                if learned.is_some() {
                    end.facts.cmdline.clone_from(&known.facts.cmdline);
                    end.facts.unread = known.facts.unread;
                    end.names_dumped |= end.dumped.is_none();
                }
            }
        }
    }

    pub(super) fn update_registrations(&mut self, observation: &Observation) {
        for reading in &observation.memory {
            let id = ProcessId::new(reading.tgid, reading.start_boottime_ns);
            let own = |facts: &ProcessFacts| facts.id() == id;
            for known in self.processes.values_mut().filter(|known| own(&known.facts)) {
                known.registered = Some(Arc::clone(reading));
            }
            let ends = self.live.iter_mut().flat_map(|live| live.ends.iter_mut());
            for end in ends.filter(|end| own(&end.facts)) {
                end.registered = Some(Arc::clone(reading));
            }
        }
    }

    /// Takes in whether phase functions of new processes are probed, and what they told.
    pub(super) fn update_phases(&mut self, observation: &Observation) {
        for (slot, known) in self.processes.iter_mut().filter(|(slot, known)| {
            **slot != 0 && known.coverage.is_none() && known.reading.exited_ns.is_none()
        }) {
            known.coverage = coverage(known, observation);
            if let Some(Coverage::Probed { names, .. }) = &known.coverage {
                known.timeline = Timeline::new(Arc::clone(names));
            }
            // Its executable may have been read while it migrated already.
            let ends = self.live.iter_mut().flat_map(|live| live.ends.iter_mut());
            for end in ends.filter(|end| end.process == *slot && end.coverage.is_none()) {
                end.coverage.clone_from(&known.coverage);
                end.timeline.clone_from(&known.timeline);
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
                let mut mark = MarkReading { sent_bytes, ..*mark };
                if more > 0 {
                    mark.remaining[2] = NOT_TOLD;
                }
                known.timeline.push(&mark);
            }
        }
        for text in &observation.texts {
            let known = self.processes.get_mut(&text.process);
            if let Some(known) = known.filter(|it| it.reading.generation == text.generation) {
                known.timeline.fails(&text.text);
            }
        }
        let marks = observation.marks.iter().map(|mark| mark.process);
        let marked: HashSet<u32> =
            marks.chain(observation.texts.iter().map(|text| text.process)).collect();
        let ends = self.live.iter_mut().flat_map(|live| live.ends.iter_mut());
        for end in ends.filter(|end| marked.contains(&end.process)) {
            let Some(known) = self.processes.get_mut(&end.process) else { continue };
            // A later attempt belongs to the next migration.
            if end.timeline.attempt == known.timeline.attempt {
                end.timeline.clone_from(&known.timeline);
                known.told_attempt = known.timeline.attempt;
            }
        }
    }
}

impl Known {
    fn new(reading: &ProcessReading, facts: ProcessFacts) -> Self {
        Self {
            reading: reading.clone(),
            facts,
            overflow_base: FlowOverflow::default(),
            registered: None,
            registered_base: Registrations::default(),
            incoming_done: false,
            threads_fresh: true,
            coverage: None,
            timeline: Timeline::default(),
            told_attempt: 0,
            departed: None,
        }
    }
}

/// What the kernel side knows of a process that is gone already.
fn name_facts(reading: &ProcessReading) -> ProcessFacts {
    ProcessFacts {
        pid: reading.tgid,
        comm: reading.comm.clone(),
        started_boottime_ns: reading.start_boottime_ns,
        ..ProcessFacts::default()
    }
}

/// Whether its arguments are missing; those that it does not tell are asked for once a second.
fn is_to_learn(known: &Known, observation: &Observation) -> bool {
    known.facts.is_awaited() || (observation.tick && known.facts.unread.is_some())
}

fn coverage(known: &Known, observation: &Observation) -> Option<Coverage> {
    if !may_be_qemu(known.reading.rule, &known.facts) {
        return Some(Coverage::Unprobed("is not QEMU's".to_owned()));
    }
    observation.answers.coverage.get(&known.reading.id()).cloned().flatten()
}

/// Payload that each process' queue pairs were posted for, those included that are closed.
fn sent_by_queue_pairs(observation: &Observation, live: &[LiveMigration]) -> HashMap<u32, u64> {
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

pub(super) fn own_work(reading: &ProcessReading) -> OwnWork {
    OwnWork {
        limited_ns: reading.limited_ns,
        page_requests: reading.page_requests,
        remaining: reading.remaining,
    }
}
