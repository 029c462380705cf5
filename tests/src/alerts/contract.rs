//! The 26 alerts of the DWCP v3 contract as they were, expressions verbatim.

/// One alert of the contract.
#[derive(Clone, Copy, Debug)]
pub struct ContractAlert {
    /// Group, and how often it is evaluated.
    pub group: [&'static str; 2],
    /// Name.
    pub name: &'static str,
    /// Labels `severity`, `escalation`, `team`.
    pub labels: [&'static str; 3],
    /// `PromQL`.
    pub expr: &'static str,
    /// How long it must hold.
    pub hold: &'static str,
    /// Last part of its runbook's address.
    pub slug: &'static str,
}

const CRITICAL: [&str; 2] = ["dwcp_v3_critical_alerts", "15s"];
const WARNING: [&str; 2] = ["dwcp_v3_warning_alerts", "30s"];
const ANOMALY: [&str; 2] = ["dwcp_v3_anomaly_alerts", "30s"];
const SLA: [&str; 2] = ["dwcp_v3_sla_alerts", "30s"];
const COMPONENT: [&str; 2] = ["dwcp_v3_component_alerts", "30s"];
const META: [&str; 2] = ["dwcp_v3_meta_alerts", "60s"];

/// In the order of the contract.
pub const CONTRACT: [ContractAlert; 26] = [
    ContractAlert {
        group: CRITICAL,
        name: "DWCPv3RolloutNoGo",
        labels: ["critical", "immediate", "oncall"],
        expr: "(min(dwcp_v3_sla_compliance{sla_type=\"latency\"}) + min(dwcp_v3_sla_compliance{sla_type=\"throughput\"}) + min(dwcp_v3_sla_compliance{sla_type=\"error_rate\"})) / 3 < 0.5",
        hold: "1m",
        slug: "halt-rollout",
    },
    ContractAlert {
        group: CRITICAL,
        name: "DWCPv3LatencyP99Critical",
        labels: ["critical", "immediate", "performance"],
        expr: "histogram_quantile(0.99, sum(rate(dwcp_v3_migration_latency_seconds_bucket[5m])) by (le)) > 0.5",
        hold: "2m",
        slug: "high-latency",
    },
    ContractAlert {
        group: CRITICAL,
        name: "DWCPv3ThroughputCriticalLow",
        labels: ["critical", "high", "network"],
        expr: "avg(dwcp_v3_throughput_bytes_per_second) < 2.0e9",
        hold: "3m",
        slug: "low-throughput",
    },
    ContractAlert {
        group: CRITICAL,
        name: "DWCPv3ErrorRateCritical",
        labels: ["critical", "immediate", "oncall"],
        expr: "sum(rate(dwcp_v3_errors_total[5m])) > 10",
        hold: "1m",
        slug: "high-error-rate",
    },
    ContractAlert {
        group: CRITICAL,
        name: "DWCPv3ComponentDown",
        labels: ["critical", "immediate", "oncall"],
        expr: "dwcp_v3_component_health == 0",
        hold: "30s",
        slug: "component-failure",
    },
    ContractAlert {
        group: CRITICAL,
        name: "DWCPv3ConsensusFailure",
        labels: ["critical", "immediate", "distributed-systems"],
        expr: "rate(dwcp_v3_acp_consensus_failures_total[2m]) > 0",
        hold: "1m",
        slug: "consensus-failure",
    },
    ContractAlert {
        group: CRITICAL,
        name: "DWCPv3MemoryLeakSuspected",
        labels: ["critical", "high", "performance"],
        expr: "rate(dwcp_v3_resource_utilization_percent{resource_type=\"memory\"}[30m]) > 5",
        hold: "10m",
        slug: "memory-leak",
    },
    ContractAlert {
        group: WARNING,
        name: "DWCPv3LatencyP95High",
        labels: ["warning", "low", "performance"],
        expr: "histogram_quantile(0.95, sum(rate(dwcp_v3_migration_latency_seconds_bucket[5m])) by (le)) > 0.3",
        hold: "5m",
        slug: "elevated-latency",
    },
    ContractAlert {
        group: WARNING,
        name: "DWCPv3ThroughputLow",
        labels: ["warning", "low", "network"],
        expr: "avg(dwcp_v3_throughput_bytes_per_second) < 2.2e9",
        hold: "5m",
        slug: "suboptimal-throughput",
    },
    ContractAlert {
        group: WARNING,
        name: "DWCPv3ErrorRateElevated",
        labels: ["warning", "low", "reliability"],
        expr: "sum(rate(dwcp_v3_errors_total[10m])) > 1",
        hold: "5m",
        slug: "elevated-errors",
    },
    ContractAlert {
        group: WARNING,
        name: "DWCPv3CPUHighUsage",
        labels: ["warning", "low", "infrastructure"],
        expr: "avg(dwcp_v3_resource_utilization_percent{resource_type=\"cpu\"}) > 80",
        hold: "10m",
        slug: "high-cpu",
    },
    ContractAlert {
        group: WARNING,
        name: "DWCPv3RolloutStalled",
        labels: ["warning", "low", "deployment"],
        expr: "rate(dwcp_v3_rollout_progress_percent[15m]) < 0.1",
        hold: "15m",
        slug: "stalled-rollout",
    },
    ContractAlert {
        group: ANOMALY,
        name: "DWCPv3LatencyAnomalyDetected",
        labels: ["warning", "low", "performance"],
        expr: "increase(dwcp_v3_anomaly_detections_total{anomaly_type=\"latency\"}[5m]) > 0",
        hold: "2m",
        slug: "latency-anomaly",
    },
    ContractAlert {
        group: ANOMALY,
        name: "DWCPv3ThroughputAnomalyDetected",
        labels: ["warning", "low", "network"],
        expr: "increase(dwcp_v3_anomaly_detections_total{anomaly_type=\"throughput\"}[5m]) > 0",
        hold: "2m",
        slug: "throughput-anomaly",
    },
    ContractAlert {
        group: ANOMALY,
        name: "DWCPv3MultipleAnomalies",
        labels: ["critical", "high", "oncall"],
        expr: "count(increase(dwcp_v3_anomaly_detections_total[5m]) > 0) >= 3",
        hold: "3m",
        slug: "system-instability",
    },
    ContractAlert {
        group: SLA,
        name: "DWCPv3SLALatencyViolation",
        labels: ["critical", "high", "performance"],
        expr: "dwcp_v3_sla_compliance{sla_type=\"latency\"} == 0",
        hold: "2m",
        slug: "sla-latency-violation",
    },
    ContractAlert {
        group: SLA,
        name: "DWCPv3SLAThroughputViolation",
        labels: ["critical", "high", "network"],
        expr: "dwcp_v3_sla_compliance{sla_type=\"throughput\"} == 0",
        hold: "3m",
        slug: "sla-throughput-violation",
    },
    ContractAlert {
        group: SLA,
        name: "DWCPv3SLAErrorRateViolation",
        labels: ["critical", "immediate", "oncall"],
        expr: "dwcp_v3_sla_compliance{sla_type=\"error_rate\"} == 0",
        hold: "1m",
        slug: "sla-error-rate-violation",
    },
    ContractAlert {
        group: SLA,
        name: "DWCPv3SLAOverallCompliance",
        labels: ["warning", "low", "reliability"],
        expr: "avg(dwcp_v3_sla_compliance) < 0.95",
        hold: "5m",
        slug: "sla-overall-compliance",
    },
    ContractAlert {
        group: COMPONENT,
        name: "DWCPv3AMSTStreamSaturation",
        labels: ["warning", "low", "network"],
        expr: "dwcp_v3_amst_active_streams > 450",
        hold: "5m",
        slug: "amst-stream-saturation",
    },
    ContractAlert {
        group: COMPONENT,
        name: "DWCPv3HDECompressionLow",
        labels: ["warning", "low", "storage"],
        expr: "avg(dwcp_v3_hde_compression_ratio) < 0.70",
        hold: "10m",
        slug: "hde-low-compression",
    },
    ContractAlert {
        group: COMPONENT,
        name: "DWCPv3PBAPredictionAccuracyLow",
        labels: ["warning", "low", "ml"],
        expr: "avg(dwcp_v3_pba_prediction_accuracy) < 0.85",
        hold: "10m",
        slug: "pba-low-accuracy",
    },
    ContractAlert {
        group: COMPONENT,
        name: "DWCPv3ACPConsensusLatencyHigh",
        labels: ["warning", "low", "distributed-systems"],
        expr: "avg(dwcp_v3_acp_consensus_latency_ms) > 100",
        hold: "3m",
        slug: "acp-high-latency",
    },
    ContractAlert {
        group: META,
        name: "DWCPv3PrometheusScrapeFailures",
        labels: ["warning", "low", "observability"],
        expr: "rate(prometheus_target_scrapes_exceeded_sample_limit_total[5m]) > 0 or rate(prometheus_target_scrapes_sample_duplicate_timestamp_total[5m]) > 0",
        hold: "5m",
        slug: "prometheus-scrape-failures",
    },
    ContractAlert {
        group: META,
        name: "DWCPv3MetricsCollectionSlow",
        labels: ["warning", "low", "observability"],
        expr: "prometheus_target_interval_length_seconds{quantile=\"0.99\"} > 10",
        hold: "5m",
        slug: "slow-metrics-collection",
    },
    ContractAlert {
        group: META,
        name: "DWCPv3AlertManagerDown",
        labels: ["critical", "immediate", "observability"],
        expr: "up{job=\"alertmanager\"} == 0",
        hold: "2m",
        slug: "alertmanager-down",
    },
];
