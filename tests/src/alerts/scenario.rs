//! One fault of a real migration, and the alert that must come of it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::stack::{Changes, Programs, Stack};
use super::webhook::Delivered;
use crate::faults::{BASELINE_RATE, Fault, Rig, Variant};
use crate::guest::Guest;
use crate::migration::{MigrationPlan, Pair};
use crate::observer::Observer;
use crate::qemu::QemuSpec;
use crate::temp::{TempDir, free_migration_port};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// The destination gets SIGSTOP.
    ReceiverStopped,
    /// The guest writes to its memory as fast as the network sends.
    DirtyStorm,
    /// The network loses 5 % of the packets.
    RandomDrop,
    /// The network's rate falls to 4 % of what it was.
    BandwidthCut,
    /// The source gets SIGKILL.
    SourceKilled,
    /// The destination gets SIGKILL.
    DestinationKilled,
    /// Most of the guest's memory is sent while it stands still.
    LongBlackout,
    /// The observer gets SIGKILL.
    ObserverKilled,
}

impl Scenario {
    /// The alert that must arrive.
    #[must_use]
    pub fn alert(self) -> &'static str {
        match self {
            Self::ReceiverStopped => "DWCPv3MigrationStalled",
            Self::DirtyStorm => "DWCPv3MigrationNotConverging",
            Self::RandomDrop => "DWCPv3RetransmitStorm",
            Self::BandwidthCut => "DWCPv3ThroughputCriticalLow",
            Self::SourceKilled | Self::DestinationKilled => "DWCPv3SLAErrorRateViolation",
            Self::LongBlackout => "DWCPv3BlackoutOverLimit",
            Self::ObserverKilled => "DWCPObserverDown",
        }
    }

    fn fault(self) -> Option<Fault> {
        match self {
            Self::ReceiverStopped => Some(Fault::ReceiverStopped),
            Self::DirtyStorm => Some(Fault::DirtyStorm),
            Self::RandomDrop => Some(Fault::RandomDrop),
            Self::BandwidthCut => Some(Fault::BandwidthCut),
            Self::SourceKilled => Some(Fault::SourceKilled),
            Self::DestinationKilled => Some(Fault::DestinationKilled),
            Self::LongBlackout | Self::ObserverKilled => None,
        }
    }

    /// Whether the alert ends with the fault, and not an hour later.
    fn resolves(self) -> bool {
        matches!(self, Self::ReceiverStopped | Self::DirtyStorm)
    }
}

/// The target of the lab's network, and the thresholds of the two throughput alerts at the same share of it as in the contract:
/// 83 % and 92 %.
const TARGET: u64 = BASELINE_RATE * 2 / 3;

/// A rate at which the memory of the rig's guest takes longer than any alert, bytes per second.
const LONG_RATE: u64 = 6_000_000;

/// What the rules must be changed in for the lab: its network carries 60 MB/s.
#[must_use]
pub fn changes(speed: u32) -> Changes {
    let threshold = |share: u64| format!("< {}", TARGET * share / 100);
    Changes {
        speed,
        replaced: vec![
            ("< 2.0e9".to_owned(), threshold(83)),
            ("< 2.2e9".to_owned(), threshold(92)),
        ],
    }
}

/// What came of one scenario.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Which.
    pub scenario: Scenario,
    /// From the fault to the delivery of its alert, seconds, and where it was delivered.
    pub arrived: Option<(f64, String)>,
    /// Where its annotation leads.
    pub runbook_url: String,
    /// From the end of the fault until Prometheus no longer calls it firing, seconds; where that can be waited for.
    pub resolved: Option<f64>,
    /// Other alerts that were delivered meanwhile, seconds after the fault.
    pub others: Vec<(String, f64)>,
}

impl Outcome {
    /// Whether the right alert came, and went where it must.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.arrived.is_some() && (self.resolved.is_some() || !self.scenario.resolves())
    }
}

fn observe(agent: &Path, directory: &TempDir) -> Result<Observer> {
    let config = directory.join("observer.toml");
    fs::write(&config, format!("[sla]\nthroughput_bytes_per_second = {TARGET}.0\n"))?;
    Observer::start(agent, &["--config", config.to_str().context("path")?])
}

/// Starts everything anew, injects the fault, waits for the alert for at most `patience` and takes the fault back.
///
/// # Errors
/// When something cannot be started or injected. That no alert came is in the outcome.
pub fn run(
    scenario: Scenario,
    agent: &Path,
    programs: &Programs,
    speed: u32,
    patience: Duration,
) -> Result<Outcome> {
    let directory = TempDir::new()?;
    let observer = observe(agent, &directory)?;
    let stack = Stack::start(programs, observer.address(), &changes(speed))?;
    let early = stack.webhook.delivered();
    ensure!(early.is_empty(), "alerts before the fault: {early:?}");
    let mut outcome = Outcome {
        scenario,
        arrived: None,
        runbook_url: String::new(),
        resolved: None,
        others: Vec::new(),
    };
    let Some(fault) = scenario.fault() else {
        let (onset, _kept) = match scenario {
            Scenario::LongBlackout => (long_blackout()?, Some(observer)),
            _ => {
                let onset = Instant::now();
                observer.kill();
                (onset, None)
            }
        };
        wait(&stack, onset, patience, &mut outcome);
        return Ok(outcome);
    };
    let mut rig = Rig::start(fault, Variant { channels: None, congestion: None })?;
    rig.migrate()?;
    if scenario == Scenario::RandomDrop {
        // Longer than the alert takes.
        rig.pair.set_max_bandwidth(LONG_RATE)?;
    }
    std::thread::sleep(Duration::from_secs(4));
    let onset = Instant::now();
    let injection = rig.inject(fault)?;
    wait(&stack, onset, patience, &mut outcome);
    if scenario.resolves() {
        let over = Instant::now();
        rig.undo(fault, injection)?;
        while over.elapsed() < patience {
            if !stack.firing()?.iter().any(|name| name == scenario.alert()) {
                outcome.resolved = Some(over.elapsed().as_secs_f64());
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(outcome)
}

fn wait(stack: &Stack, onset: Instant, patience: Duration, outcome: &mut Outcome) {
    let after = |delivered: &Delivered| delivered.at.duration_since(onset).as_secs_f64();
    while onset.elapsed() < patience && outcome.arrived.is_none() {
        std::thread::sleep(Duration::from_millis(50));
        let all = stack.webhook.delivered();
        let firing = || all.iter().filter(|delivered| delivered.firing);
        if let Some(right) = firing().find(|it| it.name == outcome.scenario.alert()) {
            outcome.arrived = Some((after(right), right.path.clone()));
            outcome.runbook_url.clone_from(&right.runbook_url);
        }
        outcome.others = firing()
            .filter(|it| it.name != outcome.scenario.alert())
            .map(|it| (it.name.clone(), after(it)))
            .collect();
    }
}

/// A guest that writes to most of its memory, and a QEMU that may stop it for long. Returns when the migration was over.
fn long_blackout() -> Result<Instant> {
    let guest = Guest { memory_mib: 1536, working_set_mib: 1280, ..Guest::default() };
    let mut pair = Pair::start(&QemuSpec { guest, ..QemuSpec::default() })?;
    pair.set_storm(true)?;
    let port = free_migration_port(false)?;
    let plan = MigrationPlan { downtime_limit_ms: 60_000, port, ..MigrationPlan::default() };
    pair.migrate(&plan)?;
    let figures = pair.wait_end(Duration::from_secs(120))?;
    ensure!(figures.status == "completed", "{figures:?}");
    Ok(Instant::now())
}

/// What came of a time without faults.
#[derive(Clone, Debug, Default)]
pub struct Clean {
    /// Migrations that were made.
    pub migrations: usize,
    /// From the first one's start to the end.
    pub time: Duration,
    /// Alerts that were delivered: none is wanted.
    pub delivered: Vec<String>,
    /// Alerts that fired in Prometheus at the end.
    pub firing: Vec<String>,
}

/// Migrates again and again for `time`, and listens for alerts.
///
/// # Errors
/// When something cannot be started, or a migration fails.
pub fn clean(agent: &Path, programs: &Programs, speed: u32, time: Duration) -> Result<Clean> {
    let directory = TempDir::new()?;
    let observer = observe(agent, &directory)?;
    let stack = Stack::start(programs, observer.address(), &changes(speed))?;
    let mut clean = Clean::default();
    let start = Instant::now();
    while start.elapsed() < time {
        let plan = MigrationPlan {
            port: free_migration_port(false)?,
            multifd_channels: (clean.migrations % 2 == 1).then_some(4),
            ..MigrationPlan::default()
        };
        let figures = crate::migration::run(&QemuSpec::default(), &plan)?;
        ensure!(figures.status == "completed", "{figures:?}");
        clean.migrations += 1;
    }
    // What is pending now, or waits in Alertmanager, has its time.
    std::thread::sleep(Duration::from_secs(60) / speed.max(1));
    clean.time = start.elapsed();
    clean.firing = stack.firing()?;
    clean.delivered =
        stack.webhook.delivered().into_iter().map(|delivered| delivered.name).collect();
    Ok(clean)
}
