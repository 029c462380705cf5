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

/// Upper bounds of `dwcp_v3_migration_duration_seconds`: exponential(1, 2, 12) as in the contract.
pub const DURATION_BUCKETS: [f64; 12] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0];

/// Upper bounds of `dwcp_v3_migration_latency_seconds`, as in the contract.
pub const BLACKOUT_BUCKETS: [f64; 12] =
    [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// Upper bounds of `dwcp_v3_blackout_seconds`: four to a factor of ten, from half a millisecond.
pub const FINE_BLACKOUT_BUCKETS: [f64; 21] = [
    0.0005, 0.001, 0.0018, 0.0032, 0.0056, 0.01, 0.018, 0.032, 0.056, 0.1, 0.18, 0.32, 0.56, 1.0,
    1.8, 3.2, 5.6, 10.0, 18.0, 56.0, 120.0,
];

/// How long a finished migration keeps its own series: two scrapes at the usual interval of 5 s see the last value.
pub const LIVE_SERIES_EXPIRY: std::time::Duration = std::time::Duration::from_secs(15);
