//! Labelled recordings: what the observer's anomaly signals were fed during real migrations, and when which fault was in force.

mod disturbance;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flate2::{Compression, write::GzEncoder};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use self::disturbance::Disturbances;
use crate::faults::{BASELINE_RATE, Fault, Injection, Loss, Rig, Traffic, Variant};
use crate::observer::Observer;
use crate::temp::TempDir;

/// Migrations without a fault that come first: detectors have no past.
const WARM_UP: usize = 4;
/// How long a fault is in force.
const FAULT: Duration = Duration::from_secs(8);
/// From the start of a migration to its fault.
const BEFORE: Duration = Duration::from_secs(15);
/// Memory that takes some 27 s at the rig's rate.
const MEMORY_MIB: u32 = 1536;

/// What is done to a migration, and which kinds of signals show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scenario {
    name: &'static str,
    what: What,
    kinds: &'static [&'static str],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Fault(Fault),
    /// A storm near the end, with a QEMU that may stop the guest for long, stretches the blackout instead of the transfer.
    Stretched,
    /// The network's rate falls to one so many times lower.
    Rate(u64),
    /// So many percent of the packets are lost.
    Loss(u8),
    /// So many percent of the packets of one of several streams.
    StreamLoss(u8),
    /// So many connections of others share the wire.
    Traffic(usize),
}

const fn of(fault: Fault, name: &'static str, kinds: &'static [&'static str]) -> Scenario {
    Scenario { name, what: What::Fault(fault), kinds }
}

/// Of sets 0 and 1.
const STRONG: [Scenario; 7] = [
    of(Fault::BandwidthCut, "rate / 24", &["throughput", "rtt"]),
    of(Fault::RandomDrop, "loss of 5 %", &["retransmit", "throughput"]),
    of(Fault::ReceiverStopped, "destination stopped", &["throughput"]),
    of(Fault::SourceCpuQuota, "CPU quota of 2 %", &["throughput", "runqueue"]),
    of(Fault::SourceCpuContended, "CPU contended", &["runqueue", "throughput"]),
    of(Fault::MaxBandwidth, "QEMU's limit / 12", &["throughput"]),
    Scenario { name: "blackout stretched", what: What::Stretched, kinds: &["latency"] },
];

/// Of sets 2 and 3.
const MILDER: [Scenario; 6] = [
    Scenario { name: "rate / 3", what: What::Rate(3), kinds: &["throughput", "rtt"] },
    Scenario { name: "loss of 2 %", what: What::Loss(2), kinds: &["retransmit", "throughput"] },
    Scenario {
        name: "loss of 30 % in a stream",
        what: What::StreamLoss(30),
        kinds: &["stream_imbalance", "retransmit"],
    },
    Scenario { name: "traffic of others", what: What::Traffic(4), kinds: &["throughput", "rtt"] },
    of(Fault::DestinationKilled, "destination killed", &["error_burst"]),
    Scenario { name: "blackout stretched", what: What::Stretched, kinds: &["latency"] },
];

/// From when to when.
pub type Span = (Timestamp, Timestamp);

/// A time in which a fault was in force.
#[derive(Clone, Debug, Serialize)]
pub struct Window {
    /// Its name.
    pub fault: &'static str,
    /// When it began.
    pub begin: Timestamp,
    /// When it was over.
    pub end: Timestamp,
    /// Kinds of signals in which it shows.
    pub kinds: Vec<&'static str>,
}

/// What is known of a recording.
#[derive(Debug, Default, Serialize)]
pub struct Labels {
    /// When each migration without a fault began and ended.
    pub clean: Vec<Span>,
    /// Faults in the order of time.
    pub windows: Vec<Window>,
    /// When others than the lab used the machine, or the hypervisor took it away.
    pub disturbed: Vec<Span>,
}

/// Records `set` (0, 1, ...: order and variants differ) into `DIRECTORY/SET.jsonl.gz` and `SET.labels.json`: each fault in one migration,
/// and one without a fault before each. `say` is told what was done.
///
/// # Errors
/// Without root, or when a migration, the observer or the file fails.
pub fn record(agent: &Path, directory: &Path, set: usize, say: impl FnMut(&str)) -> Result<Labels> {
    let temp = TempDir::new()?;
    let samples = temp.join("samples.jsonl");
    let config = temp.join("observer.toml");
    fs::write(&config, format!("[anomaly]\nrecord = {samples:?}\n"))?;
    let observer = Observer::start(agent, &["--config", config.to_str().context("path")?])?;
    let mut labels = Labels::default();
    let disturbances = Disturbances::watch();
    let done = migrate(set, &mut labels, say);
    // The outcome of the last one comes within some seconds.
    std::thread::sleep(Duration::from_secs(5));
    labels.disturbed = disturbances.end()?;
    let output = observer.output();
    ensure!(observer.stop()?.status.success(), "the observer did not end well: {output}");
    fs::create_dir_all(directory)?;
    let file = File::create(directory.join(format!("{set}.jsonl.gz")))?;
    let mut compressed = GzEncoder::new(file, Compression::best());
    compressed.write_all(&fs::read(&samples)?)?;
    compressed.finish()?;
    let text = serde_json::to_string_pretty(&labels)?;
    fs::write(directory.join(format!("{set}.labels.json")), text + "\n")?;
    // What was recorded until something went wrong is kept, to see what it was.
    done.map(|()| labels)
}

/// All migrations of a set.
fn migrate(set: usize, labels: &mut Labels, mut say: impl FnMut(&str)) -> Result<()> {
    let mut number = set;
    let mut clean = |labels: &mut Labels, say: &mut dyn FnMut(&str)| -> Result<()> {
        let begin = Timestamp::now();
        let variant = Variant::of_run(number);
        number += 1;
        let mut rig = Rig::start_sized(Fault::Clean, variant, MEMORY_MIB, 300)?;
        rig.migrate()?;
        rig.wait_end("completed")?;
        labels.clean.push((begin, Timestamp::now()));
        say(&format!("clean, {variant:?}"));
        Ok(())
    };
    for _ in 0..WARM_UP {
        clean(labels, &mut say)?;
    }
    let mut scenarios = if set < 2 { STRONG.to_vec() } else { MILDER.to_vec() };
    if set % 2 == 1 {
        scenarios.reverse();
    }
    for (index, scenario) in scenarios.into_iter().enumerate() {
        clean(labels, &mut say)?;
        let mut variant = Variant::of_run(set + index);
        if matches!(scenario.what, What::StreamLoss(_)) {
            variant.channels = Some(4);
        }
        let window = faulty(scenario, variant).with_context(|| scenario.name)?;
        labels.windows.push(window);
        say(&format!("{}, {variant:?}", scenario.name));
    }
    Ok(())
}

/// One migration with its fault.
fn faulty(scenario: Scenario, variant: Variant) -> Result<Window> {
    let Scenario { name, what, kinds } = scenario;
    let downtime_limit_ms = if what == What::Stretched { 5000 } else { 300 };
    let rig_fault = if let What::Fault(fault) = what { fault } else { Fault::Clean };
    let mut rig = Rig::start_sized(rig_fault, variant, MEMORY_MIB, downtime_limit_ms)?;
    rig.migrate()?;
    std::thread::sleep(BEFORE);
    let window = |begin, end| Window { fault: name, begin, end, kinds: kinds.to_vec() };
    if what == What::Stretched {
        rig.pair.set_storm(true)?;
        rig.wait_end("completed")?;
        // The blackout is known when the migration is over: a second before, and one to settle, are its time.
        let end = Timestamp::now();
        return Ok(window(end - SignedDuration::from_secs(1), end + SignedDuration::from_secs(2)));
    }
    let begin = Timestamp::now();
    let injection: Option<Box<dyn Injection>> = match what {
        What::Fault(fault) => rig.inject(fault)?,
        What::Stretched => None,
        What::Rate(divisor) => {
            rig.shape(BASELINE_RATE / divisor)?;
            None
        }
        What::Loss(percent) => Some(Box::new(Loss::new(rig.wire(), percent)?)),
        What::StreamLoss(percent) => {
            // With several streams the main one carries next to nothing.
            let port = *rig.ports()?.first().context("no stream")?;
            Some(Box::new(Loss::of_stream(rig.wire(), percent, port)?))
        }
        What::Traffic(count) => Some(Box::new(Traffic::new(rig.wire(), count)?)),
    };
    if what == What::Fault(Fault::DestinationKilled) {
        rig.wait_end("failed")?;
        return Ok(window(begin, Timestamp::now()));
    }
    std::thread::sleep(FAULT);
    if let Some(injection) = &injection {
        ensure!(injection.has_effect()?, "the fault was without effect: {injection:?}");
    }
    rig.lift(rig_fault, injection)?;
    if matches!(what, What::Rate(_)) {
        rig.shape(BASELINE_RATE)?;
    }
    let end = Timestamp::now();
    rig.wait_end("completed")?;
    Ok(window(begin, end))
}
