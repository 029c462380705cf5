//! What the measurements share: the observer, traffic, and readings of both.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dwcp_observer_lab::flows::{FlowHelper, SteadyReport};
use dwcp_observer_lab::observer::Observer;
use dwcp_observer_lab::temp::{MIGRATION_PORTS, TempDir, free_port};
use serde_json::Value;

use crate::build;
use crate::shell::{cargo, run, target_dir};

/// A process of this name moves a guest with each connection that carries data.
pub(super) const MIGRATOR: &str = "criu";
/// A process of this name is nothing to the observer.
pub(super) const STRANGER: &str = "other";

/// The programs under measurement, and how thorough to be.
#[derive(Debug)]
pub(super) struct Setup {
    /// The agent.
    pub(super) agent: PathBuf,
    /// The traffic generator.
    pub(super) flows: PathBuf,
    /// Fewer repetitions.
    pub(super) quick: bool,
}

impl Setup {
    /// Builds both; `$DWCP_OBSERVER` names another agent.
    pub(super) fn build(quick: bool) -> Result<Self> {
        run(cargo()
            .args(["build", "--release", "--package", "dwcp-observer-lab"])
            .args(["--bin", "lab-flows"]))?;
        let agent = match std::env::var_os("DWCP_OBSERVER") {
            Some(agent) => PathBuf::from(agent),
            None => build::run()?,
        };
        Self::new(agent, target_dir().join("release/lab-flows"), quick)
    }

    /// Takes what is built.
    pub(super) fn new(agent: PathBuf, flows: PathBuf, quick: bool) -> Result<Self> {
        for program in [&agent, &flows] {
            ensure!(program.is_file(), "{} is not there", program.display());
        }
        Ok(Self { agent, flows, quick })
    }

    /// `full` repetitions, or `quick` ones.
    pub(super) const fn times(&self, full: u32, quick: u32) -> u32 {
        if self.quick { quick } else { full }
    }

    /// `full` seconds, or `quick` ones.
    pub(super) fn seconds(&self, full: f64, quick: f64) -> Duration {
        Duration::from_secs_f64(if self.quick { quick } else { full })
    }

    /// The observer as it runs without a configuration file.
    pub(super) fn observer(&self) -> Result<Observer> {
        Observer::start(&self.agent, &[])
    }

    /// The observer as it is installed: with a history on disk, in this directory.
    pub(super) fn observer_with_history(&self, directory: &TempDir) -> Result<Observer> {
        Observer::start_with_history(&self.agent, &directory.join("history.sqlite"), &[])
    }

    /// The observer with a configuration file.
    pub(super) fn observer_with(&self, config: &str) -> Result<Observer> {
        let directory = TempDir::new()?;
        let path = directory.join("config.toml");
        std::fs::write(&path, config)?;
        // It reads the file once, before it answers.
        Observer::start(&self.agent, &["--config", path.to_str().context("path of the file")?])
    }

    /// `lab-flows` under a name.
    pub(super) fn flows(&self, name: &str, args: &[&str]) -> Result<FlowHelper> {
        FlowHelper::start(&self.flows, name, &[&["--comm", name], args].concat())
    }

    /// Small messages to and fro in a process called `name`, after so many renames of its thread.
    pub(super) fn ping_pong(name: &str, renames: u32) -> Result<PingPong> {
        let (port, renames) = (strange_port()?.to_string(), renames.to_string());
        let args = ["ping-pong", "--port", &port, "--renames", &renames];
        let mut helper = FlowHelper::start(&std::env::current_exe()?, name, &args)?;
        let ready: Value = helper.line()?;
        ensure!(ready["ready"] == 1, "the traffic generator says {ready}");
        Ok(PingPong { helper })
    }

    /// Open connections of a process called `name`, each of which has carried `first_bytes` and
    /// goes on at `rate` bytes per second, all together.
    pub(super) fn steady(&self, name: &str, traffic: Traffic) -> Result<Steady> {
        let Traffic { connections, first_bytes, rate } = traffic;
        let port = strange_port()?;
        let helper = self.flows(
            name,
            &[
                "steady",
                "--connections",
                &connections.to_string(),
                "--first-bytes",
                &first_bytes.to_string(),
                "--rate",
                &rate.to_string(),
                "--port",
                &port.to_string(),
            ],
        )?;
        let mut steady = Steady { helper };
        let ready: Value = steady.helper.line()?;
        ensure!(ready["ready"] == connections, "the traffic generator says {ready}");
        Ok(steady)
    }
}

/// What goes over open connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traffic {
    /// How many.
    pub(super) connections: u32,
    /// Bytes over each one at the start.
    pub(super) first_bytes: u64,
    /// Bytes per second, all together.
    pub(super) rate: u64,
}

/// A rate that no loopback reaches: each write waits for the reader.
pub(super) const UNPACED: u64 = 1 << 40;

/// Running traffic; ended on drop.
#[derive(Debug)]
pub(super) struct Steady {
    helper: FlowHelper,
}

impl Steady {
    /// Process id of the sender.
    pub(super) fn pid(&self) -> u32 {
        self.helper.pid()
    }

    /// Ends it and returns what it has moved.
    pub(super) fn stop(mut self) -> Result<SteadyReport> {
        self.helper.tell_stop()?;
        let report = self.helper.finish()?.pop().context("no report of the traffic generator")?;
        Ok(report)
    }
}

/// Running small messages; ended on drop.
#[derive(Debug)]
pub(super) struct PingPong {
    helper: FlowHelper,
}

impl PingPong {
    /// Process id.
    pub(super) fn pid(&self) -> u32 {
        self.helper.pid()
    }

    /// Ends it and returns the number of round trips.
    pub(super) fn stop(mut self) -> Result<u64> {
        self.helper.tell_stop()?;
        let report: Option<Value> = self.helper.finish()?.pop();
        report
            .and_then(|report| report["round_trips"].as_u64())
            .context("no report of the traffic generator")
    }
}

/// A free port that is no migration port, so that only the process name tells.
fn strange_port() -> Result<u16> {
    loop {
        let port = free_port()?;
        if !MIGRATION_PORTS.contains(&port) {
            return Ok(port);
        }
    }
}

/// Ends the observer; that must work.
pub(super) fn stop(observer: Observer) -> Result<()> {
    let stopped = observer.stop()?;
    ensure!(stopped.status.success(), "the observer: {}\n{}", stopped.status, stopped.output);
    Ok(())
}

/// The text of `GET /metrics`.
pub(super) fn metrics(observer: &Observer) -> Result<String> {
    let response = observer.get("/metrics")?;
    ensure!(response.status == 200, "GET /metrics: {}", response.status);
    Ok(response.text()?.to_owned())
}

/// The value of the series that is written exactly as `series`.
pub(super) fn value(text: &str, series: &str) -> Result<f64> {
    text.lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
        .with_context(|| format!("/metrics has no {series}"))
}

/// Runs `body` with this thread, and the processes that it starts, on one CPU: the last one.
pub(super) fn on_one_cpu<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = affinity()?;
    set_affinity(&only(last_cpu()?))?;
    let result = body();
    set_affinity(&before)?;
    result
}

/// The number of the last CPU that this process may use.
pub(super) fn last_cpu() -> Result<usize> {
    let set = affinity()?;
    let limit = usize::try_from(libc::CPU_SETSIZE)?;
    // SAFETY: the numbers are within the set.
    let allowed = |cpu: &usize| unsafe { libc::CPU_ISSET(*cpu, &set) };
    (0..limit).rfind(allowed).context("no CPU")
}

fn only(cpu: usize) -> libc::cpu_set_t {
    // SAFETY: all-zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the number comes from a set of this size.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    set
}

fn affinity() -> Result<libc::cpu_set_t> {
    // SAFETY: all-zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: size and pointer describe `set`.
    let result = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    ensure!(result == 0, "CPUs of this process: {}", std::io::Error::last_os_error());
    Ok(set)
}

fn set_affinity(set: &libc::cpu_set_t) -> Result<()> {
    // SAFETY: size and pointer describe `set`.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(set), set) };
    ensure!(result == 0, "CPUs of this process: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Runs a program and returns the number that it prints.
pub(super) fn number_of(command: &mut Command) -> Result<f64> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
    text.trim().parse().with_context(|| format!("{command:?} prints {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_found_by_its_whole_name() {
        let text = "# HELP a b\na_total 3\na 1.5\na{b=\"c\"} 7\n";
        assert_eq!(value(text, "a").unwrap(), 1.5);
        assert_eq!(value(text, "a{b=\"c\"}").unwrap(), 7.0);
        assert!(value(text, "b").is_err());
    }

    #[test]
    fn the_cpus_are_given_back() {
        // SAFETY: takes a whole set.
        let count = |set: &libc::cpu_set_t| unsafe { libc::CPU_COUNT(set) };
        let before = count(&affinity().unwrap());
        let inside = on_one_cpu(affinity).unwrap();
        assert_eq!(count(&inside), 1);
        assert_eq!(count(&affinity().unwrap()), before);
    }
}
