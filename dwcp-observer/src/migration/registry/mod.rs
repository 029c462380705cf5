//! Which flows belong to which migration, from one look at the kernel side to the next. Pure: all that is known of the kernel and of
//! `/proc`, and the time, come with the [`Observation`]; what is missing is asked for, and comes with it the next time.

mod assign;
mod candidates;
mod ids;
mod processes;
mod retire;
mod storage;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use self::{
    candidates::{Candidate, Strangers},
    ids::Ids,
    processes::Known,
};
use super::{
    account,
    clock::WallClock,
    compose,
    end::FlowKey,
    index::{Index, key},
    live::LiveMigration,
    neighbours,
    observation::{Actions, Observation, Options, take_in},
    questions::{Answers, Questions},
    surroundings,
};
use crate::{
    identify::rules::RuleSet,
    keeper::ProcessReading,
    migration::{entry::Entry, totals::Totals},
    tcp::FlowReading,
};
use crate::{
    model::record::{Mode, Version},
    verdict::inputs::Second,
};

/// Gives flows on migration ports that the kernel side knows no process of to the recognised process that moves their data, if there is one
/// by now. A later process with the same id is another.
pub fn find_owners(flows: &mut [FlowReading], processes: &[ProcessReading], boot_offset_ns: u64) {
    let living = processes.iter().filter(|it| it.slot != 0 && it.exited_ns.is_none());
    let by_id: HashMap<u32, &ProcessReading> = living.map(|it| (it.tgid, it)).collect();
    for flow in flows.iter_mut().filter(|flow| flow.process == 0) {
        let moved_ns = flow.first_data_ns.max(flow.tagged_ns) + boot_offset_ns;
        let owner = by_id.get(&candidates::holder(flow));
        if let Some(owner) = owner.filter(|owner| owner.start_boottime_ns <= moved_ns) {
            flow.process = owner.slot;
        }
    }
}

/// The last second of a running migration.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// Its id.
    pub migration: &'a str,
    /// Its mode, once known.
    pub mode: Option<Mode>,
    /// What its verdict rests on.
    pub second: &'a Second,
}

/// All migrations of this host.
#[derive(Debug)]
pub struct Registry {
    rules: RuleSet,
    options: Options,
    processes: HashMap<u32, Known>,
    candidates: HashMap<FlowKey, Candidate>,
    strangers: Strangers,
    live: Vec<LiveMigration>,
    index: Index,
    finished: VecDeque<Entry>,
    totals: Totals,
    ids: Ids,
    /// Those of DWCP v1.
    totals_v1: Totals,
    /// Steps of the look that is under way.
    steps: usize,
    /// Its readings are taken in.
    taken_in: bool,
    /// Flows of it that wait for an answer, by position.
    pending: BTreeSet<usize>,
}

/// Steps within one look: who moves the data, whose it is, what its other end is, what surrounds both. What is still asked then is
/// asked with the next look.
const MAX_STEPS: usize = 8;

impl Registry {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(rules: RuleSet, options: Options) -> Self {
        Self {
            rules,
            options,
            processes: HashMap::new(),
            candidates: HashMap::new(),
            strangers: Strangers::default(),
            live: Vec::new(),
            index: Index::default(),
            finished: VecDeque::new(),
            totals: Totals::default(),
            ids: Ids::new(),
            totals_v1: Totals::default(),
            steps: 0,
            taken_in: false,
            pending: BTreeSet::new(),
        }
    }

    /// Totals since the start.
    #[must_use]
    pub const fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The same of migrations of DWCP v1; `None` where nothing tells them apart: then all are in [`Registry::totals`].
    #[must_use]
    pub fn totals_v1(&self) -> Option<&Totals> {
        self.options.v1.as_ref().map(|_| &self.totals_v1)
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
        let (running, over): (Vec<&LiveMigration>, Vec<&LiveMigration>) =
            self.live.iter().partition(|live| !live.life.is_finished());
        let built = |live: &LiveMigration| Entry {
            record: Arc::new(compose::record(live, now_ns, wall)),
            history: Arc::clone(&live.history),
            settled: false,
        };
        running
            .into_iter()
            .map(built)
            .chain(over.into_iter().rev().map(built))
            .chain(self.finished.iter().cloned())
            .collect()
    }

    /// The last second of each running migration of DWCP v3; of a look between two ticks, what the tick before said.
    #[must_use]
    pub fn seconds(&self) -> Vec<Judged<'_>> {
        let of_v3 =
            |live: &&LiveMigration| !live.life.is_finished() && live.version != Some(Version::V1);
        self.live
            .iter()
            .filter(of_v3)
            .filter_map(|live| {
                let second = live.judged.as_ref()?;
                Some(Judged { migration: &live.id, mode: live.mode, second })
            })
            .collect()
    }

    /// Takes in one look. `act` does what each step wants done, and answers what it asks.
    pub fn look(
        &mut self,
        observation: &mut Observation,
        mut act: impl FnMut(Actions, &mut Answers),
    ) {
        loop {
            let actions = self.step(observation);
            let is_over = actions.ask.is_empty();
            act(actions, &mut observation.answers);
            if is_over {
                return;
            }
        }
    }

    /// One step of a look: as far as it gets with the answers that there are. Where something is asked the look goes on with the same
    /// readings and the answers to it; nothing is released before it is over.
    pub fn step(&mut self, observation: &Observation) -> Actions {
        let mut actions = Actions::default();
        self.steps += 1;
        let last = self.steps >= MAX_STEPS;
        self.recognise(observation, last, &mut actions);
        if !last && !actions.ask.is_empty() {
            return actions;
        }
        self.advance(observation, &mut actions);
        self.let_go(observation, &mut actions);
        (self.steps, self.taken_in) = (0, false);
        actions.ask = Questions::default();
        actions
    }

    /// Which processes and flows are a migration's.
    fn recognise(&mut self, observation: &Observation, last: bool, actions: &mut Actions) {
        let is_new = !self.taken_in;
        if is_new {
            self.ask_of_processes(observation, &mut actions.ask);
            if !last && !actions.ask.is_empty() {
                return;
            }
            self.take_in(observation, actions);
        }
        let joined = self.judge_pending(observation, actions);
        if is_new || joined {
            surroundings::ask_waits(&self.live, observation, &mut actions.ask);
        }
        surroundings::survey(&mut self.live, observation, &mut actions.ask);
    }

    /// New readings, each once.
    fn take_in(&mut self, observation: &Observation, actions: &mut Actions) {
        self.taken_in = true;
        self.strangers.renew(observation.now_ns);
        self.update_processes(observation);
        self.update_registrations(observation);
        self.update_phases(observation);
        self.begin_by_words(observation, actions);
        self.update_members(observation, actions);
        self.find_candidates(observation);
    }

    /// Takes all migrations one look further.
    fn advance(&mut self, observation: &Observation, actions: &mut Actions) {
        self.update_rtts(observation);
        self.update_storage(observation);
        self.give_up_crowds(observation);
        self.drop_files(observation, actions);
        surroundings::update_threads(&mut self.live, observation, actions);
        let paths = if observation.tick { neighbours::paths(&self.live) } else { Vec::new() };
        for live in &mut self.live {
            if let Some(rule) = self.options.v1.as_ref().filter(|_| live.version.is_none()) {
                // Once and for all: no count may move from one version to the other.
                live.version = Some(if rule.matches(live) { Version::V1 } else { Version::V3 });
            }
            let totals = match live.version {
                Some(Version::V1) => &mut self.totals_v1,
                _ => &mut self.totals,
            };
            account::advance(live, observation, &self.options.mode, &paths, totals);
        }
    }

    /// Finished migrations become records, and slots that nobody needs any more are freed.
    fn let_go(&mut self, observation: &Observation, actions: &mut Actions) {
        self.retire(observation, actions);
        self.watch_for_split_brains();
        self.release(observation, actions);
    }

    /// New readings of flows that are in a migration.
    fn update_members(&mut self, observation: &Observation, actions: &mut Actions) {
        let mut closed = false;
        for reading in &observation.flows {
            let Some(live) = self.index.member(key(reading)).and_then(|at| self.live.get_mut(at))
            else {
                continue;
            };
            let over = retire::left_behind(reading, &self.processes, observation.now_ns);
            let reading = over.as_ref().unwrap_or(reading);
            for end in live.ends.iter_mut().filter(|end| end.flows.contains_key(&key(reading))) {
                take_in(end, reading, &mut actions.ask);
            }
            closed |= reading.closed;
        }
        if closed {
            self.index = Index::new(&self.live);
        }
    }

    /// The RTT quantiles that this look has asked for.
    fn update_rtts(&mut self, observation: &Observation) {
        for (key, rtt) in &observation.answers.rtts {
            let live = self.index.member(*key).and_then(|at| self.live.get_mut(at));
            let ends = live.into_iter().flat_map(|live| live.ends.iter_mut());
            for flow in ends.filter_map(|end| end.flows.get_mut(key)) {
                flow.rtt = *rtt;
            }
        }
    }
}
