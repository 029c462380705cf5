//! The observer itself. Metrics that other programs have as well (`up`, `process_*`) are joined with its build: the variable `job` may
//! stand for all jobs.

use super::model::{Dashboard, Panel};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "dwcp-v3-observer",
        title: "DWCP v3: the observer itself",
        about: "Whether the figures on the other dashboards are complete, and what the observer costs.",
        refresh: "30s",
        from: "now-1h",
        variables: vec![],
        panels: [trust(), cost(), service()].into_iter().flatten().collect(),
    }
}

fn trust() -> Vec<Panel> {
    vec![
        Panel::stat("Observers up", "short")
            .about("Observers that Prometheus scrapes without error.")
            .query("sum(up{@} and on (job, instance) dwcp_observer_build_info{@})", "up")
            .worse_below(1.0, 1.0),
        Panel::stat("Age of the figures", "s")
            .about("Time since the last collection cycle, for the observer with the oldest one.")
            .query("max(time() - dwcp_observer_last_cycle_timestamp_seconds{@})", "age")
            .worse_above(3.0, 10.0),
        Panel::stat("Information lost (1 h)", "short")
            .about("Events lost because a map or ring was full; totals stay exact.")
            .query("sum(increase(dwcp_observer_lost_total{@}[1h]))", "lost")
            .worse_above(1.0, 100.0),
        Panel::stat("Cycles missed (1 h)", "short")
            .about("Collection cycles that were skipped because they could not start in time.")
            .query("sum(increase(dwcp_observer_cycles_missed_total{@}[1h]))", "missed")
            .worse_above(1.0, 10.0),
        Panel::stat("Probes without a rung", "short")
            .about("Hooks that cannot be attached on this kernel; `dwcp-observer check` shows the reason.")
            .query(r#"count(dwcp_observer_probe_attached{@, rung="none"}) or vector(0)"#, "missing")
            .worse_above(1.0, 5.0),
        Panel::stat("History written", "none")
            .about("Whether the observer writes finished migrations to disk.")
            .query("min(dwcp_observer_history_up{@})", "history")
            .worse_below(1.0, 1.0)
            .word("0", "NO", "red")
            .word("1", "YES", "green"),
        Panel::table("Probes", "none")
            .about("Attach method (rung) of each probe.")
            .query("dwcp_observer_probe_attached{@}", "")
            .size(12, 9),
        Panel::table("Builds", "none")
            .about("Running versions of the observer.")
            .query("dwcp_observer_build_info{@}", "")
            .size(12, 9),
        Panel::series("Information lost by reason", "ops")
            .about("Per second.")
            .query("sum by (map, reason) (rate(dwcp_observer_lost_total{@}[$__rate_interval]))", "{{map}} {{reason}}"),
        Panel::series("Use of record arrays", "percentunit")
            .about("Share of slots in use; when all are in use, totals stay exact and detail is lost.")
            .query("dwcp_observer_map_slots_used{@} / dwcp_observer_map_slots{@}", "{{map}}")
            .worse_above(0.8, 0.95)
            .within(0.0, 1.0),
        Panel::series("Flows found to be no migration", "ops")
            .about("By reason, per second.")
            .query("sum by (reason) (rate(dwcp_observer_rejected_flows_total{@}[$__rate_interval]))", "{{reason}}"),
        Panel::series("Series left out by the caps", "short")
            .about("Running migrations and streams without series of their own.")
            .query("dwcp_observer_live_series_dropped{@}", "{{kind}}"),
    ]
}

fn cost() -> Vec<Panel> {
    vec![
        Panel::series("CPU of the agent", "percentunit")
            .about("Share of one core; the budget is 1 % with 512 streams.")
            .query("rate(process_cpu_seconds_total{@}[$__rate_interval]) and on (job, instance) dwcp_observer_build_info{@}", "{{instance}}")
            .limit(0.01),
        Panel::series("CPU of the programs in the kernel", "percentunit")
            .about("Share of one core; measured while the kernel's run statistics are on, and scaled up.")
            .query("sum by (instance) (rate(dwcp_observer_program_run_seconds_total{@}[$__rate_interval])) / on (instance) max by (instance) (dwcp_observer_program_stats_duty_ratio{@} > 0)", "{{instance}}"),
        Panel::series("Time per run of a program", "s")
            .about("The budget is 80 ns for an event of a migration, 25 ns for any other.")
            .query("sum by (program) (rate(dwcp_observer_program_run_seconds_total{@}[$__rate_interval])) / (sum by (program) (rate(dwcp_observer_program_runs_total{@}[$__rate_interval])) > 0)", "{{program}}"),
        Panel::series("Resident memory", "bytes")
            .about("The budget is 20 MiB with 512 streams.")
            .query("process_resident_memory_bytes{@} and on (job, instance) dwcp_observer_build_info{@}", "{{instance}}")
            .limit(20_971_520.0),
        Panel::series("Collection cycle p50 and p99", "s")
            .about("The budget is 1 ms with 100 streams, 10 ms with 10,000 flows.")
            .query("histogram_quantile(0.50, sum by (le) (rate(dwcp_observer_cycle_duration_seconds_bucket{@}[$__rate_interval])))", "p50")
            .query("histogram_quantile(0.99, sum by (le) (rate(dwcp_observer_cycle_duration_seconds_bucket{@}[$__rate_interval])))", "p99")
            .worse_above(0.001, 0.01),
        Panel::series("Lateness of cycles p99", "s")
            .about("Delay of a cycle's start against its schedule.")
            .query("histogram_quantile(0.99, sum by (le) (rate(dwcp_observer_cycle_jitter_seconds_bucket{@}[$__rate_interval])))", "p99"),
        Panel::series("Instructions that the verifier walked", "short")
            .about("By program.")
            .query("max by (program) (dwcp_observer_program_verified_instructions{@})", "{{program}}"),
    ]
}

fn service() -> Vec<Panel> {
    vec![
        Panel::series("HTTP requests", "reqps")
            .about("By endpoint and code.")
            .query("sum by (endpoint, code) (rate(dwcp_observer_http_requests_total{@}[$__rate_interval]))", "{{endpoint}} {{code}}"),
        Panel::series("HTTP connections turned away", "cps")
            .about("Rejected, evicted, timed out.")
            .query("sum(rate(dwcp_observer_http_connections_rejected_total{@}[$__rate_interval]))", "rejected")
            .query("sum(rate(dwcp_observer_http_connections_evicted_total{@}[$__rate_interval]))", "evicted")
            .query("sum(rate(dwcp_observer_http_connections_timed_out_total{@}[$__rate_interval]))", "timed out"),
        Panel::series("Open descriptors", "short")
            .about("Of the agent.")
            .query("process_open_fds{@} and on (job, instance) dwcp_observer_build_info{@}", "{{instance}}"),
        Panel::series("Size of the history", "bytes")
            .about("The default limit is 256 MiB.")
            .query("dwcp_observer_history_bytes{@}", "{{instance}}")
            .limit(268_435_456.0),
        Panel::series("Rows of the history", "ops")
            .about("Written, dropped, pruned, per second.")
            .query("sum(rate(dwcp_observer_history_rows_written_total{@}[$__rate_interval]))", "written")
            .query("sum(rate(dwcp_observer_history_rows_dropped_total{@}[$__rate_interval]))", "dropped")
            .query("sum(rate(dwcp_observer_history_rows_pruned_total{@}[$__rate_interval]))", "pruned"),
    ]
}
