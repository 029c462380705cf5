//! What surrounds the ends of migrations and changes from look to look: threads, tap devices, what keeps a process from running.

use std::collections::{HashMap, HashSet};

use dwcp_observer_ebpf::netdev::Tap;

use super::{
    dump,
    end::{EndState, EndThread},
    live::LiveMigration,
    observation::{Actions, Observation, since_birth},
    questions::{Answers, Questions, answered},
    vcpus::name_guest_cpus,
};
use crate::{
    identify::roles::thread_role,
    model::record::Role,
    netdev::TapReading,
    sched::{self, ThreadReading},
};

/// Asks what surrounds all ends, and takes in what is answered.
pub(super) fn survey(lives: &mut [LiveMigration], observation: &Observation, ask: &mut Questions) {
    let answers = &observation.answers;
    for live in lives {
        let judged = observation.tick && !live.life.is_finished();
        for end in &mut live.ends {
            survey_end(end, answers, ask);
            name_dumped(end, answers, ask);
            update_taps(end, answers, ask);
            if judged && end.is_surveyed {
                update_hindrances(end, answers, ask);
            }
        }
    }
}

fn survey_end(end: &mut EndState, answers: &Answers, ask: &mut Questions) {
    if end.is_surveyed {
        return;
    }
    let found = answered(&answers.surroundings, &mut ask.surroundings, &end.facts.id());
    if let Some(found) = found {
        let unheard = |key: &_| TapReading { key: *key, tap: Tap::default() };
        end.taps = found.taps.iter().map(unheard).collect();
        end.quota_files.clone_from(&found.quota_files);
        end.is_surveyed = true;
    }
}

fn name_dumped(end: &mut EndState, answers: &Answers, ask: &mut Questions) {
    if !end.names_dumped {
        return;
    }
    let Some(pid) = dump::target(&end.facts.cmdline) else {
        end.names_dumped = false;
        return;
    };
    if let Some(name) = answered(&answers.traced, &mut ask.traced, &(pid, end.facts.id())) {
        end.dumped = name.clone().map(|name| (pid, name));
        end.names_dumped = false;
    }
}

/// What its tap devices have carried.
fn update_taps(end: &mut EndState, answers: &Answers, ask: &mut Questions) {
    for reading in &mut end.taps {
        if let Some(Some(tap)) = answered(&answers.taps, &mut ask.taps, &reading.key) {
            reading.tap = *tap;
        }
    }
}

/// What keeps it from running.
fn update_hindrances(end: &mut EndState, answers: &Answers, ask: &mut Questions) {
    let id = end.facts.id();
    match answers.hindrances.get(&id) {
        Some(found) => {
            (end.quota_throttled_ns, end.stopped) = (found.quota_throttled_ns, found.stopped);
        }
        None if ask.hindrances.iter().any(|(asked, _)| *asked == id) => {}
        None => ask.hindrances.push((id, end.quota_files.clone())),
    }
}

/// Asks for the waits of threads that have run since.
pub(super) fn ask_waits(lives: &[LiveMigration], observation: &Observation, ask: &mut Questions) {
    let mut ends: HashMap<u32, Vec<&EndState>> = HashMap::new();
    for end in lives.iter().flat_map(|live| &live.ends) {
        ends.entry(end.process).or_default().push(end);
    }
    let has_run = |end: &&EndState, reading: &ThreadReading| {
        end.threads.get(&reading.tid).is_none_or(|thread| {
            thread.at_end.is_none() && thread.reading.now.runs != reading.now.runs
        })
    };
    for reading in &observation.threads {
        let mut of_process = ends.get(&reading.process).into_iter().flatten();
        if of_process.any(|end| has_run(end, reading))
            && !observation.answers.waits.contains_key(&reading.slot)
        {
            ask.waits.push(reading.slot);
        }
    }
}

/// Takes in the threads of all ends, their roles and their waits; frees those of processes that do not migrate.
pub(super) fn update_threads(
    lives: &mut [LiveMigration],
    observation: &Observation,
    actions: &mut Actions,
) {
    let mut by_process: HashMap<u32, Vec<&ThreadReading>> = HashMap::new();
    for reading in &observation.threads {
        by_process.entry(reading.process).or_default().push(reading);
    }
    for live in lives.iter_mut() {
        let roles: Vec<(u32, Role)> = live.roles().map(|(role, end)| (end.process, role)).collect();
        let born_ns = (live.started_ns + observation.boot_offset_ns, observation.boot_offset_ns);
        for end in &mut live.ends {
            let Some(role) =
                roles.iter().find(|(process, _)| *process == end.process).map(|(_, role)| *role)
            else {
                continue;
            };
            let uses = end.thread_uses();
            for reading in by_process.get(&end.process).into_iter().flatten() {
                let moves = uses.get(&reading.tid).copied().unwrap_or_default();
                let leader = reading.tid == end.facts.pid;
                let found = thread_role(
                    sched::role_number(reading.role),
                    &reading.comm,
                    leader,
                    role,
                    moves,
                );
                if found != reading.role {
                    actions.roles.push((reading.slot, sched::role_number(found)));
                }
                let before = end.threads.get(&reading.tid);
                let is_over = before.is_some_and(|thread| thread.at_end.is_some());
                let waits = observation.answers.waits.get(&reading.slot).filter(|_| !is_over);
                let thread = EndThread {
                    role: found,
                    waits: waits.copied().unwrap_or(before.and_then(|thread| thread.waits)),
                    at_end: before.and_then(|thread| thread.at_end.clone()),
                    reading: since_birth(reading, born_ns),
                };
                if reading.exited {
                    actions.release_threads.push(reading.slot);
                }
                end.threads.insert(reading.tid, thread);
            }
            end.fold_threads();
        }
        name_guest_cpus(live, observation.boot_offset_ns, actions);
    }
    let migrating: HashSet<u32> =
        lives.iter().flat_map(|live| live.ends.iter().map(|end| end.process)).collect();
    let idle = observation.threads.iter().filter(|reading| !migrating.contains(&reading.process));
    actions.release_threads.extend(idle.map(|reading| reading.slot));
}
