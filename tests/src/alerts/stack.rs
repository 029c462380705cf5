//! A real Prometheus that scrapes a real observer, a real Alertmanager behind it, and a webhook at its end, all with the
//! configurations that this repository ships.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::rules::{directory, yaml_files};
use super::speed::scale;
use super::webhook::Webhook;
use crate::http;
use crate::process::ChildGuard;
use crate::temp::{TempDir, free_port};

/// The servers' executables.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Prometheus 2.42 or newer.
    pub prometheus: PathBuf,
    /// Alertmanager 0.25 or newer.
    pub alertmanager: PathBuf,
}

/// What differs from what is shipped.
#[derive(Clone, Debug)]
pub struct Changes {
    /// All times are divided by this; 1 leaves them as they are.
    pub speed: u32,
    /// In rules: a text and what stands in its place, as thresholds for the network of the run.
    pub replaced: Vec<(String, String)>,
    /// Whether a second Alertmanager delivers too, which Prometheus does not watch.
    pub spare_alertmanager: bool,
}

/// The running servers; ended on drop.
#[derive(Debug)]
pub struct Stack {
    // Order of drop: who sends ends before who receives.
    prometheus: ChildGuard,
    alertmanager: Option<ChildGuard>,
    _spare: Option<ChildGuard>,
    /// What Alertmanager delivers to.
    pub webhook: Webhook,
    prometheus_address: SocketAddr,
    directory: TempDir,
}

impl Stack {
    /// Starts all three and waits until they are ready and the observer has been scraped.
    ///
    /// # Errors
    /// When one does not start, or a replaced text is in no rule: the error holds what it printed.
    pub fn start(programs: &Programs, observer: SocketAddr, changes: &Changes) -> Result<Self> {
        let temp = TempDir::new()?;
        let webhook = Webhook::start()?;
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let prometheus_address = local(free_port()?);
        let alertmanager_address = local(free_port()?);
        let spare_address = local(free_port()?);
        write_rules(&temp, changes)?;
        let shipped = |name: &str| -> Result<String> {
            let path = directory().join(name);
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            Ok(scale(&text, changes.speed))
        };
        let mut config = shipped("prometheus.yml")?;
        if changes.spare_alertmanager {
            // The first place is where alerts go, the second where Prometheus scrapes.
            let both = format!("\"localhost:9093\", \"{spare_address}\"");
            config = config.replacen("\"localhost:9093\"", &both, 1);
        }
        for (from, to) in [
            ("localhost:8080", observer),
            ("localhost:9093", alertmanager_address),
            ("localhost:9090", prometheus_address),
        ] {
            ensure!(config.contains(from), "prometheus.yml has no {from}");
            config = config.replace(from, &to.to_string());
        }
        if changes.speed > 1 {
            config = config.replace("scrape_interval: 5s", "scrape_interval: 1s");
            config = config.replace("scrape_timeout: 4s", "scrape_timeout: 1s");
        }
        fs::write(temp.join("prometheus.yml"), config)?;
        let routes = shipped("alertmanager.yml")?;
        ensure!(routes.contains("localhost:8060"), "alertmanager.yml has no localhost:8060");
        let routes = routes.replace("localhost:8060", &webhook.address().to_string());
        fs::write(temp.join("alertmanager.yml"), routes)?;

        let start = |program: &PathBuf, name: &str, arguments: &[String]| -> Result<ChildGuard> {
            let output = File::create(temp.join(name))?;
            let mut command = Command::new(program);
            command.args(arguments).current_dir(temp.path()).stdin(Stdio::null());
            ChildGuard::spawn(command.stdout(output.try_clone()?).stderr(output))
        };
        let start_alertmanager = |name: &str, address: SocketAddr| {
            start(
                &programs.alertmanager,
                &format!("{name}.log"),
                &[
                    "--config.file=alertmanager.yml".to_owned(),
                    format!("--storage.path={name}"),
                    "--cluster.listen-address=".to_owned(),
                    format!("--web.listen-address={address}"),
                ],
            )
        };
        let alertmanager = Some(start_alertmanager("alertmanager", alertmanager_address)?);
        let spare = changes
            .spare_alertmanager
            .then(|| start_alertmanager("spare", spare_address))
            .transpose()?;
        let prometheus = start(
            &programs.prometheus,
            "prometheus.log",
            &[
                "--config.file=prometheus.yml".to_owned(),
                "--storage.tsdb.path=prometheus".to_owned(),
                format!("--web.listen-address={prometheus_address}"),
            ],
        )?;
        let mut stack = Self {
            prometheus,
            alertmanager,
            _spare: spare,
            webhook,
            prometheus_address,
            directory: temp,
        };
        stack.wait_ready()?;
        Ok(stack)
    }

    fn wait_ready(&mut self) -> Result<()> {
        const LIMIT: Duration = Duration::from_secs(60);
        let start = Instant::now();
        loop {
            let alertmanager = self.alertmanager.as_mut().map(|it| ("alertmanager", it));
            for (name, process) in
                [("prometheus", &mut self.prometheus)].into_iter().chain(alertmanager)
            {
                if let Some(status) = process.try_wait()? {
                    let log = self.directory.join(&format!("{name}.log"));
                    let log = fs::read_to_string(log).unwrap_or_default();
                    bail!("{name} ended with {status}:\n{log}");
                }
            }
            // All three targets have been scraped: observer, Prometheus, Alertmanager.
            let up = self.query("sum%28up%29");
            if up.is_ok_and(|value| value == Some(3.0)) {
                return Ok(());
            }
            ensure!(start.elapsed() < LIMIT, "not all targets are up after {LIMIT:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends Alertmanager (SIGKILL), but for the spare one.
    pub(super) fn kill_alertmanager(&mut self) {
        self.alertmanager = None;
    }

    /// Gives Prometheus no CPU for so long.
    pub(super) fn halt_prometheus(&self, time: Duration) -> Result<()> {
        self.prometheus.signal(libc::SIGSTOP)?;
        std::thread::sleep(time);
        self.prometheus.signal(libc::SIGCONT)
    }

    /// Lets Prometheus scrape itself once more, under a limit that it exceeds.
    pub(super) fn add_greedy_target(&self) -> Result<()> {
        let path = self.directory.join("prometheus.yml");
        let mut config = fs::read_to_string(&path)?;
        config.push_str(&format!(
            "\n  - job_name: greedy\n    sample_limit: 10\n    static_configs:\n      - targets: [\"{}\"]\n",
            self.prometheus_address
        ));
        fs::write(path, config)?;
        self.prometheus.signal(libc::SIGHUP)
    }

    /// The one value of an instant query, which must be percent-encoded; `None` if there is none.
    ///
    /// # Errors
    /// When Prometheus does not answer.
    pub fn query(&self, encoded: &str) -> Result<Option<f64>> {
        let path = format!("/api/v1/query?query={encoded}");
        let answer = http::get(self.prometheus_address, &path)?.json()?;
        let value = &answer["data"]["result"][0]["value"][1];
        Ok(value.as_str().map(str::parse).transpose()?)
    }

    /// The names of the alerts that fire now, as Prometheus says.
    ///
    /// # Errors
    /// When Prometheus does not answer.
    pub fn firing(&self) -> Result<Vec<String>> {
        let alerts = self.active()?;
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        let name = |alert: &Value| alert["labels"]["alertname"].as_str().map(str::to_owned);
        Ok(firing.filter_map(name).collect())
    }

    /// A line for each alert that Prometheus holds pending or firing.
    pub(super) fn alerts(&self) -> Result<Vec<String>> {
        let line = |alert: &Value| {
            let [name, mode] = ["alertname", "mode"].map(|label| &alert["labels"][label]);
            format!("{name} {mode} is {} at {}", alert["state"], alert["value"])
        };
        Ok(self.active()?.iter().map(line).collect())
    }

    fn active(&self) -> Result<Vec<Value>> {
        let answer = http::get(self.prometheus_address, "/api/v1/alerts")?.json()?;
        Ok(answer["data"]["alerts"].as_array().context("no alerts")?.clone())
    }
}

fn write_rules(temp: &TempDir, changes: &Changes) -> Result<()> {
    fs::create_dir(temp.join("rules"))?;
    let mut all = String::new();
    for path in yaml_files(&directory().join("rules"))? {
        let shipped = fs::read_to_string(&path)?;
        let mut text = scale(&shipped, changes.speed);
        for (from, to) in &changes.replaced {
            text = text.replace(from.as_str(), to);
        }
        fs::write(temp.join("rules").join(path.file_name().unwrap_or_default()), text)?;
        all.push_str(&shipped);
    }
    for (from, _) in &changes.replaced {
        ensure!(all.contains(from.as_str()), "no rule has {from:?}");
    }
    Ok(())
}
