//! Counts of a span of time; the counts of several spans can be added.

use serde::{Deserialize, Serialize};

use crate::model::record::{Mode, Outcome};

/// Sums over a span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Seconds in which the observer looked.
    pub observed_seconds: u64,
    /// Of these, with a transfer active: a migration in a phase that moves the guest.
    pub transfer_seconds: u64,
    /// Of these, with all transfers together slower than the target.
    pub slow_seconds: u64,
    /// Payload delivered in the transfer seconds.
    pub transferred_bytes: u64,
    /// Seconds in which there was something that can be up or down: a watched component or an active transfer.
    pub judged_seconds: u64,
    /// Of these, with a component down, or every active transfer stalled.
    pub down_seconds: u64,
    /// Migrations that completed.
    pub completed: u64,
    /// Migrations that failed.
    pub failed: u64,
    /// Migrations that were cancelled.
    pub cancelled: u64,
    /// Migrations whose end the evidence does not tell.
    pub unknown: u64,
}

impl Counts {
    /// Counts one finished migration.
    pub const fn finish(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Completed => self.completed += 1,
            Outcome::Failed => self.failed += 1,
            Outcome::Cancelled => self.cancelled += 1,
            Outcome::Unknown => self.unknown += 1,
        }
    }

    /// All finished migrations.
    #[must_use]
    pub const fn finished(&self) -> u64 {
        self.completed + self.failed + self.cancelled + self.unknown
    }

    /// Takes in another span.
    pub const fn add(&mut self, other: &Self) {
        self.observed_seconds += other.observed_seconds;
        self.transfer_seconds += other.transfer_seconds;
        self.slow_seconds += other.slow_seconds;
        self.transferred_bytes = self.transferred_bytes.saturating_add(other.transferred_bytes);
        self.judged_seconds += other.judged_seconds;
        self.down_seconds += other.down_seconds;
        self.completed += other.completed;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.unknown += other.unknown;
    }
}

/// The blackout of one finished migration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FinishedBlackout {
    /// Path of the migration; absent when there never was an RTT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Length, seconds.
    pub seconds: f64,
}
