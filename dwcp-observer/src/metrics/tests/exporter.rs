use std::{
    collections::BTreeSet,
    io::Write as _,
    process::{Command, Stdio},
    sync::Arc,
};

use super::*;
use crate::{
    metrics::{contract::NAMES, documents::reference_markdown, sample, table::TABLE},
    model::record::{StreamRole, Version},
};

fn exporter(limits: SeriesLimits) -> Exporter {
    Exporter::new("node-7".to_owned(), limits)
}

fn render_with(published: Option<&Published>, limits: SeriesLimits) -> String {
    let (http, process) = (sample::http_counts(), sample::process_usage());
    exporter(limits).render(&Input { published, http: &http, process: &process }).unwrap()
}

fn render(published: &Published) -> String {
    render_with(Some(published), SeriesLimits::default())
}

/// Value of the sample that is written exactly so.
fn value(text: &str, series: &str) -> Option<f64> {
    let mut found = text.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let value = found.next().map(|value| value.parse().unwrap());
    assert!(found.next().is_none(), "{series} appears twice");
    value
}

fn count(text: &str, prefix: &str) -> usize {
    text.lines().filter(|line| line.starts_with(prefix)).count()
}

#[test]
fn golden() {
    let text = render(&sample::published());
    let text = text.replace(
        &format!("version=\"{}\",arch=\"{}\"", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH),
        "version=\"VERSION\",arch=\"ARCH\"",
    );
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/src/metrics/tests/golden.prom");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(golden, &text).unwrap();
    }
    let expected = std::fs::read_to_string(golden).unwrap();
    for (line, (got, want)) in text.lines().zip(expected.lines()).enumerate() {
        assert_eq!(got, want, "line {} (UPDATE_GOLDEN=1 writes the file anew)", line + 1);
    }
    assert_eq!(text.lines().count(), expected.lines().count());
}

#[test]
fn every_family_is_in_the_table_and_in_its_order() {
    let (http, process) = (sample::http_counts(), sample::process_usage());
    let mut published = sample::published();
    let mut baseline = sample::active("4");
    baseline.version = Some(Version::V1);
    published.entries.push(sample::entry(baseline));
    let input = Input { published: Some(&published), http: &http, process: &process };
    let families = exporter(SeriesLimits::default()).families(&input);
    let emitted: Vec<&str> = families.iter().map(MetricFamily::name).collect();
    let declared: Vec<&str> = TABLE.iter().map(|row| row.name).collect();
    assert_eq!(emitted, declared);
    for (family, row) in families.iter().zip(TABLE) {
        assert_eq!(family.get_field_type(), row.kind.proto(), "{}", row.name);
        for metric in family.get_metric() {
            let labels: Vec<&str> =
                metric.get_label().iter().map(prometheus::proto::LabelPair::name).collect();
            assert_eq!(labels, row.labels, "{}", row.name);
        }
    }
}

#[test]
fn no_series_appears_twice() {
    let mut published = sample::published();
    let twice = published.kernel.programs[0].clone();
    published.kernel.programs.push(twice);
    published.kernel.losses.push(("flows:no_slot", 4));
    let first = published.entries[0].clone();
    published.entries.push(first);
    let text = render(&published);
    let mut seen = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        assert!(seen.insert(series), "{series} twice");
    }
    assert_eq!(
        value(&text, r#"dwcp_observer_lost_total{map="flows",reason="no_slot"}"#),
        Some(7.0)
    );
    let runs = r#"dwcp_observer_program_runs_total{program="set_state"}"#;
    assert_eq!(value(&text, runs), Some(2000.0));
}

#[test]
fn throughput_is_absent_when_nothing_moves() {
    let mut published = sample::published();
    let both = |text: &str, direction: &str| {
        let labels = format!(r#"{{component="amst",direction="{direction}",transport="tcp"}}"#);
        value(text, &format!("dwcp_v3_throughput_bytes_per_second{labels}"))
    };
    let text = render(&published);
    assert_eq!(both(&text, "tx"), Some(950_000.0));
    assert_eq!(both(&text, "rx"), None);

    let mut incoming = sample::active("2");
    incoming.ends = vec![sample::end(Role::Destination, 9)];
    incoming.throughput_bytes_per_second = Some(50.0);
    published.entries.insert(0, sample::entry(incoming));
    published.entries.insert(0, sample::entry(sample::active("3")));
    let text = render(&published);
    assert_eq!(both(&text, "tx"), Some(1_900_000.0));
    assert_eq!(both(&text, "rx"), Some(50.0));
    assert_eq!(value(&text, r#"dwcp_v3_migrations_active{role="source"}"#), Some(2.0));

    published.entries.drain(..3);
    let text = render(&published);
    assert!(!text.contains("dwcp_v3_throughput_bytes_per_second"));
    assert_eq!(value(&text, r#"dwcp_v3_migrations_active{role="source"}"#), Some(0.0));
    assert_eq!(value(&text, "dwcp_v3_amst_active_streams"), Some(0.0));
}

#[test]
fn counters_exist_before_the_first_event() {
    let mut published = sample::published();
    published.totals = Totals::default();
    let text = render(&published);
    assert_eq!(count(&text, "dwcp_v3_errors_total{"), ErrorType::ALL.len());
    assert_eq!(count(&text, "dwcp_v3_migrations_total{"), 16);
    assert_eq!(count(&text, "dwcp_v3_bytes_transferred_total{"), 8);
    let duration = r#"dwcp_v3_migration_duration_seconds_count{node_id="node-7",mode="unknown"}"#;
    assert_eq!(value(&text, duration), Some(0.0));
}

#[test]
fn what_was_not_measured_is_absent() {
    let mut published = sample::published();
    published.host = None;
    published.kernel.program_stats_duty = 0.0;
    published.kernel.rtt = Histogram::default();
    let mut record = sample::active("1");
    record.streams[0].tcp.as_mut().unwrap().srtt_seconds = None;
    published.entries = vec![sample::entry(record)];
    let text = render(&published);
    assert!(!text.contains("dwcp_v3_resource_utilization_percent"));
    assert!(!text.contains("dwcp_observer_program_run"));
    assert!(!text.contains("dwcp_v3_rtt_seconds"));
    assert_eq!(count(&text, "dwcp_v3_migration_stream_srtt_seconds{"), 1);
    assert_eq!(value(&text, "dwcp_observer_program_stats_duty_ratio"), Some(0.0));
}

#[test]
fn before_the_first_cycle_only_the_observer_speaks() {
    let text = render_with(None, SeriesLimits::default());
    assert!(!text.contains("dwcp_v3_"));
    assert!(text.contains("dwcp_observer_build_info{"));
    assert!(text.contains("process_cpu_seconds_total 1.25"));
    assert!(!text.contains("dwcp_observer_last_cycle"));
}

#[test]
fn series_of_a_migration_go_15_seconds_after_its_end() {
    for (age, shown) in [(0, true), (15, true), (16, false)] {
        let mut published = sample::published();
        published.entries = vec![sample::entry(sample::finished("1-2", Outcome::Completed, age))];
        let text = render(&published);
        assert_eq!(text.contains(r#"migration_id="1-2""#), shown, "{age} s after the end");
        // It is no overflow when a migration has had its time.
        let dropped = r#"dwcp_observer_live_series_dropped{kind="migration"}"#;
        assert_eq!(value(&text, dropped), Some(0.0));
    }
}

#[test]
fn caps_hold_and_their_overflow_is_counted() {
    let mut published = sample::published();
    published.entries = (0..50)
        .map(|index| {
            let mut record = sample::active(&format!("{index}-1"));
            record.streams =
                (0..4).map(|stream| sample::stream(StreamRole::Multifd, stream)).collect();
            sample::entry(record)
        })
        .collect();
    let text = render_with(Some(&published), SeriesLimits { migrations: 10, streams: 14 });
    assert_eq!(count(&text, "dwcp_v3_migration_info{"), 10);
    assert_eq!(count(&text, "dwcp_v3_migration_stream_cwnd_bytes{"), 14);
    assert_eq!(count(&text, r#"dwcp_v3_migration_stream_cwnd_bytes{migration_id="3-1""#), 2);
    let dropped = |kind: &str| {
        value(&text, &format!(r#"dwcp_observer_live_series_dropped{{kind="{kind}"}}"#)).unwrap()
    };
    assert_eq!(dropped("migration"), 40.0);
    assert_eq!(dropped("stream"), 186.0);
    // Totals do not depend on the caps.
    assert_eq!(value(&text, "dwcp_v3_amst_active_streams"), Some(200.0));
    assert_eq!(value(&text, r#"dwcp_v3_migrations_active{role="source"}"#), Some(50.0));
}

#[test]
fn label_values_are_escaped() {
    let mut published = sample::published();
    let mut record = sample::active("1");
    record.vm.name = Some("a\"b\\c\nd é\u{1F600}".to_owned());
    published.entries = vec![sample::entry(record)];
    let text = render(&published);
    let line = text.lines().find(|line| line.starts_with("dwcp_v3_migration_info{")).unwrap();
    assert!(line.contains("vm=\"a\\\"b\\\\c\\nd é\u{1F600}\""), "{line}");
    assert!(line.ends_with("} 1"), "{line}");
}

#[test]
fn threads_are_summed_by_end_and_role() {
    let text = render(&sample::published());
    let labels = r#"{migration_id="1795350596500-4711",end="source",role="stream"}"#;
    let cpu = format!("dwcp_v3_migration_thread_cpu_seconds{labels}");
    assert_eq!(value(&text, &cpu), Some(0.75));
    let wait = format!("dwcp_v3_migration_thread_runqueue_wait_seconds{labels}");
    assert_eq!(value(&text, &wait), Some(0.25));
}

/// What `promtool check metrics` says to a text, and whether it was content.
fn promtool(text: &str) -> (String, bool) {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (String::from_utf8(said).unwrap(), output.status.success())
}

/// Whether it is installed, which `cargo xtask test` sees to.
fn have_promtool() -> bool {
    let found = Command::new("promtool").arg("--version").output().is_ok();
    let needed = std::env::var_os("DWCP_ALL_TOOLS").is_some();
    assert!(found || !needed, "promtool is missing: run cargo xtask setup");
    found
}

#[test]
fn promtool_has_nothing_to_say() {
    if !have_promtool() {
        eprintln!("left out: promtool is not installed");
        return;
    }
    // Names that the contract has fixed are against the rules for new ones; there are no others.
    let (said, _) = promtool(&render(&sample::published()));
    for line in said.lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let fixed = NAMES.iter().any(|entry| entry.section == "1.2" && entry.name == name);
        assert!(fixed, "{line}");
    }
    assert_eq!(promtool(&render_with(None, SeriesLimits::default())), (String::new(), true));
    // It would speak up.
    let (said, content) = promtool("# TYPE a_total gauge\na_total 1\n");
    assert!(said.contains("a_total") && !content, "{said}");
}

#[test]
fn the_reference_names_every_metric_once() {
    let text = reference_markdown();
    for row in TABLE {
        assert_eq!(text.matches(&format!("| `{}` |", row.name)).count(), 1, "{}", row.name);
        assert!(!row.help.contains('|') && !row.help.contains('\n'), "{}", row.name);
    }
}

#[test]
fn numbers_are_not_rounded() {
    let mut published = sample::published();
    let mut record = sample::active("1");
    record.bytes.as_mut().unwrap().delivered = 9_007_199_254_740_991;
    let mut entry = sample::entry(record.clone());
    entry.record = Arc::new(record);
    published.entries = vec![entry];
    let text = render(&published);
    assert!(text.contains("kind=\"delivered\"} 9007199254740991\n"));
}
