//! The migration that a flow belongs to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex},
};

use dwcp_observer_ebpf::{netdev::Tap, process::FlowOverflow};

use super::{
    super::{
        history::History,
        index::{Index, key},
        live::{EndState, Live},
        look::{Actions, Observation, World, take_in},
        machine::Life,
        record::Role,
    },
    Registry,
    processes::own_work,
};
use crate::{netdev::TapReading, tcp::FlowReading, verdict::Judge};

impl Registry {
    /// Position of the migration that the flow belongs to; a new one when there is none.
    pub(super) fn place(
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
    pub(super) fn join(
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
            version: None,
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
            features: Vec::new(),
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
}

fn watch_taps(pid: u32, world: &mut impl World) -> Vec<TapReading> {
    let watched = world.watch_taps(pid).into_iter();
    watched.map(|key| TapReading { key, tap: Tap::default() }).collect()
}
