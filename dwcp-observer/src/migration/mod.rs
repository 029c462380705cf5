//! Migrations: records, life, registry.

pub mod account;
pub mod blackout;
pub mod clock;
pub mod compose;
pub mod cpus;
pub mod dump;
pub mod end;
pub mod entry;
pub mod fate;
pub mod guest;
pub mod history;
pub mod index;
pub mod live;
pub mod machine;
mod neighbours;
pub mod observation;
pub mod outcome;
pub mod phases;
pub mod questions;
mod rdma;
pub mod registry;
mod second;
mod surroundings;
pub mod tick;
pub mod totals;
pub mod v1;
mod vcpus;
