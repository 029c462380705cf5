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

crate::named! {
    /// What a thread does for a migration.
    pub enum ThreadRole {
        /// Drives the migration.
        Main = "main",
        /// Moves data of one stream.
        Stream = "stream",
        /// Runs a guest CPU.
        Vcpu = "vcpu",
        /// Anything else.
        #[serde(other)]
        Other = "other",
    }
}
