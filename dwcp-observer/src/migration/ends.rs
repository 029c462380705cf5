//! What surrounds the ends of migrations and changes from look to look: threads, tap devices, what keeps a process from running.

use std::collections::{HashMap, HashSet};

use super::{
    end::EndThread,
    live::Live,
    look::{Actions, Observation, World, since_birth},
    vcpus::name_guest_cpus,
};
use crate::model::record::Role;
use crate::{
    identify::roles::thread_role,
    sched::{self, ThreadReading},
};

/// Takes in the threads of all ends, their roles and their waits; frees those of processes that do not migrate.
pub(super) fn update_threads(
    lives: &mut [Live],
    observation: &Observation,
    world: &impl World,
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
                let unchanged = before.filter(|thread| thread.reading.now.runs == reading.now.runs);
                let thread = EndThread {
                    role: found,
                    waits: match before.filter(|thread| thread.at_end.is_some()).or(unchanged) {
                        Some(thread) => thread.waits,
                        None => world.thread_waits(reading.slot),
                    },
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

/// Takes in what the tap devices of all ends have carried.
pub(super) fn update_taps(lives: &mut [Live], world: &impl World) {
    let ends = lives.iter_mut().flat_map(|live| live.ends.iter_mut());
    for reading in ends.flat_map(|end| end.taps.iter_mut()) {
        if let Some(tap) = world.tap(reading.key) {
            reading.tap = tap;
        }
    }
}

/// What keeps the processes of running migrations from running.
pub(super) fn update_hindrances(lives: &mut [Live], world: &mut impl World) {
    let running = lives.iter_mut().filter(|live| !live.life.is_finished());
    for end in running.flat_map(|live| live.ends.iter_mut()) {
        end.quota_throttled_ns =
            end.quota_file.as_deref().and_then(|file| world.quota_throttled_ns(file));
        end.stopped = world.is_stopped(end.facts.id());
    }
}
