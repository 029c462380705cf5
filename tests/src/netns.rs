//! Two network namespaces joined by a cable (a veth pair): a migration between "two hosts", whose
//! network can be made worse without touching anything else.
//!
//! A namespace has no name. It lives as long as this process holds its descriptor or a process
//! runs in it, so nothing is left behind even if the lab is killed.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};

use crate::qemu::Role;

/// The network interface of each end.
pub const INTERFACE: &str = "wire0";

/// A network namespace; clones are the same one.
#[derive(Clone, Debug)]
pub struct Namespace {
    file: Arc<File>,
}

impl Namespace {
    /// Makes a new one, whose loopback interface is up.
    ///
    /// # Errors
    /// Without root, or when the kernel has no network namespaces.
    pub fn new() -> Result<Self> {
        // `unshare` moves the calling thread, so a thread that ends right after does it.
        let made = std::thread::spawn(|| {
            // SAFETY: takes an integer only.
            match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
                0 => File::open("/proc/thread-self/ns/net"),
                _ => Err(io::Error::last_os_error()),
            }
        });
        let file = made.join().map_err(|_| anyhow!("the thread panicked"))?;
        let namespace =
            Self { file: Arc::new(file.context("a network namespace (this needs root)")?) };
        namespace.run("ip", &["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Makes `command` start in this namespace.
    pub fn enter(&self, command: &mut Command) {
        let namespace = self.clone();
        // SAFETY: `join` makes one system call, which is all that may be done there.
        unsafe { command.pre_exec(move || namespace.join()) };
    }

    /// Runs `work` in this namespace, on a thread of its own: sockets that it makes belong there.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or `work` fails or panics.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.join()?;
                work()
            });
            thread.join().map_err(|_| anyhow!("the thread panicked"))?
        })
    }

    /// Moves the calling thread here.
    fn join(&self) -> io::Result<()> {
        // SAFETY: takes integers only; the descriptor is open.
        match unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Runs a program in this namespace to its end and returns what it printed.
    ///
    /// # Errors
    /// When it cannot be started or fails: the error holds its stderr.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(program);
        command.args(arguments);
        self.enter(&mut command);
        let output = command
            .output()
            .with_context(|| format!("cannot run `{program}`; `cargo xtask setup` installs it"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`{program} {}`: {}", arguments.join(" "), said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Writes a setting of this namespace, for instance `ipv4/tcp_retries2`.
    ///
    /// # Errors
    /// When there is no such setting or it refuses the value.
    pub fn set(&self, setting: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{setting}");
        // What this directory shows depends on who opens it.
        self.run("sh", &["-c", "echo \"$1\" > \"$2\"", "sh", value, &path]).map(|_| ())
    }
}

/// Two namespaces and the cable between them.
#[derive(Clone, Debug)]
pub struct Wire {
    source: Namespace,
    destination: Namespace,
}

impl Wire {
    /// Makes both ends. Each sees only the other one; addresses are of a block for such tests.
    ///
    /// # Errors
    /// Without root, or when iproute2 is missing.
    pub fn new() -> Result<Self> {
        let wire = Self { source: Namespace::new()?, destination: Namespace::new()? };
        let far = &wire.destination;
        let far_path = format!("/proc/{}/fd/{}", std::process::id(), far.file.as_raw_fd());
        wire.source.run(
            "ip",
            &[
                "link", "add", INTERFACE, "type", "veth", "peer", "name", INTERFACE, "netns",
                &far_path,
            ],
        )?;
        for role in [Role::Source, Role::Destination] {
            let end = wire.end(role);
            end.run(
                "ip",
                &["address", "add", &format!("{}/24", Self::address(role)), "dev", INTERFACE],
            )?;
            end.run("ip", &["link", "set", INTERFACE, "up"])?;
        }
        Ok(wire)
    }

    /// The namespace of one end.
    #[must_use]
    pub fn end(&self, role: Role) -> &Namespace {
        match role {
            Role::Source => &self.source,
            Role::Destination => &self.destination,
        }
    }

    /// The address of one end (of TEST-NET-1, RFC 5737).
    #[must_use]
    pub fn address(role: Role) -> IpAddr {
        let last = match role {
            Role::Source => 1,
            Role::Destination => 2,
        };
        Ipv4Addr::new(192, 0, 2, last).into()
    }
}
