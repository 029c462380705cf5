//! Prometheus exposition.

mod exporter;
mod family;
mod live;
mod process_usage;
#[cfg(test)]
pub(crate) mod sample;
pub mod table;

pub use exporter::{Exporter, HttpCounts, Input, RenderError, SeriesLimits};
pub use process_usage::ProcessUsage;
pub use table::reference_markdown;

/// Upper bounds of `dwcp_v3_migration_duration_seconds`: exponential(1, 2, 12) as in the contract.
pub const DURATION_BUCKETS: [f64; 12] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0];

/// How long a finished migration keeps its own series: two scrapes at the usual interval of 5 s see the last value.
pub const LIVE_SERIES_EXPIRY: std::time::Duration = std::time::Duration::from_secs(15);
