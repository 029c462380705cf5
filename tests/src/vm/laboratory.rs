//! Boots kernels with the project's programs, several at once, and keeps their reports.

use std::collections::VecDeque;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::boot::{Cable, Vm, boot};
use super::cpio::Archive;
use super::kernels::{Kernel, Series};
use super::protocol::{Event, MODULES, ORDERS, Orders, Test};
use super::report::VmReport;
use crate::qemu::Role;
use crate::temp::TempDir;

/// Enough for two QEMU guests of 256 MiB and the root file system.
const MEMORY_MIB: u32 = 2048;
/// A boot under translation takes some 5 s, on a busy machine more.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// A kernel to be booted.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What was asked for.
    pub series: Series,
    /// The kernel that this is.
    pub kernel: Kernel,
    /// What is to run there.
    pub tests: Vec<Test>,
}

/// One kernel that was booted.
#[derive(Debug)]
pub struct Run {
    /// What was asked for.
    pub series: Series,
    /// The kernel that this was.
    pub release: String,
    /// Which of two VMs, where two ran at once.
    pub end: Option<Role>,
    /// What its VM did.
    pub report: VmReport,
    /// From QEMU's start to its end; without a first try that hung.
    pub took: Duration,
    /// The end of its console, for when something was wrong.
    pub tail: String,
}

/// Boots each kernel with `root` and runs its tests there, `jobs` VMs at a time. Progress goes to
/// stderr. The runs come back in the order of `subjects`.
///
/// # Errors
/// When QEMU or a file is missing. What goes wrong in a VM is in its report.
pub fn run(subjects: &[Subject], root: &Archive, jobs: usize) -> Result<Vec<Run>> {
    let queue: Mutex<VecDeque<_>> = Mutex::new(subjects.iter().enumerate().collect());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let mut runs = std::thread::scope(|scope| {
        let work = || {
            let mut runs = Vec::new();
            while let Some((index, subject)) = next() {
                let run = run_one(subject, root, None)
                    .with_context(|| format!("kernel {}", subject.kernel.release))?;
                runs.push((index, run));
            }
            Ok(runs)
        };
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for worker in workers {
            let runs: Result<Vec<_>> =
                worker.join().map_err(|_| anyhow!("a VM's thread panicked"))?;
            all.extend(runs?);
        }
        anyhow::Ok(all)
    })?;
    runs.sort_by_key(|(index, _)| *index);
    Ok(runs.into_iter().map(|(_, run)| run).collect())
}

/// Boots two VMs at once with a cable between them: where a migration comes from, and where it goes.
///
/// # Errors
/// When QEMU or a file is missing. What goes wrong in a VM is in its report.
pub fn run_pair(subjects: &[Subject; 2], root: &Archive) -> Result<Vec<Run>> {
    let directory = TempDir::new()?;
    std::thread::scope(|scope| {
        let runs: Vec<_> = subjects
            .iter()
            .zip([Role::Source, Role::Destination])
            .map(|(subject, end)| {
                let cable = Cable { end, directory: directory.path().to_owned() };
                scope.spawn(|| run_one(subject, root, Some(cable)))
            })
            .collect();
        let joined = runs.into_iter().map(ScopedJoinHandle::join);
        joined.map(|run| run.map_err(|_| anyhow!("a VM's thread panicked"))?).collect()
    })
}

fn run_one(subject: &Subject, root: &Archive, cable: Option<Cable>) -> Result<Run> {
    let Subject { series, kernel, tests } = subject;
    let directory = TempDir::new()?;
    let initrd = directory.join("initrd");
    let orders = write_initrd(&initrd, kernel, root, tests)?;
    let end = cable.as_ref().map(|cable| cable.end);
    let time: u64 = tests.iter().map(|test| test.limit_seconds).sum();
    let vm = Vm {
        kernel: kernel.image(),
        initrd,
        memory_mib: MEMORY_MIB,
        limit: BOOT_LIMIT + Duration::from_secs(time),
        log: kernel.log(end),
        cable,
    };
    let name = match end {
        None => kernel.release.clone(),
        Some(end) => format!("{} {}", kernel.release, end.as_str()),
    };
    let boot = boot(&vm, |event| show(&name, event))?;
    Ok(Run {
        series: *series,
        release: kernel.release.clone(),
        end,
        report: VmReport::read(&boot, &orders),
        took: boot.took,
        tail: boot.tail(),
    })
}

/// The root, and behind it what belongs to this kernel and these tests.
fn write_initrd(path: &Path, kernel: &Kernel, root: &Archive, tests: &[Test]) -> Result<Orders> {
    let mut own = Archive::default();
    let mut orders = Orders { modules: Vec::new(), tests: tests.to_vec() };
    for module in kernel.modules()? {
        let name = module.file_name().and_then(|name| name.to_str()).context("a module's name")?;
        let content = std::fs::read(&module).with_context(|| module.display().to_string())?;
        own.file(&Path::new(MODULES).join(name), &content)?;
        orders.modules.push(name.to_owned());
    }
    own.file(Path::new(ORDERS), &serde_json::to_vec(&orders)?)?;
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    root.write(&mut file)?;
    own.write(&mut file)?;
    file.flush()?;
    Ok(orders)
}

fn show(vm: &str, event: &Event) {
    match event {
        Event::Up { uptime_seconds, modules, .. } => {
            eprintln!("vm: {vm}: up after {uptime_seconds:.1} s, {modules} modules");
        }
        Event::End { name, exit, seconds, .. } => {
            let exit = exit.map_or("none".to_owned(), |code| code.to_string());
            eprintln!("vm: {vm}: {name}: {seconds:.1} s, exit {exit}");
        }
        Event::Failed { error } => eprintln!("vm: {vm}: {error}"),
        Event::Begin { .. } | Event::Done => {}
    }
}
