//! The configuration file: optional, and every key has a default.

mod check;
mod components;
mod endpoint;
mod error;
mod key;
pub(crate) mod pattern;
mod ports;
mod targets;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub(crate) use check::is_label;
pub use components::{
    ComponentConfig, ComponentMode, Components, RolloutConfig, RolloutControl, V1Config,
};
pub use endpoint::Endpoint;
pub use error::ConfigError;
pub use ports::PortRange;
pub use targets::Targets;

/// What the observer is told to do. [`Config::default`] is what it does without a file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where HTTP is served; all IPv4 interfaces, port 8080 by default.
    pub listen: SocketAddr,
    /// The least important message that is logged.
    pub log_level: LogLevel,
    /// How a line of the log looks.
    pub log_format: LogFormat,
    /// The `node` label; `None` is the host's name.
    pub node: Option<String>,
    /// Bounds on memory.
    pub limits: Limits,
    /// How the kernel is watched.
    pub probes: Probes,
    /// How RDMA is watched.
    pub rdma: RdmaConfig,
    /// What is taken for a migration.
    pub identify: Identify,
    /// Which path counts as `datacenter`, `internet`, `hybrid`.
    pub mode: ModeThresholds,
    /// What is promised.
    pub sla: Targets,
    /// What outlives the observer.
    pub history: HistoryConfig,
    /// Hourly reports.
    pub report: ReportConfig,
    /// Anomaly signals.
    pub anomaly: AnomalyConfig,
    /// The components of DWCP v3.
    pub components: Components,
    /// Which migrations run DWCP v1.
    pub v1: V1Config,
    /// The rollout that is under way.
    pub rollout: RolloutConfig,
    /// Rules beside the built-in ones, tried before them in the order of the file.
    #[serde(rename = "rule")]
    pub rules: Vec<UserRule>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8080),
            log_level: LogLevel::default(),
            log_format: LogFormat::default(),
            node: None,
            limits: Limits::default(),
            probes: Probes::default(),
            rdma: RdmaConfig::default(),
            identify: Identify::default(),
            mode: ModeThresholds::default(),
            sla: Targets::default(),
            history: HistoryConfig::default(),
            report: ReportConfig::default(),
            anomaly: AnomalyConfig::default(),
            components: Components::default(),
            v1: V1Config::default(),
            rollout: RolloutConfig::default(),
            rules: Vec::new(),
        }
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When the file cannot be read, or holds a wrong key or value: see [`Config::parse`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Checks `text`; `path` is only named in errors.
    ///
    /// # Errors
    /// The first mistake, with file, line, column, key and what is allowed there.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        key::parse(text, path)
    }

    /// The `node` label: the configured name, else the host's.
    #[must_use]
    pub fn node_name(&self) -> String {
        self.node.clone().unwrap_or_else(|| {
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let name = name.trim();
            if name.is_empty() { "unknown".to_owned() } else { name.to_owned() }
        })
    }
}

/// The least important message that is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What stops the observer.
    Error,
    /// What costs it figures.
    Warn,
    /// Start, stop, migrations.
    #[default]
    Info,
    /// The lifecycle of flows and processes, from the kernel side too.
    Debug,
    /// Everything.
    Trace,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Time, level, target and message.
    #[default]
    Text,
    /// One JSON object: `at`, `level`, `target`, and `message` or `anomaly`.
    Json,
}

impl LogLevel {
    /// The level of the `log` crate.
    #[must_use]
    pub const fn filter(self) -> log::LevelFilter {
        match self {
            Self::Off => log::LevelFilter::Off,
            Self::Error => log::LevelFilter::Error,
            Self::Warn => log::LevelFilter::Warn,
            Self::Info => log::LevelFilter::Info,
            Self::Debug => log::LevelFilter::Debug,
            Self::Trace => log::LevelFilter::Trace,
        }
    }
}

/// Bounds on memory. What finds no room is counted in totals and under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Flows with a record of their own, 16 to 1048576.
    pub max_flows: u32,
    /// Threads with a record of their own, 16 to 1048576.
    pub max_threads: u32,
    /// Processes that may migrate, 4 to 65536.
    pub max_processes: u32,
    /// Finished migrations that are kept, 1 to 65536.
    pub max_finished: u32,
    /// Per-second samples kept of a migration, 10 to 86400.
    pub history_seconds: u32,
    /// Migrations with live series of their own, 0 to 4096.
    pub live_series_migrations: u32,
    /// Streams with live series of their own, 0 to 65536.
    pub live_series_streams: u32,
    /// HTTP connections at a time, 1 to 65536.
    pub max_connections: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_flows: 4096,
            max_threads: 8192,
            max_processes: 1024,
            max_finished: 256,
            history_seconds: 600,
            live_series_migrations: 32,
            live_series_streams: 256,
            max_connections: 128,
        }
    }
}

/// How the kernel is watched.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Probes {
    /// Which attach rung is used.
    pub rung: Rung,
    /// BTF of the running kernel; `None` is `/sys/kernel/btf/vmlinux`.
    pub btf_path: Option<PathBuf>,
    /// Whether the kernel times each program's runs.
    pub program_stats: ProgramStats,
    /// Whether a migrator's own phase functions are probed (uprobes); without, guest CPUs in the scheduler tell the blackout alone.
    pub phase_functions: bool,
}

impl Default for Probes {
    fn default() -> Self {
        Self {
            rung: Rung::default(),
            btf_path: None,
            program_stats: ProgramStats::default(),
            phase_functions: true,
        }
    }
}

/// How RDMA is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RdmaConfig {
    /// Providers' libraries whose post function is probed; none by default.
    pub post_functions: Vec<PostFunction>,
}

/// Which attach rung is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// The best one that attaches.
    #[default]
    Auto,
    /// BTF-typed raw tracepoints wherever the kernel has them.
    TpBtf,
    /// Raw tracepoints wherever the kernel has them.
    RawTp,
    /// Functions by BTF instead of the tracepoints that kernels before 6.3 lack.
    Fentry,
    /// The same functions by breakpoint.
    Kprobe,
}

/// Whether the kernel times each program's runs (`BPF_ENABLE_STATS`), which costs two clock reads per run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProgramStats {
    /// Never.
    Off,
    /// For a fraction of the time.
    #[default]
    Sampled,
    /// Always.
    Always,
}

/// What is taken for a migration.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Identify {
    /// Migration ports beside the built-in ones; data on one of these is a migration whoever moves it.
    pub ports: Vec<PortRange>,
    /// The confidence from which a flow is called a migration, above 0, at most 0.99.
    pub min_confidence: f64,
}

impl Default for Identify {
    fn default() -> Self {
        Self { ports: Vec::new(), min_confidence: 0.5 }
    }
}

/// Which path counts as `datacenter`, `internet`, `hybrid`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModeThresholds {
    /// `datacenter` needs a mean smoothed RTT below this, seconds.
    pub datacenter_max_rtt_seconds: f64,
    /// A mean smoothed RTT above this is `internet`, seconds.
    pub internet_min_rtt_seconds: f64,
    /// `datacenter` needs a peak rate of at least this, bits per second.
    pub datacenter_min_bits_per_second: f64,
}

impl Default for ModeThresholds {
    fn default() -> Self {
        Self {
            datacenter_max_rtt_seconds: 0.010,
            internet_min_rtt_seconds: 0.050,
            datacenter_min_bits_per_second: 1e9,
        }
    }
}

/// What outlives the observer: finished migrations, one-minute aggregates, events.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HistoryConfig {
    /// Whether it is written. Without it service levels begin anew with each start, and there are no reports.
    pub enabled: bool,
    /// The database file; its directory is made.
    pub path: PathBuf,
    /// How long it is kept, days, 1 to 3650. Service levels over 30 days need 31.
    pub retention_days: u32,
    /// Largest size of the database, MiB, 4 to 1048576; above, the oldest migrations go first.
    pub max_mebibytes: u32,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            path: PathBuf::from("/var/lib/dwcp-observer/history.sqlite"),
            retention_days: 31,
            max_mebibytes: 256,
        }
    }
}

impl HistoryConfig {
    /// How much is kept.
    #[must_use]
    pub fn retention(&self) -> Retention {
        Retention {
            seconds: i64::from(self.retention_days) * 86_400,
            bytes: u64::from(self.max_mebibytes) << 20,
        }
    }
}

/// Hourly reports, as Markdown with plots beside it; they need the history.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReportConfig {
    /// Whether they are written.
    pub hourly: bool,
    /// Where; the directory is made.
    pub directory: PathBuf,
    /// How long they are kept, days, 1 to 3650.
    pub retention_days: u32,
}

impl Default for ReportConfig {
    fn default() -> Self {
        Self {
            hourly: true,
            directory: PathBuf::from("/var/lib/dwcp-observer/reports"),
            retention_days: 30,
        }
    }
}

/// Anomaly signals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnomalyConfig {
    /// What the signals are fed is appended here, a line of JSON per second; `None`: it is not kept.
    pub record: Option<PathBuf>,
}

/// The most `[[rule]]` sections: the kernel's table of names is fixed in size.
pub const MAX_RULES: usize = 32;

/// A rule of the configuration. All matchers that are given must match; at least one is given.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserRule {
    /// Name of the migrator in records and labels: 1 to 64 of `a-z A-Z 0-9 _ . -`.
    pub name: String,
    /// Name of the process's main thread: exact, or a prefix that ends in `*`. The kernel keeps 15 bytes of a name.
    pub comm: Option<String>,
    /// Path of the executable; `*` and `?` match any characters.
    pub exe: Option<String>,
    /// cgroup path; `*` and `?` match any characters.
    pub cgroup: Option<String>,
    /// A part of the command line, its arguments joined by spaces.
    pub cmdline: Option<String>,
    /// Ports of the end that was called (the listener's side).
    #[serde(default)]
    pub ports: Vec<PortRange>,
    /// What this rule adds to the confidence, above 0, at most 0.99.
    #[serde(default = "default_rule_confidence")]
    pub confidence: f64,
    /// The DWCP component that such a flow belongs to; named in the evidence.
    pub component: Option<Component>,
}

const fn default_rule_confidence() -> f64 {
    0.9
}

crate::model::named! {
    /// The six components of DWCP v3.
    pub enum Component {
        /// Adaptive Multi-Stream Transport.
        Amst = "amst",
        /// Hierarchical Delta Encoding.
        Hde = "hde",
        /// Predictive Bandwidth Allocator.
        Pba = "pba",
        /// Adaptive Consensus Protocol.
        Acp = "acp",
        /// Adaptive State Synchronizer.
        Ass = "ass",
        /// Intelligent Task Placement.
        Itp = "itp",
    }
}

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Rows older than this are removed, seconds.
    pub seconds: i64,
    /// The database file is kept below this, bytes: the oldest migrations go first. Its write-ahead log comes on top, at most the
    /// size of the largest batch.
    pub bytes: u64,
}

/// A library whose post function is probed. The probe enters the kernel at each call, which RDMA is made to avoid: only on demand.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostFunction {
    /// The provider's library, as the observer sees it. A container's own copy is another file.
    pub path: PathBuf,
    /// Where in the file its post function begins, bytes; `None`: it is looked for.
    #[serde(default)]
    pub offset: Option<u64>,
}
