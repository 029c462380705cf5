//! One kind of migration: who migrates, how, and what goes wrong.

use std::time::Duration;

use serde_json::{Value, json};

use super::images::Mount;
use super::version::Version;
use crate::migration::MigrationPlan;
use crate::qemu::{Accelerator, Role};

const MIB: u64 = 1 << 20;

/// What runs inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Inside {
    /// A boot sector that writes pages and ticks.
    Bare,
    /// A Linux on so many CPUs, all halted.
    IdleLinux(u8),
    /// A Linux that keeps so many CPUs at work.
    BusyLinux(u8),
}

/// How its memory goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// All while it runs at the source, on one connection.
    Precopy,
    /// The same with so many channels beside it.
    Multifd(u8),
    /// Goes over to postcopy so long after its start.
    Postcopy(Duration),
    /// The same with a connection of its own for pages that are asked for.
    Preempt(Duration),
}

impl Transfer {
    /// When it goes over to postcopy.
    #[must_use]
    pub const fn postcopy_after(self) -> Option<Duration> {
        match self {
            Self::Postcopy(after) | Self::Preempt(after) => Some(after),
            Self::Precopy | Self::Multifd(_) => None,
        }
    }
}

/// Who lets the guest run at the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// QEMU itself.
    Itself,
    /// The destination was started with `-S`; its manager says `cont` so long after the end.
    Manager(Duration),
    /// The same, but the manager is gone.
    Never,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Turn {
    /// Nothing.
    None,
    /// Its manager cancels it so long after its start.
    Cancel(Duration),
    /// Nobody listens at the destination.
    Refused,
    /// No answer comes from the destination's host.
    Unanswered,
    /// An end is killed (SIGKILL) so long after its start or, with postcopy, after the guest has moved.
    Kill(Role, Duration),
    /// Both ends are, one right after the other.
    KillBoth(Duration),
    /// The source is told to `quit`.
    Quit(Duration),
    /// The destination lacks a device.
    LoadFails,
    /// The connections break in postcopy (`ss -K`); after so long it is recovered.
    Broken(Duration),
    /// No packet arrives any more from this moment on, until the source gives up.
    Blackhole(Duration),
    /// After its end, the manager lets the guest run at the source as well.
    BothRun,
}

/// One kind of migration.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is particular about it, in short.
    pub name: String,
    /// The source's QEMU.
    pub from: Version,
    /// The destination's.
    pub to: Version,
    /// The source's file system and the destination's.
    pub mounts: [Mount; 2],
    /// So many more QEMUs of the destination's image, each in an overlay mount of its own.
    pub bystanders: u8,
    /// What runs the guest.
    pub accelerator: Accelerator,
    /// What runs inside.
    pub inside: Inside,
    /// RAM, MiB.
    pub memory_mib: u32,
    /// Memory that a bare guest writes again and again, MiB, and the turns after each page
    /// ([`crate::guest::Guest::dirty_delay`]).
    pub dirty: (u32, u32),
    /// How the memory goes over.
    pub transfer: Transfer,
    /// Limit of the transfer, MiB/s; 0 for none.
    pub bandwidth_mib: u64,
    /// Limit of the transfer in postcopy, MiB/s; 0 for none.
    pub postcopy_bandwidth_mib: u64,
    /// Who lets the guest run at the destination.
    pub resume: Resume,
    /// The source waits for its manager before the switch-over; it says so after this time.
    pub hold: Option<Duration>,
    /// The guest is slowed down until its memory can be sent.
    pub auto_converge: bool,
    /// Encrypted, with a key that both ends have.
    pub tls: bool,
    /// Over ::1.
    pub ipv6: bool,
    /// QEMU names its threads.
    pub thread_names: bool,
    /// Its operator has stopped the guest before.
    pub paused: bool,
    /// What goes wrong.
    pub turn: Turn,
    /// One of those that the ordinary tests run.
    pub ci: bool,
}

impl Case {
    /// Plain precopy of a busy bare guest; `name` is put before the versions.
    #[must_use]
    pub fn new(name: &str, from: Version, to: Version) -> Self {
        let versions = if from == to { from.to_string() } else { format!("{from} to {to}") };
        Self {
            name: format!("{versions}, {name}"),
            from,
            to,
            mounts: [Mount::Plain; 2],
            bystanders: 0,
            accelerator: Accelerator::Tcg,
            inside: Inside::Bare,
            memory_mib: 96,
            dirty: (4, 20_000),
            transfer: Transfer::Precopy,
            bandwidth_mib: 100,
            postcopy_bandwidth_mib: 0,
            resume: Resume::Itself,
            hold: None,
            auto_converge: false,
            tls: false,
            ipv6: false,
            thread_names: true,
            paused: false,
            turn: Turn::None,
            ci: false,
        }
    }

    /// The same, otherwise.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// One of those that the ordinary tests run.
    #[must_use]
    pub fn ci(self) -> Self {
        Self { ci: true, ..self }
    }

    /// In postcopy the guest writes seldom, and its code is sent before: its first tick at the
    /// destination then waits for no page that is still to come.
    #[must_use]
    pub fn dirty_delay(&self) -> u32 {
        let (_, delay) = self.dirty;
        if self.transfer.postcopy_after().is_some() { 50 * delay } else { delay }
    }

    /// Whether the ends are in network namespaces of their own.
    #[must_use]
    pub const fn needs_wire(&self) -> bool {
        matches!(self.turn, Turn::Unanswered | Turn::Blackhole(_))
    }

    /// Whether the guest's clock is read.
    #[must_use]
    pub const fn has_clock(&self) -> bool {
        // A namespace has a loopback address of its own, which the clock's datagrams do not leave.
        matches!(self.inside, Inside::Bare) && !self.needs_wire()
    }

    /// What the guest waits for while it stands still for long; by the record's names.
    #[must_use]
    pub const fn awaits(&self) -> &'static str {
        match (self.turn, self.hold) {
            (Turn::Broken(_), _) => "recovery",
            (_, Some(_)) => "migrate_continue",
            (_, None) => "resume",
        }
    }

    /// Classes of the reason that the record may give if it does not complete; the first is the best.
    #[must_use]
    pub const fn reasons(&self) -> &'static [&'static str] {
        let postcopy = self.transfer.postcopy_after().is_some();
        match (self.turn, self.resume) {
            (Turn::Cancel(_), _) => &["cancelled_by_manager"],
            (Turn::Refused, _) => &["connection_refused"],
            (Turn::Unanswered, _) => &["connection_timed_out"],
            (Turn::Blackhole(_), _) => &["connection_timed_out", "connection_lost"],
            (Turn::Kill(..), _) if postcopy => &["guest_lost"],
            (Turn::Kill(Role::Destination, _), _) => &["destination_exited"],
            (Turn::Kill(Role::Source, _) | Turn::Quit(_), _) => &["source_exited"],
            (Turn::KillBoth(_), _) => &["source_exited", "destination_exited"],
            (Turn::LoadFails, _) => &["load_failed"],
            (_, Resume::Never) => &["not_resumed", "destination_exited"],
            (Turn::None | Turn::Broken(_) | Turn::BothRun, _) => &[],
        }
    }

    /// How it migrates.
    #[must_use]
    pub fn plan(&self, port: u16) -> MigrationPlan {
        let channels = match self.transfer {
            Transfer::Multifd(channels) => Some(channels),
            _ => None,
        };
        let chosen = [
            (matches!(self.transfer, Transfer::Preempt(_)), "postcopy-preempt"),
            (self.hold.is_some(), "pause-before-switchover"),
            (self.auto_converge, "auto-converge"),
        ];
        let capabilities = chosen.into_iter().filter(|(is, _)| *is).map(|(_, name)| name);
        let mut parameters: Vec<(&'static str, Value)> = Vec::new();
        if self.tls {
            parameters.push(("tls-creds", json!("tls0")));
        }
        if self.auto_converge {
            parameters.push(("cpu-throttle-initial", json!(40)));
            parameters.push(("cpu-throttle-increment", json!(20)));
        }
        if self.postcopy_bandwidth_mib > 0 {
            parameters.push(("max-postcopy-bandwidth", json!(self.postcopy_bandwidth_mib * MIB)));
        }
        MigrationPlan {
            multifd_channels: channels,
            max_bandwidth: (self.bandwidth_mib > 0).then_some(self.bandwidth_mib * MIB),
            ipv6: self.ipv6,
            port,
            postcopy: self.transfer.postcopy_after().is_some(),
            capabilities: capabilities.collect(),
            parameters,
            ..MigrationPlan::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_has_what_its_case_asks_for() {
        let case = Case::new("x", Version::V7_2, Version::V10_0).with(|case| {
            case.transfer = Transfer::Preempt(Duration::from_millis(300));
            case.hold = Some(Duration::from_secs(1));
            case.tls = true;
        });
        assert_eq!(case.name, "7.2 to 10.0, x");
        let plan = case.plan(1234);
        assert!(plan.postcopy && plan.multifd_channels.is_none());
        assert_eq!(plan.capabilities, ["postcopy-preempt", "pause-before-switchover"]);
        assert_eq!(plan.parameters, [("tls-creds", json!("tls0"))]);
        assert_eq!(case.dirty_delay(), 1_000_000);
    }
}
