//! What the record says of one thread.

use serde::{Deserialize, Serialize};

use super::{Quantiles, Role};

/// A thread of a migrator, while the migration runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Thread {
    /// Which end it belongs to.
    pub end: Role,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Name.
    pub comm: String,
    /// What it does.
    pub role: ThreadRole,
    /// Time on a CPU.
    pub on_cpu_seconds: f64,
    /// Time neither on a CPU nor waiting for one.
    pub off_cpu_seconds: f64,
    /// Time runnable but waiting for a CPU.
    pub runqueue_wait_seconds: f64,
    /// Distribution of single waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runqueue_wait: Option<Quantiles>,
    /// Wake-ups.
    pub wakeups: u64,
    /// Context switches by blocking and by preemption.
    pub context_switches: u64,
    /// Moves to another CPU.
    pub cpu_moves: u64,
}

/// What a thread does for a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ThreadRole {
    /// Drives the migration.
    Main,
    /// Moves data of one stream.
    Stream,
    /// Runs a guest CPU.
    Vcpu,
    /// Anything else.
    #[serde(other)]
    Other,
}

impl ThreadRole {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::Main, Self::Stream, Self::Vcpu, Self::Other];

    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Stream => "stream",
            Self::Vcpu => "vcpu",
            Self::Other => "other",
        }
    }
}
