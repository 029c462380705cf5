//! Looks at each new process once it has settled.

use std::collections::HashMap;

use super::scan_facts;
use crate::identify::rules::RuleSet;
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
    /// Processes that `rules` names, new since the last scans: pid and rule number. Each is returned once.
    pub fn scan(&mut self, rules: &RuleSet) -> Vec<(u32, u32)> {
        self.scan_with(&pids(), rules, scan_facts)
    }

    fn scan_with(
        &mut self,
        pids: &[u32],
        rules: &RuleSet,
        facts: impl Fn(u32) -> Option<ProcessFacts>,
    ) -> Vec<(u32, u32)> {
        let mut now = HashMap::with_capacity(pids.len());
        let mut found = Vec::new();
        for &pid in pids {
            let mut left = self.left.get(&pid).copied().unwrap_or(LOOKS);
            if left > 0 {
                left -= 1;
                if let Some(rule) = facts(pid).and_then(|facts| rules.scan(&facts)) {
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
    use crate::config::Config;
    use std::path::Path;

    #[test]
    fn a_process_is_found_after_its_exec_and_once() {
        let text = "[[rule]]\nname = 'x'\nexe = '/opt/x'";
        let rules = RuleSet::new(&Config::parse(text, Path::new("t")).unwrap());
        let facts = |exe: &str| {
            let exe = Some(exe.to_owned());
            move |pid| Some(ProcessFacts { pid, exe: exe.clone(), ..ProcessFacts::default() })
        };
        let mut scanner = Scanner::default();
        assert_eq!(scanner.scan_with(&[7], &rules, facts("/bin/sh")), []);
        let found = scanner.scan_with(&[7], &rules, facts("/opt/x"));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0, rules.name(found[0].1)), (7, Some("x")));
        assert_eq!(scanner.scan_with(&[7], &rules, facts("/opt/x")), []);
        // The pid goes and comes again: a new process.
        assert_eq!(scanner.scan_with(&[], &rules, facts("/opt/x")), []);
        assert_eq!(scanner.scan_with(&[7], &rules, facts("/opt/x")).len(), 1);
    }

    #[test]
    fn work_ends_for_processes_of_no_interest() {
        let rules = RuleSet::new(&Config::default());
        let mut scanner = Scanner::default();
        let looks = std::cell::Cell::new(0);
        for _ in 0..10 {
            scanner.scan_with(&[1, 2], &rules, |_| {
                looks.set(looks.get() + 1);
                None
            });
        }
        assert_eq!(looks.get(), 2 * u32::from(LOOKS));
    }
}
