//! RDMA in software: a device of the test's own, and programs that use verbs and say what they did.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::process::ChildGuard;
use crate::temp::TempDir;

/// Address of the device.
pub const ADDRESS: &str = "10.9.0.1";

/// The provider's library of Soft-RoCE. Its name ends in the interface that it was built for.
///
/// # Errors
/// When Debian's `ibverbs-providers` is not installed.
pub fn provider() -> Result<PathBuf> {
    let directory = Path::new("/usr/lib/x86_64-linux-gnu/libibverbs");
    let entries = std::fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let named = |path: &PathBuf| path.to_string_lossy().contains("librxe-rdmav");
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.find(named).context("no librxe-rdmav*.so: ibverbs-providers is needed")
}

/// RDMA without hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Soft-RoCE: over UDP.
    Rxe,
    /// Software iWARP: over TCP, in the kernel.
    Siw,
}

impl Driver {
    const fn name(self) -> &'static str {
        match self {
            Self::Rxe => "rxe",
            Self::Siw => "siw",
        }
    }
}

/// A device of one of them; removed on drop.
#[derive(Debug)]
pub struct SoftDevice {
    name: String,
    /// The interface under it, if it was made for it.
    made: Option<String>,
}

impl SoftDevice {
    /// Makes a dummy interface and a device on it, both named after `name`. Traffic to its own address never leaves it.
    ///
    /// # Errors
    /// Not root, or the kernel has no `dummy` or not the driver.
    pub fn new(driver: Driver, name: &str) -> Result<Self> {
        let interface = format!("dum_{name}");
        run("ip", &["link", "add", &interface, "type", "dummy"])?;
        let mut device = Self { name: String::new(), made: Some(interface.clone()) };
        run("ip", &["addr", "add", &format!("{ADDRESS}/24"), "dev", &interface])?;
        run("ip", &["link", "set", &interface, "up"])?;
        device.name = add(driver, name, &interface)?;
        Ok(device)
    }

    /// Makes a Soft-RoCE device on an interface that is there: gives it an address and a packet size, and switches it on.
    ///
    /// # Errors
    /// Not root, no such interface, or a kernel without `rdma_rxe`.
    pub fn on(interface: &str, address: Ipv4Addr, packet_bytes: u16, name: &str) -> Result<Self> {
        run("ip", &["link", "set", interface, "mtu", &packet_bytes.to_string(), "up"])?;
        run("ip", &["addr", "replace", &format!("{address}/24"), "dev", interface])?;
        Ok(Self { name: add(Driver::Rxe, name, interface)?, made: None })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes the device away, whoever uses it.
    ///
    /// # Errors
    /// When `rdma link delete` fails.
    pub fn remove(&self) -> Result<()> {
        run("rdma", &["link", "delete", &self.name])
    }

    /// One of its hardware counters.
    ///
    /// # Errors
    /// When it has none of that name.
    pub fn counter(&self, name: &str) -> Result<u64> {
        // The driver hands out figures that are up to 12 ms old.
        std::thread::sleep(Duration::from_millis(30));
        let path = format!("/sys/class/infiniband/{}/ports/1/hw_counters/{name}", self.name);
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        text.trim().parse().with_context(|| format!("{path}: {text}"))
    }
}

impl Drop for SoftDevice {
    fn drop(&mut self) {
        // It may have been removed by the test.
        let _ = self.remove();
        if let Some(interface) = &self.made {
            let _ = run("ip", &["link", "delete", interface]);
        }
    }
}

fn add(driver: Driver, name: &str, interface: &str) -> Result<String> {
    let name = format!("{}_{name}", driver.name());
    run("rdma", &["link", "add", &name, "type", driver.name(), "netdev", interface])?;
    Ok(name)
}

/// Starts a program whose output goes to a file.
///
/// # Errors
/// When it is not installed.
pub fn start(program: &str, args: &[&str], output: &Path) -> Result<ChildGuard> {
    let file = File::create(output)?;
    let errors = file.try_clone()?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(file).stderr(errors);
    ChildGuard::spawn(&mut command).with_context(|| format!("{program} is needed"))
}

/// A server and its client, run one after the other; what the client printed.
///
/// # Errors
/// When one of them fails or takes longer than `limit`.
pub fn server_and_client(
    program: &str,
    server: &[&str],
    client: &[&str],
    limit: Duration,
) -> Result<String> {
    let directory = TempDir::new()?;
    let printed = |name: &str| directory.join(name);
    let begun = Instant::now();
    let mut server = start(program, server, &printed("server"))?;
    loop {
        // The server listens a moment after it began.
        std::thread::sleep(Duration::from_millis(500));
        let mut client = start(program, client, &printed("client"))?;
        let left = limit.saturating_sub(begun.elapsed());
        let ended = client.wait_for(left)?;
        let text = std::fs::read_to_string(printed("client"))?;
        match ended {
            Some(status) if status.success() => {
                ensure!(server.wait_for(limit)?.is_some(), "{program}: the server stays");
                return Ok(text);
            }
            Some(_) if text.contains("connect") && begun.elapsed() < limit => {}
            Some(status) => bail!("{program}: {status}: {text}"),
            None => bail!("{program} takes longer than {limit:?}: {text}"),
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run `{program}`"))?;
    ensure!(
        output.status.success(),
        "`{program} {}`: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
