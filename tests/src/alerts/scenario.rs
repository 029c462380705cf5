//! The faults of the end-to-end run: what each is, and the alerts that must come of it.

use clap::ValueEnum;

/// What goes wrong. Those come first that only wait for their alerts once their migrations are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Two migrations fail: their destinations get SIGKILL.
    DestinationsKilled,
    /// One migration fails: its source gets SIGKILL.
    SourceKilled,
    /// Most of the guest's memory is sent while it stands still.
    LongBlackout,
    /// A blackout over the limit, on a network below its target.
    TwoLevelsViolated,
    /// The guest stands still for some 80 % of what its mode allows.
    NearBlackout,
    /// After migrations with a short blackout, one with a longer one.
    UnusualBlackout,
    /// After half a minute at one rate the network loses packets; then a destination is killed.
    UnusualSecond,
    /// The destination gets SIGSTOP.
    ReceiverStopped,
    /// The guest writes to its memory as fast as the network sends.
    DirtyStorm,
    /// A destination that was started with `-S` is not told to run the guest.
    NotResumed,
    /// A migration is held before its switch-over.
    HeldBeforeSwitchOver,
    /// The connection of a postcopy breaks.
    PostcopyPaused,
    /// The guest is let run at both ends.
    ResumedTwice,
    /// The network loses 5 % of the packets.
    RandomDrop,
    /// One path of a migration with four streams becomes slow.
    SlowPath,
    /// The network's rate falls to 4 % of what it was.
    BandwidthCut,
    /// The network carries 87 % of its target.
    SlowNetwork,
    /// 460 connections of a migrator.
    ManyStreams,
    /// More connections than the observer has slots.
    TooManyFlows,
    /// A process of a component gets SIGKILL.
    ComponentKilled,
    /// One migration of v1, one of v3, then none.
    RolloutStands,
    /// All CPUs are busy.
    BusyCpus,
    /// Memory fills up.
    MemoryFills,
    /// The endpoints of ACP, HDE and PBA report that they do badly.
    ComponentsDoBadly,
    /// The observer gets SIGKILL.
    ObserverKilled,
    /// The observer's collecting thread is halted, its others are not.
    ObserverHalted,
    /// The disk with the observer's history is full.
    DiskFull,
    /// Alertmanager gets SIGKILL; a second one is there.
    AlertmanagerKilled,
    /// Prometheus gets no CPU for 15 s.
    PrometheusHalted,
    /// A target gives more samples than its job allows.
    TooManySamples,
}

impl Scenario {
    /// The alerts that must arrive.
    #[must_use]
    pub fn alerts(self) -> &'static [&'static str] {
        match self {
            Self::ReceiverStopped => &["DWCPv3MigrationStalled"],
            Self::DirtyStorm => &["DWCPv3MigrationNotConverging"],
            Self::NotResumed => &["DWCPv3GuestNotResumed"],
            Self::HeldBeforeSwitchOver => &["DWCPv3MigrationAwaitsContinue"],
            Self::PostcopyPaused => &["DWCPv3PostcopyPaused"],
            Self::ResumedTwice => &["DWCPv3SplitBrain"],
            Self::RandomDrop => &["DWCPv3RetransmitStorm"],
            Self::SlowPath => &["DWCPv3StreamImbalance"],
            Self::BandwidthCut => &[
                "DWCPv3ThroughputAnomalyDetected",
                "DWCPv3SLAThroughputViolation",
                "DWCPv3ThroughputCriticalLow",
            ],
            Self::SlowNetwork => &["DWCPv3ThroughputLow"],
            Self::SourceKilled => &["DWCPv3SLAErrorRateViolation", "DWCPv3ErrorRateElevated"],
            Self::DestinationsKilled => &["DWCPv3ErrorRateCritical"],
            Self::LongBlackout => &[
                "DWCPv3BlackoutOverLimit",
                "DWCPv3SLALatencyViolation",
                "DWCPv3LatencyP99Critical",
            ],
            Self::NearBlackout => &["DWCPv3LatencyP95High"],
            Self::TwoLevelsViolated => &["DWCPv3RolloutNoGo"],
            Self::UnusualBlackout => &["DWCPv3LatencyAnomalyDetected"],
            Self::UnusualSecond => &["DWCPv3MultipleAnomalies"],
            Self::RolloutStands => &["DWCPv3RolloutStalled"],
            Self::ManyStreams => &["DWCPv3AMSTStreamSaturation"],
            Self::TooManyFlows => &["DWCPObserverEventsLost", "DWCPObserverTableFull"],
            Self::ComponentKilled => {
                &["DWCPv3ComponentDown", "DWCPv3ErrorBudgetBurn", "DWCPv3SLAOverallCompliance"]
            }
            Self::ComponentsDoBadly => &[
                "DWCPv3ConsensusFailure",
                "DWCPv3ACPConsensusLatencyHigh",
                "DWCPv3HDECompressionLow",
                "DWCPv3PBAPredictionAccuracyLow",
            ],
            Self::ObserverKilled => &["DWCPObserverDown"],
            Self::ObserverHalted => &["DWCPObserverCycleStuck"],
            Self::DiskFull => &["DWCPObserverHistoryDown"],
            Self::AlertmanagerKilled => &["DWCPv3AlertManagerDown"],
            Self::PrometheusHalted => &["DWCPv3MetricsCollectionSlow"],
            Self::TooManySamples => &["DWCPv3PrometheusScrapeFailures"],
            Self::BusyCpus => &["DWCPv3CPUHighUsage"],
            Self::MemoryFills => &["DWCPv3MemoryLeakSuspected"],
        }
    }

    /// What all times of rules and routes are divided by unless the command says otherwise: 1, and 10 where the fault
    /// would have to last for five to forty minutes and nothing else may run meanwhile.
    #[must_use]
    pub fn speed(self) -> u32 {
        match self {
            Self::SlowNetwork
            | Self::NearBlackout
            | Self::RolloutStands
            | Self::ManyStreams
            | Self::ComponentKilled
            | Self::BusyCpus
            | Self::MemoryFills => 10,
            _ => 1,
        }
    }

    /// Whether neither migrations of others disturb it, nor it them: it may run beside them.
    #[must_use]
    pub fn is_aside(self) -> bool {
        matches!(
            self,
            Self::ComponentsDoBadly
                | Self::ObserverKilled
                | Self::ObserverHalted
                | Self::DiskFull
                | Self::AlertmanagerKilled
                | Self::PrometheusHalted
                | Self::TooManySamples
        )
    }

    /// Whether the alert ends with the fault, and not an hour later.
    pub(super) fn resolves(self) -> bool {
        matches!(
            self,
            Self::ReceiverStopped
                | Self::DirtyStorm
                | Self::NotResumed
                | Self::HeldBeforeSwitchOver
                | Self::PostcopyPaused
        )
    }

    /// Its name, as the command line has it.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |it| it.get_name().to_owned())
    }
}

/// Alerts that no scenario causes, and why.
pub const NOT_CAUSED: [(&str, &str); 1] = [(
    "DWCPObserverProbeDetached",
    "this kernel has every hook, and no setting takes one away; its unit test fires it",
)];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::alerts::rules;

    #[test]
    fn every_alert_is_caused_or_has_its_reason() {
        let caused = Scenario::value_variants().iter().flat_map(|it| it.alerts()).copied();
        let excused = NOT_CAUSED.iter().map(|(name, _)| *name);
        let mut seen = BTreeSet::new();
        for name in caused.chain(excused) {
            assert!(seen.insert(name.to_owned()), "{name} twice");
        }
        let all: BTreeSet<String> =
            rules::alerts().unwrap().into_iter().filter_map(|(_, _, rule)| rule.alert).collect();
        assert_eq!(seen, all);
    }
}
