//! What the registry hands out of a migration.

use std::sync::{Arc, Mutex};

use super::history::History;
use crate::model::record::Migration;

/// A migration and its per-second history.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The record, without history.
    pub record: Arc<Migration>,
    /// Its circular buffer, shared with the cycle; locked for a copy only.
    pub history: Arc<Mutex<History>>,
    /// The record will not change any more.
    pub settled: bool,
}
