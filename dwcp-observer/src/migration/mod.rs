//! A migration: its record, its history, its registry.

pub mod history;
pub mod record;
