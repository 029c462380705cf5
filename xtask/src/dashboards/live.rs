//! Live operations: the fourteen panels of the contract, repaired, and what the kernel adds.

use super::model::{Dashboard, Panel};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "dwcp-v3-live",
        title: "DWCP v3: live operations",
        about: "Running migrations, their verdicts, and whether the rollout may continue.",
        refresh: "5s",
        from: "now-30m",
        variables: vec![
            (
                "mode",
                "Mode",
                "label_values(dwcp_v3_migration_duration_seconds_count{@}, mode)",
                true,
            ),
            ("component", "Component", "label_values(dwcp_v3_errors_total{@}, component)", true),
            ("region", "Region", "label_values(dwcp_v3_rollout_progress_percent{@}, region)", true),
        ],
        panels: [decision(), contract(), migrations(), streams()].into_iter().flatten().collect(),
    }
}

fn decision() -> Vec<Panel> {
    vec![
        Panel::stat("Go or no-go", "none")
            .about("The worst decision of the selected observers. `dwcp-observer go-no-go` lists the reasons.")
            .query(r#"min(2 * max by (instance) (dwcp_v3_go_no_go{@, decision="go"})
                + max by (instance) (dwcp_v3_go_no_go{@, decision="caution"}))"#, "decision")
            .worse_below(1.0, 2.0)
            .word("0", "NO GO", "red")
            .word("1", "CAUTION", "yellow")
            .word("2", "GO", "green")
            .link("Service levels", "/d/dwcp-v3-sla"),
        Panel::stat("Active migrations", "short")
            .about("Running migrations by role of this host; a migration with both ends on this host counts in both roles.")
            .query("sum by (role) (dwcp_v3_migrations_active{@})", "{{role}}")
            .worse_above(50.0, 100.0),
        Panel::stat("Error rate", "ops")
            .about("Errors on migration sockets and processes, per second.")
            .query(r#"sum(rate(dwcp_v3_errors_total{@, component=~"$component"}[$__rate_interval]))"#, "errors")
            .worse_above(0.5, 1.0),
        Panel::stat("Anomalies (5 min)", "short")
            .about("Anomalies of all types over the last five minutes.")
            .query("sum(increase(dwcp_v3_anomaly_detections_total{@}[5m]))", "anomalies")
            .worse_above(1.0, 5.0),
        Panel::stat("SLA compliance", "percent")
            .about("Share of service levels met over the last hour, among those with data.")
            .query("avg(dwcp_v3_sla_compliance{@}) * 100", "kept")
            .worse_below(95.0, 99.0),
        Panel::stat("Longest blackout (1 h)", "s")
            .about("p99 blackout (downtime) over the last hour in the worst mode.")
            .query(r#"max(dwcp_v3_sla_blackout_p99_seconds{@, window="1h", mode=~"$mode"})"#, "p99")
            .worse_above(0.3, 0.5),
    ]
}

fn contract() -> Vec<Panel> {
    vec![
        Panel::series("Rollout progress by stage", "percent")
            .about("Share of migrations that use v3.")
            .query(r#"dwcp_v3_rollout_progress_percent{@, region=~"$region"}"#, "{{stage}} {{region}}")
            .within(0.0, 100.0),
        Panel::series("Blackout p50, p95, p99", "s")
            .about("Migrations that ended within five minutes, without the first one of each path. The limit shown is that of mode datacenter, 0.5 s.")
            .query(r#"histogram_quantile(0.50, sum by (le) (increase(dwcp_v3_migration_latency_seconds_bucket{@, mode=~"$mode"}[5m])))"#, "p50")
            .query(r#"histogram_quantile(0.95, sum by (le) (increase(dwcp_v3_migration_latency_seconds_bucket{@, mode=~"$mode"}[5m])))"#, "p95")
            .query(r#"histogram_quantile(0.99, sum by (le) (increase(dwcp_v3_migration_latency_seconds_bucket{@, mode=~"$mode"}[5m])))"#, "p99")
            .limit(0.5)
            .link("Service levels", "/d/dwcp-v3-sla"),
        Panel::series("Throughput (target 2.4 GB/s)", "Bps")
            .about("Payload per second while a transfer is active.")
            .query(r#"sum by (component) (dwcp_v3_throughput_bytes_per_second{@, component=~"$component"})"#, "{{component}}")
            .worse_below(2.0e9, 2.4e9),
        Panel::series("Resource utilization", "percent")
            .about("Utilization of the host's CPUs and memory.")
            .query("avg by (resource_type) (dwcp_v3_resource_utilization_percent{@})", "{{resource_type}}")
            .limit(80.0)
            .within(0.0, 100.0),
        Panel::states("Component health")
            .about("Based on processes, ports, errors and stalls. Missing if nothing matches [components.NAME].")
            .query(r#"dwcp_v3_component_health{@, component=~"$component"}"#, "{{instance}} {{component}}")
            .word("0", "UNHEALTHY", "red")
            .word("1", "HEALTHY", "green"),
        Panel::pie("Errors by type (1 h)", "short")
            .about("Errors of the last hour.")
            .query(r#"sum by (error_type) (increase(dwcp_v3_errors_total{@, component=~"$component"}[1h]))"#, "{{error_type}}"),
        Panel::pie("Outcomes (1 h)", "short")
            .about("Migrations that ended in the last hour.")
            .query(r#"sum by (outcome) (increase(dwcp_v3_migrations_total{@, mode=~"$mode"}[1h]))"#, "{{outcome}}"),
        Panel::series("Anomalies by type", "short")
            .about("New anomalies in each interval.")
            .query(r#"sum by (anomaly_type) (increase(dwcp_v3_anomaly_detections_total{@, severity="warning"}[1m]))"#, "{{anomaly_type}} warning")
            .query(r#"sum by (anomaly_type) (increase(dwcp_v3_anomaly_detections_total{@, severity="critical"}[1m]))"#, "{{anomaly_type}} critical"),
        Panel::series("Blackout p99, v1 and v3", "s")
            .about("Migrations that ended within five minutes.")
            .query("histogram_quantile(0.99, sum by (le) (increase(dwcp_v3_migration_latency_seconds_bucket{@}[5m])))", "v3")
            .query("histogram_quantile(0.99, sum by (le) (increase(dwcp_v1_migration_latency_seconds_bucket{@}[5m])))", "v1")
            .limit(0.5)
            .link("v1 and v3", "/d/dwcp-v3-versions"),
        Panel::alerts("Live alert feed").about("Firing and pending alerts of DWCP v3."),
        Panel::series("Error rate by component", "ops")
            .about("Errors per second.")
            .query(r#"sum by (component) (rate(dwcp_v3_errors_total{@, component=~"$component"}[$__rate_interval]))"#, "{{component}}"),
    ]
}

fn migrations() -> Vec<Panel> {
    vec![
        Panel::table("Running and just finished migrations", "short")
            .about("One row per migration.")
            .query("dwcp_v3_migration_info{@}", "")
            .link("One migration", "/d/dwcp-v3-migration"),
        Panel::series("How migrations go", "short")
            .about("Migrations by state of their verdict; 1 means one migration during the whole interval.")
            .query("sum by (state) (rate(dwcp_v3_verdict_seconds_total{@}[$__rate_interval]))", "{{state}}"),
        Panel::series("Why they go like that", "short")
            .about("Migrations by cause in their verdict; 1 means one migration during the whole interval.")
            .query("sum by (cause) (rate(dwcp_v3_verdict_seconds_total{@}[$__rate_interval]))", "{{cause}}"),
        Panel::heatmap("Blackout", "s")
            .about("Finished migrations by blackout (downtime).")
            .query(r#"sum by (le) (increase(dwcp_v3_blackout_seconds_bucket{@, mode=~"$mode"}[$__rate_interval]))"#, "{{le}}"),
        Panel::series("Total time p50 and p95 by mode", "s")
            .about("From the first connection to the last close, for migrations that ended within five minutes.")
            .query(r#"histogram_quantile(0.50, sum by (le, mode) (increase(dwcp_v3_migration_duration_seconds_bucket{@, mode=~"$mode"}[5m])))"#, "p50 {{mode}}")
            .query(r#"histogram_quantile(0.95, sum by (le, mode) (increase(dwcp_v3_migration_duration_seconds_bucket{@, mode=~"$mode"}[5m])))"#, "p95 {{mode}}"),
        Panel::series("Time to the end", "s")
            .about("Estimated time to the end of each running migration.")
            .query(r#"dwcp_v3_migration_eta_seconds{@, bound="estimate"}"#, "{{migration_id}}"),
        Panel::series("Where a second goes", "percentunit")
            .about("How the sending side spends its time: mean of all running migrations.")
            .query("avg by (cause) (dwcp_v3_migration_time_fraction{@})", "{{cause}}")
            .within(0.0, 1.0),
        Panel::series("Guest CPU time taken by migrations", "percentunit")
            .about("Time per second that vCPUs waited for a CPU on which a migration thread was running.")
            .query("sum(rate(dwcp_v3_guest_cpu_stolen_seconds_total{@}[$__rate_interval]))", "stolen"),
    ]
}

fn streams() -> Vec<Panel> {
    vec![
        Panel::gauge("Active streams of 512", "short", (0.0, 512.0))
            .about("Open streams of active migrations; AMST (multi-stream transport) allows 512.")
            .query("sum(dwcp_v3_amst_active_streams{@})", "streams")
            .worse_above(400.0, 500.0),
        Panel::gauge("Evenness of streams", "percentunit", (0.0, 1.0))
            .about("Jain's index of the least balanced running migration: 1 means balanced.")
            .query(r#"min(dwcp_v3_migration_stream_balance{@, index="jain"})"#, "jain")
            .worse_below(0.5, 0.8),
        Panel::series("Throughput by direction and transport", "Bps")
            .about("Payload per second at the ends on these hosts.")
            .query("sum by (direction, transport) (dwcp_v3_throughput_bytes_per_second{@})", "{{direction}} {{transport}}"),
        Panel::series("Payload by mode", "Bps")
            .about("Delivered and received bytes per second.")
            .query(r#"sum by (mode, direction) (rate(dwcp_v3_bytes_transferred_total{@, mode=~"$mode"}[$__rate_interval]))"#, "{{mode}} {{direction}}"),
        Panel::series("Retransmitted segments", "pps")
            .about("Segments per second that migration sockets retransmitted.")
            .query(r#"sum by (mode, role) (rate(dwcp_v3_retransmitted_segments_total{@, mode=~"$mode"}[$__rate_interval]))"#, "{{mode}} {{role}}"),
        Panel::series("Share of bytes sent twice", "percentunit")
            .about("Retransmitted bytes as a share of delivered bytes.")
            .query(r#"sum(rate(dwcp_v3_retransmitted_bytes_total{@, role="source"}[$__rate_interval]))
                / (sum(rate(dwcp_v3_bytes_transferred_total{@, direction="sent"}[$__rate_interval])) > 0)"#, "retransmitted")
            .worse_above(0.01, 0.05),
        Panel::series("RTT p50 and p99", "s")
            .about("Round-trip time samples of migration sockets.")
            .query("histogram_quantile(0.50, sum by (le) (rate(dwcp_v3_rtt_seconds_bucket{@}[$__rate_interval])))", "p50")
            .query("histogram_quantile(0.99, sum by (le) (rate(dwcp_v3_rtt_seconds_bucket{@}[$__rate_interval])))", "p99")
            .limit(0.05),
        Panel::series("Waits for a CPU, p99 by thread role", "s")
            .about("Threads of migrating processes.")
            .query("histogram_quantile(0.99, sum by (le, role) (rate(dwcp_v3_runqueue_wait_seconds_bucket{@}[$__rate_interval])))", "{{role}}"),
    ]
}
