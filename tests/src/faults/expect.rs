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
    /// How the migration ends, once the fault is undone if it can be.
    pub outcome: &'static str,
    /// Why.
    pub reason: &'static str,
}

const EXPECTATIONS: [Expectation; 13] = [
    Expectation {
        fault: Fault::Clean,
        states: &["healthy", "slow"],
        cause: "",
        outcome: "completed",
        reason: "nothing is wrong: neither stalled nor not_converging at any moment, whatever this \
                 machine does beside",
    },
    Expectation {
        fault: Fault::BandwidthCut,
        states: &["slow"],
        cause: "network",
        outcome: "completed",
        reason: "data flow, at 4 % of the rate so far; the sender waits for acknowledgements",
    },
    Expectation {
        fault: Fault::RandomDrop,
        states: &["slow"],
        cause: "network",
        outcome: "completed",
        reason: "the sender is in recovery most of the time, even where its congestion control \
                 keeps the rate up",
    },
    Expectation {
        fault: Fault::NetworkCutCancel,
        states: &["stalled"],
        cause: "network",
        outcome: "cancelled",
        reason: "nothing is acknowledged while data are outstanding; the operator gives up",
    },
    Expectation {
        fault: Fault::NetworkCutTimeout,
        states: &["stalled"],
        cause: "network",
        outcome: "failed",
        reason: "nothing is acknowledged while data are outstanding; TCP gives up",
    },
    Expectation {
        fault: Fault::ReceiverStopped,
        states: &["stalled"],
        cause: "receiver",
        outcome: "completed",
        reason: "nobody reads: the peer's window closes",
    },
    Expectation {
        fault: Fault::SourceCpuQuota,
        states: &["slow", "stalled"],
        cause: "source_cpu",
        outcome: "completed",
        reason: "the sending threads could run, but the quota of their group is used up",
    },
    Expectation {
        fault: Fault::SourceCpuContended,
        states: &["slow", "stalled"],
        cause: "source_cpu",
        outcome: "completed",
        reason: "the sending threads could run, but wait in the run queue behind others",
    },
    Expectation {
        fault: Fault::DirtyStorm,
        states: &["not_converging"],
        cause: "guest_dirtying",
        outcome: "completed",
        reason: "as much is dirtied during a pass as the pass sends",
    },
    Expectation {
        fault: Fault::MaxBandwidth,
        states: &["slow"],
        cause: "throttled",
        outcome: "completed",
        reason: "QEMU sleeps in its own rate limiter most of the time",
    },
    Expectation {
        fault: Fault::DestinationKilled,
        states: &[],
        cause: "",
        outcome: "failed",
        reason: "the guest stays where it was, against the operator's will",
    },
    Expectation {
        fault: Fault::SourceKilled,
        states: &[],
        cause: "",
        outcome: "failed",
        reason: "the guest is lost: the destination has not got all of it",
    },
    Expectation {
        fault: Fault::Cancel,
        states: &[],
        cause: "",
        outcome: "cancelled",
        reason: "the operator's will",
    },
];

impl Fault {
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
