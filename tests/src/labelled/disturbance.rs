//! When something else than the lab used the machine: what the signals say then is no false alarm, and no finding either.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use jiff::Timestamp;

use super::Span;

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_millis(500);
/// CPUs that others may use, or the hypervisor take, before that is a disturbance.
const HARMLESS: f64 = 0.2;
/// CPU time is told in hundredths of a second (`USER_HZ`, the same on all architectures that Linux tells it on).
const TICKS: f64 = 100.0;

/// Watches until it is asked what it has seen.
#[derive(Debug)]
pub(super) struct Disturbances {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Span>>,
}

impl Disturbances {
    /// Watches from now on. This process and its descendants are the lab.
    #[must_use]
    pub(super) fn watch() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let mut found: Vec<Span> = Vec::new();
            let mut last = (Timestamp::now(), Instant::now(), Used::now());
            while !told.load(Ordering::Relaxed) {
                std::thread::sleep(INTERVAL);
                let now = (Timestamp::now(), Instant::now(), Used::now());
                let seconds = now.1.duration_since(last.1).as_secs_f64();
                if now.2.since(&last.2) / seconds > HARMLESS {
                    match found.last_mut() {
                        Some(span) if span.1 == last.0 => span.1 = now.0,
                        _ => found.push((last.0, now.0)),
                    }
                }
                last = now;
            }
            found
        });
        Self { over, thread }
    }

    /// All that was seen, in the order of time.
    ///
    /// # Errors
    /// When watching has panicked.
    pub(super) fn end(self) -> Result<Vec<Span>> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the thread panicked"))
    }
}

/// CPU time so far.
#[derive(Debug, Default)]
struct Used {
    /// Of processes that are not the lab's, ticks by process.
    others: BTreeMap<u32, u64>,
    /// Taken by the hypervisor, ticks.
    stolen: u64,
}

impl Used {
    /// As /proc says; what cannot be read is not there.
    fn now() -> Self {
        let mut parents = BTreeMap::new();
        let mut others = BTreeMap::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            // It may have ended meanwhile.
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
            let Some((parent, ticks)) = parse(&stat) else { continue };
            parents.insert(pid, parent);
            others.insert(pid, ticks);
        }
        let own = descendants(std::process::id(), &parents);
        // What the kernel's threads do, they do for the lab as for others.
        let kernel = descendants(2, &parents);
        others.retain(|pid, _| !own.contains(pid) && !kernel.contains(pid));
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let stolen = stat.split_whitespace().nth(8).and_then(|ticks| ticks.parse().ok());
        Self { others, stolen: stolen.unwrap_or(0) }
    }

    /// CPU seconds since `before`.
    fn since(&self, before: &Self) -> f64 {
        let used = |(pid, ticks): (&u32, &u64)| {
            ticks.saturating_sub(before.others.get(pid).copied().unwrap_or(0))
        };
        let others: u64 = self.others.iter().map(used).sum();
        (others + self.stolen.saturating_sub(before.stolen)) as f64 / TICKS
    }
}

/// Parent, and CPU time in ticks, from /proc/PID/stat.
fn parse(stat: &str) -> Option<(u32, u64)> {
    // The name may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some((fields.get(1)?.parse().ok()?, ticks(11)? + ticks(12)?))
}

fn descendants(root: u32, parents: &BTreeMap<u32, u32>) -> BTreeSet<u32> {
    let mut found = BTreeSet::from([root]);
    loop {
        let before = found.len();
        let children = parents.iter().filter(|(_, parent)| found.contains(parent));
        let children: Vec<u32> = children.map(|(pid, _)| *pid).collect();
        found.extend(children);
        if found.len() == before {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_is_read() {
        let stat = "77 (a) b) S 42 77 77 0 -1 4194560 1 2 3 4 250 31 9 9 20 0 1 0 100 5 6";
        assert_eq!(parse(stat), Some((42, 281)));
        assert_eq!(parse("77 (a"), None);
    }

    #[test]
    fn descendants_are_found_whatever_their_ids() {
        let parents = BTreeMap::from([(5, 9), (9, 7), (7, 1), (8, 1), (3, 5)]);
        assert_eq!(descendants(7, &parents), BTreeSet::from([3, 5, 7, 9]));
    }

    #[test]
    fn only_what_others_use_counts() {
        let before = Used { others: BTreeMap::from([(1, 100), (2, 50)]), stolen: 7 };
        let after = Used { others: BTreeMap::from([(1, 130), (3, 20)]), stolen: 17 };
        assert!((after.since(&before) - 0.6).abs() < 1e-12);
        assert!(!Used::now().others.contains_key(&std::process::id()));
    }
}
