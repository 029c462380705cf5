//! One migration in detail.

use super::model::{Dashboard, Panel};

pub(super) fn dashboard() -> Dashboard {
    let about = "One running or just finished migration. Its series go 15 s after its end; the history stays in Prometheus and in /api/v1/migrations/ID.";
    Dashboard {
        uid: "dwcp-v3-migration",
        title: "DWCP v3: one migration",
        about,
        refresh: "5s",
        from: "now-15m",
        variables: vec![(
            "migration",
            "Migration",
            "label_values(dwcp_v3_migration_info{@}, migration_id)",
            false,
        )],
        panels: [course(), blackout(), streams(), threads()].into_iter().flatten().collect(),
    }
}

fn course() -> Vec<Panel> {
    vec![
        Panel::table("What it is", "short")
            .about("VM, migrator, role of this host, transport and mode.")
            .query(r#"dwcp_v3_migration_info{@, migration_id=~"$migration"}"#, "")
            .size(24, 4),
        Panel::series("Verdict", "short")
            .about("State and cause of the verdict in each second.")
            .query(
                r#"dwcp_v3_migration_verdict{@, migration_id=~"$migration"}"#,
                "{{state}}: {{cause}}",
            )
            .within(0.0, 1.0),
        Panel::series("Throughput", "Bps")
            .about("Delivered (source) or received (destination) payload per second.")
            .query(
                r#"dwcp_v3_migration_throughput_bytes_per_second{@, migration_id=~"$migration"}"#,
                "payload",
            )
            .worse_below(2.0e9, 2.4e9),
        Panel::series("Where a second goes", "percentunit")
            .about("How the sending side spends its time; the shares sum to 1.")
            .query(r#"dwcp_v3_migration_time_fraction{@, migration_id=~"$migration"}"#, "{{cause}}")
            .within(0.0, 1.0),
        Panel::series("Time to the end", "s")
            .about("Estimated time to the end, with the bounds of a 90 % interval.")
            .query(r#"dwcp_v3_migration_eta_seconds{@, migration_id=~"$migration"}"#, "{{bound}}"),
        Panel::series("Payload so far", "bytes")
            .about("Queued, delivered, received and retransmitted bytes.")
            .query(r#"dwcp_v3_migration_bytes{@, migration_id=~"$migration"}"#, "{{kind}}"),
        Panel::stat("Rounds over RAM", "short")
            .about("Iterations over RAM, as in QEMU's dirty-sync-count.")
            .query(r#"dwcp_v3_migration_rounds{@, migration_id=~"$migration"}"#, "rounds")
            .worse_above(10.0, 30.0),
        Panel::stat("Streams", "short")
            .about("Open and closed streams.")
            .query(r#"dwcp_v3_migration_streams{@, migration_id=~"$migration"}"#, "streams"),
        Panel::stat("Running for", "s")
            .about("Time since the first connection; it continues after the end until the series disappear.")
            .query(
                r#"time() - dwcp_v3_migration_start_time_seconds{@, migration_id=~"$migration"}"#,
                "since",
            ),
    ]
}

fn blackout() -> Vec<Panel> {
    vec![
        Panel::stat("Blackout", "s")
            .about("Blackout (downtime): the time in which the guest ran on neither end.")
            .query(r#"dwcp_v3_migration_blackout_seconds{@, migration_id=~"$migration", part="total"}"#, "blackout")
            .worse_above(0.3, 0.5),
        Panel::pie("Blackout by part", "s")
            .about("The parts add up to the total.")
            .query(r#"dwcp_v3_migration_blackout_seconds{@, migration_id=~"$migration", part!="total"}"#, "{{part}}"),
        Panel::series("Time in each phase", "s")
            .about("So far.")
            .query(r#"dwcp_v3_migration_phase_seconds{@, migration_id=~"$migration"}"#, "{{phase}}"),
    ]
}

fn streams() -> Vec<Panel> {
    vec![
        Panel::series("Payload per second by stream", "Bps")
            .about("Delivered or received.")
            .query(r#"deriv(dwcp_v3_migration_stream_bytes{@, migration_id=~"$migration", kind=~"delivered|received"}[$__rate_interval])"#, "{{stream}} {{kind}}"),
        Panel::series("Evenness of streams", "short")
            .about("Both jain and max_over_mean are 1 if the streams are balanced.")
            .query(r#"dwcp_v3_migration_stream_balance{@, migration_id=~"$migration"}"#, "{{index}}"),
        Panel::series("Smoothed RTT by stream", "s")
            .about("Of the sending end.")
            .query(r#"dwcp_v3_migration_stream_srtt_seconds{@, migration_id=~"$migration"}"#, "{{stream}}"),
        Panel::series("Congestion window by stream", "bytes")
            .about("Of the sending end.")
            .query(r#"dwcp_v3_migration_stream_cwnd_bytes{@, migration_id=~"$migration"}"#, "{{stream}}"),
        Panel::series("Retransmitted segments by stream", "short")
            .about("So far.")
            .query(r#"dwcp_v3_migration_stream_retransmitted_segments{@, migration_id=~"$migration"}"#, "{{stream}}"),
    ]
}

fn threads() -> Vec<Panel> {
    vec![
        Panel::series("CPU time by thread role", "s").about("So far.").query(
            r#"dwcp_v3_migration_thread_cpu_seconds{@, migration_id=~"$migration"}"#,
            "{{end}} {{role}}",
        ),
        Panel::series("Wait for a CPU by thread role", "s").about("So far.").query(
            r#"dwcp_v3_migration_thread_runqueue_wait_seconds{@, migration_id=~"$migration"}"#,
            "{{end}} {{role}}",
        ),
    ]
}
