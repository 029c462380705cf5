//! Labelled recordings: what the observer's anomaly signals were fed during real migrations, and when which fault was in force.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flate2::{Compression, write::GzEncoder};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::faults::{Fault, Rig, Variant};
use crate::observer::Observer;
use crate::temp::TempDir;

/// Migrations without a fault that come first: detectors have no past.
const WARM_UP: usize = 4;
/// From the start of a migration to its fault.
const BEFORE: Duration = Duration::from_secs(15);
/// Memory that takes some 27 s at the rig's rate.
const MEMORY_MIB: u32 = 1536;

/// What is done to a migration, and which kinds of signals show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scenario {
    fault: Fault,
    seconds: u64,
    kinds: &'static [&'static str],
}

/// A storm near the end, with a QEMU that may stop the guest for long, stretches the blackout instead of the transfer.
const STRETCHED: Scenario = Scenario { fault: Fault::DirtyStorm, seconds: 0, kinds: &["latency"] };

const SCENARIOS: [Scenario; 7] = [
    Scenario { fault: Fault::BandwidthCut, seconds: 8, kinds: &["throughput", "rtt"] },
    Scenario { fault: Fault::RandomDrop, seconds: 8, kinds: &["retransmit", "throughput"] },
    Scenario { fault: Fault::ReceiverStopped, seconds: 8, kinds: &["throughput"] },
    Scenario { fault: Fault::SourceCpuQuota, seconds: 8, kinds: &["throughput", "runqueue"] },
    Scenario { fault: Fault::SourceCpuContended, seconds: 8, kinds: &["runqueue", "throughput"] },
    Scenario { fault: Fault::MaxBandwidth, seconds: 8, kinds: &["throughput"] },
    STRETCHED,
];

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
    pub clean: Vec<(Timestamp, Timestamp)>,
    /// Faults in the order of time.
    pub windows: Vec<Window>,
}

/// Records `set` (0, 1, ...: order and variants differ) into `DIRECTORY/SET.jsonl.gz` and `SET.labels.json`: each fault in one migration,
/// and one without a fault before each. `say` is told what was done.
///
/// # Errors
/// Without root, or when a migration, the observer or the file fails.
pub fn record(
    agent: &Path,
    directory: &Path,
    set: usize,
    mut say: impl FnMut(&str),
) -> Result<Labels> {
    let temp = TempDir::new()?;
    let samples = temp.join("samples.jsonl");
    let config = temp.join("observer.toml");
    fs::write(&config, format!("[anomaly]\nrecord = {samples:?}\n"))?;
    let observer = Observer::start(agent, &["--config", config.to_str().context("path")?])?;
    let mut labels = Labels::default();
    let mut number = set;
    let mut clean = |labels: &mut Labels| -> Result<()> {
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
        clean(&mut labels)?;
    }
    let mut scenarios = SCENARIOS;
    if set % 2 == 1 {
        scenarios.reverse();
    }
    for (index, scenario) in scenarios.into_iter().enumerate() {
        clean(&mut labels)?;
        let window = faulty(scenario, Variant::of_run(set + index))?;
        labels.windows.push(window);
    }
    // The blackout of the last one comes within a second or two.
    std::thread::sleep(Duration::from_secs(5));
    let output = observer.output();
    ensure!(observer.stop()?.status.success(), "the observer did not end well: {output}");
    fs::create_dir_all(directory)?;
    let file = File::create(directory.join(format!("{set}.jsonl.gz")))?;
    let mut compressed = GzEncoder::new(file, Compression::best());
    compressed.write_all(&fs::read(&samples)?)?;
    compressed.finish()?;
    let text = serde_json::to_string_pretty(&labels)?;
    fs::write(directory.join(format!("{set}.labels.json")), text + "\n")?;
    Ok(labels)
}

/// One migration with its fault.
fn faulty(scenario: Scenario, variant: Variant) -> Result<Window> {
    let Scenario { fault, seconds, kinds } = scenario;
    let stretched = scenario == STRETCHED;
    let downtime_limit_ms = if stretched { 5000 } else { 300 };
    let rig_fault = if stretched { Fault::Clean } else { fault };
    let mut rig = Rig::start_sized(rig_fault, variant, MEMORY_MIB, downtime_limit_ms)?;
    rig.migrate()?;
    std::thread::sleep(BEFORE);
    let name = if stretched { "blackout-stretched" } else { fault.name() };
    let window = |begin, end| Window { fault: name, begin, end, kinds: kinds.to_vec() };
    if stretched {
        rig.pair.set_storm(true)?;
        rig.wait_end("completed")?;
        // The blackout is known when the migration is over: a second before, and one to settle, are its time.
        let end = Timestamp::now();
        return Ok(window(end - SignedDuration::from_secs(1), end + SignedDuration::from_secs(2)));
    }
    let begin = Timestamp::now();
    let injection = rig.inject(fault)?;
    std::thread::sleep(Duration::from_secs(seconds));
    if let Some(injection) = &injection {
        ensure!(injection.has_effect()?, "the fault was without effect: {injection:?}");
    }
    rig.lift(fault, injection)?;
    let end = Timestamp::now();
    rig.wait_end("completed")?;
    Ok(window(begin, end))
}
