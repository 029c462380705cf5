//! Values that two rooms share: the record of a migration, the verdict on a second of it, what identification is told, statuses.
//!
//! Plain data without behaviour of their own: this imports nothing of the agent. What readers get as JSON they read by the same types.

pub mod board;
pub mod facts;
pub mod histogram;
pub mod names;
pub mod qemu;
pub mod quantiles;
pub mod queue_pair;
pub mod rdma;
pub mod record;
pub mod status;
pub mod verdict;
