//! Numbers that make the identity of a migration unique, also after a restart of the observer and on other hosts.

use std::hash::{BuildHasher as _, RandomState};

/// Counts from a number that is another one in each run.
#[derive(Debug)]
pub(super) struct Ids {
    run: u32,
    count: u32,
}

impl Ids {
    pub(super) fn new() -> Self {
        // Seeded by the kernel's random numbers, once per process.
        let random = RandomState::new().hash_one(std::process::id());
        Self { run: random as u32, count: 0 }
    }

    /// The run in eight hexadecimal digits, and the count within it.
    pub(super) fn next(&mut self) -> String {
        self.count = self.count.wrapping_add(1);
        format!("{:08x}{:x}", self.run, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_alike_in_a_run_nor_in_two() {
        let (mut first, mut second) = (Ids::new(), Ids::new());
        let ids: std::collections::HashSet<String> =
            (0..100).flat_map(|_| [first.next(), second.next()]).collect();
        assert_eq!(ids.len(), 200);
    }
}
