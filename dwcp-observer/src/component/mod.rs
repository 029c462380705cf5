//! The six components of DWCP v3 (AMST, HDE, PBA, ACP, ASS, ITP): what belongs to each, its health, and its own metrics.
//!
//! A separate thread does all of it once a second; the cycle and the HTTP server read only the last [`View`].

pub mod collector;
pub mod exposition;
pub mod health;
pub mod matcher;
pub mod processes;
pub mod rollout;
#[cfg(test)]
#[path = "tests/sample.rs"]
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
