//! One scenario from its start to the arrival of its alerts.

use std::any::Any;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::host::{Disk, Endpoint, FullMemory, HaltedThread, busy_cpus};
use super::migrations::{self, LONG_RATE, TARGET};
use super::scenario::Scenario;
use super::stack::{Changes, Programs, Stack};
use super::turns::Turns;
use super::webhook::Delivered;
use crate::faults::{Fault, Injection, Rig, Variant};
use crate::flows::FlowHelper;
use crate::observer::Observer;
use crate::process::ChildGuard;
use crate::temp::{TempDir, free_migration_port};

/// What the runs share.
#[derive(Debug)]
pub struct Lab {
    /// The agent.
    pub agent: PathBuf,
    /// `lab-flows`.
    pub flows: PathBuf,
    /// Prometheus and Alertmanager.
    pub programs: Programs,
    /// How long an alert is waited for at most.
    pub patience: Duration,
    /// Whose migrations run now.
    pub turns: Turns,
}

/// An alert that was waited for.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Its name.
    pub name: &'static str,
    /// From the fault to its first delivery, seconds; `None` if it did not come.
    pub seconds: Option<f64>,
    /// Where it was delivered first: `/page`, `/chat`.
    pub path: String,
}

/// What came of one scenario.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The alerts that had to come.
    pub expected: Vec<Expected>,
    /// From the end of the fault until Prometheus no longer calls the alert firing, seconds; where that can be waited for.
    pub resolved: Option<f64>,
    /// Other alerts that were delivered meanwhile, seconds after the fault.
    pub others: Vec<(String, f64)>,
    /// Where an alert did not come: what Prometheus and the observer say instead.
    pub instead: Vec<String>,
}

/// The rules and configurations as shipped, but for what the lab's network needs.
#[must_use]
pub fn changes(speed: u32) -> Changes {
    let threshold = |share: u64| format!("< {}", TARGET * share / 100);
    Changes {
        speed,
        replaced: vec![
            ("< 2.0e9".to_owned(), threshold(83)),
            ("< 2.2e9".to_owned(), threshold(92)),
        ],
        spare_alertmanager: false,
    }
}

/// Starts an observer for the lab's network, with more configuration behind.
pub(super) fn observe(
    agent: &Path,
    directory: &TempDir,
    more: &str,
    history: Option<&Path>,
) -> Result<Observer> {
    let config = directory.join("observer.toml");
    fs::write(&config, more)?;
    let arguments = ["--config", config.to_str().context("path")?];
    match history {
        Some(path) => Observer::start_with_history(agent, path, &arguments),
        None => Observer::start(agent, &arguments),
    }
}

/// Starts everything anew, injects the fault, waits for its alerts and takes it back. With a `turn` it waits until that has come, and
/// ends it as soon as the next scenario may begin.
///
/// # Errors
/// When something cannot be started or injected. That an alert did not come is in the outcome.
pub fn run(scenario: Scenario, lab: &Lab, speed: u32, turn: Option<usize>) -> Result<Outcome> {
    let mut turn = turn.map(|number| lab.turns.wait(number));
    let mut scene = Scene::set(scenario, lab, speed)?;
    let early = scene.stack.webhook.delivered();
    ensure!(early.is_empty(), "alerts before the fault: {early:?}");
    let fault = scene.inject()?;
    // What goes on under its fault keeps the turn; what is over only waits for its alerts.
    if fault.is_over {
        drop(turn.take());
    }
    let mut outcome = Outcome::default();
    scene.wait(fault.onset, &mut outcome)?;
    if let Some((mut rig, kind, injection)) = fault.migration
        && scenario.resolves()
    {
        let over = Instant::now();
        rig.undo(kind, injection)?;
        while over.elapsed() < lab.patience && outcome.resolved.is_none() {
            std::thread::sleep(Duration::from_millis(100));
            let firing = scene.stack.firing()?;
            if !firing.iter().any(|name| scenario.alerts().contains(&name.as_str())) {
                outcome.resolved = Some(over.elapsed().as_secs_f64());
            }
        }
    }
    Ok(outcome)
}

/// A fault in force.
struct InForce {
    onset: Instant,
    /// No migration goes on.
    is_over: bool,
    /// A migration that goes on under the fault, and can be relieved of it.
    migration: Option<Faulty>,
}

/// A migration, its fault, and what keeps that in force.
type Faulty = (Rig, Fault, Option<Box<dyn Injection>>);

impl InForce {
    fn since(onset: Instant) -> Self {
        Self { onset, is_over: true, migration: None }
    }

    fn now() -> Self {
        Self::since(Instant::now())
    }
}

/// The servers, and what the fault needs.
struct Scene<'a> {
    scenario: Scenario,
    lab: &'a Lab,
    // Order of drop: who scrapes ends before who is scraped.
    stack: Stack,
    observer: Option<Observer>,
    endpoint: Option<Endpoint>,
    component: Option<ChildGuard>,
    disk: Option<Disk>,
    /// A port of migrations that run v1.
    v1_port: u16,
    /// What keeps the fault in force.
    kept: Vec<Box<dyn Any>>,
    _directory: TempDir,
}

impl<'a> Scene<'a> {
    fn set(scenario: Scenario, lab: &'a Lab, speed: u32) -> Result<Self> {
        let directory = TempDir::new()?;
        let mut config = format!("[sla]\nthroughput_bytes_per_second = {TARGET}.0\n");
        let (mut endpoint, mut component, mut disk, mut v1_port) = (None, None, None, 0);
        match scenario {
            // The contract's target, which no network of one machine reaches.
            Scenario::TwoLevelsViolated => config.clear(),
            // The queue of the bucket that paces the network stands for no distance.
            Scenario::NearBlackout => config.push_str("[mode]\ninternet_min_rtt_seconds = 0.5\n"),
            Scenario::RolloutStands => {
                v1_port = free_migration_port(false)?;
                config.push_str(&format!("[v1]\nports = [\"{v1_port}\"]\n"));
                config.push_str("[rollout]\nstage = \"canary\"\nregion = \"lab\"\n");
            }
            Scenario::TooManyFlows => config.push_str("[limits]\nmax_flows = 16\n"),
            Scenario::ComponentKilled => {
                config.push_str("[components.ass]\nprocess = [\"lab-ass\"]\n");
                component = Some(named_process(&directory, "lab-ass")?);
            }
            Scenario::ComponentsDoBadly => {
                let server = Endpoint::start()?;
                for name in ["acp", "hde", "pba"] {
                    let url = format!("http://{}/{name}", server.address());
                    config.push_str(&format!(
                        "[components.{name}]\nmode = \"scrape\"\nendpoint = \"{url}\"\n"
                    ));
                }
                server.say(WELL);
                endpoint = Some(server);
            }
            Scenario::DiskFull => disk = Some(Disk::mount(directory.join("disk"), 16)?),
            _ => {}
        }
        let history = disk.as_ref().map(|disk| disk.path().join("history.sqlite"));
        let observer = observe(&lab.agent, &directory, &config, history.as_deref())?;
        let changes = Changes {
            spare_alertmanager: scenario == Scenario::AlertmanagerKilled,
            ..changes(speed)
        };
        let stack = Stack::start(&lab.programs, observer.address(), &changes)?;
        let observer = Some(observer);
        let kept = Vec::new();
        Ok(Self {
            scenario,
            lab,
            stack,
            observer,
            endpoint,
            component,
            disk,
            v1_port,
            kept,
            _directory: directory,
        })
    }

    fn inject(&mut self) -> Result<InForce> {
        match self.scenario {
            Scenario::ReceiverStopped => rigged(Fault::ReceiverStopped, 768, None, 4),
            Scenario::DirtyStorm => rigged(Fault::DirtyStorm, 224, None, 4),
            Scenario::NotResumed => rigged(Fault::NotResumed, 256, None, 2),
            Scenario::HeldBeforeSwitchOver => rigged(Fault::HeldBeforeSwitchOver, 256, None, 2),
            Scenario::ResumedTwice => rigged(Fault::ResumedTwice, 256, None, 2),
            Scenario::PostcopyPaused => rigged(Fault::PostcopyPaused, 768, None, 4),
            Scenario::RandomDrop => rigged(Fault::RandomDrop, 1536, Some(LONG_RATE), 4),
            // Longer before: what is usual must be known.
            Scenario::BandwidthCut => rigged(Fault::BandwidthCut, 1536, None, 13),
            Scenario::UnusualSecond => {
                // Unusual throughput, then unusual retransmission, each after what is usual is known.
                for fault in [Fault::BandwidthCut, Fault::RandomDrop] {
                    let fault = rigged(fault, 1536, None, 13)?;
                    std::thread::sleep(Duration::from_secs(12));
                    drop(fault.migration);
                }
                // Errors are the third kind, and one is no burst.
                ended(Fault::DestinationKilled)?;
                // What others do would be unusual too.
                Ok(InForce { is_over: false, ..ended(Fault::DestinationKilled)? })
            }
            Scenario::SlowNetwork => {
                let mut fault = rigged(Fault::DirtyStorm, 224, None, 2)?;
                if let Some((rig, ..)) = &mut fault.migration {
                    rig.shape(TARGET * 89 / 100)?;
                }
                Ok(InForce { onset: Instant::now(), ..fault })
            }
            Scenario::SlowPath => {
                let (onset, kept) = migrations::slow_path()?;
                // In force until the scene is over, and so is the turn.
                self.kept.push(Box::new(kept));
                Ok(InForce { is_over: false, ..InForce::since(onset) })
            }
            Scenario::SourceKilled => ended(Fault::SourceKilled),
            Scenario::DestinationsKilled => {
                ended(Fault::DestinationKilled)?;
                ended(Fault::DestinationKilled)
            }
            Scenario::LongBlackout | Scenario::TwoLevelsViolated => {
                migrations::long_blackout().map(InForce::since)
            }
            Scenario::NearBlackout => migrations::near_blackout().map(InForce::since),
            Scenario::UnusualBlackout => {
                for _ in 0..14 {
                    migrations::clean(None)?;
                }
                migrations::long_blackout().map(InForce::since)
            }
            Scenario::RolloutStands => {
                migrations::clean(None)?;
                migrations::clean(Some(self.v1_port))?;
                // The next migration would be progress.
                Ok(InForce { is_over: false, ..InForce::now() })
            }
            Scenario::ManyStreams => self.connections(460, "2000000"),
            Scenario::TooManyFlows => self.connections(40, "100000"),
            _ => self.inject_aside(),
        }
    }

    fn inject_aside(&mut self) -> Result<InForce> {
        let onset = Instant::now();
        match self.scenario {
            Scenario::ComponentKilled => {
                // The observer must have seen it.
                std::thread::sleep(Duration::from_secs(6));
                let fault = InForce::now();
                self.component = None;
                // Service levels that others violate would inhibit its alerts.
                return Ok(InForce { is_over: false, ..fault });
            }
            Scenario::ComponentsDoBadly => {
                std::thread::sleep(Duration::from_secs(6));
                let fault = InForce::now();
                self.endpoint.as_ref().context("endpoint")?.say(BADLY);
                return Ok(fault);
            }
            Scenario::ObserverKilled => self.observer.take().context("observer")?.kill(),
            Scenario::ObserverHalted => {
                let pid = self.observer.as_ref().context("observer")?.pid();
                self.kept.push(Box::new(HaltedThread::new(pid)?));
            }
            Scenario::DiskFull => self.disk.as_ref().context("disk")?.fill()?,
            Scenario::AlertmanagerKilled => self.stack.kill_alertmanager(),
            Scenario::PrometheusHalted => self.stack.halt_prometheus(Duration::from_secs(15))?,
            Scenario::TooManySamples => self.stack.add_greedy_target()?,
            Scenario::BusyCpus => self.kept.push(Box::new(busy_cpus()?)),
            Scenario::MemoryFills => self.kept.push(Box::new(FullMemory::new(8)?)),
            other => anyhow::bail!("{other:?} has no fault"),
        }
        // Busy CPUs and full memory are nothing that others should have beside them.
        Ok(InForce { is_over: self.scenario.is_aside(), ..InForce::since(onset) })
    }

    fn connections(&mut self, count: usize, rate: &str) -> Result<InForce> {
        let onset = Instant::now();
        let (count, port) = (count.to_string(), free_migration_port(false)?.to_string());
        let helper = FlowHelper::start(
            &self.lab.flows,
            "dwcpd",
            &[
                "--comm",
                "dwcpd",
                "steady",
                "--connections",
                &count,
                "--first-bytes",
                "100000",
                "--rate",
                rate,
                "--port",
                &port,
            ],
        )?;
        self.kept.push(Box::new(helper));
        Ok(InForce { is_over: false, ..InForce::since(onset) })
    }

    fn wait(&mut self, onset: Instant, outcome: &mut Outcome) -> Result<()> {
        let names = self.scenario.alerts();
        let after = |delivered: &Delivered| delivered.at.duration_since(onset).as_secs_f64();
        loop {
            std::thread::sleep(Duration::from_millis(50));
            let all = self.stack.webhook.delivered();
            let firing: Vec<&Delivered> = all.iter().filter(|it| it.firing).collect();
            outcome.expected = names
                .iter()
                .map(|name| {
                    let first = firing.iter().find(|it| it.name == *name);
                    Expected {
                        name,
                        seconds: first.map(|it| after(it)),
                        path: first.map_or_else(String::new, |it| it.path.clone()),
                    }
                })
                .collect();
            let others = firing.iter().filter(|it| !names.contains(&it.name.as_str()));
            outcome.others = others.map(|it| (it.name.clone(), after(it))).collect();
            if outcome.expected.iter().all(|it| it.seconds.is_some()) {
                return Ok(());
            }
            if onset.elapsed() > self.lab.patience {
                outcome.instead = self.instead();
                return Ok(());
            }
        }
    }

    /// What Prometheus and the observer say, for a reader who looks for an alert that did not come.
    fn instead(&self) -> Vec<String> {
        let mut lines = self.stack.alerts().unwrap_or_else(|error| vec![format!("{error:#}")]);
        let Some(observer) = &self.observer else { return lines };
        match observer.records() {
            Ok(records) => lines.extend(records.iter().map(|record| {
                let blackout = record.blackout.as_ref().and_then(|it| it.seconds);
                format!(
                    "{} {:?} {:?} blackout {blackout:?} s",
                    record.id, record.mode, record.outcome
                )
            })),
            Err(error) => lines.push(format!("{error:#}")),
        }
        match observer.json("/api/v1/anomalies") {
            Ok(told) => {
                lines.extend(told["events"].as_array().into_iter().flatten().map(|event| {
                    format!("{} {} {}", event["began_at"], event["kind"], event["why"])
                }));
            }
            Err(error) => lines.push(format!("{error:#}")),
        }
        lines
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        // Before the directory that they use.
        self.kept.clear();
        self.observer = None;
    }
}

/// A migration on the rig, under a fault some seconds after its start.
fn rigged(
    fault: Fault,
    memory_mib: u32,
    rate: Option<u64>,
    baseline_seconds: u64,
) -> Result<InForce> {
    let downtime_limit_ms = if fault == Fault::DirtyStorm { 50 } else { 300 };
    let variant = Variant { channels: None, congestion: None };
    let mut rig = Rig::start_sized(fault, variant, memory_mib, downtime_limit_ms)?;
    rig.migrate()?;
    if let Some(rate) = rate {
        rig.pair.set_max_bandwidth(rate)?;
    }
    std::thread::sleep(Duration::from_secs(baseline_seconds));
    let onset = Instant::now();
    let injection = rig.inject(fault)?;
    Ok(InForce { onset, is_over: false, migration: Some((rig, fault, injection)) })
}

/// A migration that a fault ends.
fn ended(fault: Fault) -> Result<InForce> {
    let in_force = rigged(fault, 768, None, 4)?;
    // The other end must notice, and the observer.
    std::thread::sleep(Duration::from_secs(3));
    Ok(InForce::since(in_force.onset))
}

/// A process of this name that does nothing.
fn named_process(directory: &TempDir, name: &str) -> Result<ChildGuard> {
    let program = directory.join(name);
    fs::copy("/bin/sleep", &program).context("copy of sleep")?;
    ChildGuard::spawn(Command::new(program).arg("3600"))
}

/// What the components report: name of the component, its metrics.
type Reports = [(&'static str, &'static str); 3];

const WELL: Reports = [
    ("acp", "dwcp_v3_acp_consensus_latency_ms 20\ndwcp_v3_acp_consensus_failures_total 0\n"),
    ("hde", "dwcp_v3_hde_compression_ratio 0.8\n"),
    ("pba", "dwcp_v3_pba_prediction_accuracy 0.95\n"),
];

/// `%` is the number of the answer: a counter that goes on.
const BADLY: Reports = [
    ("acp", "dwcp_v3_acp_consensus_latency_ms 250\ndwcp_v3_acp_consensus_failures_total %\n"),
    ("hde", "dwcp_v3_hde_compression_ratio 0.4\n"),
    ("pba", "dwcp_v3_pba_prediction_accuracy 0.6\n"),
];
