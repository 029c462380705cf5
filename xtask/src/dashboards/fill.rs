//! What happens while the check watches: each panel and each query of the cookbook that needs an event gets one.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use dwcp_observer_lab::faults::{Fault, Rig, Variant};
use dwcp_observer_lab::guest::Guest;
use dwcp_observer_lab::migration::{MigrationPlan, Pair};
use dwcp_observer_lab::qemu::QemuSpec;
use dwcp_observer_lab::temp::free_migration_port;

const MIB: u64 = 1 << 20;
/// What is called here runs DWCP v1, by a rule of the configuration; nobody else migrates to it.
const V1_PORT: u16 = 9876;
/// How long a fault lasts: the verdict must have told it, and alerts must have begun to wait.
const FAULT: Duration = Duration::from_secs(8);

/// The observer's configuration. What the check has at hand as a component with an endpoint of its own is its Prometheus.
pub(super) fn configuration(prometheus: &str) -> String {
    format!(
        "[v1]\nports = [\"{V1_PORT}\"]\n\n[rollout]\nstage = \"canary\"\nregion = \"eu-west-1\"\n\n\
         [components.acp]\nmode = \"scrape\"\nendpoint = \"http://{prometheus}/metrics\"\n\
         process = [\"prometheus*\"]\n"
    )
}

/// Migrations that end well, of both versions, and some that do not.
///
/// # Errors
/// When one of them does not go as it must.
pub(super) fn fill() -> Result<()> {
    not_a_migration()?;
    // A series that is absent before its first event has no increase: the first of these makes them, the second moves them.
    // Three of v1: a path has a series for each mode, and a busy machine makes `hybrid` of `datacenter`.
    for (version, bandwidth) in [("v3", 200), ("v1", 200), ("v3", 40), ("v1", 200), ("v1", 200)] {
        say(&format!("{version}, 256 MiB at {bandwidth} MiB/s"));
        migrate(version == "v1", bandwidth * MIB)?;
    }
    for fault in [Fault::RandomDrop, Fault::ReceiverStopped, Fault::SourceCpuQuota] {
        say(fault.name());
        let mut rig = Rig::start(fault, Variant { channels: Some(4), congestion: Some("reno") })?;
        rig.migrate()?;
        std::thread::sleep(FAULT / 2);
        let injection = rig.inject(fault)?;
        std::thread::sleep(FAULT);
        rig.undo(fault, injection)?;
        rig.wait_end("completed")?;
    }
    say("dirty-storm, cancelled");
    let mut rig = Rig::start(Fault::DirtyStorm, Variant { channels: None, congestion: None })?;
    rig.inject(Fault::DirtyStorm)?;
    rig.migrate()?;
    std::thread::sleep(2 * FAULT);
    rig.inject(Fault::Cancel)?;
    rig.wait_end("cancelled")?;
    drop(rig);
    for fault in [Fault::DestinationKilled, Fault::SourceKilled] {
        say(fault.name());
        let mut rig = Rig::start(fault, Variant { channels: None, congestion: None })?;
        rig.migrate()?;
        std::thread::sleep(FAULT / 2);
        rig.inject(fault)?;
        // Until the other end has noticed, which gives up by itself.
        std::thread::sleep(FAULT / 2);
    }
    not_a_migration()
}

/// A connection on a migration port between programs that are no migrators.
fn not_a_migration() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, free_migration_port(false)?))?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    client.write_all(b"not a migration")?;
    server.read_exact(&mut [0; 15])?;
    // Longer than the observer needs to look at it.
    std::thread::sleep(Duration::from_secs(2));
    Ok(())
}

fn say(what: &str) {
    eprintln!("dashboards: migrating: {what}");
}

fn migrate(v1: bool, bandwidth: u64) -> Result<()> {
    let spec = QemuSpec {
        // It must converge at the slowest of these rates, on a busy machine too.
        guest: Guest {
            memory_mib: 256,
            working_set_mib: 8,
            dirty_delay: 80_000,
            ..Guest::default()
        },
        ..QemuSpec::default()
    };
    let plan = MigrationPlan {
        multifd_channels: (!v1).then_some(4),
        max_bandwidth: Some(bandwidth),
        port: if v1 { V1_PORT } else { free_migration_port(false)? },
        ..MigrationPlan::default()
    };
    let mut pair = Pair::start(&spec)?;
    pair.migrate(&plan)?;
    let figures = pair.wait_end(Duration::from_secs(180))?;
    ensure!(figures.status == "completed", "{}: {:?}", figures.status, figures.error);
    // The guest must be seen to run at the destination.
    std::thread::sleep(Duration::from_secs(3));
    Ok(())
}

/// Writes the configuration.
pub(super) fn write_configuration(path: &Path, prometheus: &str) -> Result<()> {
    Ok(std::fs::write(path, configuration(prometheus))?)
}
