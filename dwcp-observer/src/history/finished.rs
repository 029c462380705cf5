//! What is read of a stored migration: a part of its record. Unknown fields of other versions are passed over.

use jiff::Timestamp;
use serde::{Deserialize, de::IgnoredAny};

use crate::model::record::{Mode, Outcome, PhaseName, Role, Transport, Version};

/// A finished migration.
#[derive(Clone, Debug, Deserialize)]
pub struct Finished {
    /// As in its record.
    pub id: String,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// The virtual machine.
    #[serde(default)]
    pub vm: Vm,
    /// Kind of migrator.
    pub migrator: String,
    /// What carried it.
    pub transport: Transport,
    /// Its path.
    pub mode: Option<Mode>,
    /// What runs it; absent where nothing tells versions apart.
    #[serde(default)]
    pub version: Option<Version>,
    /// The ends on this host.
    pub ends: Vec<End>,
    /// First connection.
    pub started_at: Timestamp,
    /// Last close.
    pub ended_at: Option<Timestamp>,
    /// First connection to last close.
    pub duration_seconds: f64,
    /// How long the guest stood still.
    pub blackout: Option<Blackout>,
    /// The phases it passed.
    #[serde(default)]
    pub phases: Vec<Phase>,
    /// Payload.
    pub bytes: Option<Bytes>,
    /// Its streams; only their number.
    #[serde(default)]
    pub streams: Vec<IgnoredAny>,
    /// Passes over RAM; only their number.
    #[serde(default)]
    pub rounds: Vec<IgnoredAny>,
    /// What is known of its end.
    #[serde(default)]
    pub evidence: Vec<Evidence>,
}

/// Of the virtual machine.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Vm {
    /// Its name.
    pub name: Option<String>,
    /// Its memory, bytes.
    pub memory_bytes: Option<u64>,
}

/// Of an end.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct End {
    /// Source or destination.
    pub role: Role,
}

/// Of the blackout.
#[derive(Clone, Debug, Deserialize)]
pub struct Blackout {
    /// Length; absent while an end is unknown.
    pub seconds: Option<f64>,
}

/// Of a phase.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Phase {
    /// Which.
    pub phase: PhaseName,
    /// Length.
    pub seconds: f64,
}

/// Payload in bytes.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Bytes {
    /// Acknowledged by the destination.
    pub delivered: u64,
    /// Arrived at the destination.
    pub received: u64,
}

/// A reason.
#[derive(Clone, Debug, Deserialize)]
pub struct Evidence {
    /// What was looked at, as `exit` or `close`.
    pub kind: String,
    /// What was seen.
    pub detail: String,
    /// Absent where it speaks of the outcome.
    pub weight: Option<f64>,
}

impl Finished {
    /// Its VM's name, else its id.
    #[must_use]
    pub fn name(&self) -> &str {
        self.vm.name.as_deref().unwrap_or(&self.id)
    }

    /// Delivered bytes where the source was here, else what the destination received; `None` where neither was seen.
    #[must_use]
    pub fn transferred(&self) -> Option<u64> {
        let bytes = self.bytes?;
        let sent = self.ends.iter().any(|end| end.role == Role::Source);
        Some(if sent { bytes.delivered } else { bytes.received })
    }

    /// Whether it runs DWCP v1: no part of v3's figures.
    #[must_use]
    pub fn is_v1(&self) -> bool {
        self.version == Some(Version::V1)
    }

    /// Length of the blackout with both instants known, seconds.
    #[must_use]
    pub fn blackout_seconds(&self) -> Option<f64> {
        self.blackout.as_ref()?.seconds
    }
}
