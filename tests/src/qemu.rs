//! One QEMU process: a migration's source or its destination.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
pub use dwcp_observer_model::record::Role;
use serde_json::Value;

use crate::clock::ClockPorts;
use crate::guest::{CALM, FILLED, Guest, STORM};
use crate::linux_guest::Linux;
use crate::netns::Wire;
use crate::process::ChildGuard;
use crate::qmp::Qmp;
use crate::temp::TempDir;

/// The program that the lab runs.
pub const QEMU: &str = "qemu-system-x86_64";

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accelerator {
    /// QEMU's translator; works everywhere.
    #[default]
    Tcg,
    /// The kernel; needs `/dev/kvm`. The guest is its own BIOS then: a KVM of the PVM kind, which
    /// itself runs in a VM, does not deliver the interrupt that a BIOS waits for to boot a floppy.
    /// It executes instructions outside of the 64-bit mode one by one, in about 1 us each.
    Kvm,
}

/// How both QEMU processes of a migration are started.
#[derive(Clone, Debug)]
pub struct QemuSpec {
    /// `guest=` of `-name`; `None` leaves the whole option out.
    pub name: Option<String>,
    /// `-uuid`.
    pub uuid: Option<String>,
    /// QEMU names its threads (`live_migration`, `multifdsend_0`, `CPU 0/TCG`, ...). Needs `name`.
    pub debug_threads: bool,
    /// What runs inside.
    pub guest: Guest,
    /// A Linux in its place, with as much memory.
    pub linux: Option<Linux>,
    /// What runs it.
    pub accelerator: Accelerator,
    /// Where the ticks of a guest that ticks go; `None` for a guest without a second serial line.
    pub clock: Option<ClockPorts>,
    /// The program, found as a shell does. Those of other versions: [`crate::zoo::images`].
    pub program: OsString,
    /// `-machine`: `pc`, or a version of it that both ends know.
    pub machine: String,
    /// Each end in a network namespace of its own; `None` for the host's network.
    pub wire: Option<Wire>,
    /// More arguments, at the end of the command line.
    pub extra_args: Vec<OsString>,
}

impl Default for QemuSpec {
    /// A named VM with named threads, as libvirt starts it.
    fn default() -> Self {
        Self {
            name: Some("vm-12345".to_owned()),
            uuid: Some("7b1c9f04-5d0e-4b53-9a51-0c9c1f6d2a77".to_owned()),
            debug_threads: true,
            guest: Guest::default(),
            linux: None,
            accelerator: Accelerator::Tcg,
            clock: None,
            program: QEMU.into(),
            machine: "pc".to_owned(),
            wire: None,
            extra_args: Vec::new(),
        }
    }
}

/// A running QEMU; killed on drop.
#[derive(Debug)]
pub struct Qemu {
    // Order of drop: the process ends before its directory goes.
    process: ChildGuard,
    qmp: Qmp,
    serial: UnixStream,
    directory: TempDir,
}

impl Qemu {
    /// Starts QEMU and connects to its control socket. A source runs its guest at once.
    ///
    /// # Errors
    /// When QEMU or binutils are missing, or QEMU refuses its arguments: the error holds what it
    /// printed.
    pub fn start(spec: &QemuSpec, role: Role) -> Result<Self> {
        let directory = TempDir::new()?;
        let (qmp_path, serial_path, errors_path) =
            (directory.join("qmp"), directory.join("serial"), directory.join("stderr"));
        let serial_listener = UnixListener::bind(&serial_path)?;
        let mut command = Command::new(&spec.program);
        command
            .args(identity(spec))
            .args(["-m", &spec.guest.memory_mib.to_string()])
            .args(["-nodefaults", "-no-user-config", "-net", "none", "-display", "none"])
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", qmp_path.display()))
            .arg("-chardev")
            .arg(format!("socket,id=serial0,path={}", serial_path.display()))
            .args(["-serial", "chardev:serial0"]);
        match (spec.accelerator, &spec.linux) {
            (Accelerator::Tcg, Some(linux)) => {
                command.arg("-machine").arg(format!("{},accel=tcg", spec.machine));
                command.args(linux.arguments());
            }
            (Accelerator::Kvm, Some(_)) => bail!("a KVM of the PVM kind boots no Linux"),
            (Accelerator::Tcg, None) => {
                let sector = spec.guest.assemble(directory.path())?;
                command
                    .arg("-machine")
                    .arg(format!("{},accel=tcg", spec.machine))
                    .arg("-drive")
                    .arg(format!("file={},format=raw,if=floppy,readonly=on", sector.display()))
                    .args(["-boot", "a"]);
            }
            (Accelerator::Kvm, None) => {
                let rom = spec.guest.assemble_rom(directory.path())?;
                let machine = format!("{},accel=kvm", spec.machine);
                command.arg("-machine").arg(machine).arg("-bios").arg(rom);
            }
        }
        if let Some(ports) = spec.clock {
            let port = match role {
                Role::Source => ports.source,
                Role::Destination => ports.destination,
            };
            command
                .arg("-chardev")
                .arg(format!("udp,id=clock,host=127.0.0.1,port={port}"))
                .args(["-serial", "chardev:clock"]);
        }
        if role == Role::Destination {
            command.args(["-incoming", "defer"]);
        }
        command
            .args(&spec.extra_args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&errors_path)?);
        if let Some(wire) = &spec.wire {
            wire.end(role).enter(&mut command);
        }
        let mut process = ChildGuard::spawn(&mut command).with_context(
            || "QEMU is needed for real migrations: run `cargo xtask setup` to install it",
        )?;
        let connected = connect(&mut process, &serial_listener, &qmp_path);
        let (serial, qmp) = connected.with_context(|| {
            let printed = std::fs::read_to_string(&errors_path).unwrap_or_default();
            format!("{} did not start: {}", spec.program.display(), printed.trim())
        })?;
        Ok(Self { process, qmp, serial, directory })
    }

    /// Waits until the guest says that its RAM is filled; call it once, on the source.
    ///
    /// # Errors
    /// When that takes longer than `limit` or QEMU ends.
    pub fn wait_filled(&mut self, limit: Duration) -> Result<()> {
        self.serial.set_read_timeout(Some(limit))?;
        let mut byte = [0];
        let read = self.serial.read(&mut byte);
        match read.with_context(|| format!("the guest has not filled its RAM in {limit:?}"))? {
            1 if byte[0] == FILLED => Ok(()),
            1 => bail!("the guest wrote {:#04x} instead of {FILLED:#04x}", byte[0]),
            _ => bail!("QEMU ended before its guest had filled its RAM"),
        }
    }

    /// Tells the guest, where it runs at this moment, to dirty pages at its storm's rate
    /// ([`Guest::storm_delay`]) or at its ordinary one. It heeds that within some 30 ms (256 of its
    /// beats), if it has a working set or ticks; a guest that halts never does.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn set_storm(&mut self, storm: bool) -> Result<()> {
        let command = if storm { STORM } else { CALM };
        self.serial.write_all(&[command]).context("the guest's serial line")
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The control socket.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// The guest's serial line.
    #[must_use]
    pub fn serial(&self) -> &UnixStream {
        &self.serial
    }

    /// Waits for the process to end by itself; `false` if it still runs after `limit`.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn wait_ended(&mut self, limit: Duration) -> Result<bool> {
        Ok(self.process.wait_for(limit)?.is_some())
    }

    /// Kills the process (SIGKILL) and waits for its end, but keeps what belongs to it.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn end(&mut self) -> Result<()> {
        self.process.child().kill()?;
        self.process.child().wait()?;
        Ok(())
    }

    /// Kills the process (SIGKILL) and waits for its end: a destination that dies.
    pub fn kill(self) {
        drop(self.process);
        drop(self.directory);
    }

    /// Kernel ids of the threads that run the guest's CPUs.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn vcpu_threads(&mut self) -> Result<Vec<u32>> {
        let answer = self.qmp.execute("query-cpus-fast", &Value::Null)?;
        let threads: Option<Vec<u32>> = answer.as_array().map(|cpus| {
            let thread = |cpu: &Value| u32::try_from(cpu.get("thread-id")?.as_u64()?).ok();
            cpus.iter().filter_map(thread).collect()
        });
        threads.with_context(|| format!("not a list of CPUs: {answer}"))
    }

    /// Binds the guest's CPUs to one CPU of the host and all other threads, those that are yet to
    /// come included, to another one, as libvirt's `vcpupin` and `emulatorpin` do.
    ///
    /// # Errors
    /// When QEMU is gone or the host has no such CPU.
    pub fn pin(&mut self, vcpus: usize, others: usize) -> Result<()> {
        let vcpu_threads = self.vcpu_threads()?;
        for entry in std::fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let name = entry?.file_name();
            let thread: u32 = name.to_string_lossy().parse()?;
            let cpu = if vcpu_threads.contains(&thread) { vcpus } else { others };
            bind_thread(thread, cpu).with_context(|| format!("thread {thread} on CPU {cpu}"))?;
        }
        Ok(())
    }

    /// The process, for signals.
    #[must_use]
    pub fn process(&self) -> &ChildGuard {
        &self.process
    }
}

fn bind_thread(thread: u32, cpu: usize) -> Result<()> {
    let thread = libc::pid_t::try_from(thread)?;
    // SAFETY: all zeroes are a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    ensure!(cpu < 8 * size_of_val(&set), "no such CPU");
    // SAFETY: the CPU lies within the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the pointer and the size describe the set.
    let result = unsafe { libc::sched_setaffinity(thread, size_of_val(&set), &raw const set) };
    if result != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(())
}

/// Waits for QEMU to come to the serial socket, then connects to its control socket.
fn connect(
    process: &mut ChildGuard,
    listener: &UnixListener,
    qmp_path: &std::path::Path,
) -> Result<(UnixStream, Qmp)> {
    const LIMIT: Duration = Duration::from_secs(30);
    listener.set_nonblocking(true)?;
    let start = Instant::now();
    let serial = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
                return Err(error.into());
            }
            Err(_) => {}
        }
        if let Some(status) = process.try_wait()? {
            bail!("it ended with {status}");
        }
        if start.elapsed() > LIMIT {
            bail!("it has not opened its serial line in {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    serial.set_nonblocking(false)?;
    let qmp = Qmp::connect(qmp_path, LIMIT)?;
    Ok((serial, qmp))
}

fn identity(spec: &QemuSpec) -> Vec<String> {
    let mut args = Vec::new();
    if let Some(name) = &spec.name {
        // A comma within a value is written twice.
        let mut value = format!("guest={}", name.replace(',', ",,"));
        if spec.debug_threads {
            value.push_str(",debug-threads=on");
        }
        args.extend(["-name".to_owned(), value]);
    }
    if let Some(uuid) = &spec.uuid {
        args.extend(["-uuid".to_owned(), uuid.clone()]);
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_names_the_vm() {
        let named = QemuSpec { name: Some("a,b".to_owned()), ..QemuSpec::default() };
        assert_eq!(identity(&named)[..2], ["-name", "guest=a,,b,debug-threads=on"]);
        let plain = QemuSpec { debug_threads: false, uuid: None, ..QemuSpec::default() };
        assert_eq!(identity(&plain), ["-name", "guest=vm-12345"]);
        let nameless = QemuSpec { name: None, uuid: None, ..QemuSpec::default() };
        assert!(identity(&nameless).is_empty());
    }
}
