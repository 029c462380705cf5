//! Looks at each new process once it has settled.

use std::collections::HashMap;

use super::scan_facts;
use crate::model::facts::ProcessFacts;

/// A process is looked at in this many scans: a new one may still have to `exec` what it is for.
const LOOKS: u8 = 3;

/// Finds candidates by `/proc`. A pid that is reused between two scans is not looked at again.
#[derive(Debug, Default)]
pub struct Scanner {
    /// Looks that a process has left.
    left: HashMap<u32, u8>,
}

impl Scanner {
    /// Processes that `rule` names, new since the last scans: pid and rule number. Each is returned once.
    pub fn scan(&mut self, rule: impl Fn(&ProcessFacts) -> Option<u32>) -> Vec<(u32, u32)> {
        self.scan_with(&pids(), rule, scan_facts)
    }

    fn scan_with(
        &mut self,
        pids: &[u32],
        rule: impl Fn(&ProcessFacts) -> Option<u32>,
        facts: impl Fn(u32) -> Option<ProcessFacts>,
    ) -> Vec<(u32, u32)> {
        let mut now = HashMap::with_capacity(pids.len());
        let mut found = Vec::new();
        for &pid in pids {
            let mut left = self.left.get(&pid).copied().unwrap_or(LOOKS);
            if left > 0 {
                left -= 1;
                if let Some(rule) = facts(pid).and_then(|facts| rule(&facts)) {
                    found.push((pid, rule));
                    left = 0;
                }
            }
            now.insert(pid, left);
        }
        self.left = now;
        found
    }
}

/// The processes of this host now; empty when `/proc` cannot be read.
fn pids() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: u32 = 3;

    fn by_exe(facts: &ProcessFacts) -> Option<u32> {
        (facts.exe.as_deref() == Some("/opt/x")).then_some(RULE)
    }

    #[test]
    fn a_process_is_found_after_its_exec_and_once() {
        let facts = |exe: &str| {
            let exe = Some(exe.to_owned());
            move |pid| Some(ProcessFacts { pid, exe: exe.clone(), ..ProcessFacts::default() })
        };
        let mut scanner = Scanner::default();
        assert_eq!(scanner.scan_with(&[7], by_exe, facts("/bin/sh")), []);
        assert_eq!(scanner.scan_with(&[7], by_exe, facts("/opt/x")), [(7, RULE)]);
        assert_eq!(scanner.scan_with(&[7], by_exe, facts("/opt/x")), []);
        // The pid goes and comes again: a new process.
        assert_eq!(scanner.scan_with(&[], by_exe, facts("/opt/x")), []);
        assert_eq!(scanner.scan_with(&[7], by_exe, facts("/opt/x")), [(7, RULE)]);
    }

    #[test]
    fn work_ends_for_processes_of_no_interest() {
        let mut scanner = Scanner::default();
        let looks = std::cell::Cell::new(0);
        for _ in 0..10 {
            scanner.scan_with(&[1, 2], by_exe, |_| {
                looks.set(looks.get() + 1);
                None
            });
        }
        assert_eq!(looks.get(), 2 * u32::from(LOOKS));
    }
}
