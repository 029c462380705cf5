//! Rules that match processes, threads and sockets to a component.

use crate::config::{
    ComponentConfig, PortRange,
    pattern::{CommPattern, any_cgroup, any_comm, any_port, patterns},
};

/// The compiled rule of one component.
#[derive(Clone, Debug, Default)]
pub struct Matcher {
    process: Vec<CommPattern>,
    thread: Vec<CommPattern>,
    cgroup: Vec<String>,
    ports: Vec<PortRange>,
}

impl Matcher {
    /// Compiles a component's configuration; ports on which it must listen are its ports as well.
    #[must_use]
    pub fn new(config: &ComponentConfig) -> Self {
        // With processes named, any port of theirs counts, unless some are listed.
        let names_processes =
            !config.process.is_empty() || !config.thread.is_empty() || !config.cgroup.is_empty();
        let listens = config.listens.iter().map(|port| PortRange::one(*port));
        let add = !names_processes || !config.ports.is_empty();
        Self {
            process: patterns(&config.process),
            thread: patterns(&config.thread),
            cgroup: config.cgroup.clone(),
            ports: config.ports.iter().copied().chain(listens.filter(|_| add)).collect(),
        }
    }

    /// Whether it says which processes are meant.
    #[must_use]
    pub const fn names_processes(&self) -> bool {
        !self.process.is_empty() || !self.thread.is_empty() || !self.cgroup.is_empty()
    }

    /// Whether it says nothing at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        !self.names_processes() && self.ports.is_empty()
    }

    /// Whether a process must be looked at beyond its name.
    #[must_use]
    pub const fn needs_cgroup(&self) -> bool {
        !self.cgroup.is_empty()
    }

    /// Whether only some threads of its processes count.
    #[must_use]
    pub const fn needs_threads(&self) -> bool {
        !self.thread.is_empty()
    }

    /// Whether threads alone decide, so that processes must be looked at again and again.
    #[must_use]
    pub const fn by_threads_alone(&self) -> bool {
        self.needs_threads() && self.process.is_empty() && self.cgroup.is_empty()
    }

    /// Whether a process may be meant; its threads are not asked.
    #[must_use]
    pub fn process(&self, comm: &str, cgroup: Option<&str>) -> bool {
        self.names_processes() && any_comm(&self.process, comm) && any_cgroup(&self.cgroup, cgroup)
    }

    /// Whether a thread of such a process counts.
    #[must_use]
    pub fn thread(&self, comm: &str) -> bool {
        any_comm(&self.thread, comm)
    }

    /// Whether it lists ports.
    #[must_use]
    pub const fn has_ports(&self) -> bool {
        !self.ports.is_empty()
    }

    /// Whether one of the ports of a socket is listed.
    #[must_use]
    pub fn ports(&self, local: u16, peer: u16) -> bool {
        any_port(&self.ports, local) || any_port(&self.ports, peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(change: impl FnOnce(&mut ComponentConfig)) -> Matcher {
        let mut config = ComponentConfig::default();
        change(&mut config);
        Matcher::new(&config)
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn no_rule_matches_nothing() {
        let none = matcher(|_| {});
        assert!(none.is_empty());
        assert!(!none.process("dwcpd", Some("/")));
        assert!(!none.ports(9876, 9876));
    }

    #[test]
    fn kinds_must_all_match_and_one_of_each_list_is_enough() {
        let both = matcher(|config| {
            config.process = names(&["dwcpd", "hde-*"]);
            config.cgroup = names(&["/dwcp.slice/*"]);
        });
        for (comm, cgroup, expected) in [
            ("dwcpd", Some("/dwcp.slice/a"), true),
            ("hde-7", Some("/dwcp.slice/a"), true),
            ("hde", Some("/dwcp.slice/a"), false),
            ("dwcpd", Some("/other"), false),
            ("dwcpd", None, false),
        ] {
            assert_eq!(both.process(comm, cgroup), expected, "{comm} {cgroup:?}");
        }
        assert!(both.thread("anything"));
    }

    #[test]
    fn threads_and_ports() {
        let threads = matcher(|config| config.thread = names(&["amst-*"]));
        assert!(threads.by_threads_alone() && threads.process("x", None));
        assert!(threads.thread("amst-send-1") && !threads.thread("main"));
        let ports = matcher(|config| config.listens = vec![9876]);
        assert!(ports.ports(9876, 50000) && ports.ports(50000, 9876) && !ports.ports(1, 2));
        // What a named process listens on does not restrict what else counts as its traffic.
        let named = matcher(|config| {
            config.process = names(&["dwcpd"]);
            config.listens = vec![9876];
        });
        assert!(!named.has_ports());
    }
}
