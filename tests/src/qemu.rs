//! One QEMU process: a migration's source or its destination.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::guest::{FILLED, Guest};
use crate::process::ChildGuard;
use crate::qmp::Qmp;
use crate::temp::TempDir;

/// The program that the lab runs.
pub const QEMU: &str = "qemu-system-x86_64";

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
            extra_args: Vec::new(),
        }
    }
}

/// Which end of a migration a QEMU process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs the guest.
    Source,
    /// Waits for the guest to come.
    Destination,
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
        let sector = spec.guest.assemble(directory.path())?;
        let (qmp_path, serial_path, errors_path) =
            (directory.join("qmp"), directory.join("serial"), directory.join("stderr"));
        let serial_listener = UnixListener::bind(&serial_path)?;
        let mut command = Command::new(QEMU);
        command
            .args(identity(spec))
            .args(["-machine", "pc,accel=tcg", "-m", &spec.guest.memory_mib.to_string()])
            .args(["-nodefaults", "-no-user-config", "-net", "none", "-display", "none"])
            .arg("-drive")
            .arg(format!("file={},format=raw,if=floppy,readonly=on", sector.display()))
            .args(["-boot", "a"])
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", qmp_path.display()))
            .arg("-chardev")
            .arg(format!("socket,id=serial0,path={}", serial_path.display()))
            .args(["-serial", "chardev:serial0"]);
        if role == Role::Destination {
            command.args(["-incoming", "defer"]);
        }
        command
            .args(&spec.extra_args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&errors_path)?);
        let mut process = ChildGuard::spawn(&mut command).with_context(
            || "QEMU is needed for real migrations: run `cargo xtask setup` to install it",
        )?;
        let connected = connect(&mut process, &serial_listener, &qmp_path);
        let (serial, qmp) = connected.with_context(|| {
            let printed = std::fs::read_to_string(&errors_path).unwrap_or_default();
            format!("{QEMU} did not start: {}", printed.trim())
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

    /// Kills the process (SIGKILL) and waits for its end: a destination that dies.
    pub fn kill(self) {
        drop(self.process);
        drop(self.directory);
    }

    /// The process, for signals.
    #[must_use]
    pub fn process(&self) -> &ChildGuard {
        &self.process
    }
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
