//! Processes and threads of components: found in `/proc`, and what they use.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
};

use procfs::process::{Process, Stat};

use super::matcher::Matcher;

/// A process is looked at in this many scans: a new one may still have to `exec` what it is for.
const LOOKS: u8 = 3;
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
    /// Ids of live processes.
    pub pids: Vec<u32>,
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
    /// Start, clock ticks since boot: tells a process from a later one of the same id.
    start: u64,
    /// CPU time at the last look, ns; of threads by id where only some count.
    cpu_ns: u64,
    threads: HashMap<u32, u64>,
}

#[derive(Debug, Default)]
struct Group {
    watched: BTreeMap<u32, Watched>,
    cpu_ns: u64,
    ever: bool,
    left_out: u64,
}

/// Finds and follows the processes of several rules.
#[derive(Debug, Default)]
pub struct Processes {
    groups: Vec<Group>,
    /// Looks that a process has left.
    left: HashMap<u32, u8>,
    scans: u64,
}

impl Processes {
    /// Looks at `/proc`: one entry per rule, in their order. Rules that name no processes cost nothing.
    pub fn look(&mut self, rules: &[Matcher]) -> Vec<Usage> {
        self.groups.resize_with(rules.len(), Group::default);
        if rules.iter().any(Matcher::names_processes) {
            self.find(rules);
        }
        self.groups.iter_mut().zip(rules).map(|(group, rule)| group.look(rule)).collect()
    }

    /// Watches a process that something else than its name has shown to belong to a rule.
    pub fn adopt(&mut self, index: usize, pid: u32, rule: &Matcher) {
        let Some(group) = self.groups.get_mut(index) else { return };
        if group.watched.len() < MAX_PROCESSES
            && !group.watched.contains_key(&pid)
            && let Some(watched) = begin(pid, rule)
        {
            group.watched.insert(pid, watched);
        }
    }

    fn find(&mut self, rules: &[Matcher]) {
        let again =
            self.scans.is_multiple_of(THREAD_SCANS) && rules.iter().any(Matcher::by_threads_alone);
        self.scans += 1;
        let needs_cgroup = rules.iter().any(Matcher::needs_cgroup);
        let mut now = HashMap::with_capacity(self.left.len());
        for group in &mut self.groups {
            group.left_out = 0;
        }
        for pid in pids() {
            let mut left = self.left.get(&pid).copied().unwrap_or(LOOKS);
            if left > 0 || again {
                left = left.saturating_sub(1);
                self.offer(pid, rules, needs_cgroup);
            }
            now.insert(pid, left);
        }
        self.left = now;
    }

    fn offer(&mut self, pid: u32, rules: &[Matcher], needs_cgroup: bool) {
        let Ok(comm) = fs::read_to_string(format!("/proc/{pid}/comm")) else { return };
        let comm = comm.trim_end_matches('\n');
        let cgroup = if needs_cgroup { crate::process::cgroup_of(pid) } else { None };
        for (group, rule) in self.groups.iter_mut().zip(rules) {
            if group.watched.contains_key(&pid) || !rule.process(comm, cgroup.as_deref()) {
                continue;
            }
            let Some(watched) = begin(pid, rule) else { continue };
            if group.watched.len() < MAX_PROCESSES {
                group.watched.insert(pid, watched);
            } else {
                group.left_out += 1;
            }
        }
    }
}

/// Begins to watch a process; `None` when it is gone. Where its name or cgroup says enough, threads that count may come later.
fn begin(pid: u32, rule: &Matcher) -> Option<Watched> {
    let (_, stat) = alive(pid)?;
    let threads = if rule.needs_threads() { thread_times(pid, rule) } else { HashMap::new() };
    if rule.by_threads_alone() && threads.is_empty() {
        return None;
    }
    Some(Watched { start: stat.starttime, cpu_ns: cpu_ns(&stat), threads })
}

impl Group {
    fn look(&mut self, rule: &Matcher) -> Usage {
        let mut usage = Usage { left_out: self.left_out, ..Usage::default() };
        let mut cpu_ns_more = 0;
        self.watched.retain(|pid, watched| {
            let Some((_, stat)) = alive(*pid).filter(|(_, stat)| stat.starttime == watched.start)
            else {
                return false;
            };
            if rule.needs_threads() {
                let now = thread_times(*pid, rule);
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
            usage.pids.push(*pid);
            true
        });
        self.cpu_ns += cpu_ns_more;
        usage.cpu_seconds = self.cpu_ns as f64 / 1e9;
        self.ever |= !usage.pids.is_empty();
        usage.ever = self.ever;
        usage
    }
}

/// The state of a process that runs; `None` for one that is gone or a zombie.
fn alive(pid: u32) -> Option<(Process, Stat)> {
    let process = Process::new(i32::try_from(pid).ok()?).ok()?;
    let stat = process.stat().ok()?;
    (!matches!(stat.state, 'Z' | 'X' | 'x')).then_some((process, stat))
}

/// CPU time of a whole process, threads that have exited included, ns; in steps of a clock tick.
fn cpu_ns(stat: &Stat) -> u64 {
    let tick_ns = 1_000_000_000 / procfs::ticks_per_second().max(1);
    (stat.utime + stat.stime) * tick_ns
}

/// CPU time of each thread that counts, ns, from the scheduler.
fn thread_times(pid: u32, rule: &Matcher) -> HashMap<u32, u64> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return HashMap::new() };
    tasks
        .flatten()
        .take(MAX_THREADS)
        .filter_map(|task| {
            let path = task.path();
            let comm = fs::read_to_string(path.join("comm")).ok()?;
            if !rule.thread(comm.trim_end_matches('\n')) {
                return None;
            }
            let tid = task.file_name().to_str()?.parse().ok()?;
            // Without CONFIG_SCHED_INFO the thread counts, its time does not.
            let times = fs::read_to_string(path.join("schedstat")).unwrap_or_default();
            let ns = times.split_whitespace().next().and_then(|ns| ns.parse().ok());
            Some((tid, ns.unwrap_or(0)))
        })
        .collect()
}

/// The processes of this host now; empty when `/proc` cannot be read.
fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Inodes of the sockets that a process holds.
#[must_use]
pub fn socket_inodes(pid: u32) -> HashSet<u64> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return HashSet::new() };
    entries
        .flatten()
        .take(MAX_FDS)
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        })
        .collect()
}

/// Who holds these sockets: ids by inode. Reads the descriptors of every process.
#[must_use]
pub fn owners(inodes: &HashSet<u64>) -> Vec<(u64, u32)> {
    let mut found = Vec::new();
    for pid in pids() {
        found.extend(socket_inodes(pid).intersection(inodes).map(|inode| (*inode, pid)));
    }
    found
}
