//! What outlives the observer: finished migrations, one-minute aggregates and events, in an embedded database (SQLite).
//!
//! The cycle hands each second's news to a thread of its own ([`writer`]) over a bounded queue, so that no disk can delay it. One
//! batch is one transaction: after a kill the file holds everything up to the last commit. [`store`] is the file, [`minute`] what
//! a minute holds.

pub mod error;
pub mod minute;
mod schema;
pub mod store;
pub mod writer;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::minute::Minute;
pub use self::{
    error::HistoryError,
    store::Store,
    writer::{History, State, Status},
};
use crate::{migration::history::History as Samples, model::record::Migration};

/// What one look at the kernel side adds; written as a whole or not at all.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Migrations whose record will not change any more, with their seconds.
    pub migrations: Vec<(Arc<Migration>, Arc<Mutex<Samples>>)>,
    /// Full minutes, and the current one so far: each takes the place of what was written of it before.
    pub minutes: Vec<Minute>,
    /// What happened.
    pub events: Vec<Event>,
}

impl Batch {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.migrations.is_empty() && self.minutes.is_empty() && self.events.is_empty()
    }

    /// Rows that it writes.
    #[must_use]
    pub fn rows(&self) -> u64 {
        (self.migrations.len() + self.minutes.len() + self.events.len()) as u64
    }
}

/// Something that happened at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// `sla_violated`, `sla_restored`, `anomaly`.
    pub kind: String,
    /// What it is about: an `sla_type`, an `anomaly_type`.
    pub subject: String,
    /// `warning` or `critical`; empty without.
    #[serde(default)]
    pub severity: String,
    /// One line.
    pub text: String,
}
