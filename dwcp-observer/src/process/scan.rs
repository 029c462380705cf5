//! Looks at each new process once it has settled.

use std::collections::HashMap;

use super::{CommandLines, scan_facts, scan_facts_with};
use crate::model::facts::{ProcessFacts, ProcessId};

/// A process is looked at in this many scans: a new one may still have to `exec` what it is for.
const LOOKS: u8 = 3;

/// Finds candidates by `/proc`.
#[derive(Debug, Default)]
pub struct Scanner {
    /// Looks that a process has left, by id and number of its directory ([`super::all`]).
    left: HashMap<(u32, u64), u8>,
}

impl Scanner {
    /// Processes that `rule` names, new since the last scans, with the number of the rule. Each is returned once. With `lines`, rules see
    /// arguments.
    pub fn scan(
        &mut self,
        rule: impl Fn(&ProcessFacts) -> Option<u32>,
        mut lines: Option<&mut CommandLines>,
    ) -> Vec<(ProcessId, u32)> {
        self.scan_with(&super::all(), rule, |pid| match &mut lines {
            Some(lines) => scan_facts_with(pid, lines),
            None => scan_facts(pid),
        })
    }

    fn scan_with(
        &mut self,
        processes: &[(u32, u64)],
        rule: impl Fn(&ProcessFacts) -> Option<u32>,
        mut facts: impl FnMut(u32) -> Option<ProcessFacts>,
    ) -> Vec<(ProcessId, u32)> {
        let mut now = HashMap::with_capacity(processes.len());
        let mut found = Vec::new();
        for key in processes {
            let mut left = self.left.get(key).copied().unwrap_or(LOOKS);
            if left > 0 {
                let facts = facts(key.0);
                // What is still to be known of it is no look.
                left -= u8::from(!facts.as_ref().is_some_and(ProcessFacts::is_awaited));
                if let Some((facts, rule)) = facts.and_then(|it| rule(&it).map(|rule| (it, rule))) {
                    found.push((facts.id(), rule));
                    left = 0;
                }
            }
            now.insert(*key, left);
        }
        self.left = now;
        found
    }
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
        let found = ProcessId { pid: 7, start_ticks: 0 };
        assert_eq!(scanner.scan_with(&[(7, 1)], by_exe, facts("/bin/sh")), []);
        assert_eq!(scanner.scan_with(&[(7, 1)], by_exe, facts("/opt/x")), [(found, RULE)]);
        assert_eq!(scanner.scan_with(&[(7, 1)], by_exe, facts("/opt/x")), []);
        // The pid is another process' by the next scan.
        assert_eq!(scanner.scan_with(&[(7, 2)], by_exe, facts("/opt/x")), [(found, RULE)]);
    }

    #[test]
    fn work_ends_for_processes_of_no_interest() {
        let mut scanner = Scanner::default();
        let looks = std::cell::Cell::new(0);
        for _ in 0..10 {
            scanner.scan_with(&[(1, 1), (2, 1)], by_exe, |_| {
                looks.set(looks.get() + 1);
                None
            });
        }
        assert_eq!(looks.get(), 2 * u32::from(LOOKS));
    }
}
