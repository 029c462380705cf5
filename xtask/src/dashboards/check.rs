//! Every expression of every panel, asked of a real Prometheus that scraped the real observer during real migrations.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use dwcp_observer_lab::guest::Guest;
use dwcp_observer_lab::http;
use dwcp_observer_lab::migration::{MigrationPlan, Pair};
use dwcp_observer_lab::observer::Observer;
use dwcp_observer_lab::process::ChildGuard;
use dwcp_observer_lab::qemu::QemuSpec;
use dwcp_observer_lab::temp::{TempDir, free_migration_port, free_port};
use serde_json::Value;

use super::promql::selectors;
use crate::shell::{find, is_root, run_as_root};
use crate::{build, setup};

const MIB: u64 = 1 << 20;

/// Metrics that only some hosts can give.
pub(super) const OF_SOME_HOSTS: [(&str, &str); 1] = [("dwcp_v3_rdma_", "an RDMA device")];

/// What one query gave.
enum Shown {
    Data {
        series: usize,
        last: String,
    },
    /// Not to be had here: why.
    NotHere(&'static str),
    Empty,
}

/// Prints a line per query; exit 0 only if every panel shows something.
pub(super) fn run(no_build: bool) -> Result<ExitCode> {
    if !no_build {
        setup::ensure()?;
        build::run()?;
    }
    if !is_root() {
        return run_as_root();
    }
    let history = TempDir::new()?;
    let observer =
        Observer::start_with_history(&build::agent(), &history.join("history.sqlite"), &[])?;
    let prometheus = Prometheus::start(observer.address())?;
    let start = unix_now()?;
    // A series that is absent before its first event has no increase: the first of these makes them, the second moves them.
    for bandwidth in [200, 20] {
        migrate(bandwidth * MIB)?;
        // Until the record is final and what was seen of it is scraped.
        std::thread::sleep(Duration::from_secs(5));
    }
    let end = unix_now()?;
    let mut empty = 0;
    for dashboard in super::all() {
        println!("\n{}", dashboard.title);
        let json = dashboard.json();
        for panel in json["panels"].as_array().into_iter().flatten() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let expr = target["expr"].as_str().unwrap_or_default();
                let line = match prometheus.show(expr, start, end)? {
                    Shown::Data { series, last } => format!("{series:>4}  {last}"),
                    Shown::NotHere(why) => format!("   -  waits for: {why}"),
                    Shown::Empty => {
                        empty += 1;
                        format!("   0  EMPTY: {expr}")
                    }
                };
                let title = panel["title"].as_str().unwrap_or_default();
                let reference = target["refId"].as_str().unwrap_or_default();
                println!("  {title:<38} {reference}  {line}");
            }
        }
    }
    println!("\n{empty} empty");
    drop(prometheus);
    let stopped = observer.stop()?;
    ensure!(stopped.status.success(), "the observer ended with {}", stopped.status);
    Ok(if empty == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn migrate(bandwidth: u64) -> Result<()> {
    let spec = QemuSpec {
        guest: Guest { memory_mib: 256, working_set_mib: 16, ..Guest::default() },
        ..QemuSpec::default()
    };
    let plan = MigrationPlan {
        multifd_channels: Some(4),
        max_bandwidth: Some(bandwidth),
        port: free_migration_port(false)?,
        ..MigrationPlan::default()
    };
    eprintln!("dashboards: migrating 256 MiB at {} MiB/s", bandwidth / MIB);
    let mut pair = Pair::start(&spec)?;
    pair.migrate(&plan)?;
    let figures = pair.wait_end(Duration::from_secs(180))?;
    ensure!(figures.status == "completed", "{}: {:?}", figures.status, figures.error);
    // The guest must be seen to run at the destination.
    std::thread::sleep(Duration::from_secs(3));
    Ok(())
}

fn unix_now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

/// A server of its own, scraping each second.
struct Prometheus {
    address: SocketAddr,
    _process: ChildGuard,
    _directory: TempDir,
}

impl Prometheus {
    fn start(target: SocketAddr) -> Result<Self> {
        const LIMIT: Duration = Duration::from_secs(30);
        let Some(program) = find("prometheus") else {
            bail!("there is no `prometheus`: apt-get install prometheus");
        };
        let directory = TempDir::new()?;
        let config = directory.join("prometheus.yml");
        std::fs::write(
            &config,
            format!(
                "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n\
                 - job_name: dwcp-observer\n  static_configs: [{{targets: ['{target}']}}]\n"
            ),
        )?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let log = std::fs::File::create(directory.join("log"))?;
        let process = ChildGuard::spawn(
            Command::new(program)
                .arg(format!("--config.file={}", config.display()))
                .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
                .arg(format!("--web.listen-address={address}"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log),
        )?;
        let prometheus = Self { address, _process: process, _directory: directory };
        let begin = Instant::now();
        // Ready, and the first scrape is in.
        loop {
            if let Ok(answer) = prometheus.query("query?query=up")
                && answer["data"]["result"].as_array().is_some_and(|result| !result.is_empty())
            {
                return Ok(prometheus);
            }
            ensure!(begin.elapsed() < LIMIT, "Prometheus does not scrape after {LIMIT:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn query(&self, path: &str) -> Result<Value> {
        let answer = http::get(self.address, &format!("/api/v1/{path}"))?;
        let json: Value = answer.json()?;
        ensure!(json["status"] == "success", "{path}: {json}");
        Ok(json)
    }

    /// The expression over the time of the check, with Grafana's variables as it would set them.
    fn show(&self, expr: &str, start: u64, end: u64) -> Result<Shown> {
        let query = expr
            .replace("$__rate_interval", "10s")
            .replace("$migration", ".+")
            .replace("$instance", ".+")
            .replace("$component", ".+")
            .replace("$region", ".+")
            .replace("$mode", ".+")
            .replace("$sla", ".+")
            .replace("$job", ".+");
        ensure!(!query.contains('$'), "a variable is left: {query}");
        let path = format!("query_range?query={}&start={start}&end={end}&step=1", encode(&query));
        let answer = self.query(&path)?;
        let series = answer["data"]["result"].as_array().context("no result")?;
        let last = series.first().and_then(|one| one["values"].as_array()?.last()?[1].as_str());
        if let Some(last) = last {
            return Ok(Shown::Data { series: series.len(), last: last.to_owned() });
        }
        let selected = selectors(expr).map_err(anyhow::Error::msg)?;
        let reason = OF_SOME_HOSTS.iter().find(|(prefix, _)| {
            selected.iter().any(|selected| selected.metric.starts_with(prefix))
        });
        Ok(reason.map_or(Shown::Empty, |(_, why)| Shown::NotHere(why)))
    }
}

fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
