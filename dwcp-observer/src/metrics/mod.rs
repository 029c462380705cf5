//! Prometheus exposition.

mod aliases;
mod components;
mod exporter;
mod family;
mod history;
mod live;
mod process_usage;
mod rdma;
mod sla;
pub mod table;
mod v1;

pub use exporter::{Exporter, HttpCounts, Input, RenderError, SeriesLimits};
pub use process_usage::ProcessUsage;
pub use table::is_own;

#[cfg(test)]
#[path = "tests/contract.rs"]
pub(crate) mod contract;
#[cfg(test)]
#[path = "tests/documents.rs"]
mod documents;
#[cfg(test)]
#[path = "tests/sample.rs"]
pub(crate) mod sample;

/// How long a finished migration keeps its own series: two scrapes at the usual interval of 5 s see the last value.
pub const LIVE_SERIES_EXPIRY: std::time::Duration = std::time::Duration::from_secs(15);
