//! Finds the guest CPUs of a migration whose threads have no telling names.

use super::{end::EndState, live::LiveMigration, observation::Actions};
use crate::model::record::{Role, ThreadRole};
use crate::{
    identify::vcpus::{Candidate, by_cpu_time, by_order, smp},
    sched,
};

/// Migrators that run a guest; others move processes.
fn runs_a_guest(migrator: &str) -> bool {
    !matches!(migrator, "criu")
}

/// Gives guest CPUs their role: by CPU time at the source, and at the destination by their place in the order of creation, or by
/// the CPU time since the guest runs there.
pub(super) fn name_guest_cpus(
    live: &mut LiveMigration,
    boot_offset_ns: u64,
    actions: &mut Actions,
) {
    if !runs_a_guest(&live.migrator) {
        return;
    }
    let started_boottime_ns = live.started_ns + boot_offset_ns;
    let over = live.life.is_finished();
    let found: Vec<(u32, Vec<u32>, &'static str)> = live
        .roles()
        .filter(|(_, end)| !end.threads.values().any(|thread| thread.role == ThreadRole::Vcpu))
        .filter_map(|(role, end)| {
            let candidates = candidates(end, started_boottime_ns);
            let count = smp(&end.facts.cmdline);
            let (tids, how) = match role {
                Role::Source => (by_cpu_time(&candidates, count), "by CPU time"),
                Role::Destination => {
                    let source = live.end(Role::Source);
                    let by_order = source.map_or_else(Vec::new, |source| {
                        let there = tids(&self::candidates(source, started_boottime_ns), source);
                        let here = tids(&candidates, end);
                        by_order(&here, &there, &guest_cpus(source))
                    });
                    if by_order.is_empty() && over {
                        (by_cpu_time(&candidates, count), "by CPU time after the end")
                    } else {
                        (by_order, "by order of creation")
                    }
                }
            };
            (!tids.is_empty()).then_some((end.process, tids, how))
        })
        .collect();
    for (process, tids, how) in found {
        let Some(end) = live.ends.iter_mut().find(|end| end.process == process) else { continue };
        end.guest_cpus_found = Some(how);
        for thread in end.threads.values_mut().filter(|thread| tids.contains(&thread.reading.tid)) {
            thread.role = ThreadRole::Vcpu;
            let role = sched::role_number(ThreadRole::Vcpu);
            actions.roles.push((thread.reading.slot, role));
        }
    }
}

/// Threads that were there before the migration and have no part in it.
fn candidates(end: &EndState, started_boottime_ns: u64) -> Vec<Candidate> {
    end.threads
        .values()
        .filter(|thread| {
            thread.role == ThreadRole::Other
                && thread.reading.tid != end.facts.pid
                && thread.reading.start_boottime_ns < started_boottime_ns
        })
        .map(|thread| Candidate { tid: thread.reading.tid, cpu_ns: thread.reading.now.on_cpu_ns })
        .collect()
}

fn guest_cpus(end: &EndState) -> Vec<u32> {
    let cpus = end.threads.values().filter(|thread| thread.role == ThreadRole::Vcpu);
    cpus.map(|thread| thread.reading.tid).collect()
}

/// Candidates and those that are already known.
fn tids(candidates: &[Candidate], end: &EndState) -> Vec<u32> {
    let mut tids: Vec<u32> = candidates.iter().map(|candidate| candidate.tid).collect();
    tids.extend(guest_cpus(end));
    tids
}
