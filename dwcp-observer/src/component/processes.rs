//! Finds processes and threads of components in `/proc`, and measures their resource usage.

use std::collections::{BTreeMap, HashMap, HashSet};

use procfs::process::{FDTarget, Process, Stat, Task};

use super::matcher::Matcher;
use crate::{
    model::facts::ProcessId,
    process::{Examination, Examinations, all, cgroup_of, id_of, open, open_now},
};

/// Where threads alone decide, all processes are looked at in each such scan, s.
const THREAD_SCANS: u64 = 10;
/// Processes of one component that are watched; further ones are counted.
pub const MAX_PROCESSES: usize = 256;
/// Threads of one process that are looked at.
const MAX_THREADS: usize = 4096;
/// Descriptors of one process that are looked at for sockets.
const MAX_FDS: usize = 4096;

/// What the processes of one component are and use now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Live processes.
    pub processes: Vec<ProcessId>,
    /// Matching processes that found no room.
    pub left_out: u64,
    /// Threads that count.
    pub threads: u64,
    /// Processes that a signal has stopped.
    pub stopped: u64,
    /// CPU time since each was first seen, seconds; only grows.
    pub cpu_seconds: f64,
    /// Resident memory of the processes, bytes, whichever of their threads count.
    pub resident_bytes: u64,
    /// Something has matched since the observer started.
    pub ever: bool,
}

/// A watched process.
#[derive(Debug)]
struct Watched {
    /// CPU time at the last look, ns; of threads by id where only some count.
    cpu_ns: u64,
    threads: HashMap<u32, u64>,
}

#[derive(Debug, Default)]
struct Group {
    watched: BTreeMap<ProcessId, Watched>,
    cpu_ns: u64,
    ever: bool,
    left_out: u64,
}

/// Finds and follows the processes of several rules.
#[derive(Debug, Default)]
pub struct Processes {
    groups: Vec<Group>,
    looks: Examinations,
    scans: u64,
}

impl Processes {
    /// Examinations at `/proc`: one entry per rule, in their order. Rules that name no processes cost nothing.
    pub fn sample(&mut self, rules: &[Matcher]) -> Vec<Usage> {
        self.groups.resize_with(rules.len(), Group::default);
        if rules.iter().any(Matcher::names_processes) {
            self.find(rules);
        }
        self.groups.iter_mut().zip(rules).map(|(group, rule)| group.sample(rule)).collect()
    }

    /// Watches a process that something else than its name has shown to belong to a rule.
    pub fn adopt(&mut self, index: usize, id: ProcessId, rule: &Matcher) {
        let Some(group) = self.groups.get_mut(index) else { return };
        if group.watched.len() < MAX_PROCESSES
            && !group.watched.contains_key(&id)
            && let Some(watched) = open(id).and_then(|process| begin(&process, rule))
        {
            group.watched.insert(id, watched);
        }
    }

    fn find(&mut self, rules: &[Matcher]) {
        let again =
            self.scans.is_multiple_of(THREAD_SCANS) && rules.iter().any(Matcher::by_threads_alone);
        self.scans += 1;
        let needs_cgroup = rules.iter().any(Matcher::needs_cgroup);
        let Self { groups, looks, .. } = self;
        for group in &mut *groups {
            group.left_out = 0;
        }
        looks.scan(again, |pid| {
            if let Some(process) = open_now(pid) {
                offer(groups, &process, rules, needs_cgroup);
            }
            // One that belongs to a component may belong to another as well, by the name that it takes next.
            Examination::Nothing
        });
    }
}

/// Watches a process for each rule that it matches.
fn offer(groups: &mut [Group], process: &Process, rules: &[Matcher], needs_cgroup: bool) {
    let (Some(id), Ok(stat)) = (id_of(process), process.stat()) else { return };
    let cgroup = if needs_cgroup { cgroup_of(process) } else { None };
    for (group, rule) in groups.iter_mut().zip(rules) {
        if group.watched.contains_key(&id) || !rule.process(&stat.comm, cgroup.as_deref()) {
            continue;
        }
        let Some(watched) = begin(process, rule) else { continue };
        if group.watched.len() < MAX_PROCESSES {
            group.watched.insert(id, watched);
        } else {
            group.left_out += 1;
        }
    }
}

/// Begins to watch a process; `None` when it is gone. Where its name or cgroup says enough, threads that count may come later.
fn begin(process: &Process, rule: &Matcher) -> Option<Watched> {
    let stat = alive(process)?;
    let threads = if rule.needs_threads() { thread_times(process, rule) } else { HashMap::new() };
    if rule.by_threads_alone() && threads.is_empty() {
        return None;
    }
    Some(Watched { cpu_ns: cpu_ns(&stat), threads })
}

impl Group {
    fn sample(&mut self, rule: &Matcher) -> Usage {
        let mut usage = Usage { left_out: self.left_out, ..Usage::default() };
        let mut cpu_ns_more = 0;
        self.watched.retain(|id, watched| {
            let Some(process) = open(*id) else { return false };
            let Some(stat) = alive(&process) else { return false };
            if rule.needs_threads() {
                let now = thread_times(&process, rule);
                for (tid, total) in &now {
                    let before = watched.threads.get(tid).copied().unwrap_or(0);
                    cpu_ns_more += total.saturating_sub(before);
                }
                usage.threads += now.len() as u64;
                watched.threads = now;
                if watched.threads.is_empty() {
                    return !rule.by_threads_alone();
                }
            } else {
                let now = cpu_ns(&stat);
                cpu_ns_more += now.saturating_sub(watched.cpu_ns);
                watched.cpu_ns = now;
                usage.threads += u64::try_from(stat.num_threads).unwrap_or_default();
            }
            usage.stopped += u64::from(matches!(stat.state, 'T' | 't'));
            usage.resident_bytes += stat.rss * procfs::page_size();
            usage.processes.push(*id);
            true
        });
        self.cpu_ns += cpu_ns_more;
        usage.cpu_seconds = self.cpu_ns as f64 / 1e9;
        self.ever |= !usage.processes.is_empty();
        usage.ever = self.ever;
        usage
    }
}

/// The state of a process that runs; `None` for one that is gone or a zombie.
fn alive(process: &Process) -> Option<Stat> {
    process.stat().ok().filter(|stat| !matches!(stat.state, 'Z' | 'X' | 'x'))
}

/// CPU time of a whole process, threads that have exited included, ns; in steps of a clock tick.
fn cpu_ns(stat: &Stat) -> u64 {
    let tick_ns = 1_000_000_000 / procfs::ticks_per_second().max(1);
    (stat.utime + stat.stime) * tick_ns
}

/// CPU time of each thread that counts, ns, from the scheduler.
fn thread_times(process: &Process, rule: &Matcher) -> HashMap<u32, u64> {
    let Ok(tasks) = process.tasks() else { return HashMap::new() };
    let counts = |task: &Task| task.stat().is_ok_and(|stat| rule.thread(&stat.comm));
    // Without CONFIG_SCHED_INFO the thread counts, its time does not.
    let time = |task: &Task| task.schedstat().map_or(0, |times| times.sum_exec_runtime);
    tasks
        .take(MAX_THREADS)
        .flatten()
        .filter(counts)
        .filter_map(|task| Some((u32::try_from(task.tid).ok()?, time(&task))))
        .collect()
}

/// Inodes of the sockets that a process holds; none when it is gone.
#[must_use]
pub fn socket_inodes(id: ProcessId) -> HashSet<u64> {
    open(id).map(|process| sockets_of(&process)).unwrap_or_default()
}

fn sockets_of(process: &Process) -> HashSet<u64> {
    let Ok(descriptors) = process.fd() else { return HashSet::new() };
    let socket = |target| if let FDTarget::Socket(inode) = target { Some(inode) } else { None };
    descriptors.take(MAX_FDS).flatten().filter_map(|fd| socket(fd.target)).collect()
}

/// Who holds these sockets, by inode. Reads the descriptors of every process.
#[must_use]
pub fn owners(inodes: &HashSet<u64>) -> Vec<(u64, ProcessId)> {
    let mut found = Vec::new();
    for process in all().into_iter().filter_map(|(pid, _)| open_now(pid)) {
        let held = sockets_of(&process);
        let held = held.intersection(inodes).copied();
        if let Some(id) = id_of(&process) {
            found.extend(held.map(|inode| (inode, id)));
        }
    }
    found
}
