//! A process that is dumped, and how long it stood still for it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A process that a checkpoint tool dumps, with all below it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DumpedProcess {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Name of its main thread.
    pub name: String,
    /// How long it stood still.
    #[serde(default)]
    pub frozen: Frozen,
}

/// Time in which a dumped process was kept from its own work. It ends with its exit where it is killed after the dump: that is no
/// blackout, which lasts until it is restored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Frozen {
    /// Length; absent while it lasts and where an end of it was not seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Why `seconds` is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<String>,
    /// What stopped it; absent where that was not seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<FreezeMethod>,
    /// The first of its tasks stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// It ended, or could run again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// What ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<FreezeEnd>,
    /// Tasks that were stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks: Option<u64>,
}

/// What stopped a process to dump it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FreezeMethod {
    /// Its cgroup was frozen (`cgroup.freeze`, the tracepoint `cgroup_freeze`).
    CgroupFreezer,
    /// It was seized with ptrace (`PTRACE_INTERRUPT`): its stop, as it tells its tracer (the tracepoint `signal_generate`).
    PtraceStop,
}

crate::named! {
    /// What ends a freeze.
    pub enum FreezeEnd {
        /// The dumped process exited: it was killed when its dump was whole.
        Exit = "exit",
        /// Its tracer let it run again.
        Resume = "resume",
        /// Its tracer exited, by which the kernel lets go of what it traced.
        TracerExit = "tracer_exit",
    }
}
