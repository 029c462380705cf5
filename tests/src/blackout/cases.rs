//! The migrations of which the blackout is compared with the guest's own clock.

use std::time::Duration;

use anyhow::Result;

use crate::clock::ClockPorts;
use crate::guest::Guest;
use crate::migration::MigrationPlan;
use crate::qemu::{Accelerator, QemuSpec};
use crate::temp::free_migration_port;

const MIB: u64 = 1 << 20;

/// One kind of migration.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What is particular about it, in short.
    pub name: &'static str,
    /// What runs the guest.
    pub accelerator: Accelerator,
    /// RAM, MiB.
    pub memory_mib: u32,
    /// Memory that is written again and again, MiB.
    pub working_set_mib: u32,
    /// [`Guest::dirty_delay`].
    pub dirty_delay: u32,
    /// Multifd channels; 0 for none.
    pub channels: u8,
    /// Limit of the transfer, MiB/s; 0 for none.
    pub bandwidth_mib: u64,
    /// Goes over to postcopy so long after its start.
    pub postcopy_after: Option<Duration>,
    /// The guest's CPUs on CPU 0 of the host, all other threads of QEMU on CPU 1.
    pub pinned: bool,
    /// QEMU names its threads.
    pub thread_names: bool,
    /// Over ::1.
    pub ipv6: bool,
    /// One of the few that the ordinary tests run.
    pub short_list: bool,
}

impl Case {
    const fn tcg(name: &'static str, memory_mib: u32) -> Self {
        Self {
            name,
            accelerator: Accelerator::Tcg,
            memory_mib,
            working_set_mib: 8,
            dirty_delay: 20_000,
            channels: 0,
            bandwidth_mib: 0,
            postcopy_after: None,
            pinned: false,
            thread_names: true,
            ipv6: false,
            short_list: false,
        }
    }

    /// Such a guest runs slowly where KVM has to execute each instruction by software.
    const fn kvm(name: &'static str, memory_mib: u32) -> Self {
        Self {
            accelerator: Accelerator::Kvm,
            working_set_mib: 1,
            dirty_delay: 100,
            ..Self::tcg(name, memory_mib)
        }
    }

    const fn dirty(self, working_set_mib: u32, dirty_delay: u32) -> Self {
        Self { working_set_mib, dirty_delay, ..self }
    }

    const fn multifd(self, channels: u8) -> Self {
        Self { channels, ..self }
    }

    const fn at_most(self, bandwidth_mib: u64) -> Self {
        Self { bandwidth_mib, ..self }
    }

    /// The guest writes seldom, and its code is sent before: its first tick on the destination
    /// then waits for no page that is still to come.
    const fn postcopy(self, after_ms: u64) -> Self {
        let dirty_delay = 50 * self.dirty_delay;
        Self { postcopy_after: Some(Duration::from_millis(after_ms)), dirty_delay, ..self }
    }

    const fn pinned(self) -> Self {
        Self { pinned: true, ..self }
    }

    const fn nameless(self) -> Self {
        Self { thread_names: false, ..self }
    }

    const fn over_ipv6(self) -> Self {
        Self { ipv6: true, ..self }
    }

    const fn short(self) -> Self {
        Self { short_list: true, ..self }
    }

    /// How both QEMUs are started.
    #[must_use]
    pub fn spec(&self, tick: Duration, clock: ClockPorts) -> QemuSpec {
        QemuSpec {
            name: Some("blackout".to_owned()),
            debug_threads: self.thread_names,
            guest: Guest {
                memory_mib: self.memory_mib,
                working_set_mib: self.working_set_mib,
                dirty_delay: self.dirty_delay,
                tick: Some(tick),
                ..Guest::default()
            },
            accelerator: self.accelerator,
            clock: Some(clock),
            ..QemuSpec::default()
        }
    }

    /// How it migrates.
    ///
    /// # Errors
    /// When no port is free.
    pub fn plan(&self) -> Result<MigrationPlan> {
        Ok(MigrationPlan {
            multifd_channels: (self.channels > 0).then_some(self.channels),
            max_bandwidth: (self.bandwidth_mib > 0).then_some(self.bandwidth_mib * MIB),
            ipv6: self.ipv6,
            port: free_migration_port(self.ipv6)?,
            postcopy: self.postcopy_after.is_some(),
            ..MigrationPlan::default()
        })
    }
}

/// Twenty different ones, those of the short list first in each group.
#[must_use]
pub fn cases() -> [Case; 20] {
    [
        Case::tcg("precopy, 100 MiB/s, pinned", 256).at_most(100).pinned().short(),
        Case::tcg("precopy, fast", 64),
        Case::tcg("precopy, 50 MiB/s, pinned", 64).at_most(50).pinned(),
        Case::tcg("precopy, fast, pinned", 128).pinned(),
        Case::tcg("precopy, 200 MiB/s", 256).at_most(200),
        Case::tcg("precopy, 32 MiB dirtied fast", 256).dirty(32, 4_000).at_most(200).pinned(),
        Case::tcg("precopy, no thread names", 128).at_most(100).nameless().pinned().short(),
        Case::tcg("precopy, IPv6", 512).dirty(16, 20_000).at_most(250).pinned().over_ipv6(),
        Case::tcg("multifd 4, 200 MiB/s, pinned", 256).multifd(4).at_most(200).pinned().short(),
        Case::tcg("multifd 2, fast", 128).multifd(2),
        Case::tcg("multifd 2, 100 MiB/s, pinned", 256).multifd(2).at_most(100).pinned(),
        Case::tcg("multifd 4, fast, pinned", 512).multifd(4).pinned(),
        Case::tcg("multifd 4, 64 MiB dirtied", 512).dirty(64, 10_000).multifd(4).at_most(300),
        Case::tcg("multifd 2, no thread names", 64).multifd(2).at_most(50).nameless().pinned(),
        Case::tcg("postcopy, 100 MiB/s, pinned", 256).at_most(100).postcopy(300).pinned().short(),
        Case::tcg("postcopy, 50 MiB/s", 64).at_most(50).postcopy(200),
        Case::tcg("postcopy late, pinned", 512)
            .dirty(64, 8_000)
            .at_most(150)
            .postcopy(1500)
            .pinned(),
        Case::kvm("KVM, precopy, 100 MiB/s, pinned", 256).at_most(100).pinned().short(),
        Case::kvm("KVM, multifd 4, pinned", 256).multifd(4).at_most(200).pinned().short(),
        Case::kvm("KVM, postcopy, pinned", 128).at_most(100).postcopy(500).pinned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_twenty_differ_and_all_kinds_are_among_them() {
        let cases = cases();
        let names: BTreeSet<&str> = cases.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), cases.len());
        let has =
            |condition: fn(&Case) -> bool| cases.iter().filter(|case| condition(case)).count();
        assert!(has(|case| case.channels == 2) >= 3 && has(|case| case.channels == 4) >= 3);
        assert!(has(|case| case.postcopy_after.is_some()) >= 4);
        assert!(has(|case| case.accelerator == Accelerator::Kvm) >= 3);
        assert!(has(|case| !case.pinned) >= 5 && has(|case| !case.thread_names) >= 2);
        assert_eq!(has(|case| case.short_list), 6);
    }
}
