//! What the guest felt, and the phases that its migration passed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Role;
use crate::{migration::blackout::Method, netdev::FirstPacket, phase::states::MigratorState};

/// Time in which the guest's CPUs ran nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Blackout {
    /// Length; absent while an end is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// What gave the instants; `phase_functions` when one of them rests on a function alone.
    pub method: Method,
    /// Both instants are known.
    pub complete: bool,
    /// The half that is seen from here, when it is not complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half: Option<Role>,
    /// The guest last ran, at the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<Timestamp>,
    /// The guest ran again, at the destination, or at the source when the switch-over failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// The switch-over failed: the guest ran on at the source.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ran_on_at_source: bool,
    /// What each method gives on its own.
    pub by_method: ByMethod,
    /// Where the time went; the parts sum to `seconds`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breakdown: Option<BlackoutParts>,
    /// Most that this host's clock may be off (`adjtimex(2)`, `maxerror`), for joining the halves of two hosts; absent when the
    /// clock is not synchronised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_error_seconds: Option<f64>,
}

/// Time between the guest's stop and its first packet at the destination.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NetworkBlackout {
    /// Length; absent when the guest's stop was not seen on this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// When the first packet came out of the destination's device.
    pub first_packet_at: Timestamp,
    /// What it was: `rarp` is QEMU's announcement.
    pub first_packet: FirstPacket,
    /// Device at the destination.
    pub destination_interface: String,
    /// Device at the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_interface: Option<String>,
    /// When the guest's last packet came out of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_packet_at: Option<Timestamp>,
}

/// A blackout's length by each method, seconds; absent where a method gave none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ByMethod {
    /// `pause_all_vcpus` of the source to `resume_all_vcpus` of the destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase_functions: Option<f64>,
    /// Last guest CPU off the source's CPUs to first one on the destination's, found without the functions' help.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu_scheduling: Option<f64>,
}

/// Parts of a blackout, seconds, in order of time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BlackoutParts {
    /// Guest stopped, until the last pass over RAM: devices are quiesced, disks flushed.
    pub stop: f64,
    /// Last pass over RAM.
    pub ram: f64,
    /// Device state is saved and written.
    pub device: f64,
    /// The last of it travels.
    pub network: f64,
    /// The destination loads it.
    pub load: f64,
    /// Loaded, until a guest CPU runs.
    pub start: f64,
}

impl BlackoutParts {
    /// The parts with their names, in order of time.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, f64); 6] {
        [
            ("stop", self.stop),
            ("ram", self.ram),
            ("device", self.device),
            ("network", self.network),
            ("load", self.load),
            ("start", self.start),
        ]
    }
}

/// A phase of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseName {
    /// Connections are made, dirty logging is started.
    Setup,
    /// RAM is copied while the guest runs at the source.
    Precopy,
    /// The guest stands still.
    StopAndCopy,
    /// The guest runs at the destination, pages are still at the source.
    Postcopy,
    /// The guest runs, connections are closed.
    Completion,
}

impl PhaseName {
    /// All phases, in order.
    pub const ALL: [Self; 5] =
        [Self::Setup, Self::Precopy, Self::StopAndCopy, Self::Postcopy, Self::Completion];

    /// The name in records and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Precopy => "precopy",
            Self::StopAndCopy => "stop_and_copy",
            Self::Postcopy => "postcopy",
            Self::Completion => "completion",
        }
    }
}

/// A span of a migration.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Phase {
    /// Which.
    pub phase: PhaseName,
    /// Begin.
    pub started_at: Timestamp,
    /// Length, so far if it lasts.
    pub seconds: f64,
}

/// One pass over RAM.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Round {
    /// Counts from 1, as `dirty-sync-count`.
    pub round: u64,
    /// Begin: the dirty bitmap was fetched.
    pub started_at: Timestamp,
    /// Length, so far if it lasts.
    pub seconds: f64,
    /// Payload handed to the sockets; absent while it lasts, and where a device moves it without the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// A state of the migrator and when it was entered.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct MigratorStateChange {
    /// As in QMP: `setup`, `active`, `completed`, ...
    pub state: MigratorState,
    /// When.
    pub at: Timestamp,
}

/// What guest CPUs of a postcopy destination waited for.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Postcopy {
    /// Pages that the destination asked for.
    pub page_requests: u64,
    /// Stays of guest CPUs off their CPU during which a page was asked for.
    pub page_waits: u64,
    /// Sum of these stays.
    pub page_wait_seconds: f64,
    /// Mean stay: the page-fault latency that the guest felt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_wait_mean_seconds: Option<f64>,
}
