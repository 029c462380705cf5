//! The built-in rules and those of the configuration, for the kernel side and for [`classify`](super::classify).

use dwcp_observer_ebpf::process::{CommRule, PORT_WORDS};

use super::table;
use crate::config::pattern::{CommPattern, comm_matches, glob};
use crate::config::{Config, PortRange, UserRule};
use crate::model::facts::ProcessFacts;

/// Number of the first rule of the configuration; smaller ones are [`Kind`]s, 0 is none.
const FIRST_USER_RULE: u32 = 16;

crate::model::named! {
    /// The migrators that are known without configuration.
    pub enum Kind {
        /// QEMU, by itself or under libvirt, KubeVirt, Proxmox.
        Qemu = "qemu",
        /// cloud-hypervisor.
        CloudHypervisor = "cloud-hypervisor",
        /// CRIU.
        Criu = "criu",
        /// A daemon of DWCP.
        Dwcp = "dwcp",
    }
}

impl Kind {
    /// Its rule number.
    const fn number(self) -> u32 {
        match self {
            Self::Qemu => 1,
            Self::CloudHypervisor => 2,
            Self::Criu => 3,
            Self::Dwcp => 4,
        }
    }

    fn by_number(number: u32) -> Option<Self> {
        [Self::Qemu, Self::CloudHypervisor, Self::Criu, Self::Dwcp]
            .into_iter()
            .find(|kind| kind.number() == number)
    }
}

/// All rules, compiled.
#[derive(Clone, Debug)]
pub struct RuleSet {
    pub(super) user: Vec<CompiledRule>,
    /// Ports of `identify.ports`.
    pub(super) user_ports: Vec<PortRange>,
    pub(super) min_confidence: f64,
    comm_rules: Vec<CommRule>,
}

/// A rule of the configuration with its pattern compiled.
#[derive(Clone, Debug)]
pub(super) struct CompiledRule {
    pub(super) rule: UserRule,
    comm: Option<CommPattern>,
}

impl CompiledRule {
    /// Whether all matchers that look at the process match.
    pub(super) fn matches_process(&self, process: &ProcessFacts) -> bool {
        let rule = &self.rule;
        self.comm.as_ref().is_none_or(|comm| comm.matches(&process.comm))
            && matches_glob(rule.exe.as_deref(), process.exe.as_deref())
            && matches_glob(rule.cgroup.as_deref(), process.cgroup.as_deref())
            && rule.cmdline.as_ref().is_none_or(|part| process.cmdline.join(" ").contains(part))
    }

    /// Whether only `/proc` can tell which processes this rule is about.
    fn needs_scan(&self) -> bool {
        self.rule.comm.is_none() && self.rule.ports.is_empty()
    }
}

fn matches_glob(pattern: Option<&str>, text: Option<&str>) -> bool {
    pattern.is_none_or(|pattern| text.is_some_and(|text| glob(pattern, text)))
}

impl RuleSet {
    /// Compiles the built-in rules and those of `config`.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let user: Vec<_> = config
            .rules
            .iter()
            .map(|rule| CompiledRule {
                rule: rule.clone(),
                comm: rule.comm.as_deref().and_then(CommPattern::new),
            })
            .collect();
        Self {
            comm_rules: comm_rules(&user),
            user,
            user_ports: config.identify.ports.clone(),
            min_confidence: config.identify.min_confidence,
        }
    }

    /// The kernel's table: the first match counts. Thread names come first, then the configuration's, then the built-in processes.
    #[must_use]
    pub fn comm_rules(&self) -> &[CommRule] {
        &self.comm_rules
    }

    /// The kernel's port set: port `p` is bit `p % 64` of word `p / 64`.
    #[must_use]
    pub fn port_bitmap(&self) -> Box<[u64; PORT_WORDS]> {
        let mut words = Box::new([0; PORT_WORDS]);
        let ranges = [PortRange::one(table::DWCP_PORT), table::MIGRATION_PORTS]
            .into_iter()
            .chain(self.user_ports.iter().copied())
            .chain(self.user.iter().flat_map(|user| user.rule.ports.iter().copied()));
        for range in ranges {
            for port in range.first..=range.last {
                words[usize::from(port / 64)] |= 1 << (port % 64);
            }
        }
        words
    }

    /// Whether there are rules that only `/proc` can decide: then new processes are to be looked at in each cycle, else once at the start.
    #[must_use]
    pub fn needs_scan(&self) -> bool {
        self.user.iter().any(CompiledRule::needs_scan)
    }

    /// Whether one of them looks at command lines.
    #[must_use]
    pub fn needs_cmdline(&self) -> bool {
        self.user.iter().any(|user| user.needs_scan() && user.rule.cmdline.is_some())
    }

    /// The number of the rule by which a process found in `/proc` is a candidate; threads and `/dev/kvm` are not looked at.
    #[must_use]
    pub fn scan(&self, process: &ProcessFacts) -> Option<u32> {
        let user = (FIRST_USER_RULE..).zip(&self.user);
        user.filter(|(_, user)| user.needs_scan())
            .find(|(_, user)| user.matches_process(process))
            .map(|(number, _)| number)
            .or_else(|| kind_by_name(process).map(Kind::number))
    }

    /// What a rule number of the kernel side stands for: a [`Kind`] or the name of a rule of the configuration; `None` for 0.
    #[must_use]
    pub fn name(&self, rule_number: u32) -> Option<&str> {
        if let Some(kind) = Kind::by_number(rule_number) {
            return Some(kind.as_str());
        }
        let index = usize::try_from(rule_number.checked_sub(FIRST_USER_RULE)?).ok()?;
        self.user.get(index).map(|user| user.rule.name.as_str())
    }
}

/// The kind of a process: by its rule number, its main thread's name, its executable, or its threads' names.
pub(super) fn kind(process: &ProcessFacts, rule_number: u32) -> Option<Kind> {
    Kind::by_number(rule_number)
        .or_else(|| kind_by_name(process))
        .or_else(|| process.threads.iter().find_map(|thread| thread_name(&thread.comm)?.kind))
}

fn kind_by_name(process: &ProcessFacts) -> Option<Kind> {
    let find = |table: &[(&str, Kind)], name: &str| {
        table.iter().find(|(pattern, _)| comm_matches(pattern, name)).map(|&(_, kind)| kind)
    };
    find(table::PROCESSES, &process.comm)
        .or_else(|| find(table::EXECUTABLES, file_name(process.exe.as_deref()?)))
}

/// Whether a process' executable may have QEMU's functions: by the rule that adopted it, its name or its executable's. A rule of the
/// configuration counts, since it names what the operator migrates; a port does not.
#[must_use]
pub fn may_be_qemu(rule_number: u32, process: &ProcessFacts) -> bool {
    rule_number == Kind::Qemu.number()
        || rule_number >= FIRST_USER_RULE
        || kind_by_name(process) == Some(Kind::Qemu)
        || process.exe.as_deref().is_some_and(|path| file_name(path).contains("qemu-system"))
}

/// Whether a process is one of the programs that never move a guest; its name.
pub(super) fn other_program(process: &ProcessFacts) -> Option<&str> {
    let names = [process.exe.as_deref().map(file_name), Some(process.comm.as_str())];
    names
        .into_iter()
        .flatten()
        .find(|name| table::OTHERS.iter().any(|pattern| comm_matches(pattern, name)))
}

/// What the built-in table says of a thread's name.
pub(super) fn thread_name(comm: &str) -> Option<&'static table::ThreadName> {
    table::THREADS.iter().find(|thread| comm_matches(thread.comm, comm))
}

/// The last part of a path, without what the kernel adds when the file is gone.
pub(super) fn file_name(path: &str) -> &str {
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let name = path.rsplit('/').next().unwrap_or(path);
    // Nixpkgs' wrappers leave the program itself under this name.
    let wrapped = name.strip_prefix('.').and_then(|name| name.strip_suffix("-wrapped"));
    wrapped.unwrap_or(name)
}

fn comm_rules(user: &[CompiledRule]) -> Vec<CommRule> {
    let built_in = |pattern: &str, process: u32, role: u32| {
        CommPattern::new(pattern).map(|pattern| pattern.kernel_rule(process, role))
    };
    let threads = table::THREADS.iter().filter_map(|thread| {
        built_in(thread.comm, thread.kind.map_or(0, Kind::number), thread.role)
    });
    let configured = (FIRST_USER_RULE..)
        .zip(user)
        .filter_map(|(number, user)| Some(user.comm.as_ref()?.kernel_rule(number, 0)));
    let processes =
        table::PROCESSES.iter().filter_map(|(pattern, kind)| built_in(pattern, kind.number(), 0));
    threads.chain(configured).chain(processes).collect()
}
