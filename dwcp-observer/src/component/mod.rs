//! The six components of DWCP v3: what belongs to each, how it fares, and what it says of itself.
//!
//! All of it is done on a thread of its own, once a second; the cycle and the HTTP server see the last [`View`] only.

pub mod collector;
pub mod exposition;
pub mod health;
pub mod matcher;
pub mod processes;
pub mod rollout;
#[cfg(test)]
pub(crate) mod sample;
pub mod scrape;
pub mod sockets;
#[cfg(test)]
mod tests;
mod totals;
pub mod view;

pub use collector::{Collector, Migrations, Shared};
pub use matcher::Matcher;
pub use view::{ComponentView, View};
