//! Capacity planning.

use super::model::{Dashboard, Panel};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "dwcp-v3-capacity",
        title: "DWCP v3: capacity planning",
        about: "How much data migrations move, how long they take, and which resource runs out first.",
        refresh: "1m",
        from: "now-7d",
        variables: vec![
            ("mode", "Mode", "label_values(dwcp_v3_migration_duration_seconds_count{@}, mode)", true),
        ],
        panels: vec![
            Panel::stat("Migrations (24 h)", "short")
                .about("Migrations that ended.")
                .query(r#"sum(increase(dwcp_v3_migrations_total{@, mode=~"$mode"}[24h]))"#, "migrations")
                .size(6, 4),
            Panel::stat("Payload moved (24 h)", "bytes")
                .about("Bytes that sources on these hosts delivered.")
                .query(r#"sum(increase(dwcp_v3_bytes_transferred_total{@, direction="sent", mode=~"$mode"}[24h]))"#, "sent")
                .size(6, 4),
            Panel::stat("Mean total time (24 h)", "s")
                .about("From the first connection to the last close.")
                .query(r#"sum(increase(dwcp_v3_migration_duration_seconds_sum{@, mode=~"$mode"}[24h]))
                    / (sum(increase(dwcp_v3_migration_duration_seconds_count{@, mode=~"$mode"}[24h])) > 0)"#, "mean")
                .size(6, 4),
            Panel::stat("Most at a time (24 h)", "short")
                .about("Running migrations by host.")
                .query(r#"max(max_over_time(dwcp_v3_migrations_active{@}[24h]))"#, "migrations")
                .size(6, 4),
            Panel::series("Finished migrations per hour", "short")
                .about("Rate of migrations by mode.")
                .query(r#"sum by (mode) (increase(dwcp_v3_migrations_total{@, mode=~"$mode"}[1h]))"#, "{{mode}}"),
            Panel::series("Payload", "Bps")
                .about("Payload by host and direction, and payload of RDMA queue pairs by device, if there are any.")
                .query(r#"sum by (instance, direction) (rate(dwcp_v3_bytes_transferred_total{@, mode=~"$mode"}[$__rate_interval]))"#, "{{instance}} {{direction}}")
                .query("sum by (device, direction) (rate(dwcp_v3_rdma_bytes_total{@}[$__rate_interval]))", "{{device}} {{direction}}")
                .limit(2.4e9),
            Panel::series("CPU use", "percent")
                .about("Of the host, by host.")
                .query(r#"dwcp_v3_resource_utilization_percent{@, resource_type="cpu"}"#, "{{instance}}")
                .limit(80.0)
                .within(0.0, 100.0),
            Panel::series("Memory use", "percent")
                .about("Of the host, by host.")
                .query(r#"dwcp_v3_resource_utilization_percent{@, resource_type="memory"}"#, "{{instance}}")
                .limit(85.0)
                .within(0.0, 100.0),
            Panel::series("CPU use in seven days", "percent")
                .about("Projection of the last day's trend.")
                .query(r#"clamp(predict_linear(dwcp_v3_resource_utilization_percent{@, resource_type="cpu"}[1d], 604800), 0, 100)"#, "{{instance}}")
                .limit(80.0),
            Panel::series("Streams of 512", "short")
                .about("Open migration streams by host.")
                .query("dwcp_v3_amst_active_streams{@}", "{{instance}}")
                .worse_above(400.0, 512.0),
            Panel::series("Migrations held back by the network", "short")
                .about("Running migrations by the cause in their verdict.")
                .query(r#"sum by (cause) (rate(dwcp_v3_verdict_seconds_total{@}[$__rate_interval]))"#, "{{cause}}"),
            Panel::series("Guest CPU time taken", "percentunit")
                .about("By host.")
                .query("sum by (instance) (rate(dwcp_v3_guest_cpu_stolen_seconds_total{@}[$__rate_interval]))", "{{instance}}"),
            Panel::series("Total time p95 by mode", "s")
                .about("Migrations that ended within an hour.")
                .query(r#"histogram_quantile(0.95, sum by (le, mode) (increase(dwcp_v3_migration_duration_seconds_bucket{@, mode=~"$mode"}[1h])))"#, "{{mode}}"),
        ],
    }
}
