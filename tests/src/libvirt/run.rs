//! One migration by libvirt: the record of it beside what the guest's clock and libvirt say.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::domain::{DISK_BYTES, Domain, MEMORY_MIB};
use super::host::Host;
use super::modes::Mode;
use super::report::{Figures, Truth};
use crate::clock::{GuestClock, Standstill};
use crate::guest::{FILLED, Guest};
use crate::netns::Wire;
use crate::observer::Observer;
use crate::process::ChildGuard;
use crate::qemu::Role;
use crate::temp::TempDir;

/// On the loopback of each host, whose ports are all free.
const CLOCK_PORT: u16 = 40_001;
const TICK: Duration = Duration::from_micros(250);
const LIMIT: Duration = Duration::from_secs(60);

/// Two hosts with libvirt.
#[derive(Debug)]
pub struct Lab {
    // Order of drop: hosts end before their directory goes.
    source: Host,
    destination: Host,
    wire: Wire,
    sector: PathBuf,
    runs: u32,
    directory: TempDir,
}

impl Lab {
    /// Starts both.
    ///
    /// # Errors
    /// Without root, or when libvirt, QEMU or binutils are missing.
    pub fn start() -> Result<Self> {
        let directory = TempDir::new()?;
        let wire = Wire::new()?;
        let host = |role: Role| Host::start(&wire, role, directory.join(role.as_str()));
        let (mut source, mut destination) = (host(Role::Source)?, host(Role::Destination)?);
        source.wait_ready()?;
        destination.wait_ready()?;
        let guest = Guest { memory_mib: MEMORY_MIB, tick: Some(TICK), ..Guest::default() };
        let sector = guest.assemble(directory.path())?;
        Ok(Self { source, destination, wire, sector, runs: 0, directory })
    }

    /// Migrates a new guest once and waits for the record.
    ///
    /// # Errors
    /// When libvirt fails where it should not, or no record comes.
    pub fn migrate(&mut self, mode: &Mode, observer: &Observer) -> Result<Figures> {
        self.runs += 1;
        let domain = Domain {
            name: format!("vm-{}-{}", std::process::id(), self.runs),
            uuid: format!("{:08x}-0000-4000-8000-{:012x}", std::process::id(), self.runs),
            disk: mode.disk,
            clock_port: CLOCK_PORT,
        };
        let clock = GuestClock::start_on(&self.wire, CLOCK_PORT)?;
        let found = self.migrate_domain(mode, &domain, clock, observer);
        for host in [&self.source, &self.destination] {
            // On one of them it is not.
            let _ = host.virsh(&["destroy", &domain.name]);
        }
        found.with_context(|| format!("{} (run {})", mode.name, self.runs))
    }

    fn migrate_domain(
        &self,
        mode: &Mode,
        domain: &Domain,
        clock: GuestClock,
        observer: &Observer,
    ) -> Result<Figures> {
        self.begin(domain)?;
        let status = self.command(mode, domain)?;
        ensure!(
            status == (mode.outcome == "completed"),
            "`virsh migrate` {}",
            if status { "succeeded" } else { "failed" }
        );
        // The guest goes on for a while, so that its clock shows where it runs.
        std::thread::sleep(Duration::from_millis(500));
        let job = job(&self.destination, domain);
        let standstill = Standstill::between(&clock.finish()?).ok();
        let record = observer.wait_migration(LIMIT, |record| {
            record.vm.uuid.as_ref() == Some(&domain.uuid) && record.outcome.is_some()
        })?;
        let records = observer.migrations()?;
        let records = records.iter().filter(|record| record.vm.uuid.as_ref() == Some(&domain.uuid));
        Ok(Figures::of(mode, record, records.count(), &Truth { standstill, job }))
    }

    /// Starts the guest and waits until its memory is filled.
    fn begin(&self, domain: &Domain) -> Result<()> {
        let (xml, serial) = (self.directory.join("domain.xml"), self.directory.join("serial"));
        let _ = fs::remove_file(&serial);
        fs::write(&xml, domain.xml(&self.sector, &serial))?;
        if domain.disk {
            for host in [&self.source, &self.destination] {
                File::create(host.directory().join("images/disk.raw"))?.set_len(DISK_BYTES)?;
            }
            let written = vec![0x5a; DISK_BYTES as usize];
            fs::write(self.source.directory().join("images/disk.raw"), written)?;
        }
        self.source.virsh(&["create", &xml.to_string_lossy()])?;
        let start = Instant::now();
        while !fs::read(&serial).is_ok_and(|bytes| bytes.contains(&FILLED)) {
            ensure!(start.elapsed() < LIMIT, "the guest has not filled its RAM in {LIMIT:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// `virsh migrate`; whether it succeeded.
    fn command(&self, mode: &Mode, domain: &Domain) -> Result<bool> {
        let (to, memory) =
            (self.destination.uri(), format!("tcp://{}", Wire::address(Role::Destination)));
        let mut arguments = vec!["migrate"];
        arguments.extend_from_slice(mode.options);
        arguments.extend([domain.name.as_str(), &to, &memory]);
        let output = File::create(self.directory.join("virsh"))?;
        let mut command = self.source.command(&arguments);
        command.stdout(output.try_clone()?).stderr(output);
        let mut process = ChildGuard::spawn(&mut command)?;
        if let Some(after) = mode.abort_after {
            std::thread::sleep(after);
            self.source.virsh(&["domjobabort", &domain.name])?;
        }
        let status = process.wait_for(2 * LIMIT)?.context("`virsh migrate` does not end")?;
        Ok(status.success())
    }
}

/// `virsh domjobinfo --completed --rawstats` by name; empty where there is none.
fn job(host: &Host, domain: &Domain) -> BTreeMap<String, u64> {
    let text =
        host.virsh(&["domjobinfo", "--completed", "--rawstats", &domain.name]).unwrap_or_default();
    let field = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.trim().to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(field).collect()
}
