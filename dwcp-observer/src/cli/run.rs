//! `dwcp-observer run`.

use std::{
    net::{SocketAddr, TcpListener},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use jiff::Timestamp;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    Settings,
    heap::{bound_memory, trim_memory},
    load_options, rdma_options,
};
use crate::{
    anomaly::{feed::Feed, replay::Recorder},
    component::{self, Collector, rollout::Control},
    config::{Component, ComponentMode, Config, LogLevel},
    cycle::{Cycle, pollable, published::Board},
    history::{History, Store},
    http::{self, HttpLimits, Site},
    identify::rules::RuleSet,
    journal::Journal,
    keeper::Kernel,
    metrics::{Exporter, SeriesLimits, is_own},
    migration::{observation::Options, registry::Registry, v1::V1Rule},
    rdma::Rdma,
    report::hourly::Hourly,
};

/// By then the first cycles have ended and the heap that they and loading used is free.
const START: Duration = Duration::from_secs(5);

const AFTER: &str = "\
Examples:
  sudo dwcp-observer run
  sudo dwcp-observer run --listen 127.0.0.1:9200 --log-level debug
  sudo dwcp-observer run --config /etc/dwcp-observer.toml

Exit codes: 0 stopped by SIGTERM or SIGINT; 1 this host cannot measure migrations (the message gives the reason); 2 wrong arguments or configuration.";

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER)]
pub(super) struct RunArgs {
    #[command(flatten)]
    settings: Settings,
}

pub(super) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let config = args.settings.resolve()?;
    super::log::start(&config);
    bound_memory();
    raise_descriptors();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(observe(&config))?;
    Ok(ExitCode::SUCCESS)
}

/// Each probed process takes a descriptor, each executable two: the soft limit of 1,024 is for programs that use `select(2)`.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        ::log::debug!("cannot raise the limit of open files: {error}");
    }
}

async fn observe(config: &Config) -> anyhow::Result<()> {
    // Bind first: if the port is taken, loading the programs would cost a second for nothing.
    let listener = http::bind(config.listen)?;
    let address = listener.local_addr()?;
    let mut sockets = vec![(listener, Site::Main)];
    sockets.extend(component_sockets(config));
    let rules = RuleSet::new(config);
    let mut kernel = Kernel::load(&load_options(config), rules.comm_rules(), &rules.port_bitmap())?;
    let logger = kernel_log(&mut kernel, config);
    trim_memory();
    for probe in kernel.probes().iter().filter(|probe| probe.rung.is_none()) {
        log::warn!(
            "probe {} is not attached ({}); without it the observer lacks: {}",
            probe.probe,
            probe.reason.as_deref().unwrap_or("unknown reason"),
            probe.purpose
        );
    }
    let attached = kernel.probes().iter().filter(|probe| probe.rung.is_some()).count();
    log::info!(
        "{attached} of {} probes attach; listening on http://{}",
        kernel.probes().len(),
        address
    );
    let options = Options {
        crowd: (config.limits.max_flows / 8) as usize,
        strangers: (config.limits.max_flows / 16) as usize,
        max_finished: config.limits.max_finished as usize,
        history: config.limits.history_seconds as usize,
        mode: config.mode,
        v1: V1Rule::new(&config.v1),
    };
    let board = Board::default();
    let anomalies = Feed::new(recorder(config)?);
    let control = Control::new(&config.rollout);
    let components = component::Shared::default();
    let journal = journal(config, &board)?;
    let series = SeriesLimits {
        migrations: config.limits.live_series_migrations as usize,
        streams: config.limits.live_series_streams as usize,
    };
    let limits = HttpLimits { max_connections: config.limits.max_connections as usize };
    let exporter = Exporter::new(config.node_name(), series);
    let server = http::serve_sites(sockets, board.clone(), exporter, limits, control.clone())?;
    let collector = Collector::start(config, control, components.clone(), is_own)
        .context("cannot start the components thread")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let rdma = Rdma::new(rdma_options(config));
    log::info!("RDMA: {}", rdma.status());
    let mut cycle = Cycle::new(
        kernel,
        Registry::new(rules.clone(), options),
        rules,
        board,
        config.probes.program_stats,
        rdma,
        journal,
    )
    .with_components(components)
    .with_anomalies(anomalies);
    tokio::spawn(async {
        tokio::time::sleep(START).await;
        trim_memory();
    });
    cycle.run(stop).await?;
    drop(logger);
    drop(cycle);
    drop(collector);
    server.stop();
    log::info!("stopped");
    Ok(())
}

/// Records the input of the anomaly detectors.
fn recorder(config: &Config) -> anyhow::Result<Option<Recorder>> {
    let Some(path) = &config.anomaly.record else { return Ok(None) };
    let recorder = Recorder::open(path)
        .with_context(|| format!("cannot write `anomaly.record` = {}", path.display()))?;
    Ok(Some(recorder))
}

/// Binds the ports of the components. A port that another process uses is skipped.
fn component_sockets(config: &Config) -> Vec<(TcpListener, Site)> {
    let mut sockets = Vec::new();
    for component in Component::ALL {
        let settings = config.components.get(component);
        if settings.mode != ComponentMode::Serve {
            continue;
        }
        let port = settings.port.unwrap_or(component.default_port());
        let address = SocketAddr::new(config.listen.ip(), port);
        match http::bind(address) {
            Ok(listener) => sockets.push((listener, Site::Component(component))),
            Err(error) => log::info!(
                "cannot serve component {name} on port {port}: {why}; its metrics are at http://{main}/metrics/{name}",
                name = component.as_str(),
                why = error.short(),
                main = config.listen,
            ),
        }
    }
    sockets
}

/// Restores the service levels of the last run, and starts the thread that writes the history.
fn journal(config: &Config, board: &Board) -> anyhow::Result<Journal> {
    let now = Timestamp::now();
    if !config.history.enabled {
        return Ok(Journal::new(now, config.sla, None));
    }
    let path = config.history.path.clone();
    let store = Store::open(&path);
    let mut hourly = config.report.hourly.then(|| {
        let directory = config.report.directory.clone();
        Hourly::new(directory, config.report.retention_days, config.node_name(), board.clone())
    });
    let after = Box::new(move |store: &Store| {
        if let Some(hourly) = &mut hourly
            && hourly.look(store, Timestamp::now())
        {
            trim_memory();
        }
    });
    let mut journal = Journal::new(now, config.sla, None);
    if let Ok(store) = &store {
        if let Err(error) = journal.restore(store, now) {
            log::error!("cannot restore the service levels, they start from zero: {error}");
        }
        trim_memory();
    }
    let history = History::start(path, config.history.retention(), store, after)
        .context("cannot start the history thread")?;
    Ok(journal.with_history(history))
}

/// Forwards lifecycle messages of the kernel side to the log. Below level debug the loaded programs do not contain them.
fn kernel_log(kernel: &mut Kernel, config: &Config) -> Option<tokio::task::JoinHandle<()>> {
    if config.log_level < LogLevel::Debug {
        return None;
    }
    let logger = aya_log::EbpfLogger::init(kernel.ebpf())
        .inspect_err(|error| {
            log::warn!("cannot read lifecycle messages of the kernel side: {error}");
        })
        .ok()?;
    let mut logger = pollable(logger).ok()?;
    Some(tokio::spawn(async move {
        while let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    }))
}
