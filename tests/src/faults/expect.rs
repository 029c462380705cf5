//! What the observer is to say of each fault: the one place where that is written down.

use clap::ValueEnum;

/// What happens to a migration some seconds after its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// Nothing.
    Clean,
    /// The network's rate falls to 20 Mbit/s, 4 % of what it was.
    BandwidthCut,
    /// The network loses packets at random.
    RandomDrop,
    /// The network is cut; then the migration is cancelled.
    NetworkCutCancel,
    /// The network is cut until TCP gives up.
    NetworkCutTimeout,
    /// The destination gets SIGSTOP.
    ReceiverStopped,
    /// The source's control group may use a small part of a CPU.
    SourceCpuQuota,
    /// Busy processes go before the source's sending threads.
    SourceCpuContended,
    /// The guest writes to its memory much faster.
    DirtyStorm,
    /// QEMU's own limit is set far below the rate so far.
    MaxBandwidth,
    /// The destination gets SIGKILL.
    DestinationKilled,
    /// The source gets SIGKILL.
    SourceKilled,
    /// The operator cancels.
    Cancel,
    /// From the start packets of more than 1000 bytes are dropped.
    LargePacketsDropped,
    /// From the start the destination's control group may use a small part of a CPU.
    ReceiverCpuQuota,
    /// From the start QEMU's own limit is half of what the network carries.
    SteadyAtLimit,
    /// A second migration begins over the same network.
    SharedLink,
    /// The guest outruns a migration that holds it back as much as it may.
    AutoConverge,
    /// The manager holds the migration before its switch-over.
    HeldBeforeSwitchOver,
    /// The manager does not resume the guest at a destination that was started with `-S`.
    NotResumed,
    /// The connection of a postcopy breaks; later it is recovered.
    PostcopyPaused,
    /// The manager lets the guest run at both ends.
    ResumedTwice,
}

/// What the observer is to say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expectation {
    /// The fault.
    pub fault: Fault,
    /// The states of which one must be told; none where only the outcome counts.
    pub states: &'static [&'static str],
    /// The cause that must be told with it.
    pub cause: &'static str,
    /// Words that its sentence must contain.
    pub words: &'static str,
    /// How the migration ends, once the fault is undone if it can be.
    pub outcome: &'static str,
    /// Why.
    pub reason: &'static str,
}

const EXPECTATIONS: [Expectation; 22] = [
    Expectation {
        fault: Fault::Clean,
        states: &["healthy", "slow"],
        cause: "",
        words: "",
        outcome: "completed",
        reason: "nothing is wrong: neither stalled nor not_converging at any moment, whatever this \
                 machine does beside",
    },
    Expectation {
        fault: Fault::BandwidthCut,
        states: &["slow"],
        cause: "network",
        words: "",
        outcome: "completed",
        reason: "data flow, at 4 % of the rate so far; the sender waits for acknowledgements",
    },
    Expectation {
        fault: Fault::RandomDrop,
        states: &["slow"],
        cause: "network",
        words: "",
        outcome: "completed",
        reason: "the sender is in recovery most of the time, even where its congestion control \
                 keeps the rate up",
    },
    Expectation {
        fault: Fault::NetworkCutCancel,
        states: &["stalled"],
        cause: "network",
        words: "",
        outcome: "cancelled",
        reason: "nothing is acknowledged while data are outstanding; the operator gives up",
    },
    Expectation {
        fault: Fault::NetworkCutTimeout,
        states: &["stalled"],
        cause: "network",
        words: "",
        outcome: "failed",
        reason: "nothing is acknowledged while data are outstanding; TCP gives up",
    },
    Expectation {
        fault: Fault::ReceiverStopped,
        states: &["stalled"],
        cause: "receiver",
        words: "",
        outcome: "completed",
        reason: "nobody reads: the peer's window closes",
    },
    Expectation {
        fault: Fault::SourceCpuQuota,
        states: &["slow", "stalled"],
        cause: "source_cpu",
        words: "",
        outcome: "completed",
        reason: "the sending threads could run, but the quota of their group is used up",
    },
    Expectation {
        fault: Fault::SourceCpuContended,
        states: &["slow", "stalled"],
        cause: "source_cpu",
        words: "",
        outcome: "completed",
        reason: "the sending threads could run, but wait in the run queue behind others",
    },
    Expectation {
        fault: Fault::DirtyStorm,
        states: &["not_converging"],
        cause: "guest_dirtying",
        words: "",
        outcome: "completed",
        reason: "as much is dirtied during a pass as the pass sends",
    },
    Expectation {
        fault: Fault::MaxBandwidth,
        states: &["slow"],
        cause: "throttled",
        words: "",
        outcome: "completed",
        reason: "QEMU sleeps in its own rate limiter most of the time",
    },
    Expectation {
        fault: Fault::DestinationKilled,
        states: &[],
        cause: "",
        words: "",
        outcome: "failed",
        reason: "the guest stays where it was, against the operator's will",
    },
    Expectation {
        fault: Fault::SourceKilled,
        states: &[],
        cause: "",
        words: "",
        outcome: "failed",
        reason: "the guest is lost: the destination has not got all of it",
    },
    Expectation {
        fault: Fault::Cancel,
        states: &[],
        cause: "",
        words: "",
        outcome: "cancelled",
        reason: "the operator's will",
    },
    Expectation {
        fault: Fault::LargePacketsDropped,
        states: &["stalled"],
        cause: "network",
        words: "large packets do not arrive",
        outcome: "completed",
        reason: "the handshake is answered and no full segment ever is; there is no better past to \
                 compare with",
    },
    Expectation {
        fault: Fault::ReceiverCpuQuota,
        states: &["slow"],
        cause: "receiver",
        words: "raise the quota",
        outcome: "completed",
        reason: "the window is closed because the reading thread may not run; that it was so from \
                 the start makes it no norm",
    },
    Expectation {
        fault: Fault::SteadyAtLimit,
        states: &["healthy"],
        cause: "throttled",
        words: "max-bandwidth",
        outcome: "completed",
        reason: "it is as fast as it was told to be",
    },
    Expectation {
        fault: Fault::SharedLink,
        states: &["healthy", "slow"],
        cause: "network",
        words: Fault::NEIGHBOUR,
        outcome: "completed",
        reason: "the other one takes half of the network, and is named",
    },
    Expectation {
        fault: Fault::AutoConverge,
        states: &["not_converging"],
        cause: "guest_dirtying",
        words: "auto-converge throttles the vCPUs by 20 %",
        outcome: "completed",
        reason: "as much is dirtied during a pass as the pass sends, though auto-converge has done \
                 what it may",
    },
    Expectation {
        fault: Fault::HeldBeforeSwitchOver,
        states: &["stalled"],
        cause: "manager",
        words: "`migrate-continue`",
        outcome: "completed",
        reason: "the guest stands still until the manager goes on",
    },
    Expectation {
        fault: Fault::NotResumed,
        states: &["stalled"],
        cause: "manager",
        words: "`cont`",
        outcome: "completed",
        reason: "all has arrived, and the guest stands still until the manager resumes it",
    },
    Expectation {
        fault: Fault::PostcopyPaused,
        states: &["stalled"],
        cause: "network",
        words: "postcopy",
        outcome: "completed",
        reason: "the guest is at the destination, a part of its memory is not, and nothing brings it",
    },
    Expectation {
        fault: Fault::ResumedTwice,
        states: &[],
        cause: "",
        words: "",
        outcome: "completed",
        reason: "all has arrived; that it runs twice is told apart",
    },
];

impl Fault {
    /// Name of the VM whose migration shares the network.
    pub const NEIGHBOUR: &'static str = "vm-neighbour";

    /// Whether it is in force before the migration begins.
    #[must_use]
    pub const fn is_from_the_start(self) -> bool {
        matches!(self, Self::LargePacketsDropped | Self::ReceiverCpuQuota | Self::SteadyAtLimit)
    }

    /// Whether the guest writes much faster, which tells from the second pass over its memory on.
    #[must_use]
    pub const fn is_storm(self) -> bool {
        matches!(self, Self::DirtyStorm | Self::AutoConverge)
    }

    /// All of them, in the order of the tables.
    pub fn all() -> impl Iterator<Item = Self> {
        EXPECTATIONS.into_iter().map(|expectation| expectation.fault)
    }

    /// What the observer is to say of it.
    ///
    /// # Panics
    /// Never: a test of this module looks each fault up.
    #[must_use]
    pub fn expectation(self) -> Expectation {
        EXPECTATIONS[self as usize]
    }

    /// Its name, as the command line has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::BandwidthCut => "bandwidth-cut",
            Self::RandomDrop => "random-drop",
            Self::NetworkCutCancel => "network-cut-cancel",
            Self::NetworkCutTimeout => "network-cut-timeout",
            Self::ReceiverStopped => "receiver-stopped",
            Self::SourceCpuQuota => "source-cpu-quota",
            Self::SourceCpuContended => "source-cpu-contended",
            Self::DirtyStorm => "dirty-storm",
            Self::MaxBandwidth => "max-bandwidth",
            Self::DestinationKilled => "destination-killed",
            Self::SourceKilled => "source-killed",
            Self::Cancel => "cancel",
            Self::LargePacketsDropped => "large-packets-dropped",
            Self::ReceiverCpuQuota => "receiver-cpu-quota",
            Self::SteadyAtLimit => "steady-at-limit",
            Self::SharedLink => "shared-link",
            Self::AutoConverge => "auto-converge",
            Self::HeldBeforeSwitchOver => "held-before-switch-over",
            Self::NotResumed => "not-resumed",
            Self::PostcopyPaused => "postcopy-paused",
            Self::ResumedTwice => "resumed-twice",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_its_expectation_and_its_name() {
        assert_eq!(Fault::value_variants().len(), EXPECTATIONS.len());
        for fault in Fault::value_variants() {
            assert_eq!(fault.expectation().fault, *fault);
            let value = fault.to_possible_value().unwrap();
            assert_eq!(value.get_name(), fault.name());
        }
    }
}
