//! Service levels, error budgets, go or no-go.

use super::model::{Dashboard, Panel};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "dwcp-v3-sla",
        title: "DWCP v3: service levels and error budget",
        about: "Service levels, compliance and remaining error budgets. docs/operate/sla.md explains how each is judged.",
        refresh: "30s",
        from: "now-24h",
        variables: vec![("sla", "SLA", "label_values(dwcp_v3_sla_violations_total{@}, sla_type)", true)],
        panels: vec![
            Panel::gauge("Blackout p99 (1 h)", "s", (0.0, 1.0))
                .about("By mode; the limit shown is that of mode datacenter, 0.5 s.")
                .query(r#"dwcp_v3_sla_blackout_p99_seconds{@, window="1h"}"#, "{{mode}}")
                .worse_above(0.3, 0.5),
            Panel::gauge("Throughput (1 h)", "Bps", (0.0, 5.0e9))
                .about("Mean rate while a transfer was active; the target is at least 2.4 GB/s.")
                .query(r#"dwcp_v3_sla_value{@, sla_type="throughput", window="1h"}"#, "{{instance}}")
                .worse_below(2.0e9, 2.4e9),
            Panel::gauge("Error rate (1 h)", "percentunit", (0.0, 0.05))
                .about("Failed share of finished migrations; the target is below 1 %.")
                .query(r#"dwcp_v3_sla_value{@, sla_type="error_rate", window="1h"}"#, "{{instance}}")
                .worse_above(0.005, 0.01),
            Panel::gauge("Availability (1 h)", "percentunit", (0.99, 1.0))
                .about("Available share of judged seconds; the target is above 99.9 %.")
                .query(r#"dwcp_v3_sla_value{@, sla_type="availability", window="1h"}"#, "{{instance}}")
                .worse_below(0.999, 0.9995),
            Panel::states("Kept over the last hour")
                .about("Missing without data.")
                .query(r#"min by (sla_type) (dwcp_v3_sla_compliance{@, sla_type=~"$sla"})"#, "{{sla_type}}")
                .word("0", "VIOLATED", "red")
                .word("1", "KEPT", "green")
                .size(12, 8),
            Panel::series("Decision", "none")
                .about("0 no-go, 1 caution, 2 go, by host.")
                .query(r#"2 * max by (instance) (dwcp_v3_go_no_go{@, decision="go"})
                    + max by (instance) (dwcp_v3_go_no_go{@, decision="caution"})"#, "{{instance}}")
                .word("0", "NO GO", "red")
                .word("1", "CAUTION", "yellow")
                .word("2", "GO", "green")
                .within(0.0, 2.0),
            Panel::series("Error budget left (30 d)", "percentunit")
                .about("1 unused, 0 used up, below 0 exceeded.")
                .query(r#"min by (sla_type) (dwcp_v3_error_budget_remaining_ratio{@, sla_type=~"$sla", window="30d"})"#, "{{sla_type}}")
                .worse_below(0.0, 0.25),
            Panel::series("Burn rate over 1 h", "none")
                .about("1 uses up the budget exactly in its window; 14.4 uses up 2 % of a 30-day budget in an hour.")
                .query(r#"max by (sla_type) (dwcp_v3_error_budget_burn_rate{@, sla_type=~"$sla", window="1h"})"#, "{{sla_type}}")
                .worse_above(3.0, 14.4),
            Panel::series("Burn rate over 5 min", "none")
                .about("The short window beside the long one shows whether the burn continues.")
                .query(r#"max by (sla_type) (dwcp_v3_error_budget_burn_rate{@, sla_type=~"$sla", window="5m"})"#, "{{sla_type}}")
                .worse_above(3.0, 14.4),
            Panel::table("Budget by window", "percentunit")
                .about("Remaining error budget of each service level, by host.")
                .query(r#"dwcp_v3_error_budget_remaining_ratio{@, sla_type=~"$sla"}"#, "")
                .worse_below(0.0, 0.25),
            Panel::series("Minutes in violation, per hour", "short")
                .about("Minutes at the end of which the last hour violated the service level.")
                .query(r#"sum by (sla_type) (increase(dwcp_v3_sla_violations_total{@, sla_type=~"$sla"}[1h]))"#, "{{sla_type}}"),
            Panel::series("Blackout p99 by mode and window", "s")
                .about("Nearest rank.")
                .query("max by (mode, window) (dwcp_v3_sla_blackout_p99_seconds{@})", "{{mode}} {{window}}")
                .limit(0.5),
            Panel::series("Throughput by window", "Bps")
                .about("Mean rate while a transfer was active.")
                .query(r#"avg by (window) (dwcp_v3_sla_value{@, sla_type="throughput"})"#, "{{window}}")
                .worse_below(2.0e9, 2.4e9),
            Panel::series("Finished migrations by outcome", "short")
                .about("Migrations per hour, the basis of the error rate.")
                .query("sum by (outcome) (increase(dwcp_v3_migrations_total{@}[1h]))", "{{outcome}}"),
        ],
    }
}
