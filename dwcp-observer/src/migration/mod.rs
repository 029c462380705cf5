//! Migrations: records, life, registry.

pub mod account;
pub mod build;
pub mod history;
pub mod index;
pub mod live;
pub mod look;
pub mod machine;
pub mod outcome;
pub mod quantiles;
pub mod record;
pub mod registry;

#[cfg(test)]
mod registry_tests;
