//! The migration that a flow belongs to.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use dwcp_observer_ebpf::process::FlowOverflow;

use super::{
    super::{
        end::EndState,
        history::History,
        index::{Index, key},
        live::LiveMigration,
        machine::Life,
        observation::{Actions, Observation, take_in},
    },
    Registry,
    processes::{Known, own_work},
};
use crate::model::record::{Evidence, Role};
use crate::{
    identify::qemu_cmdline::incoming,
    model::qemu::{MigratorState, Request},
    phase::attach::Coverage,
    tcp::FlowReading,
    verdict::Judge,
};

impl Registry {
    /// Position of the migration that the flow belongs to; a new one when there is none.
    pub(super) fn place(
        &mut self,
        reading: &FlowReading,
        migrator: &str,
        observation: &Observation,
    ) -> usize {
        let paired = self.index.other_end(reading).map(|(at, _)| at);
        let own = self.own_migration(reading, migrator);
        match (paired, own) {
            (Some(paired), Some(own)) if paired != own => self.merge(paired, own),
            (Some(at), _) | (None, Some(at)) => at,
            (None, None) => {
                let live = self.begin(reading, migrator, observation);
                self.live.push(live);
                self.live.len() - 1
            }
        }
    }

    /// Makes a flow part of the migration at position `at`.
    pub(super) fn join(
        &mut self,
        at: usize,
        reading: &FlowReading,
        role_hint: Option<Role>,
        actions: &mut Actions,
    ) {
        self.candidates.remove(&key(reading));
        self.index.insert(at, reading);
        let Some(known) = self.processes.get_mut(&reading.process) else { return };
        let Some(live) = self.live.get_mut(at) else { return };
        live.started_ns = live.started_ns.min(reading.opened_ns());
        live.peer.get_or_insert(reading.peer.ip());
        if !live.ends.iter().any(|end| end.process == reading.process) {
            live.started_ns = live.started_ns.min(first_word(known).unwrap_or(u64::MAX));
            live.ends.push(end_of(reading.process, known, role_hint));
            known.told_attempt = known.timeline.attempt;
            actions.watch.push((reading.process, true));
        }
        if let Some(end) = live.ends.iter_mut().find(|end| end.process == reading.process) {
            take_in(end, reading, &mut actions.ask);
        }
    }

    /// Begins the migrations that migrators speak of and of which no connection was seen yet, nor may ever be.
    pub(super) fn begin_by_words(&mut self, observation: &Observation, actions: &mut Actions) {
        let is_new = |slot: u32, known: &Known| {
            !self.live.iter().any(|live| {
                live.ends.iter().any(|end| {
                    end.process == slot && end.timeline.attempt == known.timeline.attempt
                })
            })
        };
        let told: Vec<(u32, u64)> = self
            .processes
            .iter()
            .filter(|(slot, known)| speaks_of_leaving(known) && is_new(**slot, known))
            .filter_map(|(slot, known)| Some((*slot, connects_since(known)?)))
            .collect();
        for (slot, at_ns) in told {
            let pid = self.processes.get(&slot).map_or(0, |known| known.facts.pid);
            let mut live = self.new_live(at_ns, pid, "qemu", observation);
            let Some(known) = self.processes.get_mut(&slot) else { continue };
            live.confidence = WORD_CONFIDENCE;
            live.evidence = words(known);
            live.ends.push(end_of(slot, known, Some(Role::Source)));
            known.told_attempt = known.timeline.attempt;
            self.live.push(live);
            actions.watch.push((slot, true));
        }
    }

    /// Forgets migrations that turn out to write to a file.
    pub(super) fn drop_files(&mut self, observation: &Observation, actions: &mut Actions) {
        let now_ns = observation.now_ns;
        // Whether some flow of this process may yet be called a migration.
        let may_connect = |process| {
            let mut own = self.candidates.values().filter(|flow| flow.process == process);
            own.any(|flow| flow.rejected.is_none())
        };
        let is_file = |live: &mut LiveMigration| writes_to_a_file(live, now_ns, may_connect);
        let files: Vec<LiveMigration> = self.live.extract_if(.., is_file).collect();
        if files.is_empty() {
            return;
        }
        self.index = Index::new(&self.live);
        for end in files.iter().flat_map(|live| &live.ends) {
            log::debug!(
                "pid {} writes its guest to a file, which is not a migration",
                end.facts.pid
            );
            actions.watch.push((end.process, false));
            actions.release_taps.extend(end.taps.iter().map(|reading| reading.key));
            let running = end.threads.values().filter(|thread| !thread.reading.exited);
            actions.release_threads.extend(running.map(|thread| thread.reading.slot));
        }
    }

    /// The running migration of this process that the flow joins. One process moves one VM, except daemons: one per peer.
    fn own_migration(&self, reading: &FlowReading, migrator: &str) -> Option<usize> {
        self.live.iter().position(|live| {
            !live.life.is_finished()
                && live.ends.iter().any(|end| end.process == reading.process)
                && (migrator == "qemu"
                    || migrator == "cloud-hypervisor"
                    || live.peer == Some(reading.peer.ip()))
        })
    }

    fn begin(
        &mut self,
        reading: &FlowReading,
        migrator: &str,
        observation: &Observation,
    ) -> LiveMigration {
        let pid =
            self.processes.get(&reading.process).map_or(reading.tgid, |known| known.facts.pid);
        let mut live = self.new_live(reading.opened_ns(), pid, migrator, observation);
        live.peer = Some(reading.peer.ip());
        live.observed_ns = reading.tagged_ns;
        live
    }

    fn new_live(
        &mut self,
        started_ns: u64,
        pid: u32,
        migrator: &str,
        observation: &Observation,
    ) -> LiveMigration {
        let started_ms = observation.wall.at(started_ns).as_millisecond();
        LiveMigration {
            id: format!("{started_ms}-{pid}-{}", self.ids.next()),
            migrator: migrator.to_owned(),
            version: None,
            confidence: 0.0,
            evidence: Vec::new(),
            ends: Vec::new(),
            peer: None,
            started_ns,
            observed_ns: started_ns,
            life: Life::Active,
            outcome: None,
            history: Arc::new(Mutex::new(History::new(self.options.history))),
            mode: None,
            peak_rate: 0.0,
            rate: None,
            storage_tick: None,
            storage_rate: None,
            first_tick: None,
            last_tick: None,
            judge: Judge::new(),
            last_second: None,
            verdict: None,
            judged: None,
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
        // The older one keeps its name.
        let begun = |at: usize| self.live.get(at).map(|live| live.started_ns);
        let (into, from) = if begun(from) < begun(into) { (from, into) } else { (into, from) };
        let gone = self.live.remove(from);
        let into = if from < into { into - 1 } else { into };
        if let Some(live) = self.live.get_mut(into) {
            live.started_ns = live.started_ns.min(gone.started_ns);
            live.peer = live.peer.or(gone.peer);
            if samples(&gone.history) > samples(&live.history) {
                live.history = gone.history;
            }
            live.ends.extend(gone.ends);
            live.counted.extend(gone.counted);
            live.errors_counted.extend(gone.errors_counted);
        }
        self.index = Index::new(&self.live);
        into
    }
}

/// Seconds that a history holds.
fn samples(history: &Mutex<History>) -> usize {
    history.lock().map_or(0, |history| history.len())
}

/// How sure a migrator's own words are, before a connection is seen.
const WORD_CONFIDENCE: f64 = 0.9;

/// Whether a QEMU has begun to send its guest away, in an attempt that is not on record. What waits for a guest is in the same states,
/// and a snapshot (`savevm`) passes some of them, too.
fn speaks_of_leaving(known: &Known) -> bool {
    let timeline = &known.timeline;
    let asked = match &known.coverage {
        Some(Coverage::Probed { missing, .. }) if !missing.contains(&"qmp_migrate") => {
            timeline.requested(Request::Migrate).is_some()
        }
        _ if known.facts.unread.is_some() => known.incoming_done,
        _ => known.incoming_done || incoming(&known.facts.cmdline).is_none(),
    };
    asked
        && timeline.attempt > known.told_attempt
        && timeline.entered(MigratorState::Setup).is_some()
}

/// When a migrator said that it begins, `CLOCK_MONOTONIC` ns.
fn first_word(known: &Known) -> Option<u64> {
    speaks_of_leaving(known).then(|| known.timeline.entered(MigratorState::Setup)).flatten()
}

/// When a migrator that has no connection yet said so: while it sets one up, or gave up over it. One that sends without a connection
/// writes to a file (`virsh save`).
fn connects_since(known: &Known) -> Option<u64> {
    let sends = known.timeline.entered(MigratorState::Active).is_some();
    first_word(known).filter(|_| !sends)
}

/// Whether a migration was begun by its migrator's words, and sends without a connection. `may_connect`: whether a flow of a process
/// may yet be its connection.
fn writes_to_a_file(live: &LiveMigration, now_ns: u64, may_connect: impl Fn(u32) -> bool) -> bool {
    let [end] = live.ends.as_slice() else { return false };
    let sends = end.timeline.entered(MigratorState::Active);
    live.flows().next().is_none()
        && end.folded.flows == 0
        && end.overflow_here().flows == 0
        && sends.is_some_and(|since_ns| {
            live.life.is_finished()
                || now_ns.saturating_sub(since_ns) > CONNECTED_NS
                || (end.timeline.is_over() && !may_connect(end.process))
        })
}

/// Time from a migration's first data to when its connection is recognised, ns; a look or two.
const CONNECTED_NS: u64 = 2_000_000_000;

fn words(known: &Known) -> Vec<Evidence> {
    let say = |kind: &str, detail: String, weight| Evidence {
        kind: kind.to_owned(),
        detail,
        weight: Some(weight),
    };
    vec![
        say("comm", format!("process `{}` is QEMU", known.facts.comm), 0.3),
        say("state", "its migration left the state none".to_owned(), WORD_CONFIDENCE),
    ]
}

/// A process as an end of a migration, from now on.
fn end_of(slot: u32, known: &Known, role_hint: Option<Role>) -> EndState {
    EndState {
        process: slot,
        facts: known.facts.clone(),
        is_surveyed: false,
        names_dumped: true,
        dumped: None,
        freeze: known.reading.freeze.clone(),
        hinted: role_hint,
        flows: BTreeMap::new(),
        storage: BTreeMap::new(),
        threads: BTreeMap::new(),
        folded: FlowOverflow::default(),
        last_folded_close_ns: 0,
        folded_found_open: false,
        overflow_base: known.overflow_base,
        overflow: known.reading.overflow,
        exited_ns: known.reading.exited_ns,
        exit_code: known.reading.exit_code,
        timeline: match known.timeline.attempt > known.told_attempt {
            true => known.timeline.clone(),
            // That attempt is on record: what it told is no part of this one.
            false => known.timeline.blank(),
        },
        coverage: known.coverage.clone(),
        own_work: [own_work(&known.reading); 2],
        taps: Vec::new(),
        quota_files: Vec::new(),
        quota_throttled_ns: None,
        stopped: false,
        guest_cpus_found: None,
        registered: known.registered.clone(),
        registered_base: known.registered_base,
    }
}
