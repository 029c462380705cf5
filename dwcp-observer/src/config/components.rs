//! `[components.NAME]`, `[v1]` and `[rollout]`.

use serde::Deserialize;

use super::{Component, PortRange};

/// The six components of DWCP v3.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Components {
    /// Adaptive Multi-Stream Transport; the migrations themselves belong to it without any rule.
    pub amst: ComponentConfig,
    /// Hierarchical Delta Encoding.
    pub hde: ComponentConfig,
    /// Predictive Bandwidth Allocator.
    pub pba: ComponentConfig,
    /// Adaptive Consensus Protocol.
    pub acp: ComponentConfig,
    /// Adaptive State Synchronizer.
    pub ass: ComponentConfig,
    /// Intelligent Task Placement.
    pub itp: ComponentConfig,
}

impl Components {
    /// The configuration of one.
    #[must_use]
    pub const fn get(&self, component: Component) -> &ComponentConfig {
        match component {
            Component::Amst => &self.amst,
            Component::Hde => &self.hde,
            Component::Pba => &self.pba,
            Component::Acp => &self.acp,
            Component::Ass => &self.ass,
            Component::Itp => &self.itp,
        }
    }
}

/// One component. Each kind of matcher that is given must match; within a kind one of the list is enough.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ComponentConfig {
    /// Who serves its port.
    pub mode: ComponentMode,
    /// Its port for `/metrics` and `/health`; `None` is the contract's, 9091 to 9096.
    pub port: Option<u16>,
    /// With `mode = "scrape"`: where the component serves its own metrics; `None` is its port on 127.0.0.1, path `/metrics`.
    pub endpoint: Option<String>,
    /// The `version` label.
    pub version: String,
    /// Whether it is unhealthy, not unknown, as long as nothing was ever matched.
    pub required: bool,
    /// Names of its processes: exact, or prefixes that end in `*`.
    pub process: Vec<String>,
    /// Names of its threads, likewise; of the processes that have such threads, only these count.
    pub thread: Vec<String>,
    /// cgroup paths of its processes; `*` and `?` match any characters.
    pub cgroup: Vec<String>,
    /// Its TCP ports, at either end of a connection.
    pub ports: Vec<PortRange>,
    /// Ports on which it must be listening to be healthy.
    pub listens: Vec<u16>,
}

impl Default for ComponentConfig {
    fn default() -> Self {
        Self {
            mode: ComponentMode::default(),
            port: None,
            endpoint: None,
            version: "v3".to_owned(),
            required: false,
            process: Vec::new(),
            thread: Vec::new(),
            cgroup: Vec::new(),
            ports: Vec::new(),
            listens: Vec::new(),
        }
    }
}

/// Who serves a component's port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ComponentMode {
    /// The observer.
    #[default]
    Serve,
    /// The component: its metrics are collected each second and carried on.
    Scrape,
    /// Nobody, and the component is not watched.
    Off,
}

/// Which migrations run DWCP v1. Each kind that is given must match; without any, nothing is told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct V1Config {
    /// Names of migrator processes: exact, or prefixes that end in `*`.
    pub process: Vec<String>,
    /// cgroup paths of migrator processes; `*` and `?` match any characters.
    pub cgroup: Vec<String>,
    /// Ports of the streams, at either end.
    pub ports: Vec<PortRange>,
}

/// The rollout that the migrations of this host are part of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutConfig {
    /// The `stage` label at the start.
    pub stage: Option<String>,
    /// The `region` label at the start.
    pub region: Option<String>,
    /// Who may change both by `PUT /api/v1/rollout`.
    pub control: RolloutControl,
}

/// Who may change stage and region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RolloutControl {
    /// Nobody.
    Off,
    /// Clients on this host.
    #[default]
    Local,
    /// Everybody who reaches the port.
    Any,
}

impl Component {
    /// Its port by the contract.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        9091 + self as u16
    }
}
