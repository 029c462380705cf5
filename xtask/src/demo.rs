//! `demo`: a real migration on this host, measured by the observer, beside QEMU's own figures.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use dwcp_observer_lab::guest::Guest;
use dwcp_observer_lab::migration::{MigrationPlan, Pair, QemuFigures};
use dwcp_observer_lab::observer::Observer;
use dwcp_observer_lab::qemu::QemuSpec;
use dwcp_observer_lab::socket_totals::{SocketTotals, SocketWatch};
use dwcp_observer_lab::temp::free_migration_port;
use dwcp_observer_model::record::{self, Migration, State};
use serde_json::json;

use crate::shell::{is_root, run_as_root};
use crate::{build, checks, demo_table, setup};

const MIB: u64 = 1 << 20;

/// Arguments of `demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print only {"observer":{...},"qemu":{...}} on stdout
    #[arg(long)]
    json: bool,
    /// Multifd channels beside the main one; 0 for plain precopy
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(0..=255))]
    channels: u8,
    /// Start QEMU without names for its threads
    #[arg(long)]
    no_debug_threads: bool,
    /// RAM of the guest in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512,
        value_parser = clap::value_parser!(u32).range(64..=2048))]
    memory: u32,
    /// Migrate over IPv6
    #[arg(long)]
    ipv6: bool,
    /// Limit of the transfer in MiB per second
    #[arg(long, value_name = "MIB", default_value_t = 100,
        value_parser = clap::value_parser!(u64).range(1..))]
    bandwidth: u64,
    /// Migrate this often; each run must agree with QEMU
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Start and stop a second observer all the while
    #[arg(long)]
    beside_another: bool,
    /// Use the agent that is there (set when this program calls itself as root)
    #[arg(long, hide = true)]
    no_build: bool,
}

/// What the demo found.
struct Outcome {
    record: Migration,
    same_vm: usize,
    qemu: QemuFigures,
    sockets: Vec<SocketTotals>,
}

/// Sets up, builds, migrates, prints. Exit 0 only if observer and QEMU agree.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !args.no_build {
        setup::ensure(setup::Use::Demo)?;
        build::run_lab()?;
    }
    if !is_root() {
        return run_as_root();
    }
    let another = args.beside_another.then(Another::start);
    let mut agreed = 0;
    for run in 1..=args.runs {
        let good = run_once(args)?;
        agreed += u32::from(good);
        if args.runs > 1 {
            eprintln!("demo: run {run}: {}", if good { "agrees" } else { "does not agree" });
        }
    }
    if let Some(another) = another {
        eprintln!("demo: a second observer started and stopped {} times", another.stop()?);
    }
    if args.runs > 1 {
        eprintln!("demo: {agreed} of {} runs agree", args.runs);
    }
    Ok(if agreed == args.runs { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One migration, measured, compared and printed. Whether observer and QEMU agree.
fn run_once(args: &Args) -> Result<bool> {
    let outcome = migrate(args)?;
    let checks = checks::compare(&outcome.record, outcome.same_vm, &outcome.qemu, &outcome.sockets);
    let mut stdout = std::io::stdout().lock();
    if args.json {
        let both = json!({ "observer": outcome.record, "qemu": outcome.qemu });
        writeln!(stdout, "{both}")?;
        for check in checks.iter().filter(|check| !check.passed) {
            eprintln!("FAILED {}: {}", check.name, check.detail);
        }
    } else {
        let text = demo_table::render(&outcome.record, &outcome.qemu, &checks);
        stdout.write_all(text.as_bytes())?;
    }
    Ok(checks.iter().all(|check| check.passed))
}

/// A second observer on this host that comes and goes.
struct Another {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u32>>,
}

impl Another {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let come_and_go = move || {
            let mut times = 0;
            while !told.load(Ordering::Relaxed) {
                let observer = Observer::start(&build::lab_agent(), &[])?;
                std::thread::sleep(Duration::from_millis(1500));
                let stopped = observer.stop()?;
                ensure!(stopped.status.success(), "the second observer:\n{}", stopped.output);
                times += 1;
                std::thread::sleep(Duration::from_millis(500));
            }
            Ok(times)
        };
        Self { stop, thread: std::thread::spawn(come_and_go) }
    }

    /// How often it started and stopped.
    fn stop(self) -> Result<u32> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the second observer's thread panicked"))?
    }
}

fn migrate(args: &Args) -> Result<Outcome> {
    let spec = QemuSpec {
        debug_threads: !args.no_debug_threads,
        guest: Guest { memory_mib: args.memory, working_set_mib: 16, ..Guest::default() },
        ..QemuSpec::default()
    };
    let plan = MigrationPlan {
        multifd_channels: (args.channels > 0).then_some(args.channels),
        max_bandwidth: Some(args.bandwidth * MIB),
        ipv6: args.ipv6,
        port: free_migration_port(args.ipv6)?,
        ..MigrationPlan::default()
    };
    let observer = Observer::start(&build::lab_agent(), &[])?;
    eprintln!("demo: the observer listens on {}", observer.address());
    let mut watch = SocketWatch::start()?;
    let mut pair = Pair::start(&spec)?;
    eprintln!("demo: migrating {} MiB to {} at {} MiB/s", args.memory, plan.uri(), args.bandwidth);
    pair.migrate(&plan)?;
    let transfer = Duration::from_secs(u64::from(args.memory) / args.bandwidth);
    let qemu = pair.wait_end(4 * transfer + Duration::from_secs(60))?;
    if qemu.status != "completed" {
        bail!("the migration ended as `{}`: {:?}", qemu.status, qemu.error);
    }
    // By process: another migration on this host may carry the same name.
    let pids = [pair.source.pid(), pair.destination.pid()];
    let of_this_pair = |record: &Migration| pids.iter().any(|pid| record.has_process(*pid));
    let id = observer
        .wait_migration(Duration::from_secs(20), |record| {
            of_this_pair(record) && record.state == State::Finished
        })
        .context("the observer has no finished record of this migration")?
        .id;
    // It takes a second to see where the guest runs. A guest that does not run leaves the outcome unknown.
    let settled = |record: &Migration| {
        of_this_pair(record) && record.outcome != Some(record::Outcome::Unknown)
    };
    if observer.wait_migration(Duration::from_secs(4), settled).is_err() {
        eprintln!("demo: the outcome stays unknown");
    }
    let same_vm = observer.migrations()?.iter().filter(|record| of_this_pair(record)).count();
    // With its history, which the list leaves out.
    let record = observer.record(&id)?;
    drop(pair);
    let server = plan.address();
    let sockets =
        watch.wait(usize::from(args.channels) + 1, Duration::from_secs(20), |socket| {
            socket.peer == server
        })?;
    let stopped = observer.stop()?;
    if !stopped.status.success() {
        bail!("the observer ended with {}:\n{}", stopped.status, stopped.output);
    }
    Ok(Outcome { record, same_vm, qemu, sockets })
}
