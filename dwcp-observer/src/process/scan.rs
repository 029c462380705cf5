//! Examines each new process after its start has settled.

use std::collections::HashMap;

use super::{CommandLines, scan_facts, scan_facts_with};
use crate::model::facts::{ProcessFacts, ProcessId};

/// A process is looked at in this many scans: a new one may still have to `exec` what it is for.
const EXAMINATIONS: u8 = 3;

/// What a look at a process has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Examination {
    /// Nothing yet.
    Nothing,
    /// What is still to be known of it: it was no look.
    Awaits,
    /// All that is wanted.
    Found,
}

/// Which processes are still to be looked at.
#[derive(Debug, Default)]
pub struct Examinations {
    /// Examinations that a process has left, by id and number of its directory ([`super::all`]).
    left: HashMap<(u32, u64), u8>,
}

impl Examinations {
    /// Examinations at the processes of this host that are new since the last scans; with `again` at all of them.
    pub fn scan(&mut self, again: bool, look: impl FnMut(u32) -> Examination) {
        self.scan_these(&super::all(), again, look);
    }

    fn scan_these(
        &mut self,
        processes: &[(u32, u64)],
        again: bool,
        mut look: impl FnMut(u32) -> Examination,
    ) {
        let before = std::mem::take(&mut self.left);
        self.left.reserve(processes.len());
        for key in processes {
            let mut left = before.get(key).copied().unwrap_or(EXAMINATIONS);
            if left > 0 || again {
                left = match look(key.0) {
                    Examination::Nothing => left.saturating_sub(1),
                    Examination::Awaits => left,
                    Examination::Found => 0,
                };
            }
            self.left.insert(*key, left);
        }
    }
}

/// Finds candidates by `/proc`.
#[derive(Debug, Default)]
pub struct Scanner {
    looks: Examinations,
}

impl Scanner {
    /// Processes that `rule` names, new since the last scans, with the number of the rule. Each is returned once. With `lines`, rules see
    /// arguments.
    pub fn scan(
        &mut self,
        rule: impl Fn(&ProcessFacts) -> Option<u32>,
        mut lines: Option<&mut CommandLines>,
    ) -> Vec<(ProcessId, u32)> {
        let mut found = Vec::new();
        self.looks.scan(false, |pid| {
            let facts = match &mut lines {
                Some(lines) => scan_facts_with(pid, lines),
                None => scan_facts(pid),
            };
            let Some(facts) = facts else { return Examination::Nothing };
            match rule(&facts) {
                Some(rule) => {
                    found.push((facts.id(), rule));
                    Examination::Found
                }
                None if facts.is_awaited() => Examination::Awaits,
                None => Examination::Nothing,
            }
        });
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_after_its_exec_and_once() {
        let mut looks = Examinations::default();
        let mut scan = |key, look| {
            let mut count = 0;
            looks.scan_these(&[key], false, |_| {
                count += 1;
                look
            });
            count
        };
        assert_eq!(scan((7, 1), Examination::Nothing), 1);
        assert_eq!(scan((7, 1), Examination::Found), 1);
        assert_eq!(scan((7, 1), Examination::Found), 0);
        // The pid is another process' by the next scan.
        assert_eq!(scan((7, 2), Examination::Found), 1);
    }

    #[test]
    fn work_ends_for_processes_of_no_interest_and_not_while_one_is_awaited() {
        for (look, again, wanted) in [
            (Examination::Nothing, false, u32::from(EXAMINATIONS)),
            (Examination::Nothing, true, 10),
            (Examination::Awaits, false, 10),
        ] {
            let (mut looks, mut count) = (Examinations::default(), 0);
            for _ in 0..10 {
                looks.scan_these(&[(1, 1), (2, 1)], again, |_| {
                    count += 1;
                    look
                });
            }
            assert_eq!(count, 2 * wanted, "{look:?}");
        }
    }
}
