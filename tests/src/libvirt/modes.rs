//! The ways in which libvirt migrates.

use std::time::Duration;

/// One way.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    /// For people.
    pub name: &'static str,
    /// Options of `virsh migrate`.
    pub options: &'static [&'static str],
    /// The guest has a disk that is copied along.
    pub disk: bool,
    /// `virsh domjobabort` after this.
    pub abort_after: Option<Duration>,
    /// What its record is to say.
    pub outcome: &'static str,
}

const PLAIN: Mode =
    Mode { name: "", options: &[], disk: false, abort_after: None, outcome: "completed" };

/// All of them.
pub const MODES: [Mode; 9] = [
    Mode { name: "p2p", options: &["--live", "--p2p"], ..PLAIN },
    Mode { name: "direct", options: &["--live"], ..PLAIN },
    Mode {
        name: "parallel",
        options: &["--live", "--p2p", "--parallel", "--parallel-connections", "2"],
        ..PLAIN
    },
    Mode {
        name: "postcopy",
        options: &["--live", "--p2p", "--postcopy", "--postcopy-after-precopy"],
        ..PLAIN
    },
    Mode { name: "auto-converge", options: &["--live", "--p2p", "--auto-converge"], ..PLAIN },
    Mode { name: "offline", options: &["--p2p"], ..PLAIN },
    Mode {
        name: "storage",
        options: &["--live", "--p2p", "--copy-storage-all"],
        disk: true,
        ..PLAIN
    },
    Mode {
        name: "storage-direct",
        options: &["--live", "--copy-storage-all", "--abort-on-error"],
        disk: true,
        ..PLAIN
    },
    Mode {
        name: "abort",
        options: &["--live", "--p2p", "--bandwidth", "30"],
        abort_after: Some(Duration::from_secs(3)),
        outcome: "cancelled",
        ..PLAIN
    },
];
