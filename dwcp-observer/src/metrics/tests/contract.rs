//! All names of the DWCP v3 monitoring contract: where each is served, or why not.

use std::fmt::Write as _;

use super::table::{TABLE, is_own};
use crate::config::Component;

/// Where a name is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// In the metric table: measured by the observer.
    Metric,
    /// Only the component itself can know it; carried on from its endpoint.
    Component(Component),
    /// An HTTP endpoint of the observer: a path on the main port.
    Path(&'static str),
    /// An HTTP endpoint on each component's port.
    ComponentPort(&'static str),
    /// An alert, which needs these metrics; those that begin with `dwcp_` are looked up in this table.
    Alert(&'static [&'static str]),
    /// It cannot be served; the reason.
    No(&'static str),
}

/// A name of the contract.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name {
    /// Section of the contract.
    pub section: &'static str,
    /// As the contract writes it.
    pub name: &'static str,
    /// Where it is served.
    pub served: Served,
}

const fn name(section: &'static str, name: &'static str, served: Served) -> Name {
    Name { section, name, served }
}

use Component::{Acp, Ass, Hde, Itp, Pba};
use Served::{Alert, ComponentPort, Metric, Path};

const LATENCY: &[&str] = &["dwcp_v3_migration_latency_seconds"];
const THROUGHPUT: &[&str] = &["dwcp_v3_throughput_bytes_per_second"];
const ERRORS: &[&str] = &["dwcp_v3_errors_total"];
const UTILIZATION: &[&str] = &["dwcp_v3_resource_utilization_percent"];
const SLA: &[&str] = &["dwcp_v3_sla_compliance"];
const ANOMALIES: &[&str] = &["dwcp_v3_anomaly_detections_total"];

/// Sections 1.1, 1.2, 2 and 9, in the contract's order.
pub(crate) static NAMES: &[Name] = &[
    name("1.1", "dwcp_v3_migration_latency_seconds", Metric),
    name("1.1", "dwcp_v3_throughput_bytes_per_second", Metric),
    name("1.1", "dwcp_v3_errors_total", Metric),
    name("1.1", "dwcp_v3_component_health", Metric),
    name("1.1", "dwcp_v3_resource_utilization_percent", Metric),
    name("1.1", "dwcp_v3_rollout_progress_percent", Metric),
    name("1.1", "dwcp_v3_sla_compliance", Metric),
    name("1.1", "dwcp_v3_anomaly_detections_total", Metric),
    name("1.2", "dwcp_v3_amst_active_streams", Metric),
    name("1.2", "dwcp_v3_amst_throughput", Metric),
    name("1.2", "dwcp_v3_amst_throughput_gbps", Metric),
    name("1.2", "dwcp_v3_amst_throughput_bytes_per_second", Metric),
    name("1.2", "dwcp_v3_amst_stream_utilization", Metric),
    name("1.2", "dwcp_v3_amst_stream_utilization_percent", Metric),
    name("1.2", "dwcp_v3_hde_compression_ratio", Served::Component(Hde)),
    name("1.2", "dwcp_v3_hde_compression_ratio_percent", Served::Component(Hde)),
    name("1.2", "dwcp_v3_hde_compression_latency", Served::Component(Hde)),
    name("1.2", "dwcp_v3_compression_ratio_bucket", Served::Component(Hde)),
    name("1.2", "dwcp_v3_pba_prediction_accuracy", Served::Component(Pba)),
    name("1.2", "dwcp_v3_pba_prediction_accuracy_percent", Served::Component(Pba)),
    name("1.2", "dwcp_v3_acp_consensus_failures_total", Served::Component(Acp)),
    name("1.2", "dwcp_v3_acp_consensus_latency_ms", Served::Component(Acp)),
    name("1.2", "dwcp_v3_acp_consensus_latency", Served::Component(Acp)),
    name("1.2", "dwcp_v3_ass_sync_rate", Served::Component(Ass)),
    name("1.2", "dwcp_v3_itp_efficiency", Served::Component(Itp)),
    name("1.2", "dwcp_v3_migration_latency_p50", Metric),
    name("1.2", "dwcp_v3_migration_latency_p95", Metric),
    name("1.2", "dwcp_v3_migration_latency_p99", Metric),
    name("1.2", "dwcp_v3_throughput_bytes_per_sec", Metric),
    name("1.2", "dwcp_v3_error_rate", Metric),
    name("1.2", "dwcp_v3_metrics_collector_status", Metric),
    name("1.2", "dwcp_v3_metrics_collector_last_run", Metric),
    name("1.2", "dwcp_v3_migrations_total", Metric),
    name("1.2", "dwcp_v3_bytes_transferred_total", Metric),
    name("1.2", "dwcp_v3_active_connections", Metric),
    name("1.2", "dwcp_v3_network_bytes_total", Metric),
    name("1.2", "dwcp_v3_sla_violations_total", Metric),
    name("1.2", "dwcp_v1_migration_latency_seconds", Metric),
    name("2", "DWCPv3RolloutNoGo", Alert(SLA)),
    name("2", "DWCPv3LatencyP99Critical", Alert(LATENCY)),
    name("2", "DWCPv3ThroughputCriticalLow", Alert(THROUGHPUT)),
    name("2", "DWCPv3ErrorRateCritical", Alert(ERRORS)),
    name("2", "DWCPv3ComponentDown", Alert(&["dwcp_v3_component_health"])),
    name("2", "DWCPv3ConsensusFailure", Alert(&["dwcp_v3_acp_consensus_failures_total"])),
    name("2", "DWCPv3MemoryLeakSuspected", Alert(UTILIZATION)),
    name("2", "DWCPv3LatencyP95High", Alert(LATENCY)),
    name("2", "DWCPv3ThroughputLow", Alert(THROUGHPUT)),
    name("2", "DWCPv3ErrorRateElevated", Alert(ERRORS)),
    name("2", "DWCPv3CPUHighUsage", Alert(UTILIZATION)),
    name("2", "DWCPv3RolloutStalled", Alert(&["dwcp_v3_rollout_progress_percent"])),
    name("2", "DWCPv3LatencyAnomalyDetected", Alert(ANOMALIES)),
    name("2", "DWCPv3ThroughputAnomalyDetected", Alert(ANOMALIES)),
    name("2", "DWCPv3MultipleAnomalies", Alert(ANOMALIES)),
    name("2", "DWCPv3SLALatencyViolation", Alert(SLA)),
    name("2", "DWCPv3SLAThroughputViolation", Alert(SLA)),
    name("2", "DWCPv3SLAErrorRateViolation", Alert(SLA)),
    name("2", "DWCPv3SLAOverallCompliance", Alert(SLA)),
    name("2", "DWCPv3AMSTStreamSaturation", Alert(&["dwcp_v3_amst_active_streams"])),
    name("2", "DWCPv3HDECompressionLow", Alert(&["dwcp_v3_hde_compression_ratio"])),
    name("2", "DWCPv3PBAPredictionAccuracyLow", Alert(&["dwcp_v3_pba_prediction_accuracy"])),
    name("2", "DWCPv3ACPConsensusLatencyHigh", Alert(&["dwcp_v3_acp_consensus_latency_ms"])),
    name(
        "2",
        "DWCPv3PrometheusScrapeFailures",
        Alert(&[
            "prometheus_target_scrapes_exceeded_sample_limit_total",
            "prometheus_target_scrapes_sample_duplicate_timestamp_total",
        ]),
    ),
    name("2", "DWCPv3MetricsCollectionSlow", Alert(&["prometheus_target_interval_length_seconds"])),
    name("2", "DWCPv3AlertManagerDown", Alert(&["up"])),
    name("9.1", "GET /metrics", Path("/metrics")),
    name("9.1", "GET /health", Path("/health")),
    name("9.1", "GET /metrics/summary", Path("/metrics/summary")),
    name("9.2", "GET :9091-9096/metrics", ComponentPort("/metrics")),
    name("9.2", "GET :9091-9096/health", ComponentPort("/health")),
    name("9.2", "GET /metrics/amst", Path("/metrics/amst")),
    name("9.2", "GET /metrics/hde", Path("/metrics/hde")),
    name("9.2", "GET /metrics/pba", Path("/metrics/pba")),
    name("9.2", "GET /metrics/acp", Path("/metrics/acp")),
    name("9.2", "GET /metrics/ass", Path("/metrics/ass")),
    name("9.2", "GET /metrics/itp", Path("/metrics/itp")),
    name("9.2", "GET /ready", Path("/ready")),
    name(
        "9.2",
        "GET :6060/debug/pprof/*",
        Served::No(
            "profiles of the Go runtime; the observer is not written in Go, and its own cost is in dwcp_observer_* and process_*",
        ),
    ),
    name(
        "9.2",
        "GET /test/inject-latency",
        Served::No(
            "a fault is injected into the network or the VM under test, not into the monitoring of production",
        ),
    ),
];

/// The table as Markdown.
#[must_use]
pub(crate) fn contract_markdown() -> String {
    let mut text = String::from(
        "# The contract, name by name\n\n\
         Generated from `dwcp-observer/src/metrics/tests/contract.rs`; do not edit.\n\n\
         The names on which operators of DWCP v3 rely (metrics, alerts, endpoints of the original monitoring), and where each \
         is served. What only a component can know is carried on from the component's own endpoint \
         (`[components.NAME] mode = \"scrape\"`, see [components.md](components.md)) and is absent without one. \
         Units, sources and when a metric is missing: [metrics.md](metrics.md).\n\n\
         | Section | Name | Where |\n|---|---|---|\n",
    );
    for entry in NAMES {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {} | `{}` | {} |", entry.section, entry.name, place(entry));
    }
    text
}

fn place(entry: &Name) -> String {
    match entry.served {
        Metric => {
            let row = TABLE.iter().find(|row| row.name == entry.name);
            let missing = row.and_then(|row| row.absent);
            let missing =
                missing.map_or_else(String::new, |text| format!("; missing when: {text}"));
            format!("`/metrics`, measured{missing}")
        }
        Served::Component(component) => {
            let name = component.as_str();
            format!(
                "carried on from the endpoint of {name}: it is state of that program, which the kernel does not see"
            )
        }
        Path(path) => format!("main port, `{path}`"),
        ComponentPort(path) => {
            format!(
                "`{path}` of each component's port in mode `serve`; the component's own in mode `scrape`"
            )
        }
        Alert(needs) => {
            let needs: Vec<String> = needs.iter().map(|name| format!("`{name}`")).collect();
            format!("alert; needs {}", needs.join(", "))
        }
        Served::No(why) => format!("not served: {why}"),
    }
}

/// Whether a metric that an alert needs is served: by the observer, by a component, or by Prometheus itself.
#[must_use]
pub(crate) fn is_served(metric: &str) -> bool {
    let by_component = |entry: &Name| matches!(entry.served, Served::Component(_));
    !metric.starts_with("dwcp_")
        || is_own(metric)
        || NAMES.iter().any(|entry| entry.name == metric && by_component(entry))
}

#[path = "contract_tests.rs"]
mod tests;
