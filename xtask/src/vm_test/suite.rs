//! What can be run in the VMs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dwcp_observer_lab::hosts;
use dwcp_observer_lab::qemu::Role;
use dwcp_observer_lab::vm::kernels::Series;
use dwcp_observer_lab::vm::protocol::Test;

/// Where the agent is in the VM.
pub(super) const AGENT: &str = "/usr/bin/dwcp-observer";
/// How late QEMU may close its sockets where it is translated itself (up to 5 s were seen), ms.
const LATE_MS: &str = "15000";
/// The largest of the thousand flows: with the host's 50 MB a rung takes minutes where a CPU is translated.
const FLOW_MAX_BYTES: &str = "2000000";

/// Something to run in each VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(super) enum Suite {
    /// Each eBPF program on each rung: loaded, verified, attached
    Programs,
    /// A thousand TCP flows, exact to the byte
    Exactness,
    /// A real QEMU migration over TCP, compared with QEMU and the kernel's sockets
    Migration,
    /// The same on each rung that the kernel has
    MigrationRungs,
    /// What the agent does where `/sys/kernel/btf` is not there
    Btf,
    /// Soft-RoCE: real QEMU migrations over RDMA, and programs that use verbs
    Rdma,
    /// Software iWARP, which no Debian kernel has: it is built first; not run by default
    RdmaIwarp,
    /// A QEMU migration over RDMA between two VMs of a kernel, an observer in each; not run by default
    RdmaPair,
    /// What `ib_write_bw` says with and without the observer: prints figures, not run by default
    RdmaCost,
}

impl Suite {
    pub(super) const DEFAULT: [Self; 4] =
        [Self::Programs, Self::Exactness, Self::Migration, Self::Rdma];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Programs => "programs",
            Self::Exactness => "exactness",
            Self::Migration => "migration",
            Self::MigrationRungs => "migration-rungs",
            Self::Btf => "btf",
            Self::Rdma => "rdma",
            Self::RdmaIwarp => "rdma-iwarp",
            Self::RdmaPair => "rdma-pair",
            Self::RdmaCost => "rdma-cost",
        }
    }

    /// The test program; none for what the agent does itself.
    pub(super) fn program(self) -> Option<&'static str> {
        match self {
            Self::Programs => None,
            Self::Exactness => Some("exactness"),
            Self::Migration | Self::MigrationRungs => Some("migration"),
            Self::Btf => Some("btf"),
            Self::Rdma => Some("rdma"),
            Self::RdmaIwarp => Some("rdma_iwarp"),
            Self::RdmaCost => Some("rdma_cost"),
            Self::RdmaPair => Some("rdma_pair"),
        }
    }

    /// Whether its two halves run in two VMs at once.
    pub(super) fn is_pair(self) -> bool {
        self == Self::RdmaPair
    }

    /// What its program is told to run. A VM is slow, so that of each kind there is one; what the
    /// agent chooses by itself is the first of each kernel's rungs.
    fn args(self) -> &'static [&'static str] {
        match self {
            Self::Programs => &["check", "--programs", "--json"],
            Self::Exactness => &["--exact", "a_thousand_flows_are_exact_on_each_rung"],
            Self::Migration => &[
                "--exact",
                "a_single_stream_with_thread_names",
                "a_single_stream_without_thread_names",
                "four_channels_without_thread_names",
            ],
            Self::MigrationRungs => &["--exact", "a_single_stream_on_each_rung"],
            Self::Btf => &[],
            // Those that need a kernel with RDMA, which the host's tests leave out.
            Self::Rdma | Self::RdmaIwarp | Self::RdmaPair | Self::RdmaCost => &["--ignored"],
        }
    }

    /// The order to run it, or one half of it.
    pub(super) fn order(self, series: Series, half: Option<Role>) -> Test {
        let name = self.name().to_owned();
        let (program, first): (String, &[&str]) = match self.program() {
            None => (AGENT.to_owned(), &[]),
            Some(name) => (place(name).display().to_string(), &["--test-threads=1", "--nocapture"]),
        };
        let args = first.iter().chain(self.args()).map(|arg| (*arg).to_owned()).collect();
        let environment = [
            ("PATH", "/usr/bin:/usr/sbin"),
            ("HOME", "/root"),
            ("DWCP_OBSERVER", AGENT),
            ("DWCP_RUNGS", rungs(series)),
            ("DWCP_LATE_MS", LATE_MS),
            ("DWCP_FLOW_MAX_BYTES", FLOW_MAX_BYTES),
        ];
        let half = half.map(|role| (hosts::ROLE, role.as_str()));
        let environment: BTreeMap<String, String> = environment
            .into_iter()
            .chain(half)
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Test { name, program, args, environment, limit_seconds: 1200 }
    }
}

/// The rungs on which a kernel can measure TCP, the one that is chosen by itself first. 5.10 has no
/// task storage for tracing programs, which all on `tp_btf` need.
fn rungs(series: Series) -> &'static str {
    match series {
        Series::Number(5, 10) => "fentry,raw_tp,kprobe",
        _ => "tp_btf,fentry,raw_tp,kprobe",
    }
}

/// Where a test program is in the VM.
pub(super) fn place(program: &str) -> PathBuf {
    Path::new("/lab/tests").join(program)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn each_test_has_a_name_of_its_own_and_a_limit() {
        let orders: Vec<Test> =
            Suite::value_variants().iter().map(|suite| suite.order(Series::Newest, None)).collect();
        for order in &orders {
            assert_eq!(orders.iter().filter(|other| other.name == order.name).count(), 1);
            assert!(order.limit_seconds > 0 && order.program.starts_with('/'));
        }
    }

    #[test]
    fn the_halves_of_a_pair_know_which_they_are() {
        let half = Suite::RdmaPair.order(Series::Newest, Some(Role::Destination));
        assert_eq!(half.environment.get(hosts::ROLE).map(String::as_str), Some("destination"));
    }
}
