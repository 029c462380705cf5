//! The agent under test: `dwcp-observer run` as a child process on a port of its own.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dwcp_observer_model::record::{List, Migration};
use serde_json::Value;

use crate::http::{self, Response};
use crate::metrics::Metrics;
use crate::process::ChildGuard;
use crate::record::RecordExt as _;
use crate::temp::{TempDir, free_port};

/// The agent that the tests run: `$DWCP_OBSERVER`, or what `cargo xtask build` made.
///
/// # Errors
/// When it is not there: the error names the command that makes it.
pub fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os("DWCP_OBSERVER") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/dwcp-observer"),
    };
    if !path.is_file() {
        bail!("{} is not there: run `cargo xtask build`", path.display());
    }
    Ok(path)
}

/// Whether other migrations may run on this host during the tests (`DWCP_LAB_SHARED_HOST=1`). Then
/// only records of the test's own processes are looked at, and counters over all migrations are
/// not compared. It is for work on the tests: a real run has the host for itself.
#[must_use]
pub fn shared_host() -> bool {
    std::env::var_os("DWCP_LAB_SHARED_HOST").is_some_and(|value| value == "1")
}

/// A running observer; killed on drop, but [`Observer::stop`] is how a test ends it.
#[derive(Debug)]
pub struct Observer {
    process: ChildGuard,
    address: SocketAddr,
    directory: TempDir,
}

impl Observer {
    /// Starts `binary run --listen 127.0.0.1:PORT` with `extra_args` behind and waits until
    /// `GET /health` answers 200, at most 90 s: in a VM that is emulated on a busy machine it took more than 30. It keeps nothing on disk.
    ///
    /// # Errors
    /// When it does not start, ends, or does not become healthy: the error holds what it printed.
    pub fn start(binary: &Path, extra_args: &[&str]) -> Result<Self> {
        Self::start_at(binary, (Ipv4Addr::LOCALHOST, free_port()?).into(), extra_args)
    }

    /// The same at an address that other hosts reach.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_at(binary: &Path, address: SocketAddr, extra_args: &[&str]) -> Result<Self> {
        Self::launch(binary, address, extra_args, None)
    }

    /// The same as [`Self::start`], with its history in this file and its hourly reports beside it.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with_history(binary: &Path, history: &Path, extra_args: &[&str]) -> Result<Self> {
        let address = (Ipv4Addr::LOCALHOST, free_port()?).into();
        Self::launch(binary, address, extra_args, Some(history))
    }

    fn launch(
        binary: &Path,
        address: SocketAddr,
        extra_args: &[&str],
        history: Option<&Path>,
    ) -> Result<Self> {
        const LIMIT: Duration = Duration::from_secs(90);
        let directory = TempDir::new()?;
        let output = File::create(directory.join("output"))?;
        let mut command = Command::new(binary);
        command
            .args(["run", "--listen", &address.to_string()])
            .args(extra_args)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        match history {
            Some(path) => command.arg("--history").arg(path),
            None => command.arg("--no-history"),
        };
        let mut observer = Self { process: ChildGuard::spawn(&mut command)?, address, directory };
        let start = Instant::now();
        loop {
            let answer = observer.get("/health");
            if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
                return Ok(observer);
            }
            if let Some(status) = observer.process.try_wait()? {
                bail!("the observer ended with {status}:\n{}", observer.output());
            }
            if start.elapsed() > LIMIT {
                let last = match &answer {
                    Ok(answer) => {
                        format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body))
                    }
                    Err(error) => format!("{error:#}"),
                };
                bail!("the observer is not healthy after {LIMIT:?}: {last}\n{}", observer.output());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where it serves HTTP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has printed so far, both streams.
    #[must_use]
    pub fn output(&self) -> String {
        let bytes = std::fs::read(self.directory.join("output")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// `GET path`, whatever its status.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn get(&self, path: &str) -> Result<Response> {
        http::get(self.address, path)
    }

    /// `GET path`: the JSON of a 200 answer.
    ///
    /// # Errors
    /// When it does not answer with 200 and JSON.
    pub fn json(&self, path: &str) -> Result<Value> {
        let response = self.get(path)?;
        if response.status != 200 {
            bail!("GET {path}: {} {}", response.status, String::from_utf8_lossy(&response.body));
        }
        response.json().with_context(|| format!("GET {path}"))
    }

    /// The records of `GET /api/v1/migrations`.
    ///
    /// # Errors
    /// When it does not answer, or with something else.
    pub fn migrations(&self) -> Result<Vec<Migration>> {
        let list: List = serde_json::from_value(self.json("/api/v1/migrations")?)
            .context("the list of migrations")?;
        Ok(list.migrations)
    }

    /// Waits until one migration satisfies `condition` and returns its record.
    ///
    /// # Errors
    /// When none does within `limit`: the error holds the records that are there.
    pub fn wait_migration(
        &self,
        limit: Duration,
        condition: impl Fn(&Migration) -> bool,
    ) -> Result<Migration> {
        let start = Instant::now();
        loop {
            let migrations = self.migrations()?;
            if let Some(found) = migrations.iter().find(|migration| condition(migration)) {
                return Ok(found.clone());
            }
            if start.elapsed() > limit {
                let output = self.output();
                bail!("no such migration after {limit:?}: {migrations:#?}\n{output}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The records: all there are, or on a shared host those of this test.
    ///
    /// # Errors
    /// When it does not answer, or a record lacks a field.
    pub fn records(&self) -> Result<Vec<Migration>> {
        Ok(self
            .migrations()?
            .into_iter()
            .filter(|record| !shared_host() || record.is_own())
            .collect())
    }

    /// The single-migration path: the record with its history.
    ///
    /// # Errors
    /// When it does not answer with such a record.
    pub fn record(&self, id: &str) -> Result<Migration> {
        serde_json::from_value(self.json(&format!("/api/v1/migrations/{id}"))?)
            .with_context(|| format!("record {id}"))
    }

    /// One scrape.
    ///
    /// # Errors
    /// When it does not answer with 200 and metrics.
    pub fn metrics(&self) -> Result<Metrics> {
        let response = self.get("/metrics")?;
        ensure!(response.status == 200, "GET /metrics: {}", response.status);
        Metrics::parse(response.text()?)
    }

    /// Waits until `condition` holds for all records.
    ///
    /// # Errors
    /// When it does not within `limit`: the error holds the records that are there.
    pub fn wait_records(
        &self,
        limit: Duration,
        condition: impl Fn(&[Migration]) -> bool,
    ) -> Result<Vec<Migration>> {
        let start = Instant::now();
        loop {
            let records = self.records()?;
            if condition(&records) {
                return Ok(records);
            }
            if start.elapsed() > limit {
                bail!("not so after {limit:?}: {records:#?}\n{}", self.output());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until `count` migrations are over and counted, with the final figures of their
    /// sockets, and returns all records.
    ///
    /// # Errors
    /// When there are not so many after 45 s, or when there are more records.
    pub fn wait_finished(&self, count: usize) -> Result<Vec<Migration>> {
        const LIMIT: Duration = Duration::from_secs(45);
        let over = |records: &[Migration]| {
            records.iter().filter(|record| record.is_final()).count() >= count
        };
        let records = self.wait_records(LIMIT, over)?;
        ensure!(records.len() == count, "more than {count} migrations: {records:#?}");
        if !shared_host() {
            let counted = self.metrics()?.sum("dwcp_v3_migrations_total", &[])?;
            ensure!(counted == count as f64, "{counted} of {count} migrations are counted");
        }
        Ok(records)
    }

    /// Waits until two more collection cycles are over: what happened before is in the figures.
    ///
    /// # Errors
    /// When that takes more than 10 s.
    pub fn wait_cycles(&self) -> Result<()> {
        const LIMIT: Duration = Duration::from_secs(10);
        let cycles = || self.metrics()?.sum("dwcp_observer_cycle_duration_seconds_count", &[]);
        let (start, first) = (Instant::now(), cycles()?);
        while cycles()? < first + 2.0 {
            ensure!(start.elapsed() < LIMIT, "no cycle in {LIMIT:?}:\n{}", self.output());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The process, for signals.
    #[must_use]
    pub fn process(&self) -> &ChildGuard {
        &self.process
    }

    /// Kills it (SIGKILL) and waits for its end.
    pub fn kill(self) {
        drop(self.process);
        drop(self.directory);
    }

    /// Stops it with SIGTERM; returns its exit status, how long it took and what it had printed.
    ///
    /// # Errors
    /// When it has not ended after 90 s.
    pub fn stop(self) -> Result<Stopped> {
        self.stop_within(Duration::from_secs(90))
    }

    /// The same with another limit.
    ///
    /// # Errors
    /// When it has not ended by then.
    pub fn stop_within(mut self, limit: Duration) -> Result<Stopped> {
        let start = Instant::now();
        self.process.signal(libc::SIGTERM)?;
        match self.process.wait_for(limit)? {
            Some(status) => Ok(Stopped { status, took: start.elapsed(), output: self.output() }),
            None => bail!("the observer still runs {limit:?} after SIGTERM:\n{}", self.output()),
        }
    }
}

/// How the observer ended.
#[derive(Debug)]
pub struct Stopped {
    /// Exit status.
    pub status: ExitStatus,
    /// From SIGTERM to the end.
    pub took: Duration,
    /// What it had printed.
    pub output: String,
}

impl Stopped {
    /// Lines with which it complained about itself or its input. That migrations miss the service
    /// level is a finding about them: this lab's do, 2.4 GB/s being the contract's target.
    #[must_use]
    pub fn complaints(&self) -> Vec<&str> {
        let complains =
            |line: &&str| ["ERROR", "WARN", "panicked"].iter().any(|sign| line.contains(sign));
        let finding = |line: &&str| line.contains("dwcp_observer::journal] SLA ");
        self.output.lines().filter(complains).filter(|line| !finding(line)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn script(directory: &TempDir, text: &str) -> PathBuf {
        let path = directory.join("script");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn what_a_failing_observer_prints_is_in_the_error() {
        let directory = TempDir::new().unwrap();
        let binary = script(&directory, "#!/bin/sh\necho no BTF >&2\nexit 3\n");
        let error = Observer::start(&binary, &[]).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no BTF"), "{error}");
    }
}
