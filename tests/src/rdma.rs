//! RDMA in software: a Soft-RoCE device of the test's own, and programs that use verbs and say what they did.

use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::process::ChildGuard;
use crate::temp::TempDir;

/// Address of the device.
pub const ADDRESS: &str = "10.9.0.1";

/// A Soft-RoCE device on a dummy interface; removed on drop. Traffic to its own address never leaves it.
#[derive(Debug)]
pub struct SoftRoce {
    name: String,
    interface: String,
}

impl SoftRoce {
    /// Makes the interface and the device, both named after `name`.
    ///
    /// # Errors
    /// Not root, or the kernel has neither `dummy` nor `rdma_rxe`.
    pub fn new(name: &str) -> Result<Self> {
        let device = Self { name: format!("rxe_{name}"), interface: format!("dum_{name}") };
        let interface = device.interface.as_str();
        run("ip", &["link", "add", interface, "type", "dummy"])?;
        run("ip", &["addr", "add", &format!("{ADDRESS}/24"), "dev", interface])?;
        run("ip", &["link", "set", interface, "up"])?;
        run("rdma", &["link", "add", &device.name, "type", "rxe", "netdev", interface])?;
        Ok(device)
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

impl Drop for SoftRoce {
    fn drop(&mut self) {
        // It may have been removed by the test.
        let _ = self.remove();
        let _ = run("ip", &["link", "delete", &self.interface]);
    }
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
    let start = |args: &[&str], name: &str| -> Result<ChildGuard> {
        let file = std::fs::File::create(printed(name))?;
        let errors = file.try_clone()?;
        let mut command = Command::new(program);
        command.args(args.iter().map(OsStr::new)).stdin(Stdio::null()).stdout(file).stderr(errors);
        ChildGuard::spawn(&mut command).with_context(|| format!("{program} is needed"))
    };
    let begun = Instant::now();
    let mut server = start(server, "server")?;
    loop {
        // The server listens a moment after it began.
        std::thread::sleep(Duration::from_millis(500));
        let mut client = start(client, "client")?;
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
