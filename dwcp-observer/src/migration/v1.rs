//! Which migrations run DWCP v1.

use super::live::LiveMigration;
use crate::config::{
    PortRange, V1Config,
    pattern::{CommPattern, any_cgroup, any_comm, any_port, patterns},
};

/// Tells migrations of DWCP v1 from those of v3.
#[derive(Clone, Debug, Default)]
pub struct V1Rule {
    process: Vec<CommPattern>,
    cgroup: Vec<String>,
    ports: Vec<PortRange>,
}

impl V1Rule {
    /// Compiles the configuration; `None` when it says nothing.
    #[must_use]
    pub fn new(config: &V1Config) -> Option<Self> {
        (*config != V1Config::default()).then(|| Self {
            process: patterns(&config.process),
            cgroup: config.cgroup.clone(),
            ports: config.ports.clone(),
        })
    }

    /// Whether a migration runs v1: one of its ends and one of its streams say so.
    #[must_use]
    pub fn matches(&self, live: &LiveMigration) -> bool {
        let by_process = live.ends.iter().any(|end| {
            any_comm(&self.process, &end.facts.comm)
                && any_cgroup(&self.cgroup, end.facts.cgroup.as_deref())
        });
        let by_port = self.ports.is_empty()
            || live.flows().any(|flow| {
                let (local, peer) = (flow.reading.local.port(), flow.reading.peer.port());
                any_port(&self.ports, local) || any_port(&self.ports, peer)
            });
        by_process && by_port
    }
}
