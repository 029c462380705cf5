//! One boot of a VM: QEMU's command line, its console, and how it ended.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{ChildStderr, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::protocol::Event;
use crate::process::ChildGuard;
use crate::qemu::{QEMU, Role};

/// A booted kernel says so within 3 s; one that has not after this time hangs.
const UP_LIMIT: Duration = Duration::from_secs(60);
/// After a panic the console still brings its trace.
const TRACE_TIME: Duration = Duration::from_secs(3);
/// How much of the console goes into an error.
const TAIL_LINES: usize = 60;

/// A VM to be booted.
#[derive(Clone, Debug)]
pub struct Vm {
    /// Uncompressed kernel.
    pub kernel: PathBuf,
    /// Its root file system, a cpio archive.
    pub initrd: PathBuf,
    /// RAM, MiB.
    pub memory_mib: u32,
    /// From the start to the end; then it is killed.
    pub limit: Duration,
    /// Where its console is kept, line by line as it comes.
    pub log: PathBuf,
    /// A cable to another VM.
    pub cable: Option<Cable>,
}

/// One end of a cable between two VMs: a network card (`eth0`). No root, no port and no order of
/// starts: what is sent while the other VM is not there is lost, as on any cable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cable {
    /// Which end.
    pub end: Role,
    /// Where the sockets are that carry its packets; the same for both ends.
    pub directory: PathBuf,
}

impl Cable {
    fn arguments(&self) -> [String; 4] {
        let (other, number) = match self.end {
            Role::Source => (Role::Destination, 1),
            Role::Destination => (Role::Source, 2),
        };
        let [own, other] = [self.end, other].map(|end| self.directory.join(end.as_str()));
        [
            "-netdev".to_owned(),
            format!(
                "dgram,id=cable,local.type=unix,local.path={},remote.type=unix,remote.path={}",
                own.display(),
                other.display()
            ),
            "-device".to_owned(),
            // Without the ROM to boot from, which not every host has.
            format!("virtio-net-pci,netdev=cable,mac=52:54:00:00:00:{number:02},romfile="),
        ]
    }
}

/// How a VM ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself.
    PoweredOff,
    /// The kernel panicked, or a CPU or RCU stalled; the line that says so.
    Broken(String),
    /// It still ran after its limit.
    TimedOut(Duration),
    /// Its init was not there in time.
    NeverUp,
    /// QEMU ended otherwise; what it printed.
    Qemu(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff => f.write_str("switched off"),
            Self::Broken(line) => write!(f, "the kernel broke: {line}"),
            Self::TimedOut(limit) => write!(f, "still running after {limit:?}"),
            Self::NeverUp => write!(f, "init has not spoken in {UP_LIMIT:?}"),
            Self::Qemu(errors) => write!(f, "QEMU failed: {errors}"),
        }
    }
}

/// What a VM has said, and how it ended.
#[derive(Clone, Debug)]
pub struct Boot {
    /// All lines of the console, without carriage returns.
    pub console: Vec<String>,
    /// How it ended.
    pub end: End,
    /// Whether init has spoken.
    pub was_up: bool,
    /// From QEMU's start to its end.
    pub took: Duration,
}

impl Boot {
    /// The last lines of the console.
    #[must_use]
    pub fn tail(&self) -> String {
        let from = self.console.len().saturating_sub(TAIL_LINES);
        self.console.get(from..).unwrap_or_default().join("\n")
    }
}

/// Boots, and boots once more if init never spoke: that is a fault of the machine, not of a test.
/// `shown` gets each event as it comes.
///
/// # Errors
/// When QEMU is missing.
pub fn boot(vm: &Vm, mut shown: impl FnMut(&Event)) -> Result<Boot> {
    let first = boot_once(vm, &mut shown)?;
    if first.was_up || matches!(first.end, End::Qemu(_)) {
        return Ok(first);
    }
    eprintln!("vm: {}: {}; once more. Its console ended with:", vm.kernel.display(), first.end);
    eprintln!("{}", first.tail());
    boot_once(vm, &mut shown)
}

fn boot_once(vm: &Vm, shown: &mut impl FnMut(&Event)) -> Result<Boot> {
    let start = Instant::now();
    let mut command = command(vm)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = ChildGuard::spawn(&mut command)
        .context("QEMU is needed to boot kernels: run `cargo xtask setup` to install it")?;
    let stdout = process.child().stdout.take().context("no stdout")?;
    let stderr = process.child().stderr.take().context("no stderr")?;
    let (lines, errors) = (lines_of(stdout), text_of(stderr));
    let mut boot =
        Boot { console: Vec::new(), end: End::PoweredOff, was_up: false, took: Duration::ZERO };
    let mut log = File::create(&vm.log).with_context(|| vm.log.display().to_string())?;
    let mut take = |line: &str| {
        // The log is for a person who looks on; the lines are kept here, too.
        let _ = writeln!(log, "{line}");
        if let Some(Ok(event)) = Event::parse(line) {
            boot.was_up |= matches!(event, Event::Up { .. });
            shown(&event);
        }
        boot.console.push(line.to_owned());
        boot.was_up
    };
    boot.end = watch(vm.limit, &lines, start, &mut take);
    if boot.end == End::PoweredOff {
        // The console is closed: QEMU ends at once.
        let status = process.wait_for(Duration::from_secs(10))?;
        if !status.is_some_and(|status| status.success()) || !boot.was_up {
            let errors = errors.recv_timeout(Duration::from_secs(10)).unwrap_or_default();
            boot.end = End::Qemu(format!("{status:?} {}", errors.trim()));
        }
    }
    drop(process);
    boot.took = start.elapsed();
    Ok(boot)
}

/// Gives the console's lines to `take`, which says whether init has spoken, until the console is
/// closed or there is a reason to end the VM.
fn watch(
    limit: Duration,
    lines: &Receiver<String>,
    start: Instant,
    take: &mut impl FnMut(&str) -> bool,
) -> End {
    let mut broken: Option<(String, Instant)> = None;
    let mut was_up = false;
    loop {
        let mut deadline = start + if was_up { limit } else { UP_LIMIT.min(limit) };
        if let Some((_, since)) = &broken {
            deadline = deadline.min(*since + TRACE_TIME);
        }
        let line = match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => {
                return broken.map_or(End::PoweredOff, |(line, _)| End::Broken(line));
            }
            Err(RecvTimeoutError::Timeout) => {
                return match broken {
                    Some((line, _)) => End::Broken(line),
                    None if was_up => End::TimedOut(limit),
                    None => End::NeverUp,
                };
            }
        };
        was_up = take(&line);
        if broken.is_none() && is_broken(&line) {
            broken = Some((line, Instant::now()));
        }
    }
}

/// Whether the kernel says that it cannot go on. Its message may follow a line that a test has not
/// finished, but always a time: `test x ... [  457.878310] Oops: int3`.
fn is_broken(line: &str) -> bool {
    const MARKS: [&str; 5] =
        ["Kernel panic", "watchdog: BUG: soft lockup", "rcu: INFO: ", "BUG: ", "Oops: "];
    line.match_indices("] ").any(|(end, _)| {
        let (before, text) = line.split_at(end);
        let time = before.rsplit_once('[').map(|(_, time)| time.trim_start());
        time.is_some_and(|time| time.parse::<f64>().is_ok())
            && MARKS.iter().any(|mark| text[2..].starts_with(mark))
    })
}

fn command(vm: &Vm) -> Result<Command> {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
    let mut command = Command::new(QEMU);
    // The card needs PCI, which slows the boot of those that have none.
    let machine = if vm.cable.is_some() { "microvm,pcie=on" } else { "microvm" };
    command
        .args(["-M", machine, "-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-serial", "stdio", "-smp", "2"])
        .args(["-m", &vm.memory_mib.to_string()])
        .args(accelerator(&cpus, || File::open("/dev/kvm").is_ok()))
        .arg("-kernel")
        .arg(&vm.kernel)
        .arg("-initrd")
        .arg(&vm.initrd)
        .args(["-append", &kernel_arguments(&cpus)?])
        .args(vm.cable.iter().flat_map(Cable::arguments));
    Ok(command)
}

/// KVM only where the CPU has it: the KVM of some VMs opens, but does not run ordinary kernels.
///
/// One thread for both virtual CPUs: with one for each, QEMU 7.2 now and then executes code that
/// the other CPU has just patched as it was before, and the kernel dies of a stray breakpoint
/// (seen: `Oops: int3` in `bpf_trace_run2`).
fn accelerator(cpus: &str, has_device: impl Fn() -> bool) -> [&'static str; 4] {
    let has_flag = cpus
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| line.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"));
    if has_flag && has_device() {
        ["-accel", "kvm", "-cpu", "host"]
    } else {
        ["-accel", "tcg,thread=single", "-cpu", "max"]
    }
}

/// The time stamp counter is declared fit and its rate is given: the kernel would have to measure
/// it against a timer that this machine type does not have, and hangs at that now and then.
fn kernel_arguments(cpus: &str) -> Result<String> {
    let Some(khz) = tsc_khz(cpus) else { bail!("/proc/cpuinfo has no bogomips") };
    Ok(format!(
        "console=ttyS0 quiet panic=-1 oops=panic reboot=t mitigations=off tsc=reliable \
         tsc_early_khz={khz}"
    ))
}

/// The rate of the counter in kHz: the kernel computes `bogomips` as twice its MHz.
pub(crate) fn tsc_khz(cpus: &str) -> Option<u64> {
    let line = cpus.lines().find(|line| line.starts_with("bogomips"))?;
    let mips: f64 = line.split_once(':')?.1.trim().parse().ok()?;
    // Half of it, from MHz to kHz.
    format!("{:.0}", mips * 500.0).parse().ok()
}

/// Lines as they come, until the console is closed. A line that is no text keeps what is.
fn lines_of(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n') {
            let Ok(line) = line else { return };
            let text = String::from_utf8_lossy(&line).replace('\r', "");
            if sender.send(text).is_err() {
                return;
            }
        }
    });
    receiver
}

fn text_of(mut stderr: ChildStderr) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        // What came before an error is better than nothing.
        let _ = stderr.read_to_end(&mut text);
        let _ = sender.send(String::from_utf8_lossy(&text).into_owned());
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUS: &str = "model name\t: x\nflags\t\t: fpu svm_lock sse\nbogomips\t: 5192.26\n";

    #[test]
    fn kvm_is_used_only_where_the_cpu_has_it() {
        let kind = |cpus: &str, device| accelerator(cpus, || device)[1];
        assert_eq!(kind(CPUS, true), "tcg,thread=single");
        let svm = CPUS.replace("svm_lock", "svm");
        assert_eq!(kind(&svm, true), "kvm");
        assert_eq!(kind(&svm, false), "tcg,thread=single");
    }

    #[test]
    fn the_rate_of_the_counter_is_given() {
        assert!(kernel_arguments(CPUS).unwrap().ends_with(" tsc_early_khz=2596130"));
        assert!(kernel_arguments("flags: fpu\n").is_err());
    }

    #[test]
    fn a_broken_kernel_is_told_from_a_test_that_talks_of_one() {
        for line in [
            "[    2.4] Kernel panic - not syncing: No working init found.",
            "[  457.878310] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI",
            "[   60.1] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
            "[   60.1] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "[    9.0] BUG: kernel NULL pointer dereference, address: 0",
            "test [a] ... [  457.878310] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI",
        ] {
            assert!(is_broken(line), "{line}");
        }
        for line in [
            "test a_kernel_panic ... ok",
            "Kernel panic is what this test is about",
            "[test] BUG: none",
            "[    0.4] PCI: Fatal: No config space access function found",
        ] {
            assert!(!is_broken(line), "{line}");
        }
    }
}
