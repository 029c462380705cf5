//! What of a record tells how the guest fared: its blackout, the phases, the migrator's states.
//! Seconds are floats; what was not measured is absent.

use jiff::Timestamp;
use serde::Deserialize;

/// How long the guest stood still.
#[derive(Clone, Debug, Deserialize)]
pub struct Blackout {
    /// Source stop to destination run; only where both are known.
    pub seconds: Option<f64>,
    /// `vcpu_scheduling` or `phase_functions`: which of them gave `seconds`.
    pub method: Option<String>,
    /// Both instants are known.
    pub complete: bool,
    /// The end that is known where the other one is not.
    pub half: Option<String>,
    /// When the guest stopped.
    pub stopped_at: Option<Timestamp>,
    /// When it ran again.
    pub started_at: Option<Timestamp>,
    /// What each method says.
    pub by_method: ByMethod,
    /// Where the time went.
    pub breakdown: Option<Breakdown>,
}

/// The blackout by each method.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct ByMethod {
    /// By QEMU's functions that stop and start the guest.
    pub phase_functions: Option<f64>,
    /// By when the guest's CPUs were on a CPU.
    pub vcpu_scheduling: Option<f64>,
}

/// Parts of the blackout; their sum is the whole. One whose edge is not known is absent.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Breakdown {
    /// Until the guest's CPUs stood still.
    pub stop: Option<f64>,
    /// The last pass over its memory.
    pub ram: Option<f64>,
    /// The state of its devices.
    pub device: Option<f64>,
    /// What was still to be delivered.
    pub network: Option<f64>,
    /// The destination took it in.
    pub load: Option<f64>,
    /// Until the manager let the guest run.
    pub resume: Option<f64>,
    /// Until the guest's CPUs ran.
    pub start: Option<f64>,
}

impl Breakdown {
    /// The sum of the parts.
    #[must_use]
    pub fn sum(&self) -> f64 {
        let Self { stop, ram, device, network, load, resume, start } = *self;
        [stop, ram, device, network, load, resume, start].into_iter().flatten().sum()
    }
}

/// A phase of a migration.
#[derive(Clone, Debug, Deserialize)]
pub struct Phase {
    /// `setup`, `precopy`, `stop_and_copy`, `postcopy`, `completion`.
    pub phase: String,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took; `None` while it lasts.
    pub seconds: Option<f64>,
}

/// One pass over the guest's memory.
#[derive(Clone, Debug, Deserialize)]
pub struct Round {
    /// From 1.
    pub round: u64,
    /// When its dirty bitmap was taken.
    pub started_at: Timestamp,
    /// Until the next one, or the end; `None` while it lasts.
    pub seconds: Option<f64>,
    /// What was sent in it; `None` while it lasts, or where it was not counted.
    pub bytes: Option<u64>,
    /// What was left when it ended, by QEMU's own count.
    pub remaining_bytes: Option<u64>,
    /// What the guest dirtied in it, each page once, by its length.
    pub dirty_bytes_per_second: Option<f64>,
}

/// A state of the migrator.
#[derive(Clone, Debug, Deserialize)]
pub struct MigratorState {
    /// By the migrator's own name.
    pub state: String,
    /// When it was entered.
    pub at: Timestamp,
}

/// What the guest waited for while its memory followed it.
#[derive(Clone, Debug, Deserialize)]
pub struct Postcopy {
    /// Pages that were not there yet.
    pub page_faults: Option<u64>,
}
