//! Built-in process names, thread names and ports.

use dwcp_observer_ebpf::sched::{ROLE_MAIN, ROLE_STREAM, ROLE_VCPU};

use super::rules::Kind;
use crate::config::PortRange;

/// A thread's name and what it tells.
pub(super) struct ThreadName {
    /// As [`super::pattern::CommPattern`].
    pub(super) comm: &'static str,
    /// `ROLE_*`.
    pub(super) role: u32,
    /// The migrator to which a thread of this name belongs, whatever its process is called.
    pub(super) kind: Option<Kind>,
}

const fn thread(comm: &'static str, role: u32, kind: Option<Kind>) -> ThreadName {
    ThreadName { comm, role, kind }
}

/// Threads by name. QEMU names its threads with `-name ...,debug-threads=on`; up to 9.0 and from 9.1 on differ.
pub(super) const THREADS: &[ThreadName] = &[
    thread("live_migration", ROLE_MAIN, Some(Kind::Qemu)),
    thread("mig/src/main", ROLE_MAIN, Some(Kind::Qemu)),
    thread("multifdsend_*", ROLE_STREAM, Some(Kind::Qemu)),
    thread("mig/src/send_*", ROLE_STREAM, Some(Kind::Qemu)),
    thread("multifdrecv_*", ROLE_STREAM, Some(Kind::Qemu)),
    thread("mig/dst/recv_*", ROLE_STREAM, Some(Kind::Qemu)),
    // For a while, by a mistake in QEMU, the name of the receiving threads.
    thread("mig/src/recv_*", ROLE_STREAM, Some(Kind::Qemu)),
    thread("mig/dst/preempt", ROLE_STREAM, Some(Kind::Qemu)),
    thread("fault-fast", ROLE_STREAM, None),
    thread("return path", ROLE_STREAM, None),
    thread("mig/src/return", ROLE_STREAM, Some(Kind::Qemu)),
    thread("postcopy/listen", ROLE_MAIN, Some(Kind::Qemu)),
    thread("mig/dst/listen", ROLE_MAIN, Some(Kind::Qemu)),
    thread("CPU *", ROLE_VCPU, None),
    thread("migration-worker", ROLE_MAIN, None),
    thread("migrate-send-memory*", ROLE_STREAM, Some(Kind::CloudHypervisor)),
    thread("migrate-receive-*", ROLE_STREAM, Some(Kind::CloudHypervisor)),
    thread("vcpu*", ROLE_VCPU, None),
];

/// Processes by the name of their main thread.
pub(super) const PROCESSES: &[(&str, Kind)] = &[
    ("qemu-system-*", Kind::Qemu),
    ("qemu-kvm", Kind::Qemu),
    ("kvm", Kind::Qemu),
    ("kvm-spice", Kind::Qemu),
    ("cloud-hypervisor", Kind::CloudHypervisor),
    ("criu", Kind::Criu),
    // What the wrappers of Nixpkgs start: `.NAME-wrapped`, here cut to 15 bytes.
    (".qemu-system-*", Kind::Qemu),
    (".qemu-kvm-*", Kind::Qemu),
    (".cloud-hypervisor*", Kind::CloudHypervisor),
    (".criu-wrapped", Kind::Criu),
    // Not `dwcp*`: `dwcp-observer` and `dwcp-ctl` move no guests.
    ("dwcp", Kind::Dwcp),
    ("dwcpd", Kind::Dwcp),
    ("dwcp-v3*", Kind::Dwcp),
    ("novacron*", Kind::Dwcp),
];

/// Processes by the name of their executable, for those that renamed themselves (`-name process=`).
pub(super) const EXECUTABLES: &[(&str, Kind)] = &[
    ("qemu-system-*", Kind::Qemu),
    ("qemu-kvm", Kind::Qemu),
    ("kvm-spice", Kind::Qemu),
    ("cloud-hypervisor", Kind::CloudHypervisor),
    ("criu", Kind::Criu),
    ("dwcpd", Kind::Dwcp),
    ("dwcp-v3*", Kind::Dwcp),
];

/// DWCP's migration port.
pub(super) const DWCP_PORT: u16 = 9876;
/// What libvirt, KubeVirt and DWCP's firewall profile use; within Linux' range of ephemeral ports.
pub(super) const MIGRATION_PORTS: PortRange = PortRange { first: 49152, last: 49215 };

/// Programs that move much data on any port and never move a guest.
pub(super) const OTHERS: &[&str] = &[
    "apache2",
    "caddy",
    "chronyd",
    "containerd",
    "curl",
    "dockerd",
    "dwcp-ctl",
    "dwcp-observer",
    "envoy",
    "etcd",
    "firefox",
    "git",
    "git-*",
    "grafana*",
    "haproxy",
    "httpd",
    "iperf",
    "iperf3",
    "kubelet",
    "lighttpd",
    "mariadbd",
    "memcached",
    "mongod",
    "mysqld",
    "netperf",
    "netserver",
    "nginx",
    "node_exporter",
    "postgres",
    "prometheus",
    "qemu-nbd",
    "qemu-img",
    "redis-server",
    "rsync",
    "scp",
    "sftp*",
    "smbd",
    "ssh",
    "sshd*",
    "systemd*",
    "wget",
];
