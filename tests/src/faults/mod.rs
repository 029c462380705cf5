//! Faults of real migrations: each one injected on purpose, with what the observer is to say of it.
//!
//! The two ends run in network namespaces of their own ([`crate::netns::Wire`]). A token bucket on
//! the source's interface paces every migration ([`BASELINE_RATE`]), so that before the fault it is
//! held back by its network alone, at a rate that this host sustains, and by no limit of QEMU's own.

mod cpu;
mod expect;
mod group;
mod judge;
mod managed;
mod network;
mod report;
mod rig;
mod run;
mod stop;
mod traffic;

pub use self::cpu::{Competitors, CpuQuota};
pub use self::expect::{Expectation, Fault};
pub use self::judge::{Judgement, LIMIT, Seen};
pub use self::network::{Loss, Shaper};
pub use self::report::Report;
pub use self::rig::{Rig, Variant};
pub use self::run::{RunReport, Timing};
pub use self::stop::Stopped;
pub use self::traffic::Traffic;

use anyhow::Result;

/// What the network carries before the fault, bytes per second.
pub const BASELINE_RATE: u64 = 60_000_000;

/// A fault in force. Dropping it undoes it.
pub trait Injection: std::fmt::Debug {
    /// Whether the kernel says that it has done something by now.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    fn has_effect(&self) -> Result<bool>;
}
