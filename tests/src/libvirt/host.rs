//! One host: namespaces with a `libvirtd` in them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::netns::Wire;
use crate::process::ChildGuard;
use crate::qemu::Role;

/// The daemon probes QEMU when it is first asked.
const START: Duration = Duration::from_secs(60);
/// What runs as process 1 of the host: it stays, to reap the QEMUs that libvirtd leaves to it.
const INIT: &str = include_str!("host.sh");

/// A host with a running `libvirtd`; everything in it is killed on drop.
#[derive(Debug)]
pub struct Host {
    role: Role,
    wire: Wire,
    directory: PathBuf,
    init: ChildGuard,
}

impl Host {
    /// Starts one in its end of `wire`; its files are in `directory`.
    ///
    /// # Errors
    /// Without root, or when libvirt's daemon is missing.
    pub fn start(wire: &Wire, role: Role, directory: PathBuf) -> Result<Self> {
        fs::create_dir_all(directory.join("images"))?;
        let log = directory.join("libvirtd.log");
        fs::write(directory.join("libvirtd.conf"), daemon_settings(role, &log))?;
        fs::write(directory.join("qemu.conf"), QEMU_SETTINGS)?;
        let output = File::create(directory.join("output"))?;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--uts", "--pid", "--fork", "--kill-child=SIGKILL"])
            .args(["sh", "-e", "-c", INIT, "sh"])
            .arg(&directory)
            .arg(name(role))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        wire.end(role).enter(&mut command);
        let init = ChildGuard::spawn(&mut command)?;
        Ok(Self { role, wire: wire.clone(), directory, init })
    }

    /// Waits until the daemon answers.
    ///
    /// # Errors
    /// When it ends or does not in a minute: the error holds what it printed.
    pub fn wait_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while self.virsh(&["version"]).is_err() {
            let ended = self.init.try_wait()?;
            if ended.is_some() || start.elapsed() > START {
                bail!("libvirtd does not run on {}: {}", name(self.role), self.complaints());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// What it and its daemon printed.
    fn complaints(&self) -> String {
        let read = |file: &str| fs::read_to_string(self.directory.join(file)).unwrap_or_default();
        read("output") + &read("libvirtd.log")
    }

    /// Its files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// How `virsh` calls it, from either host.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("qemu+tcp://{}/system", Wire::address(self.role))
    }

    /// `virsh` on this host; killed after two minutes: a QEMU whose main loop hangs makes libvirt wait for ever.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=1", "120", "virsh", "--quiet", "--connect", &self.uri()]);
        command.args(arguments);
        self.wire.end(self.role).enter(&mut command);
        command
    }

    /// Runs `virsh` to its end and returns what it printed.
    ///
    /// # Errors
    /// When it fails: the error holds what it said.
    pub fn virsh(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(arguments);
        let output =
            command.output().context("cannot run `virsh`; `cargo xtask setup` installs it")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "virsh {}: {}", arguments.join(" "), said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

const fn name(role: Role) -> &'static str {
    match role {
        Role::Source => "lab-source",
        Role::Destination => "lab-destination",
    }
}

/// Two daemons on one machine would call themselves the same host, and refuse to migrate.
fn daemon_settings(role: Role, log: &Path) -> String {
    let number = match role {
        Role::Source => 1,
        Role::Destination => 2,
    };
    format!(
        "listen_tls = 0\nlisten_tcp = 1\nauth_tcp = \"none\"\nauth_unix_rw = \"none\"\nunix_sock_group = \"root\"\n\
         host_uuid = \"1ab00000-0000-4000-8000-00000000000{number}\"\nlog_level = 3\nlog_outputs = \"3:file:{}\"\n",
        log.display()
    )
}

const QEMU_SETTINGS: &str = "security_driver = \"none\"\nuser = \"root\"\ngroup = \"root\"\ndynamic_ownership = 0\n\
    cgroup_controllers = []\nstdio_handler = \"file\"\nnamespaces = []\n";
