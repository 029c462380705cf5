//! Every metric, declared once: the exposition and the metric reference are both made from this table.

use std::fmt::Write as _;

use prometheus::proto::MetricType;

/// What is fixed about a metric.
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
    /// Where the figure comes from: kernel field, `/proc` file, or the observer itself.
    pub source: &'static str,
    /// When the metric is missing from the exposition; absence is not zero.
    pub absent: Option<&'static str>,
}

/// Type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; restarts at zero with the observer.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Cumulative buckets, sum and count.
    Histogram,
}

impl Kind {
    /// As in `# TYPE`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }

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
        "Rate of migration payload over the last cycle, sent (tx) or received (rx) by ends on this host.",
        "tcp_sock.bytes_acked and bytes_received",
        absent: "no migration is active in that direction";
    ERRORS = Counter "dwcp_v3_errors_total" ["component", "error_type", "severity"] "errors",
        "Errors that the kernel showed on migration sockets and processes.",
        "socket errors, resets, process exits";
    RESOURCE_UTILIZATION = Gauge "dwcp_v3_resource_utilization_percent" ["resource_type", "node"] "percent",
        "Use of the host's CPUs and memory, 0 to 100.",
        "/proc/stat, /proc/meminfo",
        absent: "/proc does not give it, or before the second cycle";
    DURATION = Histogram "dwcp_v3_migration_duration_seconds" ["node_id", "mode"] "seconds",
        "Total time of finished migrations, first connection to last close.",
        "socket state changes";
    LATENCY = Histogram "dwcp_v3_migration_latency_seconds" ["source", "destination", "vm_size", "mode"] "seconds",
        "Blackout of finished migrations with both ends on this host: time in which the guest's CPUs ran nowhere.",
        "sched_switch of guest CPUs, uprobes on the migrator's phase functions",
        absent: "before the first complete blackout of that path; migrations with one end on this host are not in it";
    BLACKOUT = Histogram "dwcp_v3_blackout_seconds" ["mode", "method"] "seconds",
        "The same in finer buckets, by the method that gave the figure.",
        "sched_switch of guest CPUs, uprobes on the migrator's phase functions";
    MIGRATIONS = Counter "dwcp_v3_migrations_total" ["outcome", "mode"] "migrations",
        "Finished migrations by outcome.",
        "migration records";
    REASONS = Counter "dwcp_v3_migration_reasons_total" ["reason"] "migrations",
        "Finished migrations that did not complete, by why.",
        "migration records; the reason's text is in the record";
    SPLIT_BRAINS = Counter "dwcp_v3_split_brains_total" [] "migrations",
        "Finished migrations whose guest was let run at both ends.",
        "migration records";
    VERDICT_SECONDS = Counter "dwcp_v3_verdict_seconds_total" ["state", "cause"] "seconds",
        "Seconds of running migrations by how they went and why; each migration counts for itself.",
        "verdict of each cycle",
        absent: "no second went like that";
    GUEST_CPU_STOLEN = Counter "dwcp_v3_guest_cpu_stolen_seconds_total" [] "seconds",
        "Time that guest CPUs of migrating VMs waited for a CPU which a migration thread held.",
        "sched_switch, task_struct.sched_info.run_delay";
    ACTIVE_STREAMS = Gauge "dwcp_v3_amst_active_streams" [] "streams",
        "Open streams of active migrations; streams that found no slot in the kernel are not in it.",
        "migration records";
    MIGRATIONS_ACTIVE = Gauge "dwcp_v3_migrations_active" ["role"] "migrations",
        "Running migrations with an end of this role on this host; with both ends here a migration counts in both.",
        "migration records";
    BYTES_TRANSFERRED = Counter "dwcp_v3_bytes_transferred_total" ["node_id", "mode", "direction"] "bytes",
        "Migration payload delivered by sources on this host (sent) and received in order by destinations on this host (received).",
        "tcp_sock.bytes_acked, bytes_received";
    BYTES_QUEUED = Counter "dwcp_v3_bytes_queued_total" ["node_id", "mode"] "bytes",
        "Payload that migration sources on this host wrote into their sockets.",
        "tcp_sock.write_seq";
    RETRANSMITTED_BYTES = Counter "dwcp_v3_retransmitted_bytes_total" ["node_id", "mode", "role"] "bytes",
        "Payload bytes that ends of this role sent more than once.",
        "tcp_sock.bytes_retrans";
    RETRANSMITTED_SEGMENTS = Counter "dwcp_v3_retransmitted_segments_total" ["node_id", "mode", "role"] "segments",
        "Segments that ends of this role retransmitted.",
        "tcp_sock.total_retrans";
    RTT = Histogram "dwcp_v3_rtt_seconds" [] "seconds",
        "Round-trip time samples of tracked sockets: those of migrators and on migration ports, one per ACK that delivered data.",
        "tcp_sock.rack.rtt_us, histogram in the kernel",
        absent: "the kernel side gives no histogram";
    RUNQUEUE_WAIT = Histogram "dwcp_v3_runqueue_wait_seconds" ["role"] "seconds",
        "Waits for a CPU by threads of migrating processes, by role.",
        "task_struct.sched_info.run_delay at each switch away from a CPU, histogram in the kernel",
        absent: "the kernel side gives no histogram";

    // RDMA by device, migrations or not.

    // Components.
    COMPONENT_HEALTH = Gauge "dwcp_v3_component_health" ["component", "version"] "0 or 1",
        "Health of a component: 0 unhealthy, 1 healthy or degraded; /api/v1/components gives the reasons.",
        "/proc, NETLINK_SOCK_DIAG, the component's own endpoint, verdicts of migrations (amst)",
        absent: "nothing that belongs to it was ever seen, and it is not required";
    ROLLOUT = Gauge "dwcp_v3_rollout_progress_percent" ["stage", "region"] "percent",
        "Share of migrations that run v3, 0 to 100: of those that run now or ended within the last hour and are still held.",
        "migration records, rule [v1]; stage and region from the configuration or PUT /api/v1/rollout",
        absent: "no rule [v1] tells v1 from v3, or there were no migrations";
    COMPONENT_PROCESSES = Gauge "dwcp_v3_component_processes" ["component"] "processes",
        "Live processes of a component.",
        "/proc",
        absent: "none was ever seen";
    COMPONENT_THREADS = Gauge "dwcp_v3_component_threads" ["component"] "threads",
        "Threads of a component: those that its rule names, else all of its processes.",
        "/proc",
        absent: "none was ever seen";
    COMPONENT_CPU = Counter "dwcp_v3_component_cpu_seconds_total" ["component"] "seconds",
        "CPU time of a component's threads since each was first seen.",
        "/proc/PID/stat, /proc/PID/task/TID/schedstat",
        absent: "none was ever seen";
    COMPONENT_RESIDENT = Gauge "dwcp_v3_component_resident_memory_bytes" ["component"] "bytes",
        "Resident memory of a component's processes, whichever of their threads count.",
        "/proc/PID/stat",
        absent: "none was ever seen";
    COMPONENT_CONNECTIONS = Gauge "dwcp_v3_component_connections" ["component", "state"] "connections",
        "Ends of a component's TCP connections in the observer's network namespace: established, and of these stalled (no acknowledgement for 3 s) and unread (data waits for 3 s).",
        "NETLINK_SOCK_DIAG",
        absent: "none was ever seen";
    COMPONENT_BYTES = Counter "dwcp_v3_component_bytes_total" ["component", "direction"] "bytes",
        "Payload acknowledged by peers (sent) and received in order on these connections; looked at once a second, so that the last moments of a connection are missing.",
        "tcp_info.tcpi_bytes_acked, tcpi_bytes_received",
        absent: "none was ever seen";
    COMPONENT_RETRANSMITTED = Counter "dwcp_v3_component_retransmitted_segments_total" ["component"] "segments",
        "Segments sent again on these connections, likewise.",
        "tcp_info.tcpi_total_retrans",
        absent: "none was ever seen";

    // Further names of the contract for what is measured anyway.
    AMST_THROUGHPUT_BYTES = Gauge "dwcp_v3_amst_throughput_bytes_per_second" [] "bytes/s",
        "Rate of all active migrations over the last cycle; with both ends here a migration counts once.",
        "tcp_sock.bytes_acked, bytes_received",
        absent: "no migration is active";
    AMST_THROUGHPUT = Gauge "dwcp_v3_amst_throughput" [] "GB/s",
        "The same in GB/s (1e9 bytes per second).",
        "tcp_sock.bytes_acked, bytes_received",
        absent: "no migration is active";
    AMST_THROUGHPUT_GBPS = Gauge "dwcp_v3_amst_throughput_gbps" [] "GB/s",
        "The same in GB/s, as current_gbps of /metrics/summary.",
        "tcp_sock.bytes_acked, bytes_received",
        absent: "no migration is active";
    THROUGHPUT_PER_SEC = Gauge "dwcp_v3_throughput_bytes_per_sec" [] "bytes/s",
        "The same by the name that the collector script reads.",
        "tcp_sock.bytes_acked, bytes_received",
        absent: "no migration is active";
    AMST_UTILIZATION = Gauge "dwcp_v3_amst_stream_utilization" [] "ratio",
        "Open streams of active migrations of the 512 that DWCP v3 allows.",
        "migration records";
    AMST_UTILIZATION_PERCENT = Gauge "dwcp_v3_amst_stream_utilization_percent" [] "percent",
        "The same in percent.",
        "migration records";
    ACTIVE_CONNECTIONS = Gauge "dwcp_v3_active_connections" [] "connections",
        "Open connections of active migrations: their streams.",
        "migration records";
    LATENCY_P50 = Gauge "dwcp_v3_migration_latency_p50" [] "ms",
        "Median of the blackouts of the finished migrations that are still held, nearest rank.",
        "migration records",
        absent: "none of known length is held";
    LATENCY_P95 = Gauge "dwcp_v3_migration_latency_p95" [] "ms",
        "95th percentile of the same.",
        "migration records",
        absent: "none of known length is held";
    LATENCY_P99 = Gauge "dwcp_v3_migration_latency_p99" [] "ms",
        "99th percentile of the same.",
        "migration records",
        absent: "none of known length is held";
    ERROR_RATE = Gauge "dwcp_v3_error_rate" [] "percent",
        "Failed of finished migrations over the last hour.",
        "migration records, one-minute aggregates",
        absent: "no migration finished in the last hour";
    NETWORK_BYTES = Counter "dwcp_v3_network_bytes_total" ["node_id", "mode", "direction"] "bytes",
        "Payload that migrations put on the network (sent: delivered and retransmitted) or took from it (received in order).",
        "tcp_sock.bytes_acked, bytes_retrans, bytes_received";
    COLLECTOR_STATUS = Gauge "dwcp_v3_metrics_collector_status" ["phase"] "0 or 1",
        "1 when the last cycle could measure, 0 when a required probe was missing.",
        "attach ladder",
        absent: "before the first cycle";
    COLLECTOR_LAST_RUN = Gauge "dwcp_v3_metrics_collector_last_run" ["phase"] "seconds since 1970",
        "End of the last collection cycle.",
        "CLOCK_REALTIME",
        absent: "before the first cycle";

    // DWCP v1, where the rule [v1] tells it from v3.
    V1_THROUGHPUT = Gauge "dwcp_v1_throughput_bytes_per_second" ["component", "direction", "transport"] "bytes/s",
        "As dwcp_v3_throughput_bytes_per_second, of migrations that run v1.",
        "tcp_sock.bytes_acked and bytes_received",
        absent: "no rule [v1], or no such migration is active in that direction";
    V1_ERRORS = Counter "dwcp_v1_errors_total" ["component", "error_type", "severity"] "errors",
        "As dwcp_v3_errors_total, of migrations that run v1.",
        "socket errors, resets, process exits",
        absent: "no rule [v1]";
    V1_LATENCY = Histogram "dwcp_v1_migration_latency_seconds" ["source", "destination", "vm_size", "mode", "version"] "seconds",
        "As dwcp_v3_migration_latency_seconds, of migrations that run v1.",
        "sched_switch of guest CPUs, uprobes on the migrator's phase functions",
        absent: "no rule [v1], or before the first complete blackout of that path";
    V1_DURATION = Histogram "dwcp_v1_migration_duration_seconds" ["node_id", "mode"] "seconds",
        "As dwcp_v3_migration_duration_seconds, of migrations that run v1.",
        "socket state changes",
        absent: "no rule [v1]";
    V1_MIGRATIONS = Counter "dwcp_v1_migrations_total" ["outcome", "mode"] "migrations",
        "As dwcp_v3_migrations_total, of migrations that run v1.",
        "migration records",
        absent: "no rule [v1]";
    V1_BYTES = Counter "dwcp_v1_bytes_transferred_total" ["node_id", "mode", "direction"] "bytes",
        "As dwcp_v3_bytes_transferred_total, of migrations that run v1.",
        "tcp_sock.bytes_acked, bytes_received",
        absent: "no rule [v1]";

    // Service levels. The first and the last but one are names of the contract.
    SLA_COMPLIANCE = Gauge "dwcp_v3_sla_compliance" ["sla_type", "metric"] "1",
        "Service level over the last hour: 0 violated, 1 kept.",
        "migration records, one-minute aggregates",
        absent: "nothing was there to judge in the last hour";
    SLA_VALUE = Gauge "dwcp_v3_sla_value" ["sla_type", "window"] "seconds, bytes/s or ratio",
        "What the service level is judged by: p99 of the blackout in the mode nearest to its limit, mean rate of transfers, failed of finished migrations, up of judged seconds.",
        "migration records, one-minute aggregates",
        absent: "nothing was there to judge in the window";
    BUDGET_REMAINING = Gauge "dwcp_v3_error_budget_remaining_ratio" ["sla_type", "window"] "ratio",
        "Error budget left: 1 untouched, 0 spent, below 0 overspent.",
        "migration records, one-minute aggregates",
        absent: "nothing was there to judge in the window";
    BURN_RATE = Gauge "dwcp_v3_error_budget_burn_rate" ["sla_type", "window"] "1",
        "How many times faster than allowed the error budget is spent.",
        "migration records, one-minute aggregates",
        absent: "nothing was there to judge in the window";
    BLACKOUT_P95 = Gauge "dwcp_v3_sla_blackout_p95_seconds" ["mode", "window"] "seconds",
        "p95 of the blackout by mode, nearest rank.",
        "migration records",
        absent: "no migration of that mode ended in the window with a blackout of known length";
    BLACKOUT_P99 = Gauge "dwcp_v3_sla_blackout_p99_seconds" ["mode", "window"] "seconds",
        "p99 of the blackout by mode, nearest rank.",
        "migration records",
        absent: "no migration of that mode ended in the window with a blackout of known length";
    SLA_VIOLATIONS = Counter "dwcp_v3_sla_violations_total" ["sla_type"] "minutes",
        "Minutes at whose end the service level was violated over the last hour.",
        "service levels";
    GO_NO_GO = Gauge "dwcp_v3_go_no_go" ["decision"] "1",
        "1 for the present decision about a rollout (go, caution, no-go), 0 for the others; /api/v1/sla gives the reasons.",
        "service levels, verdicts, anomalies, components";
    ANOMALIES = Counter "dwcp_v3_anomaly_detections_total" ["anomaly_type", "severity"] "events",
        "Anomalies at their beginning, each counted once however long it lasts; /api/v1/anomalies tells why.",
        "anomaly signals, each second";
    ANOMALY_UNWATCHED = Counter "dwcp_observer_anomaly_samples_unwatched_total" [] "samples",
        "Samples of migrations beyond the 512 that are watched one by one; the mode's own detectors hear them all the same.",
        "anomaly signals, each second";
    RDMA_BYTES = Counter "dwcp_v3_rdma_bytes_total" ["device", "direction"] "bytes",
        "Payload of completed sends and RDMA writes (sent), of receive completions (received) and of RDMA reads (read).",
        "completions of queue pairs (rxe_cq_post)",
        absent: "no queue pair was seen on the device";
    RDMA_OPERATIONS = Counter "dwcp_v3_rdma_operations_total" ["device", "operation"] "completions",
        "Completions by operation.",
        "completions of queue pairs (rxe_cq_post)",
        absent: "no queue pair was seen on the device";
    RDMA_ERRORS = Counter "dwcp_v3_rdma_completion_errors_total" ["device", "status"] "completions",
        "Failed completions by status (enum ib_wc_status).",
        "completions of queue pairs (rxe_cq_post)",
        absent: "no completion failed with that status";
    RDMA_QUEUE_PAIRS = Gauge "dwcp_v3_rdma_queue_pairs" ["device"] "queue pairs",
        "Open queue pairs of processes.",
        "rdma_restrack_add",
        absent: "no queue pair was seen on the device";
    RDMA_LATENCY = Histogram "dwcp_v3_rdma_completion_latency_seconds" ["device"] "seconds",
        "Doorbell to completion of work requests.",
        "doorbell and completion in the kernel",
        absent: "the device posts without the kernel, or nothing was posted";
    RDMA_REGISTERED = Gauge "dwcp_v3_rdma_registered_bytes" [] "bytes",
        "Memory that processes have registered with RDMA devices now.",
        "ib_umem_get",
        absent: "this host has no RDMA";

    // One set per migration, capped; gone a while after the end.
    MIGRATION_INFO = Gauge "dwcp_v3_migration_info" ["migration_id", "vm", "uuid", "migrator", "role", "transport", "mode"] "1",
        "A live or just finished migration; role is source, destination or both.",
        "migration records",
        absent: "finished for longer than 15 s, or over the cap";
    MIGRATION_BYTES = Gauge "dwcp_v3_migration_bytes" ["migration_id", "kind"] "bytes",
        "Payload of one migration so far.",
        "tcp_sock counters",
        absent: "finished for longer than 15 s, or over the cap";
    MIGRATION_THROUGHPUT = Gauge "dwcp_v3_migration_throughput_bytes_per_second" ["migration_id"] "bytes/s",
        "Rate of delivered (source) or received (destination) bytes of one migration over the last cycle.",
        "tcp_sock counters",
        absent: "not running, or over the cap";
    MIGRATION_STORAGE_BYTES = Gauge "dwcp_v3_migration_storage_bytes" ["migration_id", "kind"] "bytes",
        "Payload of the disks that are copied along with one migration, none of which is in its own bytes.",
        "tcp_sock counters",
        absent: "no disk is copied along, finished for longer than 15 s, or over the cap";
    MIGRATION_STORAGE_THROUGHPUT = Gauge "dwcp_v3_migration_storage_throughput_bytes_per_second" ["migration_id"] "bytes/s",
        "Rate at which the disks of one migration are copied, over the last cycle.",
        "tcp_sock counters",
        absent: "no disk is being copied along, or over the cap";
    MIGRATION_START = Gauge "dwcp_v3_migration_start_time_seconds" ["migration_id"] "seconds since 1970",
        "First connection of one migration.",
        "socket state changes",
        absent: "finished for longer than 15 s, or over the cap";
    MIGRATION_STREAMS = Gauge "dwcp_v3_migration_streams" ["migration_id"] "streams",
        "Streams of one migration, open and closed, with and without a slot in the kernel.",
        "migration records",
        absent: "finished for longer than 15 s, or over the cap";
    MIGRATION_VERDICT = Gauge "dwcp_v3_migration_verdict" ["migration_id", "state", "cause"] "1",
        "How the last second of one migration went, and why.",
        "verdict of each cycle",
        absent: "not running, before its first cycle, or over the cap";
    MIGRATION_TIME_FRACTION = Gauge "dwcp_v3_migration_time_fraction" ["migration_id", "cause"] "0 to 1",
        "Wall time of the sending side in the last second by what it was spent on; sums to 1.",
        "TCP_INFO chronographs, scheduler totals, migration_rate_limit",
        absent: "not running, source on another host, or over the cap";
    MIGRATION_ETA = Gauge "dwcp_v3_migration_eta_seconds" ["migration_id", "bound"] "seconds",
        "Time to the end of one migration: estimate, and the low and high bound of a 90 % interval.",
        "rate of delivery, guest memory, rounds, what QEMU tells to be left",
        absent: "not running, not converging, not known, or over the cap";
    MIGRATION_REMAINING = Gauge "dwcp_v3_migration_remaining_bytes" ["migration_id"] "bytes",
        "What one migration has left to send by QEMU's own count at its last look: memory that is dirty, and what else goes in rounds.",
        "uprobes on qemu_savevm_state_pending, its _exact and _estimate, or qemu_savevm_query_pending_iter",
        absent: "not probed or not exported, source on another host, the guest has stopped and it is no postcopy, not running, or over the cap";
    MIGRATION_STANDSTILL = Gauge "dwcp_v3_migration_guest_standstill_seconds" ["migration_id", "end", "awaits"] "seconds",
        "So long the guest of one migration has stood still, at which end, and what it waits for: switch_over, migrate_continue, resume, recovery.",
        "uprobes on the migrator's phase functions, sched_switch of guest CPUs",
        absent: "the guest runs, nothing tells, or over the cap";
    MIGRATION_GUEST_THROTTLE = Gauge "dwcp_v3_migration_guest_throttle_percent" ["migration_id"] "0 to 99",
        "Share of their time for which the migrator holds the guest's CPUs back so that the rounds shrink (auto-converge).",
        "uprobe on cpu_throttle_set",
        absent: "it does not, not probed, source on another host, not running, or over the cap";
    MIGRATION_SPLIT_BRAIN = Gauge "dwcp_v3_migration_split_brain" ["migration_id"] "1 yes, 0 no",
        "Whether the guest of one migration was let run at both ends.",
        "uprobes on the migrator's phase functions of both ends",
        absent: "not both ends are here, finished for longer than 15 s, or over the cap";
    MIGRATION_BALANCE = Gauge "dwcp_v3_migration_stream_balance" ["migration_id", "index"] "ratio",
        "How even the streams of one migration were in the last second: max_over_mean, jain, scaling_efficiency.",
        "tcp_sock.bytes_acked",
        absent: "fewer than two streams carry data, not running, or over the cap";
    MIGRATION_PHASE = Gauge "dwcp_v3_migration_phase_seconds" ["migration_id", "phase"] "seconds",
        "Time of one migration in each phase so far.",
        "uprobes on the migrator's phase functions, sched_switch of guest CPUs",
        absent: "the phase was not entered, finished for longer than 15 s, or over the cap";
    MIGRATION_ROUNDS = Gauge "dwcp_v3_migration_rounds" ["migration_id"] "rounds",
        "Passes over RAM of one migration so far, as QEMU's dirty-sync-count.",
        "uprobe on memory_global_dirty_log_sync",
        absent: "not probed, source on another host, finished for longer than 15 s, or over the cap";
    MIGRATION_BLACKOUT = Gauge "dwcp_v3_migration_blackout_seconds" ["migration_id", "part"] "seconds",
        "Blackout of one migration: total, and its parts stop, ram, device, network, load, start, which sum to it.",
        "sched_switch of guest CPUs, uprobes on the migrator's phase functions",
        absent: "not both instants are known, finished for longer than 15 s, or over the cap";
    STREAM_BYTES = Gauge "dwcp_v3_migration_stream_bytes" ["migration_id", "stream", "kind"] "bytes",
        "Payload of one stream so far; stream is its index in order of opening.",
        "tcp_sock counters",
        absent: "finished for longer than 15 s, or over a cap";
    STREAM_SRTT = Gauge "dwcp_v3_migration_stream_srtt_seconds" ["migration_id", "stream"] "seconds",
        "Smoothed round-trip time of the sending end of one stream.",
        "tcp_sock.srtt_us",
        absent: "before the first sample, or as for the stream's bytes";
    STREAM_RETRANSMITTED = Gauge "dwcp_v3_migration_stream_retransmitted_segments" ["migration_id", "stream"] "segments",
        "Segments retransmitted by one stream so far.",
        "tcp_sock.total_retrans",
        absent: "as for the stream's bytes";
    STREAM_CWND = Gauge "dwcp_v3_migration_stream_cwnd_bytes" ["migration_id", "stream"] "bytes",
        "Congestion window of the sending end of one stream: segments times segment size.",
        "tcp_sock.snd_cwnd, mss_cache",
        absent: "the stream is closed, or as for the stream's bytes";
    THREAD_CPU = Gauge "dwcp_v3_migration_thread_cpu_seconds" ["migration_id", "end", "role"] "seconds",
        "CPU time of one end's threads of a role during the migration so far.",
        "sched_switch",
        absent: "finished for longer than 15 s, or over the cap";
    THREAD_WAIT = Gauge "dwcp_v3_migration_thread_runqueue_wait_seconds" ["migration_id", "end", "role"] "seconds",
        "Time that one end's threads of a role waited for a CPU during the migration so far.",
        "sched_waking, sched_switch",
        absent: "finished for longer than 15 s, or over the cap";

    // The observer itself.
    BUILD_INFO = Gauge "dwcp_observer_build_info" ["version", "arch"] "1",
        "The running build.",
        "compile time";
    PROBE_ATTACHED = Gauge "dwcp_observer_probe_attached" ["probe", "rung"] "0 or 1",
        "1 while attached on this rung; 0 with rung none when the hook cannot be attached, 0 with a rung for the scheduler's hooks while no migration runs.",
        "attach ladder",
        absent: "before the first cycle";
    PROGRAM_RUN_SECONDS = Counter "dwcp_observer_program_run_seconds_total" ["program"] "seconds",
        "Time in an eBPF program while the kernel counted it (see the duty ratio).",
        "bpf_prog_info.run_time_ns",
        absent: "run statistics are off";
    PROGRAM_RUNS = Counter "dwcp_observer_program_runs_total" ["program"] "runs",
        "Runs of an eBPF program while the kernel counted them (see the duty ratio).",
        "bpf_prog_info.run_cnt",
        absent: "run statistics are off";
    PROGRAM_MISSED_RUNS = Counter "dwcp_observer_program_missed_runs_total" ["program"] "runs",
        "Runs of an eBPF program that the kernel left out because the program was running on that CPU already.",
        "bpf_prog_info.recursion_misses",
        absent: "before Linux 5.12";
    PROGRAM_STATS_DUTY = Gauge "dwcp_observer_program_stats_duty_ratio" [] "0 to 1",
        "Share of the time in which the kernel counts program runs; 0 is off.",
        "configuration",
        absent: "before the first cycle";
    PROGRAM_VERIFIED = Gauge "dwcp_observer_program_verified_instructions" ["program"] "instructions",
        "Instructions that the verifier walked when it loaded an eBPF program.",
        "bpf_prog_info.verified_insns",
        absent: "before the first cycle";
    LOST = Counter "dwcp_observer_lost_total" ["map", "reason"] "events",
        "Information lost in the kernel side, by where and why.",
        "loss counters of the eBPF programs, executables and command lines that were not read",
        absent: "before the first cycle";
    PROBE_DELAY = Histogram "dwcp_observer_phase_probe_delay_seconds" [] "seconds",
        "Time from the start of a migrator (or of the observer, if that was later) until its phase functions were probed; what it did before left no mark.",
        "task_struct.start_boottime, uprobe links",
        absent: "phase functions are not probed, by the configuration or for want of rights";
    MAP_SLOTS = Gauge "dwcp_observer_map_slots" ["map"] "slots",
        "Slots of a record array.",
        "configuration",
        absent: "before the first cycle";
    MAP_SLOTS_USED = Gauge "dwcp_observer_map_slots_used" ["map"] "slots",
        "Slots of a record array that are in use.",
        "slot allocator",
        absent: "before the first cycle";
    REJECTED_FLOWS = Counter "dwcp_observer_rejected_flows_total" ["reason"] "flows",
        "Flows that were looked at and found to be no migration.",
        "identification",
        absent: "none was rejected for that reason";
    CYCLE_DURATION = Histogram "dwcp_observer_cycle_duration_seconds" [] "seconds",
        "Time that a collection cycle took.",
        "CLOCK_MONOTONIC",
        absent: "before the first cycle";
    CYCLE_JITTER = Histogram "dwcp_observer_cycle_jitter_seconds" [] "seconds",
        "How late a collection cycle began.",
        "CLOCK_MONOTONIC",
        absent: "before the first cycle";
    CYCLES_MISSED = Counter "dwcp_observer_cycles_missed_total" [] "cycles",
        "Collection cycles that could not be run in time and were skipped.",
        "CLOCK_MONOTONIC",
        absent: "before the first cycle";
    LAST_CYCLE = Gauge "dwcp_observer_last_cycle_timestamp_seconds" [] "seconds since 1970",
        "End of the last collection cycle: every figure is of that time.",
        "CLOCK_REALTIME",
        absent: "before the first cycle";
    LIVE_SERIES_DROPPED = Gauge "dwcp_observer_live_series_dropped" ["kind"] "migrations or streams",
        "Live or just finished migrations and their streams that have no series of their own because of the caps.",
        "exposition",
        absent: "before the first cycle";
    HISTORY_UP = Gauge "dwcp_observer_history_up" [] "1",
        "Whether the history is being written to disk.",
        "history thread",
        absent: "history.enabled is false";
    HISTORY_WRITTEN = Counter "dwcp_observer_history_rows_written_total" [] "rows",
        "Rows written: migrations, minutes, events.",
        "history thread",
        absent: "history.enabled is false";
    HISTORY_DROPPED = Counter "dwcp_observer_history_rows_dropped_total" [] "rows",
        "Rows that found no room while the disk did not take any, or could not be written.",
        "history thread",
        absent: "history.enabled is false";
    HISTORY_FAILURES = Counter "dwcp_observer_history_write_failures_total" [] "attempts",
        "Attempts to open or write the history that failed; they are repeated every 5 s.",
        "history thread",
        absent: "history.enabled is false";
    HISTORY_PRUNED = Counter "dwcp_observer_history_rows_pruned_total" [] "rows",
        "Rows removed for their age or because the database was at its size limit.",
        "history thread",
        absent: "history.enabled is false";
    HISTORY_BYTES = Gauge "dwcp_observer_history_bytes" [] "bytes",
        "Size of what the history holds.",
        "SQLite page_count, freelist_count",
        absent: "history.enabled is false, or before the first write";
    SCRAPES = Counter "dwcp_observer_component_scrapes_total" ["component"] "scrapes",
        "Scrapes of a component's own endpoint.",
        "components thread",
        absent: "it is not scraped";
    SCRAPE_ERRORS = Counter "dwcp_observer_component_scrape_errors_total" ["component", "reason"] "scrapes",
        "Scrapes that failed: connect, timeout, status, too_long, http, malformed.",
        "components thread",
        absent: "it is not scraped";
    SCRAPE_DURATION = Gauge "dwcp_observer_component_scrape_duration_seconds" ["component"] "seconds",
        "How long the last scrape took; its deadline is 0.8 s.",
        "components thread",
        absent: "it is not scraped";
    CARRIED_SERIES = Gauge "dwcp_observer_component_carried_series" ["component"] "series",
        "Series of a component's last scrape that are carried on; 0 after a failed one.",
        "components thread",
        absent: "it is not scraped";
    CARRIED_DROPPED = Counter "dwcp_observer_component_series_dropped_total" ["component", "reason"] "series",
        "Series of a component that were not carried on: own_name (the observer serves it), duplicate, over_limit (2000).",
        "components thread",
        absent: "it is not scraped";
    HTTP_REQUESTS = Counter "dwcp_observer_http_requests_total" ["endpoint", "code"] "requests",
        "Answered HTTP requests.",
        "HTTP server",
        absent: "none was answered on that endpoint with that code";
    HTTP_CONNECTIONS = Gauge "dwcp_observer_http_connections_open" [] "connections",
        "Open HTTP connections.",
        "HTTP server";
    HTTP_ACCEPTED = Counter "dwcp_observer_http_connections_accepted_total" [] "connections",
        "HTTP connections accepted.",
        "HTTP server";
    HTTP_REJECTED = Counter "dwcp_observer_http_connections_rejected_total" [] "connections",
        "HTTP connections closed at once because all others were being answered.",
        "HTTP server";
    HTTP_EVICTED = Counter "dwcp_observer_http_connections_evicted_total" [] "connections",
        "Idle, half-open or stalled HTTP connections closed to let a new one in.",
        "HTTP server";
    HTTP_TIMED_OUT = Counter "dwcp_observer_http_connections_timed_out_total" [] "connections",
        "HTTP connections closed because the client was too slow.",
        "HTTP server";

    // Names that every Prometheus client library uses.
    PROCESS_CPU = Counter "process_cpu_seconds_total" [] "seconds",
        "User and system CPU time of the observer.",
        "/proc/self/stat",
        absent: "/proc does not give it";
    PROCESS_RESIDENT = Gauge "process_resident_memory_bytes" [] "bytes",
        "Resident memory of the observer.",
        "/proc/self/stat",
        absent: "/proc does not give it";
    PROCESS_VIRTUAL = Gauge "process_virtual_memory_bytes" [] "bytes",
        "Virtual memory of the observer.",
        "/proc/self/stat",
        absent: "/proc does not give it";
    PROCESS_OPEN_FDS = Gauge "process_open_fds" [] "descriptors",
        "Open file descriptors of the observer.",
        "/proc/self/fd",
        absent: "/proc does not give it";
    PROCESS_MAX_FDS = Gauge "process_max_fds" [] "descriptors",
        "Limit of open file descriptors of the observer.",
        "/proc/self/limits",
        absent: "there is no limit, or /proc does not give it";
    PROCESS_START = Gauge "process_start_time_seconds" [] "seconds since 1970",
        "Start of the observer.",
        "/proc/self/stat, /proc/stat",
        absent: "/proc does not give it";
    PROCESS_THREADS = Gauge "process_threads" [] "threads",
        "Threads of the observer.",
        "/proc/self/stat",
        absent: "/proc does not give it";
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

/// The metric reference as Markdown, made from [`TABLE`].
#[must_use]
pub fn reference_markdown() -> String {
    let mut text = String::from(
        "# Metric reference\n\n\
         Generated from `dwcp-observer/src/metrics/table.rs`; do not edit.\n\n\
         Counters start at zero with the observer. A metric that was not measured is missing, not zero.\n\n\
         | Metric | Type | Labels | Unit | Meaning | Source | Missing when |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for row in TABLE {
        let labels: Vec<String> = row.labels.iter().map(|label| format!("`{label}`")).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} | {} | {} |",
            row.name,
            row.kind.as_str(),
            labels.join(", "),
            row.unit,
            row.help,
            row.source,
            row.absent.unwrap_or(""),
        );
    }
    text
}
