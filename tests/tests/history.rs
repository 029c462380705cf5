//! What outlives the observer: real migrations are in the history, the service levels and the report after it was killed.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use dwcp_observer_lab::migration::{MigrationPlan, Pair};
use dwcp_observer_lab::observer::{Observer, binary, shared_host};
use dwcp_observer_lab::qemu::QemuSpec;
use dwcp_observer_lab::record::RecordExt as _;
use dwcp_observer_lab::temp::{TempDir, free_migration_port};
use dwcp_observer_model::record::Migration;
use serde_json::Value;

/// Migrates and returns the final record.
fn migrate(observer: &Observer, name: &str) -> Migration {
    let mut pair =
        Pair::start(&QemuSpec { name: Some(name.into()), ..QemuSpec::default() }).unwrap();
    let port = free_migration_port(false).unwrap();
    let plan = MigrationPlan { port, max_bandwidth: Some(100 << 20), ..MigrationPlan::default() };
    pair.migrate(&plan).unwrap();
    pair.wait_end(Duration::from_secs(60)).unwrap();
    let ours = |record: &Migration| record.vm.name.as_deref() == Some(name) && record.is_final();
    let records =
        observer.wait_records(Duration::from_secs(20), |records| records.iter().any(ours)).unwrap();
    records.into_iter().find(ours).unwrap()
}

/// The level of one service level over one window.
fn level(observer: &Observer, window: &str, sla: &str) -> Value {
    let view = observer.json("/api/v1/sla").unwrap();
    let windows = view["windows"].as_array().unwrap().clone();
    let found = windows.into_iter().find(|levels| levels["window"] == window).unwrap();
    found[sla].clone()
}

/// Waits until as many migrations count in the last hour.
fn wait_counted(observer: &Observer, count: u64) {
    let start = std::time::Instant::now();
    loop {
        let events = level(observer, "1h", "error_rate")["events"].as_u64().unwrap();
        if events == count || (shared_host() && events > count) {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{events} of {count}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Rows that the observer has written.
fn written(observer: &Observer) -> f64 {
    observer.metrics().unwrap().sum("dwcp_observer_history_rows_written_total", &[]).unwrap()
}

fn agent(args: &[&str]) -> Output {
    Command::new(binary().unwrap()).args(args).output().unwrap()
}

fn report(history: &Path, url: &str, more: &[&str]) -> String {
    let history = history.to_str().unwrap();
    let args = ["report", "--since", "1h", "--history", history, "--url", url];
    let output = agent(&[&args, more].concat());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_migration_outlives_the_observer() {
    let directory = TempDir::new().unwrap();
    let history = directory.join("history.sqlite");
    let start = || Observer::start_with_history(&binary().unwrap(), &history, &[]).unwrap();

    let observer = start();
    let first = migrate(&observer, "lab-first");
    wait_counted(&observer, 1);
    // The record's row and its minute's.
    let begun = std::time::Instant::now();
    while written(&observer) < 2.0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", observer.output());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(level(&observer, "1h", "latency")["events"], 1);
    assert_eq!(level(&observer, "1h", "error_rate")["compliant"], true);
    let throughput = level(&observer, "1h", "throughput");
    assert!(throughput["events"].as_u64().unwrap() >= 1, "{throughput}");
    observer.kill();

    let observer = start();
    assert!(observer.migrations().unwrap().is_empty() || shared_host());
    wait_counted(&observer, 1);
    for window in ["5m", "1h", "24h", "30d"] {
        let latency = level(&observer, window, "latency");
        assert_eq!(latency["events"], 1, "{window}");
        let blackout = first.blackout.as_ref().unwrap().seconds.unwrap();
        assert_eq!(latency["value"].as_f64(), Some(blackout), "{window}");
    }
    migrate(&observer, "lab-second");
    wait_counted(&observer, 2);
    let events = observer.metrics().unwrap();
    let compliance =
        events.sum("dwcp_v3_sla_compliance", &[("sla_type", "error_rate"), ("metric", "1h")]);
    assert_eq!(compliance.unwrap(), 1.0);

    let url = format!("http://{}", observer.address());
    let answer = agent(&["go-no-go", "--json", "--url", &url]);
    let view: Value = serde_json::from_slice(&answer.stdout).unwrap();
    // At 100 MiB/s the throughput is violated, and nothing else.
    assert_eq!((answer.status.code(), &view["decision"]), (Some(1), &"caution".into()), "{view}");

    let text = report(&history, &url, &[]);
    let row = text.lines().find(|line| line.contains("| lab-first |")).unwrap();
    let blackout_ms = first.blackout.as_ref().unwrap().seconds.unwrap() * 1e3;
    let cells: Vec<&str> = row.split('|').map(str::trim).collect();
    assert_eq!(cells[3..6], ["completed", first.mode.unwrap().as_str(), "tcp"], "{row}");
    assert_eq!(cells[7], format!("{blackout_ms:.2}"), "{row}");
    assert_eq!(cells[8], format!("{:.1}", first.totals().delivered as f64 / 1e6), "{row}");
    assert!(text.contains("period: CAUTION"), "{text}");

    let stopped = observer.stop().unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
    // The observer is gone, its history is not; whether it answers is said.
    let page = directory.join("report.html");
    let text = report(&history, &url, &["--html", "--output", page.to_str().unwrap()]);
    assert_eq!(text, "");
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("<td>lab-second</td>") && html.contains("no observer answered"));
    assert_eq!(html.matches("<svg ").count(), 3);
    assert_eq!(agent(&["go-no-go", "--url", &url]).status.code(), Some(3));
}

/// A small file system of its own, unmounted at the end.
struct Small {
    directory: TempDir,
}

impl Small {
    fn mount(kib: u32) -> Self {
        let directory = TempDir::new().unwrap();
        let size = format!("size={kib}k");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "none"]).arg(directory.path());
        assert!(mount.status().unwrap().success());
        Self { directory }
    }

    /// Takes all the room that is left.
    fn fill(&self) -> PathBuf {
        let path = self.directory.join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        let mut error = None;
        while error.is_none() {
            error = file.write_all(&[0; 4096]).err();
        }
        assert_eq!(error.unwrap().kind(), ErrorKind::StorageFull);
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: a failed test may leave the observer in it for a moment.
        let _ = Command::new("umount").arg("-l").arg(self.directory.path()).status();
    }
}

/// Waits until the observer says whether it writes.
fn wait_up(observer: &Observer, up: f64) {
    let begun = std::time::Instant::now();
    while observer.metrics().unwrap().sum("dwcp_observer_history_up", &[]).unwrap() != up {
        assert!(begun.elapsed() < Duration::from_secs(90), "{}", observer.output());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_full_disk_loses_nothing_that_was_committed_or_waits() {
    let small = Small::mount(1024);
    let history = small.directory.join("history.sqlite");
    let observer = Observer::start_with_history(&binary().unwrap(), &history, &[]).unwrap();
    migrate(&observer, "lab-before");
    let begun = std::time::Instant::now();
    while written(&observer) < 2.0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", observer.output());
        std::thread::sleep(Duration::from_millis(50));
    }

    let filler = small.fill();
    migrate(&observer, "lab-meanwhile");
    wait_up(&observer, 0.0);
    let health = observer.json("/health").unwrap();
    let reason = health["reason"].as_str().unwrap();
    assert_eq!(health["status"], "degraded", "{health}");
    assert!(reason.contains("history") && reason.contains("full"), "{reason}");
    // What was committed can be read on a full disk.
    let url = format!("http://{}", observer.address());
    let text = report(&history, &url, &[]);
    assert!(text.contains("| lab-before |") && !text.contains("| lab-meanwhile |"), "{text}");

    std::fs::remove_file(filler).unwrap();
    wait_up(&observer, 1.0);
    let dropped = observer.metrics().unwrap();
    let dropped = dropped.sum("dwcp_observer_history_rows_dropped_total", &[]).unwrap();
    assert_eq!(dropped, 0.0);
    let said = observer.output().matches("history: cannot write").count();
    assert_eq!(said, 1, "{}", observer.output());
    observer.kill();
    let text = report(&history, &url, &[]);
    assert!(text.contains("| lab-before |") && text.contains("| lab-meanwhile |"), "{text}");
}

/// `user_version` in the header of an SQLite file.
const SCHEMA: std::ops::Range<usize> = 60..64;

#[test]
fn a_history_of_a_newer_version_is_left_alone() {
    let directory = TempDir::new().unwrap();
    let history = directory.join("history.sqlite");
    let start = || Observer::start_with_history(&binary().unwrap(), &history, &[]).unwrap();
    let observer = start();
    observer.wait_cycles().unwrap();
    assert!(observer.stop().unwrap().status.success());

    let mut content = std::fs::read(&history).unwrap();
    content[SCHEMA].copy_from_slice(&99u32.to_be_bytes());
    std::fs::write(&history, &content).unwrap();
    let observer = start();
    observer.wait_cycles().unwrap();
    let health = observer.json("/health").unwrap();
    let reason = health["reason"].as_str().unwrap();
    assert!(reason.contains("newer") && reason.contains("(schema 99"), "{health}");
    let stopped = observer.stop().unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
    assert_eq!(std::fs::read(&history).unwrap(), content);
    let output = agent(&["report", "--history", history.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("schema 99") && text.lines().count() == 1, "{text}");
}

#[test]
fn without_a_history_there_is_no_report() {
    let directory = TempDir::new().unwrap();
    let missing = directory.join("history.sqlite");
    let output = agent(&["report", "--history", missing.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("history") && text.lines().count() == 1, "{text}");
}
