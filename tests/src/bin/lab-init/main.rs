//! The first process of the kernel laboratory's VMs: mounts, loads modules, runs what it is ordered
//! to, says so on the console, and switches the VM off.

mod kernel_log;
mod processes;
mod system;

use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};
use dwcp_observer_lab::vm::protocol::{Event, MODULES, ORDERS, Orders, Test};

use kernel_log::KernelLog;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("lab-init is the first process of a VM: `cargo xtask vm-test` starts it there");
        return ExitCode::FAILURE;
    }
    match run() {
        Ok(()) => say(&Event::Done),
        Err(error) => say(&Event::Failed { error: format!("{error:#}") }),
    }
    // Only returns if it fails, and a kernel whose init ends panics: the host sees that.
    system::power_off();
    ExitCode::FAILURE
}

fn run() -> Result<()> {
    system::mount_all()?;
    let orders = std::fs::read(ORDERS).context(ORDERS)?;
    let orders: Orders = serde_json::from_slice(&orders).context(ORDERS)?;
    for module in &orders.modules {
        system::load_module(&Path::new(MODULES).join(module))
            .with_context(|| format!("module {module}"))?;
    }
    let mut network = Command::new("/usr/bin/ip");
    let network = processes::run(network.args(["link", "set", "lo", "up"]), SET_UP_LIMIT)?;
    anyhow::ensure!(network.exit == Some(0), "`ip link set lo up`: {network:?}");
    let mut log = KernelLog::open()?;
    say(&Event::Up {
        release: read("/proc/sys/kernel/osrelease")?,
        uptime_seconds: uptime()?,
        modules: orders.modules.len(),
    });
    for test in &orders.tests {
        say(&Event::Begin { name: test.name.clone() });
        let event = run_test(test, &mut log)?;
        say(&event);
    }
    Ok(())
}

const SET_UP_LIMIT: Duration = Duration::from_secs(20);

fn run_test(test: &Test, log: &mut KernelLog) -> Result<Event> {
    log.take()?;
    let start = uptime()?;
    let mut command = Command::new(&test.program);
    command.args(&test.args).env_clear().envs(&test.environment);
    let ended = processes::run(&mut command, Duration::from_secs(test.limit_seconds));
    let seconds = uptime()? - start;
    let (exit, mut problem) = match ended {
        Ok(ended) => (ended.exit, ended.problem),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    let left = processes::end_all()?;
    if !left.is_empty() && problem.is_none() {
        problem = Some(format!("left running: {}", left.join(", ")));
    }
    Ok(Event::End { name: test.name.clone(), exit, problem, seconds, kernel: log.take()? })
}

/// To the console, whatever a test has left of a line there.
fn say(event: &Event) {
    let mut stdout = std::io::stdout().lock();
    // If the console is gone, there is nobody to tell.
    let _ = stdout.write_all(event.line().as_bytes());
    let _ = stdout.flush();
}

/// Since the kernel's start, s.
fn uptime() -> Result<f64> {
    let text = read("/proc/uptime")?;
    let first = text.split(' ').next().unwrap_or_default();
    first.parse().with_context(|| format!("/proc/uptime: {text}"))
}

fn read(path: &str) -> Result<String> {
    Ok(std::fs::read_to_string(path).with_context(|| path.to_owned())?.trim_end().to_owned())
}
