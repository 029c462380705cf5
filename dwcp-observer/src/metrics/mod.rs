//! Prometheus exposition.

mod aliases;
mod components;
pub mod contract;
mod exporter;
mod family;
mod history;
mod live;
mod process_usage;
mod rdma;
#[cfg(test)]
pub(crate) mod sample;
mod sla;
pub mod table;
mod v1;

pub use exporter::{Exporter, HttpCounts, Input, RenderError, SeriesLimits};
pub use process_usage::ProcessUsage;
pub use table::{is_own, reference_markdown};

/// How long a finished migration keeps its own series: two scrapes at the usual interval of 5 s see the last value.
pub const LIVE_SERIES_EXPIRY: std::time::Duration = std::time::Duration::from_secs(15);
