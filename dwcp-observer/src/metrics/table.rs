//! All metrics. The exposition and the metric reference are generated from this table.

use prometheus::proto::MetricType;

/// Properties of a metric that never change.
#[derive(Debug)]
pub struct Definition {
    /// Full name.
    pub name: &'static str,
    /// Type in the exposition.
    pub kind: Kind,
    /// `# HELP` text: one line.
    pub help: &'static str,
    /// Label names, in the order in which they are written.
    pub labels: &'static [&'static str],
    /// Unit of the value.
    pub unit: &'static str,
    /// Where the value comes from: kernel field, `/proc` file, or the observer itself.
    pub source: &'static str,
    /// When the metric is missing from the exposition. Missing does not mean zero.
    pub absent: Option<&'static str>,
}

crate::model::named! {
    /// Type of a metric.
    pub enum Kind {
        /// Only grows; restarts at zero with the observer.
        Counter = "counter",
        /// Goes up and down.
        Gauge = "gauge",
        /// Cumulative buckets, sum and count.
        Histogram = "histogram",
    }
}

impl Kind {
    pub(super) const fn proto(self) -> MetricType {
        match self {
            Self::Counter => MetricType::COUNTER,
            Self::Gauge => MetricType::GAUGE,
            Self::Histogram => MetricType::HISTOGRAM,
        }
    }
}

macro_rules! metrics {
    ($(
        $ident:ident = $kind:ident $name:literal [$($label:literal),*] $unit:literal,
        $help:literal,
        $source:literal
        $(, absent: $absent:literal)?;
    )*) => {
        $(
            pub(super) static $ident: Definition = Definition {
                name: $name,
                kind: Kind::$kind,
                help: $help,
                labels: &[$($label),*],
                unit: $unit,
                source: $source,
                absent: metrics!(@absent $($absent)?),
            };
        )*
        /// All metrics, in the order of the exposition.
        pub static TABLE: &[&Definition] = &[$(&$ident),*];
    };
    (@absent $absent:literal) => { Some($absent) };
    (@absent) => { None };
}

metrics! {
    // All migrations. Throughput, errors, utilization, duration, migrations, bytes and streams are names of the DWCP v3 monitoring contract.
    THROUGHPUT = Gauge "dwcp_v3_throughput_bytes_per_second" ["component", "direction", "transport"] "bytes/s",
        "Migration payload per second that sources on this host sent (tx) or destinations on this host received (rx) in the last cycle.",
        "tcp_sock.bytes_acked and bytes_received",
        absent: "no migration is active in that direction";
    ERRORS = Counter "dwcp_v3_errors_total" ["component", "error_type", "severity"] "errors",
        "Errors of migration sockets and migration processes that the kernel reported.",
        "socket errors, resets, process exits";
    RESOURCE_UTILIZATION = Gauge "dwcp_v3_resource_utilization_percent" ["resource_type", "node"] "percent",
        "Utilization of the host's CPUs and memory, 0 to 100.",
        "/proc/stat, /proc/meminfo",
        absent: "/proc does not provide it, or before the second cycle";
    DURATION = Histogram "dwcp_v3_migration_duration_seconds" ["node_id", "mode"] "seconds",
        "Total time of finished migrations, from the first connection to the last close.",
        "socket state changes";
    LATENCY = Histogram "dwcp_v3_migration_latency_seconds" ["source", "destination", "vm_size", "mode"] "seconds",
        "Blackout (downtime) of finished migrations with both ends on this host: the time in which the guest ran on neither end.",
        "sched_switch of guest CPUs, uprobes on the migrator's phase functions",
        absent: "no complete blackout was measured on that path; migrations with only one end on this host are not included";
    BLACKOUT = Histogram "dwcp_v3_blackout_seconds" ["mode", "method"] "seconds",
        "Blackout (downtime) of finished migrations with both ends on this host in fine buckets, by the method that measured it.",
        "sched_switch of guest CPUs, uprobes on the migrator's phase functions";
    MIGRATIONS = Counter "dwcp_v3_migrations_total" ["outcome", "mode"] "migrations",
        "Finished migrations by outcome.",
        "migration records";
    REASONS = Counter "dwcp_v3_migration_reasons_total" ["reason"] "migrations",
        "Finished migrations that did not complete, by reason.",
        "migration records; the record holds the full text of the reason";
    SPLIT_BRAINS = Counter "dwcp_v3_split_brains_total" [] "migrations",
        "Finished migrations whose guest was started at both ends (split brain).",
        "migration records";
    VERDICT_SECONDS = Counter "dwcp_v3_verdict_seconds_total" ["state", "cause"] "seconds",
        "Seconds of running migrations by verdict and its cause; concurrent migrations add up.",
        "verdict of each cycle",
        absent: "no second had this verdict";
    GUEST_CPU_STOLEN = Counter "dwcp_v3_guest_cpu_stolen_seconds_total" [] "seconds",
        "Time that vCPUs of migrating VMs waited for a CPU on which a migration thread was running.",
        "sched_switch, task_struct.sched_info.run_delay";
    ACTIVE_STREAMS = Gauge "dwcp_v3_amst_active_streams" [] "streams",
        "Open streams of active migrations, without streams for which the kernel side had no free slot.",
        "migration records";
    MIGRATIONS_ACTIVE = Gauge "dwcp_v3_migrations_active" ["role"] "migrations",
        "Running migrations by role of this host; a migration with both ends on this host counts in both roles.",
        "migration records";
    BYTES_TRANSFERRED = Counter "dwcp_v3_bytes_transferred_total" ["node_id", "mode", "direction"] "bytes",
        "Migration payload that sources on this host delivered (sent) and that destinations on this host received in order (received).",
        "tcp_sock.bytes_acked, bytes_received";
    BYTES_QUEUED = Counter "dwcp_v3_bytes_queued_total" ["node_id", "mode"] "bytes",
        "Payload that migration sources on this host wrote to their sockets.",
        "tcp_sock.write_seq";
    RETRANSMITTED_BYTES = Counter "dwcp_v3_retransmitted_bytes_total" ["node_id", "mode", "role"] "bytes",
        "Payload bytes that migration ends of this role retransmitted.",
        "tcp_sock.bytes_retrans";
    RETRANSMITTED_SEGMENTS = Counter "dwcp_v3_retransmitted_segments_total" ["node_id", "mode", "role"] "segments",
        "TCP segments that migration ends of this role retransmitted.",
        "tcp_sock.total_retrans";
    RTT = Histogram "dwcp_v3_rtt_seconds" [] "seconds",
        "Round-trip time of sockets that belong to migrators or use migration ports; one sample per ACK that delivered data.",
        "tcp_sock.rack.rtt_us, histogram in the kernel",
        absent: "the kernel side provides no histogram";
    RUNQUEUE_WAIT = Histogram "dwcp_v3_runqueue_wait_seconds" ["role"] "seconds",
        "Time that threads of migrating processes waited for a CPU, by role of the thread.",
        "task_struct.sched_info.run_delay at each switch away from a CPU, histogram in the kernel",
        absent: "the kernel side provides no histogram";

    // RDMA by device, migrations or not.

    // Components.
    COMPONENT_HEALTH = Gauge "dwcp_v3_component_health" ["component", "version"] "0 or 1",
        "Health of a DWCP component: 0 unhealthy, 1 healthy or degraded; /api/v1/components lists the reasons.",
        "/proc, NETLINK_SOCK_DIAG, the component's own endpoint, verdicts of migrations (amst)",
        absent: "no process or connection has matched [components.NAME], and the component is not required";
    ROLLOUT = Gauge "dwcp_v3_rollout_progress_percent" ["stage", "region"] "percent",
        "Share of migrations that use DWCP v3, 0 to 100, among those that run now or ended in the last hour and are still in memory.",
        "migration records, rule [v1]; stage and region from the configuration or PUT /api/v1/rollout",
        absent: "[v1] is not configured, or there were no migrations";
    COMPONENT_PROCESSES = Gauge "dwcp_v3_component_processes" ["component"] "processes",
        "Processes that match a DWCP component.",
        "/proc",
        absent: "no process or connection has matched [components.NAME]";
    COMPONENT_THREADS = Gauge "dwcp_v3_component_threads" ["component"] "threads",
        "Threads of a DWCP component: those that its rule names, or all threads of its processes.",
        "/proc",
        absent: "no process or connection has matched [components.NAME]";
    COMPONENT_CPU = Counter "dwcp_v3_component_cpu_seconds_total" ["component"] "seconds",
        "CPU time of a DWCP component's threads since the observer first saw each.",
        "/proc/PID/stat, /proc/PID/task/TID/schedstat",
        absent: "no process or connection has matched [components.NAME]";
    COMPONENT_RESIDENT = Gauge "dwcp_v3_component_resident_memory_bytes" ["component"] "bytes",
        "Resident memory of a DWCP component's processes.",
        "/proc/PID/stat",
        absent: "no process or connection has matched [components.NAME]";
    COMPONENT_CONNECTIONS = Gauge "dwcp_v3_component_connections" ["component", "state"] "connections",
        "Ends of a DWCP component's TCP connections in the observer's network namespace: established, and among these stalled (no acknowledgement for 3 s) and unread (received data not read for 3 s).",
        "NETLINK_SOCK_DIAG",
        absent: "no process or connection has matched [components.NAME]";
    COMPONENT_BYTES = Counter "dwcp_v3_component_bytes_total" ["component", "direction"] "bytes",
        "Payload of a DWCP component's TCP connections that peers acknowledged (sent) or that arrived in order (received); sampled once a second, so the last moments of a connection are missing.",
        "tcp_info.tcpi_bytes_acked, tcpi_bytes_received",
        absent: "no process or connection has matched [components.NAME]";
    COMPONENT_RETRANSMITTED = Counter "dwcp_v3_component_retransmitted_segments_total" ["component"] "segments",
        "TCP segments that a DWCP component's connections retransmitted; sampled once a second, so the last moments of a connection are missing.",
        "tcp_info.tcpi_total_retrans",
        absent: "no process or connection has matched [components.NAME]";

    // Further names of the contract for what is measured anyway.
    AMST_THROUGHPUT_BYTES = Gauge "dwcp_v3_amst_throughput_bytes_per_second" [] "bytes/s",
        "Rate of all active migrations in the last cycle; a migration with both ends on this host counts once.",
        "tcp_sock.bytes_acked, bytes_received",
        absent: "no migration is active";
    AMST_THROUGHPUT = Gauge "dwcp_v3_amst_throughput" [] "GB/s",
        "Rate of all active migrations in the last cycle, in GB/s (1e9 bytes per second).",
        "tcp_sock.bytes_acked, bytes_received",
        absent: "no migration is active";
    AMST_THROUGHPUT_GBPS = Gauge "dwcp_v3_amst_throughput_gbps" [] "GB/s",
        "Rate of all active migrations in the last cycle, in GB/s (1e9 bytes per second); equal to current_gbps in /metrics/summary.",
        "tcp_sock.bytes_acked, bytes_received",
        absent: "no migration is active";
    THROUGHPUT_PER_SEC = Gauge "dwcp_v3_throughput_bytes_per_sec" [] "bytes/s",
        "Rate of all active migrations in the last cycle, under the name that the DWCP v3 collector script reads.",
        "tcp_sock.bytes_acked, bytes_received",
        absent: "no migration is active";
    AMST_UTILIZATION = Gauge "dwcp_v3_amst_stream_utilization" [] "ratio",
        "Open streams of active migrations as a share of the 512 that DWCP v3 allows, 0 to 1.",
        "migration records";
    AMST_UTILIZATION_PERCENT = Gauge "dwcp_v3_amst_stream_utilization_percent" [] "percent",
        "Open streams of active migrations as a share of the 512 that DWCP v3 allows, 0 to 100.",
        "migration records";
    ACTIVE_CONNECTIONS = Gauge "dwcp_v3_active_connections" [] "connections",
        "Open connections of active migrations; equal to their open streams.",
        "migration records";
    LATENCY_P50 = Gauge "dwcp_v3_migration_latency_p50" [] "ms",
        "Median blackout (downtime) of the finished migrations that are still in memory, nearest rank.",
        "migration records",
        absent: "no finished migration in memory has a known blackout";
    LATENCY_P95 = Gauge "dwcp_v3_migration_latency_p95" [] "ms",
        "95th percentile of the blackout (downtime) of the finished migrations that are still in memory, nearest rank.",
        "migration records",
        absent: "no finished migration in memory has a known blackout";
    LATENCY_P99 = Gauge "dwcp_v3_migration_latency_p99" [] "ms",
        "99th percentile of the blackout (downtime) of the finished migrations that are still in memory, nearest rank.",
        "migration records",
        absent: "no finished migration in memory has a known blackout";
    ERROR_RATE = Gauge "dwcp_v3_error_rate" [] "percent",
        "Share of the migrations finished in the last hour that failed, 0 to 100.",
        "migration records, one-minute aggregates",
        absent: "no migration finished in the last hour";
    NETWORK_BYTES = Counter "dwcp_v3_network_bytes_total" ["node_id", "mode", "direction"] "bytes",
        "Payload that migrations sent over the network (delivered and retransmitted) or received from it (in order).",
        "tcp_sock.bytes_acked, bytes_retrans, bytes_received";
    COLLECTOR_STATUS = Gauge "dwcp_v3_metrics_collector_status" ["phase"] "0 or 1",
        "1 if the last collection cycle had every required probe, 0 if one was missing.",
        "attach fallbacks",
        absent: "before the first cycle";
    COLLECTOR_LAST_RUN = Gauge "dwcp_v3_metrics_collector_last_run" ["phase"] "seconds since 1970",
        "Time at which the last collection cycle ended.",
        "CLOCK_REALTIME",
        absent: "before the first cycle";

    // DWCP v1, where the rule [v1] tells it from v3.
    V1_THROUGHPUT = Gauge "dwcp_v1_throughput_bytes_per_second" ["component", "direction", "transport"] "bytes/s",
        "Migration payload per second that sources on this host sent (tx) or destinations on this host received (rx) in the last cycle, for migrations that use DWCP v1.",
        "tcp_sock.bytes_acked and bytes_received",
        absent: "[v1] is not configured, or no such migration is active in that direction";
    V1_ERRORS = Counter "dwcp_v1_errors_total" ["component", "error_type", "severity"] "errors",
        "Errors of migration sockets and migration processes that the kernel reported, for migrations that use DWCP v1.",
        "socket errors, resets, process exits",
        absent: "[v1] is not configured";
    V1_LATENCY = Histogram "dwcp_v1_migration_latency_seconds" ["source", "destination", "vm_size", "mode", "version"] "seconds",
        "Blackout (downtime) of finished migrations that use DWCP v1, with both ends on this host: the time in which the guest ran on neither end.",
        "sched_switch of guest CPUs, uprobes on the migrator's phase functions",
        absent: "[v1] is not configured, or no complete blackout was measured on that path";
    V1_DURATION = Histogram "dwcp_v1_migration_duration_seconds" ["node_id", "mode"] "seconds",
        "Total time of finished migrations that use DWCP v1, from the first connection to the last close.",
        "socket state changes",
        absent: "[v1] is not configured";
    V1_MIGRATIONS = Counter "dwcp_v1_migrations_total" ["outcome", "mode"] "migrations",
        "Finished migrations that use DWCP v1, by outcome.",
        "migration records",
        absent: "[v1] is not configured";
    V1_BYTES = Counter "dwcp_v1_bytes_transferred_total" ["node_id", "mode", "direction"] "bytes",
        "Payload of migrations that use DWCP v1 that sources on this host delivered (sent) and destinations on this host received in order (received).",
        "tcp_sock.bytes_acked, bytes_received",
        absent: "[v1] is not configured";

    // Service levels. The first and the last but one are names of the contract.
    SLA_COMPLIANCE = Gauge "dwcp_v3_sla_compliance" ["sla_type", "metric"] "1",
        "Service level over the last hour: 0 violated, 1 met.",
        "migration records, one-minute aggregates",
        absent: "nothing happened in the last hour that the service level could judge";
    SLA_VALUE = Gauge "dwcp_v3_sla_value" ["sla_type", "window"] "seconds, bytes/s or ratio",
        "Value that the service level is judged by: p99 blackout (downtime) in the mode closest to its latency limit, mean transfer rate, failed share of finished migrations, or available share of the judged seconds.",
        "migration records, one-minute aggregates",
        absent: "nothing happened in the window that the service level could judge";
    BUDGET_REMAINING = Gauge "dwcp_v3_error_budget_remaining_ratio" ["sla_type", "window"] "ratio",
        "Remaining error budget: 1 unused, 0 used up, below 0 exceeded.",
        "migration records, one-minute aggregates",
        absent: "nothing happened in the window that the service level could judge";
    BURN_RATE = Gauge "dwcp_v3_error_budget_burn_rate" ["sla_type", "window"] "1",
        "Burn rate of the error budget: how many times faster than allowed the window uses it up.",
        "migration records, one-minute aggregates",
        absent: "nothing happened in the window that the service level could judge";
    BLACKOUT_P95 = Gauge "dwcp_v3_sla_blackout_p95_seconds" ["mode", "window"] "seconds",
        "95th percentile of the blackout (downtime) by mode, nearest rank.",
        "migration records",
        absent: "no migration of that mode with a known blackout ended in the window";
    BLACKOUT_P99 = Gauge "dwcp_v3_sla_blackout_p99_seconds" ["mode", "window"] "seconds",
        "99th percentile of the blackout (downtime) by mode, nearest rank.",
        "migration records",
        absent: "no migration of that mode with a known blackout ended in the window";
    SLA_VIOLATIONS = Counter "dwcp_v3_sla_violations_total" ["sla_type"] "minutes",
        "Minutes at the end of which the service level over the last hour was violated.",
        "service levels";
    GO_NO_GO = Gauge "dwcp_v3_go_no_go" ["decision"] "1",
        "Decision about a rollout: 1 for the current one of go, caution and no-go, 0 for the others; /api/v1/sla lists the reasons.",
        "service levels, verdicts, anomalies, components";
    ANOMALIES = Counter "dwcp_v3_anomaly_detections_total" ["anomaly_type", "severity"] "events",
        "Anomalies that began; each counts once, however long it lasts; /api/v1/anomalies explains each.",
        "anomaly signals, each second";
    ANOMALY_UNWATCHED = Counter "dwcp_observer_anomaly_samples_unwatched_total" [] "samples",
        "Samples of migrations beyond the 512 that have detectors of their own; the detectors of their mode still receive these samples.",
        "anomaly signals, each second";
    RDMA_BYTES = Counter "dwcp_v3_rdma_bytes_total" ["device", "direction"] "bytes",
        "RDMA payload by device: completed sends and RDMA writes (sent), receive completions (received) and RDMA reads (read).",
        "completions of queue pairs (rxe_cq_post)",
        absent: "the observer has seen no queue pair on the device";
    RDMA_OPERATIONS = Counter "dwcp_v3_rdma_operations_total" ["device", "operation"] "completions",
        "RDMA completions by device and operation.",
        "completions of queue pairs (rxe_cq_post)",
        absent: "the observer has seen no queue pair on the device";
    RDMA_ERRORS = Counter "dwcp_v3_rdma_completion_errors_total" ["device", "status"] "completions",
        "RDMA completions that failed, by device and status (enum ib_wc_status).",
        "completions of queue pairs (rxe_cq_post)",
        absent: "no completion failed with that status";
    RDMA_QUEUE_PAIRS = Gauge "dwcp_v3_rdma_queue_pairs" ["device"] "queue pairs",
        "Open RDMA queue pairs of user processes, by device.",
        "rdma_restrack_add",
        absent: "the observer has seen no queue pair on the device";
    RDMA_LATENCY = Histogram "dwcp_v3_rdma_completion_latency_seconds" ["device"] "seconds",
        "Time from doorbell to completion of RDMA work requests.",
        "doorbell and completion in the kernel",
        absent: "the device posts work requests without the kernel, or nothing was posted";
    RDMA_REGISTERED = Gauge "dwcp_v3_rdma_registered_bytes" [] "bytes",
        "Memory that processes currently have registered with RDMA devices.",
        "ib_umem_get",
        absent: "this host has no RDMA";

    // One set per migration, capped; gone a while after the end.
    MIGRATION_INFO = Gauge "dwcp_v3_migration_info" ["migration_id", "vm", "uuid", "migrator", "role", "transport", "mode"] "1",
        "Identity of a running or just finished migration; role is source, destination or both.",
        "migration records",
        absent: "the migration ended more than 15 s ago, or the series cap is reached";
    MIGRATION_BYTES = Gauge "dwcp_v3_migration_bytes" ["migration_id", "kind"] "bytes",
        "Payload of one migration so far, by kind of count.",
        "tcp_sock counters",
        absent: "the migration ended more than 15 s ago, or the series cap is reached";
    MIGRATION_THROUGHPUT = Gauge "dwcp_v3_migration_throughput_bytes_per_second" ["migration_id"] "bytes/s",
        "Rate at which one migration delivered bytes (source) or received bytes (destination) in the last cycle.",
        "tcp_sock counters",
        absent: "the migration does not run, or the series cap is reached";
    MIGRATION_STORAGE_BYTES = Gauge "dwcp_v3_migration_storage_bytes" ["migration_id", "kind"] "bytes",
        "Payload of the disks that are copied along with one migration; dwcp_v3_migration_bytes does not include it.",
        "tcp_sock counters",
        absent: "no disk is copied along, the migration ended more than 15 s ago, or the series cap is reached";
    MIGRATION_STORAGE_THROUGHPUT = Gauge "dwcp_v3_migration_storage_throughput_bytes_per_second" ["migration_id"] "bytes/s",
        "Rate at which the disks of one migration were copied in the last cycle.",
        "tcp_sock counters",
        absent: "no disk is being copied, or the series cap is reached";
    MIGRATION_START = Gauge "dwcp_v3_migration_start_time_seconds" ["migration_id"] "seconds since 1970",
        "Time of the first connection of one migration.",
        "socket state changes",
        absent: "the migration ended more than 15 s ago, or the series cap is reached";
    MIGRATION_STREAMS = Gauge "dwcp_v3_migration_streams" ["migration_id"] "streams",
        "Streams of one migration, open and closed, including those for which the kernel side had no free slot.",
        "migration records",
        absent: "the migration ended more than 15 s ago, or the series cap is reached";
    MIGRATION_VERDICT = Gauge "dwcp_v3_migration_verdict" ["migration_id", "state", "cause"] "1",
        "Verdict on the last second of one migration, and its cause.",
        "verdict of each cycle",
        absent: "the migration does not run, its first cycle has not ended, or the series cap is reached";
    MIGRATION_TIME_FRACTION = Gauge "dwcp_v3_migration_time_fraction" ["migration_id", "cause"] "0 to 1",
        "How the sending side of one migration spent the last second, as shares that sum to 1.",
        "TCP_INFO chronographs, scheduler totals, migration_rate_limit",
        absent: "the migration does not run, its source is on another host, or the series cap is reached";
    MIGRATION_ETA = Gauge "dwcp_v3_migration_eta_seconds" ["migration_id", "bound"] "seconds",
        "Estimated time until one migration ends, with the low and high bounds of a 90 % interval.",
        "delivery rate, guest memory, iterations over RAM, QEMU's count of remaining memory",
        absent: "the migration does not run or does not converge, the estimate is unknown, or the series cap is reached";
    MIGRATION_REMAINING = Gauge "dwcp_v3_migration_remaining_bytes" ["migration_id"] "bytes",
        "What one migration still has to send by QEMU's own latest count: dirty memory and other iterative state.",
        "uprobes on qemu_savevm_state_pending, its _exact and _estimate, or qemu_savevm_query_pending_iter",
        absent: "QEMU's function is not probed or not exported, the source is on another host, the guest has stopped outside of postcopy, the migration does not run, or the series cap is reached";
    MIGRATION_STANDSTILL = Gauge "dwcp_v3_migration_guest_standstill_seconds" ["migration_id", "end", "awaits"] "seconds",
        "How long the guest of one migration has been stopped, at which end, and what it waits for: switch_over, migrate_continue, resume or recovery.",
        "uprobes on the migrator's phase functions, sched_switch of guest CPUs",
        absent: "the guest runs, no probe shows its state, or the series cap is reached";
    MIGRATION_GUEST_THROTTLE = Gauge "dwcp_v3_migration_guest_throttle_percent" ["migration_id"] "0 to 99",
        "Share of time for which the migrator throttles the vCPUs so that the migration converges (auto-converge).",
        "uprobe on cpu_throttle_set",
        absent: "the guest is not throttled, the function is not probed, the source is on another host, the migration does not run, or the series cap is reached";
    MIGRATION_SPLIT_BRAIN = Gauge "dwcp_v3_migration_split_brain" ["migration_id"] "1 yes, 0 no",
        "Whether the guest of one migration was started at both ends (split brain).",
        "uprobes on the migrator's phase functions of both ends",
        absent: "one end is on another host, the migration ended more than 15 s ago, or the series cap is reached";
    MIGRATION_BALANCE = Gauge "dwcp_v3_migration_stream_balance" ["migration_id", "index"] "ratio",
        "Balance between the streams of one migration in the last second: max_over_mean, jain, scaling_efficiency.",
        "tcp_sock.bytes_acked",
        absent: "fewer than two streams carry data, the migration does not run, or the series cap is reached";
    MIGRATION_PHASE = Gauge "dwcp_v3_migration_phase_seconds" ["migration_id", "phase"] "seconds",
        "Time that one migration has spent in each phase so far.",
        "uprobes on the migrator's phase functions, sched_switch of guest CPUs",
        absent: "the migration has not entered the phase or ended more than 15 s ago, or the series cap is reached";
    MIGRATION_ROUNDS = Gauge "dwcp_v3_migration_rounds" ["migration_id"] "rounds",
        "Iterations over RAM (rounds) of one migration so far, as in QEMU's dirty-sync-count.",
        "uprobe on memory_global_dirty_log_sync",
        absent: "the function is not probed, the source is on another host, the migration ended more than 15 s ago, or the series cap is reached";
    MIGRATION_BLACKOUT = Gauge "dwcp_v3_migration_blackout_seconds" ["migration_id", "part"] "seconds",
        "Blackout (downtime) of one migration: the total, and the parts stop, ram, device, network, load and start, which add up to it.",
        "sched_switch of guest CPUs, uprobes on the migrator's phase functions",
        absent: "the stop or the start of the guest is unknown, the migration ended more than 15 s ago, or the series cap is reached";
    STREAM_BYTES = Gauge "dwcp_v3_migration_stream_bytes" ["migration_id", "stream", "kind"] "bytes",
        "Payload of one migration stream so far; stream is its index in the order of opening.",
        "tcp_sock counters",
        absent: "the migration ended more than 15 s ago, or a series cap is reached";
    STREAM_SRTT = Gauge "dwcp_v3_migration_stream_srtt_seconds" ["migration_id", "stream"] "seconds",
        "Smoothed round-trip time at the sending end of one migration stream.",
        "tcp_sock.srtt_us",
        absent: "there is no sample yet, the migration ended more than 15 s ago, or a series cap is reached";
    STREAM_RETRANSMITTED = Gauge "dwcp_v3_migration_stream_retransmitted_segments" ["migration_id", "stream"] "segments",
        "TCP segments that one migration stream has retransmitted so far.",
        "tcp_sock.total_retrans",
        absent: "the migration ended more than 15 s ago, or a series cap is reached";
    STREAM_CWND = Gauge "dwcp_v3_migration_stream_cwnd_bytes" ["migration_id", "stream"] "bytes",
        "Congestion window at the sending end of one migration stream: segments times segment size.",
        "tcp_sock.snd_cwnd, mss_cache",
        absent: "the stream is closed, the migration ended more than 15 s ago, or a series cap is reached";
    THREAD_CPU = Gauge "dwcp_v3_migration_thread_cpu_seconds" ["migration_id", "end", "role"] "seconds",
        "CPU time that the threads of one role at one end of a migration have used so far.",
        "sched_switch",
        absent: "the migration ended more than 15 s ago, or the series cap is reached";
    THREAD_WAIT = Gauge "dwcp_v3_migration_thread_runqueue_wait_seconds" ["migration_id", "end", "role"] "seconds",
        "Time that the threads of one role at one end of a migration have waited for a CPU so far.",
        "sched_waking, sched_switch",
        absent: "the migration ended more than 15 s ago, or the series cap is reached";

    // The observer itself.
    BUILD_INFO = Gauge "dwcp_observer_build_info" ["version", "arch"] "1",
        "Version and architecture of the running observer; always 1.",
        "compile time";
    PROBE_ATTACHED = Gauge "dwcp_observer_probe_attached" ["probe", "rung"] "0 or 1",
        "1 while the probe is attached by this method (rung); 0 with rung none if it cannot be attached, and 0 with a rung if it is attached only while a migration runs.",
        "attach fallbacks",
        absent: "before the first cycle";
    PROGRAM_RUN_SECONDS = Counter "dwcp_observer_program_run_seconds_total" ["program"] "seconds",
        "Run time of an eBPF program while the kernel's run statistics were on; dwcp_observer_program_stats_duty_ratio is their share of time.",
        "bpf_prog_info.run_time_ns",
        absent: "the kernel's run statistics are off";
    PROGRAM_RUNS = Counter "dwcp_observer_program_runs_total" ["program"] "runs",
        "Runs of an eBPF program while the kernel's run statistics were on; dwcp_observer_program_stats_duty_ratio is their share of time.",
        "bpf_prog_info.run_cnt",
        absent: "the kernel's run statistics are off";
    PROGRAM_MISSED_RUNS = Counter "dwcp_observer_program_missed_runs_total" ["program"] "runs",
        "Runs of an eBPF program that the kernel skipped because the program was already running on that CPU.",
        "bpf_prog_info.recursion_misses",
        absent: "the kernel is older than Linux 5.12";
    PROGRAM_STATS_DUTY = Gauge "dwcp_observer_program_stats_duty_ratio" [] "0 to 1",
        "Share of time in which the kernel's run statistics of eBPF programs are on; 0 means off.",
        "configuration",
        absent: "before the first cycle";
    PROGRAM_VERIFIED = Gauge "dwcp_observer_program_verified_instructions" ["program"] "instructions",
        "Instructions that the verifier processed when it loaded an eBPF program.",
        "bpf_prog_info.verified_insns",
        absent: "before the first cycle";
    LOST = Counter "dwcp_observer_lost_total" ["map", "reason"] "events",
        "Events that the kernel side lost, by map and reason.",
        "loss counters of the eBPF programs, executables and command lines that could not be read",
        absent: "before the first cycle";
    PROBE_DELAY = Histogram "dwcp_observer_phase_probe_delay_seconds" [] "seconds",
        "Time from the start of a migrator (or of the observer, if later) until its phase functions were probed; the observer misses earlier phases.",
        "task_struct.start_boottime, uprobe links",
        absent: "phase functions are not probed: disabled by the configuration, or capabilities are missing";
    MAP_SLOTS = Gauge "dwcp_observer_map_slots" ["map"] "slots",
        "Slots of a record array in the kernel.",
        "configuration",
        absent: "before the first cycle";
    MAP_SLOTS_USED = Gauge "dwcp_observer_map_slots_used" ["map"] "slots",
        "Slots of a record array in the kernel that are in use.",
        "slot allocator",
        absent: "before the first cycle";
    REJECTED_FLOWS = Counter "dwcp_observer_rejected_flows_total" ["reason"] "flows",
        "Flows that the observer examined and rejected because they do not belong to a migration.",
        "identification",
        absent: "no flow was rejected for that reason";
    CYCLE_DURATION = Histogram "dwcp_observer_cycle_duration_seconds" [] "seconds",
        "Duration of a collection cycle.",
        "CLOCK_MONOTONIC",
        absent: "before the first cycle";
    CYCLE_JITTER = Histogram "dwcp_observer_cycle_jitter_seconds" [] "seconds",
        "Delay of a collection cycle's start against its schedule.",
        "CLOCK_MONOTONIC",
        absent: "before the first cycle";
    CYCLES_MISSED = Counter "dwcp_observer_cycles_missed_total" [] "cycles",
        "Collection cycles that were skipped because they could not start in time.",
        "CLOCK_MONOTONIC",
        absent: "before the first cycle";
    LAST_CYCLE = Gauge "dwcp_observer_last_cycle_timestamp_seconds" [] "seconds since 1970",
        "Time at which the last collection cycle ended; all measured values are from that cycle.",
        "CLOCK_REALTIME",
        absent: "before the first cycle";
    LIVE_SERIES_DROPPED = Gauge "dwcp_observer_live_series_dropped" ["kind"] "migrations or streams",
        "Running or just finished migrations and streams that have no series of their own because a series cap is reached.",
        "exposition",
        absent: "before the first cycle";
    HISTORY_UP = Gauge "dwcp_observer_history_up" [] "1",
        "Whether the observer currently writes its history to disk.",
        "history thread",
        absent: "history.enabled is false";
    HISTORY_WRITTEN = Counter "dwcp_observer_history_rows_written_total" [] "rows",
        "Rows written to the history: migrations, minutes and events.",
        "history thread",
        absent: "history.enabled is false";
    HISTORY_DROPPED = Counter "dwcp_observer_history_rows_dropped_total" [] "rows",
        "Rows that the history lost because its queue was full while the disk accepted no writes, or because writing them failed.",
        "history thread",
        absent: "history.enabled is false";
    HISTORY_FAILURES = Counter "dwcp_observer_history_write_failures_total" [] "attempts",
        "Failed attempts to open or write the history; the observer retries every 5 s.",
        "history thread",
        absent: "history.enabled is false";
    HISTORY_PRUNED = Counter "dwcp_observer_history_rows_pruned_total" [] "rows",
        "Rows removed from the history because of their age or because the database reached its size limit.",
        "history thread",
        absent: "history.enabled is false";
    HISTORY_BYTES = Gauge "dwcp_observer_history_bytes" [] "bytes",
        "Size of the data in the history database.",
        "SQLite page_count, freelist_count",
        absent: "history.enabled is false, or before the first write";
    SCRAPES = Counter "dwcp_observer_component_scrapes_total" ["component"] "scrapes",
        "Scrapes of a DWCP component's own metrics endpoint.",
        "components thread",
        absent: "the component is not scraped";
    SCRAPE_ERRORS = Counter "dwcp_observer_component_scrape_errors_total" ["component", "reason"] "scrapes",
        "Failed scrapes of a DWCP component's own metrics endpoint, by reason: connect, timeout, status, too_long, http, malformed.",
        "components thread",
        absent: "the component is not scraped";
    SCRAPE_DURATION = Gauge "dwcp_observer_component_scrape_duration_seconds" ["component"] "seconds",
        "Duration of the last scrape of a DWCP component's own metrics endpoint; its deadline is 0.8 s.",
        "components thread",
        absent: "the component is not scraped";
    CARRIED_SERIES = Gauge "dwcp_observer_component_carried_series" ["component"] "series",
        "Series of a DWCP component's last scrape that the observer passes on; 0 after a failed scrape.",
        "components thread",
        absent: "the component is not scraped";
    CARRIED_DROPPED = Counter "dwcp_observer_component_series_dropped_total" ["component", "reason"] "series",
        "Series of a DWCP component that the observer did not pass on: own_name (the observer serves this name itself), duplicate, over_limit (2000).",
        "components thread",
        absent: "the component is not scraped";
    HTTP_REQUESTS = Counter "dwcp_observer_http_requests_total" ["endpoint", "code"] "requests",
        "HTTP requests that the observer answered.",
        "HTTP server",
        absent: "no request to that endpoint was answered with that code";
    HTTP_CONNECTIONS = Gauge "dwcp_observer_http_connections_open" [] "connections",
        "HTTP connections of the observer that are open.",
        "HTTP server";
    HTTP_ACCEPTED = Counter "dwcp_observer_http_connections_accepted_total" [] "connections",
        "HTTP connections that the observer accepted.",
        "HTTP server";
    HTTP_REJECTED = Counter "dwcp_observer_http_connections_rejected_total" [] "connections",
        "HTTP connections that the observer closed at once because all slots were answering requests.",
        "HTTP server";
    HTTP_EVICTED = Counter "dwcp_observer_http_connections_evicted_total" [] "connections",
        "Idle, half-open or stalled HTTP connections that the observer closed to accept a new one.",
        "HTTP server";
    HTTP_TIMED_OUT = Counter "dwcp_observer_http_connections_timed_out_total" [] "connections",
        "HTTP connections that the observer closed because the client was too slow.",
        "HTTP server";

    // Names that every Prometheus client library uses.
    PROCESS_CPU = Counter "process_cpu_seconds_total" [] "seconds",
        "User and system CPU time of the observer.",
        "/proc/self/stat",
        absent: "/proc does not provide it";
    PROCESS_RESIDENT = Gauge "process_resident_memory_bytes" [] "bytes",
        "Resident memory of the observer.",
        "/proc/self/stat",
        absent: "/proc does not provide it";
    PROCESS_VIRTUAL = Gauge "process_virtual_memory_bytes" [] "bytes",
        "Virtual memory of the observer.",
        "/proc/self/stat",
        absent: "/proc does not provide it";
    PROCESS_OPEN_FDS = Gauge "process_open_fds" [] "descriptors",
        "Open file descriptors of the observer.",
        "/proc/self/fd",
        absent: "/proc does not provide it";
    PROCESS_MAX_FDS = Gauge "process_max_fds" [] "descriptors",
        "Maximum number of open file descriptors of the observer.",
        "/proc/self/limits",
        absent: "there is no limit, or /proc does not provide it";
    PROCESS_START = Gauge "process_start_time_seconds" [] "seconds since 1970",
        "Start time of the observer.",
        "/proc/self/stat, /proc/stat",
        absent: "/proc does not provide it";
    PROCESS_THREADS = Gauge "process_threads" [] "threads",
        "Number of threads of the observer.",
        "/proc/self/stat",
        absent: "/proc does not provide it";
}

/// Whether the observer itself serves samples of this name, parts of its histograms included.
#[must_use]
pub fn is_own(sample: &str) -> bool {
    TABLE.iter().any(|row| {
        let part = sample.strip_prefix(row.name);
        match row.kind {
            Kind::Histogram => matches!(part, Some("" | "_bucket" | "_sum" | "_count")),
            _ => part == Some(""),
        }
    })
}
