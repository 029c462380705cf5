//! The QEMUs of other releases start, migrate among each other, and leave nothing mounted.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::time::Duration;

use dwcp_observer_lab::guest::Guest;
use dwcp_observer_lab::migration::{MigrationPlan, Pair};
use dwcp_observer_lab::qemu::{Qemu, QemuSpec, Role};
use dwcp_observer_lab::temp::free_migration_port;
use dwcp_observer_lab::zoo::images::{Images, Mount};
use dwcp_observer_lab::zoo::version::Version;

const LIMIT: Duration = Duration::from_secs(60);

fn spec(version: Version, mount: Mount, machine: &str) -> QemuSpec {
    let images = Images::of_workspace();
    let image = match mount {
        Mount::Plain => images.get(version),
        Mount::Overlay => images.unpacked(version),
    };
    QemuSpec {
        program: image.unwrap().program(mount).unwrap(),
        machine: machine.to_owned(),
        guest: Guest { memory_mib: 64, working_set_mib: 4, ..Guest::default() },
        ..QemuSpec::default()
    }
}

/// QEMU's own word about a migration from one version to another one.
fn migrate(from: (Version, Mount), to: (Version, Mount)) {
    let machine = from.0.machine();
    let mut source = Qemu::start(&spec(from.0, from.1, &machine), Role::Source).unwrap();
    let destination = Qemu::start(&spec(to.0, to.1, &machine), Role::Destination).unwrap();
    source.wait_filled(LIMIT).unwrap();
    let version = source.qmp().execute("query-version", &serde_json::Value::Null).unwrap();
    let number = |part: &str| version["qemu"][part].as_u64().unwrap();
    assert_eq!(format!("{}.{}", number("major"), number("minor")), from.0.name());
    let exe = std::fs::read_link(format!("/proc/{}/exe", source.pid())).unwrap();
    assert!(exe.ends_with("usr/bin/qemu-system-x86_64"), "{}", exe.display());
    let mut pair = Pair { source, destination };
    let port = free_migration_port(false).unwrap();
    pair.migrate(&MigrationPlan { port, ..MigrationPlan::default() }).unwrap();
    let figures = pair.wait_end(LIMIT).unwrap();
    assert_eq!(figures.status, "completed", "{from:?} to {to:?}: {figures:?}");
}

#[test]
fn every_version_migrates_to_itself_and_to_its_successor() {
    for pair in Version::ALL.windows(2) {
        migrate((pair[0], Mount::Plain), (pair[0], Mount::Plain));
        migrate((pair[0], Mount::Plain), (pair[1], Mount::Plain));
    }
    migrate((Version::V11_1, Mount::Plain), (Version::V11_1, Mount::Plain));
}

#[test]
fn an_image_runs_in_overlay_mounts_and_leaves_none() {
    migrate((Version::V10_0, Mount::Overlay), (Version::V10_0, Mount::Plain));
    migrate((Version::V11_1, Mount::Overlay), (Version::V11_1, Mount::Overlay));
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.lines().any(|line| line.starts_with("zoo ")), "{mounts}");
}
