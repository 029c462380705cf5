//! v1 beside v3.

use super::model::{Dashboard, Panel};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "dwcp-v3-versions",
        title: "DWCP: v1 against v3",
        about: "The same figures for both versions. The rule [v1] (port, process or cgroup) selects migrations of v1.",
        refresh: "30s",
        from: "now-6h",
        variables: vec![
            ("region", "Region", "label_values(dwcp_v3_rollout_progress_percent{@}, region)", true),
        ],
        panels: vec![
            Panel::series("Rollout progress", "percent")
                .about("Share of migrations that use v3.")
                .query(r#"dwcp_v3_rollout_progress_percent{@, region=~"$region"}"#, "{{stage}} {{region}}")
                .within(0.0, 100.0),
            Panel::series("Finished migrations per minute", "opm")
                .about("Of each version.")
                .query("60 * sum(rate(dwcp_v3_migrations_total{@}[$__rate_interval]))", "v3")
                .query("60 * sum(rate(dwcp_v1_migrations_total{@}[$__rate_interval]))", "v1"),
            Panel::series("Blackout p50", "s")
                .about("Half of the migrations that ended within an hour were shorter.")
                .query("histogram_quantile(0.50, sum by (le) (increase(dwcp_v3_migration_latency_seconds_bucket{@}[1h])))", "v3")
                .query("histogram_quantile(0.50, sum by (le) (increase(dwcp_v1_migration_latency_seconds_bucket{@}[1h])))", "v1")
                .limit(0.2),
            Panel::series("Blackout p99", "s")
                .about("Migrations that ended within an hour. The baseline of v1 is 0.8 s, the limit of v3 0.5 s.")
                .query("histogram_quantile(0.99, sum by (le) (increase(dwcp_v3_migration_latency_seconds_bucket{@}[1h])))", "v3")
                .query("histogram_quantile(0.99, sum by (le) (increase(dwcp_v1_migration_latency_seconds_bucket{@}[1h])))", "v1")
                .worse_above(0.5, 0.8),
            Panel::series("Payload", "Bps")
                .about("The baseline of v1 is 1.8 GB/s, the target of v3 2.4 GB/s.")
                .query(r#"sum(rate(dwcp_v3_bytes_transferred_total{@, direction="sent"}[$__rate_interval]))"#, "v3")
                .query(r#"sum(rate(dwcp_v1_bytes_transferred_total{@, direction="sent"}[$__rate_interval]))"#, "v1")
                .worse_below(1.8e9, 2.4e9),
            Panel::series("Failed of finished migrations", "percentunit")
                .about("Within an hour. The baseline of v1 is 2.5 %, the limit of v3 1 %.")
                .query(r#"sum(increase(dwcp_v3_migrations_total{@, outcome="failed"}[1h]))
                    / (sum(increase(dwcp_v3_migrations_total{@}[1h])) > 0)"#, "v3")
                .query(r#"sum(increase(dwcp_v1_migrations_total{@, outcome="failed"}[1h]))
                    / (sum(increase(dwcp_v1_migrations_total{@}[1h])) > 0)"#, "v1")
                .worse_above(0.01, 0.025),
            Panel::stat("v3 blackout p99 (6 h)", "s")
                .about("All migrations that ended within six hours.")
                .query("histogram_quantile(0.99, sum by (le) (increase(dwcp_v3_migration_latency_seconds_bucket{@}[6h])))", "v3")
                .worse_above(0.3, 0.5),
            Panel::stat("v1 blackout p99 (6 h)", "s")
                .about("All migrations that ended within six hours.")
                .query("histogram_quantile(0.99, sum by (le) (increase(dwcp_v1_migration_latency_seconds_bucket{@}[6h])))", "v1")
                .worse_above(0.5, 0.8),
            Panel::stat("v3 migrations (6 h)", "short")
                .about("Migrations that ended.")
                .query("sum(increase(dwcp_v3_migrations_total{@}[6h]))", "v3"),
            Panel::stat("v1 migrations (6 h)", "short")
                .about("Migrations that ended.")
                .query("sum(increase(dwcp_v1_migrations_total{@}[6h]))", "v1"),
        ],
    }
}
