//! The first packet of a guest with a network card, at its destination: QEMU announces it there.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a helper that fails fails its test")]

use std::process::Command;
use std::time::Duration;

use dwcp_observer_lab::migration::{MigrationPlan, Pair};
use dwcp_observer_lab::observer::{Observer, binary};
use dwcp_observer_lab::qemu::QemuSpec;
use dwcp_observer_lab::temp::free_migration_port;
use dwcp_observer_model::record::{FirstPacket, Outcome};

/// The tap device that QEMU holds; the kernel chose its name, and removes it with QEMU.
fn tap(pid: u32) -> String {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    let found = entries.flatten().find_map(|entry| {
        let text = std::fs::read_to_string(entry.path()).ok()?;
        text.lines().find_map(|line| Some(line.strip_prefix("iff:")?.trim().to_owned()))
    });
    found.expect("QEMU holds no tap device")
}

#[test]
fn the_guests_announcement_ends_the_network_blackout() {
    let observer = Observer::start(&binary().unwrap(), &[]).unwrap();
    let netdev = "tap,id=net0,script=no,downscript=no";
    let card = "virtio-net-pci,netdev=net0,romfile=,mac=52:54:00:12:34:56";
    let extra_args = ["-netdev", netdev, "-device", card].map(Into::into).to_vec();
    let spec = QemuSpec { extra_args, ..QemuSpec::default() };
    let mut pair = Pair::start(&spec).unwrap();
    let taps = [pair.source.pid(), pair.destination.pid()].map(tap);
    for tap in &taps {
        let up = Command::new("ip").args(["link", "set", tap.as_str(), "up"]).status().unwrap();
        assert!(up.success(), "{tap} does not come up");
    }
    let plan =
        MigrationPlan { port: free_migration_port(false).unwrap(), ..MigrationPlan::default() };
    pair.migrate(&plan).unwrap();
    pair.wait_end(Duration::from_secs(60)).unwrap();
    let record = observer
        .wait_migration(Duration::from_secs(10), |record| {
            record.vm.uuid == spec.uuid
                && record.outcome == Some(Outcome::Completed)
                && record.network_blackout.is_some()
        })
        .unwrap();
    let found = record.network_blackout.as_ref().unwrap();
    println!("{found:#?}\nblackout {:?}", record.blackout);
    assert_eq!(found.source_interface.as_ref(), Some(&taps[0]));
    assert_eq!(found.destination_interface, taps[1]);
    assert_eq!(found.first_packet, FirstPacket::Rarp);
    // QEMU announces the guest when it is let run, which is within a moment of its CPUs' start.
    let (network, blackout) = (found.seconds.unwrap(), record.blackout_seconds().unwrap());
    assert!(network > 0.5 * blackout && network < blackout + 2.0, "{network} {blackout}");
    drop(pair);
    let stopped = observer.stop().unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
}
