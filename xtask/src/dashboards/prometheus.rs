//! A Prometheus of the check's own, and what it answers.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dwcp_observer_lab::alerts::rules;
use dwcp_observer_lab::http;
use dwcp_observer_lab::process::ChildGuard;
use dwcp_observer_lab::temp::{TempDir, free_port};
use serde_json::Value;

use crate::shell::find;

/// What one query gave over the time of the check.
#[derive(Debug)]
pub(super) struct Answer {
    /// Series with at least one value that is a number.
    pub(super) series: usize,
    /// The last number of the first of them, as Prometheus writes it.
    pub(super) last: String,
    /// The largest number of all.
    pub(super) max: f64,
    /// The labels of the first, without its name, job and instance.
    pub(super) labels: String,
}

/// A server that scrapes the observer each second and evaluates the shipped rules.
pub(super) struct Prometheus {
    address: SocketAddr,
    _process: ChildGuard,
    directory: TempDir,
}

impl Prometheus {
    /// Starts it at `address` with its database in `data`, and waits for the first scrape.
    ///
    /// # Errors
    /// When it does not start or does not scrape within 30 s.
    pub(super) fn start(address: SocketAddr, observer: SocketAddr, data: &Path) -> Result<Self> {
        let directory = TempDir::new()?;
        let rules = rules::directory().canonicalize()?.join("rules/*.yml");
        std::fs::write(
            directory.join("prometheus.yml"),
            format!(
                "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\n  evaluation_interval: 1s\n  \
                 external_labels: {{cluster: lab, runbook_base: 'http://localhost/'}}\n\
                 rule_files: ['{}']\nscrape_configs:\n\
                 - job_name: dwcp-observer\n  static_configs: [{{targets: ['{observer}']}}]\n\
                 - job_name: prometheus\n  static_configs: [{{targets: ['{address}']}}]\n",
                rules.display()
            ),
        )?;
        let prometheus = Self::spawn(address, data, directory, &[])?;
        // Both targets have been scraped.
        prometheus.wait("sum%28up%29", "2")?;
        Ok(prometheus)
    }

    /// Serves the database of an earlier check, scrapes nothing, and serves the pages in `consoles`.
    ///
    /// # Errors
    /// When it does not start within 30 s.
    pub(super) fn of_database(data: &Path, consoles: &Path) -> Result<Self> {
        let directory = TempDir::new()?;
        std::fs::write(directory.join("prometheus.yml"), "global: {scrape_interval: 1h}\n")?;
        let consoles = format!("--web.console.templates={}", consoles.display());
        let prometheus = Self::spawn(local(free_port()?), data, directory, &[consoles])?;
        prometheus.wait("vector%281%29", "1")?;
        Ok(prometheus)
    }

    fn spawn(
        address: SocketAddr,
        data: &Path,
        directory: TempDir,
        more: &[String],
    ) -> Result<Self> {
        let Some(program) = find("prometheus") else {
            bail!("there is no `prometheus`: run `cargo xtask setup`");
        };
        let log = std::fs::File::create(directory.join("log"))?;
        let process = ChildGuard::spawn(
            Command::new(program)
                .arg(format!("--config.file={}", directory.join("prometheus.yml").display()))
                .arg(format!("--storage.tsdb.path={}", data.display()))
                .arg(format!("--web.listen-address={address}"))
                .args(more)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log),
        )?;
        Ok(Self { address, _process: process, directory })
    }

    /// Until a query has this value, at most 30 s.
    fn wait(&self, query: &str, value: &str) -> Result<()> {
        const LIMIT: Duration = Duration::from_secs(30);
        let begin = Instant::now();
        loop {
            let answer = self.get(&format!("query?query={query}"));
            if answer.is_ok_and(|answer| answer["data"]["result"][0]["value"][1] == value) {
                return Ok(());
            }
            if begin.elapsed() > LIMIT {
                let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
                bail!("Prometheus does not work after {LIMIT:?}:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    fn get(&self, path: &str) -> Result<Value> {
        let answer = http::get(self.address, &format!("/api/v1/{path}"))?;
        let json: Value = answer.json()?;
        ensure!(json["status"] == "success", "{path}: {json}");
        Ok(json)
    }

    /// What `query` gives in each second from `start` to `end`; `None` if that is no number at all.
    ///
    /// # Errors
    /// When Prometheus does not answer or refuses the query.
    pub(super) fn range(&self, query: &str, start: u64, end: u64) -> Result<Option<Answer>> {
        let path = format!("query_range?query={}&start={start}&end={end}&step=1", encode(query));
        let answer = self.get(&path)?;
        let all = answer["data"]["result"].as_array().context("no result")?;
        let numbers = |series: &Value| -> Vec<(String, f64)> {
            let values = series["values"].as_array().map_or(&[][..], Vec::as_slice);
            let texts = values.iter().filter_map(|value| value[1].as_str());
            texts
                .filter_map(|text| Some((text.to_owned(), text.parse::<f64>().ok()?)))
                .filter(|(_, number)| number.is_finite())
                .collect()
        };
        let with_numbers: Vec<_> = all
            .iter()
            .map(|series| (series, numbers(series)))
            .filter(|(_, numbers)| !numbers.is_empty())
            .collect();
        let Some((first, values)) = with_numbers.first() else {
            return Ok(None);
        };
        Ok(Some(Answer {
            series: with_numbers.len(),
            last: values.last().map(|(text, _)| text.clone()).unwrap_or_default(),
            max: with_numbers
                .iter()
                .flat_map(|(_, values)| values)
                .fold(f64::NEG_INFINITY, |max, (_, value)| max.max(*value)),
            labels: labels(&first["metric"]),
        }))
    }

    /// The values that a dashboard's variable offers: those of `label` in `selector` between `start` and `end`.
    ///
    /// # Errors
    /// As [`Self::range`].
    pub(super) fn label_values(
        &self,
        selector: &str,
        label: &str,
        start: u64,
        end: u64,
    ) -> Result<Vec<String>> {
        let selector = encode(selector);
        let path = format!("label/{label}/values?match[]={selector}&start={start}&end={end}");
        let answer = self.get(&path)?;
        let values = answer["data"].as_array().context("no values")?;
        Ok(values.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect())
    }
}

fn labels(metric: &Value) -> String {
    let pairs: Vec<String> = metric
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| !["__name__", "job", "instance"].contains(&name.as_str()))
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.join(" ")
}

/// An address of this host that nobody listens on.
pub(super) fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
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
