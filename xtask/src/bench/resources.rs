//! Memory and CPU time of the observer, idle and with a migration of 512 streams.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dwcp_observer_lab::observer::Observer;
use dwcp_observer_lab::temp::TempDir;

use super::bpf::{ProgramsOf, Runs, time_programs};
use super::load::{MIGRATOR, Setup, Traffic, stop};
use super::row::{Group, Row};
use super::samples::{Figure, Samples};

const STREAMS: u32 = 512;

/// Measures.
///
/// # Errors
/// When the observer or the traffic does not work.
pub(super) fn run(setup: &Setup) -> Result<Vec<Row>> {
    let window = setup.seconds(20.0, 5.0);
    let directory = TempDir::new()?;
    let observer = setup.observer_with_history(&directory)?;
    // The start, with its look at all of /proc, is over.
    std::thread::sleep(Duration::from_secs(2));
    let mut rows = Vec::new();
    let idle = watch(&observer, window)?;
    rows.extend(idle.rows("idle", 0.3, &others(&observer, None)?));

    let steady = setup
        .steady(MIGRATOR, Traffic { connections: STREAMS, first_bytes: 1000, rate: 125_000_000 })?;
    observer.wait_migration(Duration::from_secs(20), |record| {
        record.has_process(steady.pid()) && record.streams.len() == STREAMS as usize
    })?;
    let busy = watch(&observer, window)?;
    let note =
        format!("1 Gbit/s, both ends on this host{}", others(&observer, Some(steady.pid()))?);
    steady.stop()?;
    stop(observer)?;
    rows.extend(busy.rows("512 streams", 1.0, &note));
    Ok(rows)
}

/// Says so if the observer has seen migrations that are not this program's: the figures hold them.
fn others(observer: &Observer, ours: Option<u32>) -> Result<String> {
    let migrations = observer.migrations()?;
    let others = migrations
        .iter()
        .filter(|migration| ours.is_none_or(|pid| !migration.has_process(pid)))
        .count();
    Ok(match others {
        0 => String::new(),
        _ => format!("; disturbed by {others} migrations that are not of this program"),
    })
}

/// Resident memory, KiB.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Memory {
    all: f64,
    anonymous: f64,
    file: f64,
}

fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    parse_memory(&text).with_context(|| format!("{path} has no RSS"))
}

fn parse_memory(text: &str) -> Option<Memory> {
    let kib = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    };
    Some(Memory { all: kib("VmRSS")?, anonymous: kib("RssAnon")?, file: kib("RssFile")? })
}

/// CPU time of all threads, ns: what utime and stime are made from, without their ticks of 10 ms.
fn cpu_ns(pid: u32) -> Result<u64> {
    let mut total = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path().join("schedstat");
        let text = std::fs::read_to_string(&path)?;
        let first = text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok());
        total += first.with_context(|| format!("{}: {text:?}", path.display()))?;
    }
    Ok(total)
}

/// What a window showed.
struct Use {
    memory: Vec<Memory>,
    cpu_percent: f64,
    kernel_percent: f64,
    events_per_second: f64,
}

fn watch(observer: &Observer, window: Duration) -> Result<Use> {
    const PARTS: u32 = 5;
    let pid = observer.pid();
    let programs = ProgramsOf::new(pid)?;
    let in_kernel = || -> Result<Runs> {
        let runs = programs.runs()?;
        Ok(runs.values().fold(Runs::default(), |sum, runs| Runs {
            time_ns: sum.time_ns + runs.time_ns,
            count: sum.count + runs.count,
        }))
    };
    let (start, cpu) = (Instant::now(), cpu_ns(pid)?);
    let mut memory_seen = Vec::new();
    for _ in 0..PARTS {
        std::thread::sleep(window / PARTS);
        memory_seen.push(memory(pid)?);
    }
    let cpu_percent = (cpu_ns(pid)? - cpu) as f64 / start.elapsed().as_nanos() as f64 * 100.0;
    // Timing costs time itself, so it is not on while the process is measured.
    let timing = time_programs()?;
    let (start, before) = (Instant::now(), in_kernel()?);
    std::thread::sleep(window / PARTS);
    let runs = in_kernel()?.since(before);
    let elapsed = start.elapsed();
    drop(timing);
    Ok(Use {
        memory: memory_seen,
        cpu_percent,
        kernel_percent: runs.time_ns as f64 / elapsed.as_nanos() as f64 * 100.0,
        events_per_second: runs.count as f64 / elapsed.as_secs_f64(),
    })
}

impl Use {
    fn rows(&self, load: &str, cpu_limit: f64, note: &str) -> Vec<Row> {
        let mib = |part: fn(&Memory) -> f64| {
            Samples::new(self.memory.iter().map(part)).scaled(1.0 / 1024.0)
        };
        let median = |samples: &Samples| samples.median().unwrap_or(f64::NAN);
        let (anonymous, file) = (mib(|memory| memory.anonymous), mib(|memory| memory.file));
        let parts = format!(
            "{:.1} anonymous, {:.1} file (program and mapped BPF arrays)",
            median(&anonymous),
            median(&file)
        );
        let single = |value: f64| Some(Figure::single(value));
        vec![
            Row::new(
                Group::Resources,
                format!("resident memory, {load}"),
                "MiB",
                &mib(|memory| memory.all),
            )
            .at_most(20.0)
            .note(parts),
            Row::of(
                Group::Resources,
                format!("CPU of the process, {load}"),
                "% of a core",
                single(self.cpu_percent),
            )
            .at_most(cpu_limit)
            .note(note),
            Row::of(
                Group::Resources,
                format!("time in eBPF programs, {load}"),
                "% of a core",
                single(self.kernel_percent),
            )
            .note(format!("as timed; {:.0} events per second", self.events_per_second)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_kib() {
        let text = "VmPeak:\t 9 kB\nVmRSS:\t 300 kB\nRssAnon:\t  100 kB\nRssFile:\t 200 kB\n";
        let memory = Memory { all: 300.0, anonymous: 100.0, file: 200.0 };
        assert_eq!(parse_memory(text), Some(memory));
        assert_eq!(parse_memory("VmRSS:\t 300 kB\n"), None);
    }

    #[test]
    fn cpu_time_grows() {
        let pid = std::process::id();
        let before = cpu_ns(pid).unwrap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(30) {
            std::hint::black_box(0);
        }
        // It is brought up to date at ticks and switches.
        std::thread::sleep(Duration::from_millis(20));
        assert!(cpu_ns(pid).unwrap() > before);
    }
}
