//! Values that two rooms share: the record of a migration, the verdict on a second of it, what identification is told, statuses.
//!
//! Plain data without behaviour of their own: this imports nothing of the agent.

pub mod board;
pub mod facts;
pub mod histogram;
pub mod qemu;
pub mod queue_pair;
pub mod record;
pub mod status;
pub mod verdict;
