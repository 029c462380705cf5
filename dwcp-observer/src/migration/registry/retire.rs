//! What is over: migrations become records, slots are freed.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

use dwcp_observer_ebpf::tcp::TCP_CLOSE;

use super::{
    super::{
        compose,
        end::{FlowKey, Registrations},
        index::{Index, key},
        live::LiveMigration,
        machine::Life,
        observation::{Actions, Observation},
    },
    Registry,
    processes::{Departed, Known},
};
use crate::model::record::{Migration, Outcome, Role};
use crate::{migration::entry::Entry, tcp::FlowReading};

impl Registry {
    /// Moves migrations whose totals are final to the finished ones.
    pub(super) fn retire(&mut self, observation: &Observation, actions: &mut Actions) {
        let done = |live: &LiveMigration| {
            live.outcome.is_some()
                && matches!(live.life, Life::Finished { drained: true, .. })
                && !awaits_packet(live, observation.now_ns)
        };
        let (over, running): (Vec<LiveMigration>, Vec<LiveMigration>) =
            std::mem::take(&mut self.live).into_iter().partition(done);
        self.live = running;
        if over.is_empty() {
            return;
        }
        self.index = Index::new(&self.live);
        for live in over {
            let record: Migration = compose::record(&live, observation.now_ns, observation.wall);
            if let Ok(mut history) = live.history.lock() {
                history.seal();
            }
            self.finished.push_front(Entry {
                record: Arc::new(record),
                history: Arc::clone(&live.history),
                settled: true,
            });
            self.note_departure(&live);
            for (role, end) in live.roles() {
                if let Some(known) = self.processes.get_mut(&end.process) {
                    known.overflow_base = end.overflow;
                    known.registered_base =
                        end.registered.as_deref().map(Registrations::of).unwrap_or_default();
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

    /// Keeps in mind that the source's guest runs elsewhere on this host from now on.
    fn note_departure(&mut self, live: &LiveMigration) {
        let completed =
            live.outcome.as_ref().is_some_and(|found| found.outcome == Outcome::Completed);
        let destination = live.end(Role::Destination).map(|end| end.process);
        let to = destination
            .and_then(|slot| Some((slot, self.processes.get(&slot)?.reading.generation)));
        let source = live.end(Role::Source).filter(|_| completed);
        let known = source.and_then(|end| {
            let attempt = end.timeline.attempt;
            Some((self.processes.get_mut(&end.process)?, attempt))
        });
        if let (Some(to), Some((known, attempt))) = (to, known) {
            known.departed = Some(Departed { id: live.id.clone(), attempt, to });
        }
    }

    /// A guest that is let run where it came from while it still runs where it went, long after the migration: both write to the
    /// same disks.
    pub(super) fn watch_for_split_brains(&mut self) {
        let lives = |(slot, generation): (u32, u32)| {
            self.processes.get(&slot).is_some_and(|known| {
                known.reading.generation == generation && known.reading.exited_ns.is_none()
            })
        };
        let restarted: Vec<(u32, String)> = self
            .processes
            .iter()
            .filter_map(|(slot, known)| {
                let departed = known.departed.as_ref()?;
                let again = known.timeline.restarted_ns.is_some()
                    && known.timeline.attempt == departed.attempt;
                (again && lives(departed.to)).then(|| (*slot, departed.id.clone()))
            })
            .collect();
        for (slot, id) in restarted {
            if let Some(known) = self.processes.get_mut(&slot) {
                known.departed = None;
            }
            let Some(entry) = self.finished.iter_mut().find(|entry| entry.record.id == id) else {
                continue;
            };
            if entry.record.split_brain {
                continue;
            }
            log::error!("migration {id}: split brain: the guest was also resumed at its source");
            entry.record =
                Arc::new(Migration { split_brain: true, ..entry.record.as_ref().clone() });
            self.totals.split_brains += 1;
        }
    }

    /// Frees slots of what is gone and was taken in, and of what is no migration.
    pub(super) fn release(&mut self, observation: &Observation, actions: &mut Actions) {
        let mut held: HashSet<u32> = HashSet::new();
        let hopeless = self.hopeless(observation);
        for reading in &observation.flows {
            let over = left_behind(reading, &self.processes, observation.now_ns).is_some();
            let gone = reading.closed || over || hopeless.contains(&key(reading));
            // Its RTT goes with the slot.
            let answered = &observation.answers.rtts;
            let unread = || {
                self.index.member(key(reading)).is_some() && !answered.contains_key(&key(reading))
            };
            if !gone || unread() || self.awaits(reading, observation.now_ns) {
                held.insert(reading.process);
                continue;
            }
            if let Some(candidate) = self.candidates.remove(&key(reading))
                && let Some(class) = candidate.rejected.or(candidate.waiting)
            {
                *self.totals.rejected_flows.entry(class).or_default() += 1;
            }
            actions.release_flows.push(reading.slot);
        }
        held.extend(self.live.iter().flat_map(|live| live.ends.iter().map(|end| end.process)));
        for reading in &observation.processes {
            // One that was adopted for a flow, and not for its name, is let go with its last.
            let over = reading.exited_ns.is_some() || (reading.rule == 0 && reading.slot != 0);
            if over && !held.contains(&reading.slot) {
                self.processes.remove(&reading.slot);
                actions.release_processes.push(reading.slot);
            }
        }
        actions.release_threads.sort_unstable();
        actions.release_threads.dedup();
    }

    /// Open flows that were found to be no migration, and whose other end on this host, if it has one, is none either.
    fn hopeless(&self, observation: &Observation) -> HashSet<FlowKey> {
        let rejected = |reading: &FlowReading| {
            let candidate = self.candidates.get(&key(reading));
            candidate.is_some_and(|candidate| candidate.rejected.is_some())
        };
        let mut hoping: HashSet<(SocketAddr, SocketAddr)> = HashSet::new();
        let mut found = Vec::new();
        for reading in &observation.flows {
            if rejected(reading) {
                found.push(reading);
            } else {
                hoping.insert((reading.peer, reading.local));
            }
        }
        // A queue pair's slot is not ours to give.
        found.retain(|reading| reading.queue_pair.is_none());
        found.retain(|reading| !hoping.contains(&(reading.local, reading.peer)));
        // No RAM, but maybe the disk of a migration that is still to come: a few of each process are followed.
        let mut copies: HashMap<u32, usize> = HashMap::new();
        found.retain(|reading| {
            let copies = copies.entry(reading.process).or_default();
            let may_copy = reading.process != 0 && reading.is_greeted() && *copies < MAX_COPIES;
            *copies += usize::from(may_copy);
            !may_copy
        });
        found.into_iter().map(key).collect()
    }

    /// Whether a closed flow is a migration whose process is about to be given a slot, or cannot be judged yet.
    fn awaits(&self, reading: &FlowReading, now_ns: u64) -> bool {
        const PATIENCE_NS: u64 = 2_000_000_000;
        let Some(candidate) = self.candidates.get(&key(reading)) else { return false };
        let asked_ns = candidate.adopted_ns.filter(|_| reading.process == 0);
        let since_ns = asked_ns.or(candidate.awaits_ns);
        since_ns.is_some_and(|since_ns| now_ns.saturating_sub(since_ns) < PATIENCE_NS)
    }
}

/// Connections of one process that may copy a disk, of those that are open and no migration.
const MAX_COPIES: usize = 64;

/// A flow that is open although its process is gone, and of which nothing was heard for a while: as it is to be taken, ended with its process.
/// `exit_files` closes what only the process held, and the kernel goes on sending what is left; a socket that somebody else holds as well is
/// no stream of this process any more, and a close may be kept from all programs.
pub(super) fn left_behind(
    reading: &FlowReading,
    processes: &HashMap<u32, Known>,
    now_ns: u64,
) -> Option<FlowReading> {
    /// A few round trips and retransmissions, for a process that is waited for while its sockets close.
    const GRACE_NS: u64 = 10_000_000_000;
    let exited_ns = processes.get(&reading.process)?.reading.exited_ns?;
    if reading.closed {
        return None;
    }
    let heard_ns = reading.tagged_ns.max(reading.snapshot.at_us * 1000);
    let orphaned = reading.shut_ns().is_some() && reading.queue_pair.is_none();
    let silence_ns = if orphaned { SILENCE_NS } else { GRACE_NS };
    let ended_ns = exited_ns.max(heard_ns);
    if now_ns.saturating_sub(ended_ns) <= silence_ns {
        return None;
    }
    let mut over = reading.clone();
    over.closed = true;
    over.state_ns[TCP_CLOSE as usize] = reading.shut_ns().unwrap_or(ended_ns);
    Some(over)
}

/// For longer than this the kernel does not send to a silent peer (about 15 minutes by `tcp_retries2`,
/// Documentation/networking/ip-sysctl.rst).
const SILENCE_NS: u64 = 20 * 60 * 1_000_000_000;

/// Whether the first packet of the guest is still to come out of the destination's device, for a while after the end.
fn awaits_packet(live: &LiveMigration, now_ns: u64) -> bool {
    const PATIENCE_NS: u64 = 5_000_000_000;
    let Life::Finished { ended_ns, .. } = live.life else { return false };
    let completed = live.outcome.as_ref().is_some_and(|found| found.outcome == Outcome::Completed);
    let taps = live.end(Role::Destination).map(|end| end.taps.as_slice()).unwrap_or_default();
    let silent = !taps.is_empty() && taps.iter().all(|reading| reading.tap.packets == 0);
    completed && silent && now_ns.saturating_sub(ended_ns) < PATIENCE_NS
}
