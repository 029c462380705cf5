//! Time per event of each eBPF program, for migration sockets and threads and for all others.
//!
//! The kernel times each run with two clock reads, of which about one falls into the figure. An
//! empty program at the same tracepoint, run by the same events, has that cost and no other; the
//! figures here are without it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dwcp_observer_lab::flows::FlowReport;
use dwcp_observer_lab::observer::Observer;

use super::bpf::{EmptyProgram, ProgramsOf, Runs, time_programs};
use super::load::{MIGRATOR, STRANGER, Setup, Traffic, UNPACED, on_one_cpu, stop};
use super::row::{Group, Row};
use super::samples::Samples;

/// Programs that a running transfer runs: the name that the kernel shows, without the rung, and the
/// tracepoint.
const TRANSFER: [(&str, &str); 5] = [
    ("sock_send", "sock_send_length"),
    ("sock_recv", "sock_recv_length"),
    ("tcp_probe", "tcp_probe"),
    ("switch", "sched_switch"),
    ("wakeup", "sched_wakeup"),
];
/// Programs that run when something begins, ends or goes wrong.
const LIFECYCLE: [(&str, &str); 10] = [
    ("set_state", "inet_sock_set_state"),
    ("ca_state", "tcp_cong_state_set"),
    ("retransmit", "tcp_retransmit_skb"),
    ("send_reset", "tcp_send_reset"),
    ("recv_reset", "tcp_receive_reset"),
    ("sk_error", "inet_sk_error_report"),
    ("wakeup_new", "sched_wakeup_new"),
    ("newtask", "task_newtask"),
    ("rename", "task_rename"),
    ("exit", "sched_process_exit"),
];
/// A mean over fewer runs is noise.
const LEAST_RUNS: u64 = 20;

/// What makes the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Load {
    /// Small messages to and fro: the caches are warm.
    Tight,
    /// Open connections at full speed, 256 KiB a write: the data has the caches.
    Bulk,
    /// Many short connections.
    Short,
}

impl Load {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Tight => "tight loop",
            Self::Bulk => "bulk",
            Self::Short => "short connections",
        }
    }

    /// The programs that it is there for.
    const fn programs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Tight | Self::Bulk => &TRANSFER,
            Self::Short => &LIFECYCLE,
        }
    }
}

/// Runs of the observer's program and of the empty one beside it.
#[derive(Clone, Copy, Debug, Default)]
struct Both {
    own: Runs,
    empty: Runs,
}

type Reading = BTreeMap<&'static str, Both>;

struct Meter {
    programs: ProgramsOf,
    empty: Vec<(&'static str, EmptyProgram)>,
}

impl Meter {
    fn start(observer: &Observer) -> Result<Self> {
        // After the observer's own programs: the first one at a tracepoint finds the caches cold,
        // and that is part of the observer's cost.
        let empty = TRANSFER.iter().chain(&LIFECYCLE).map(|(name, tracepoint)| {
            let program = EmptyProgram::attach(tracepoint)?;
            Ok((*name, program))
        });
        Ok(Self {
            empty: empty.collect::<Result<_>>()?,
            programs: ProgramsOf::new(observer.pid())?,
        })
    }

    fn read(&self) -> Result<Reading> {
        let own: BTreeMap<String, Runs> = self
            .programs
            .runs()?
            .into_iter()
            .map(|(name, runs)| {
                let short = name.strip_suffix("_btf").or_else(|| name.strip_suffix("_raw"));
                (short.unwrap_or(&name).to_owned(), runs)
            })
            .collect();
        let both = |(name, empty): &(&'static str, EmptyProgram)| {
            let own = own.get(*name).copied();
            // One that is not attached on this kernel has no runs.
            Ok(own.map(|own| (*name, own, empty.runs())))
        };
        let all: Vec<_> = self.empty.iter().map(both).collect::<Result<_>>()?;
        let pairs = all.into_iter().flatten();
        pairs.map(|(name, own, empty)| Ok((name, Both { own, empty: empty? }))).collect()
    }
}

/// Figures of all repetitions.
#[derive(Debug, Default)]
struct Found {
    net: Vec<f64>,
    raw: Vec<f64>,
    empty: Vec<f64>,
    runs: u64,
}

impl Found {
    fn add(&mut self, both: Both) {
        if let (Some(own), Some(empty)) =
            (both.own.mean_ns(LEAST_RUNS), both.empty.mean_ns(LEAST_RUNS))
        {
            self.net.push(own - empty);
            self.raw.push(own);
            self.empty.push(empty);
            self.runs += both.own.count;
        }
    }

    fn row(&self, name: String) -> Row {
        let median = |values: &[f64]| Samples::new(values.iter().copied()).median();
        let mut row = Row::new(Group::Programs, name, "ns", &Samples::new(self.net.clone()));
        if let (Some(raw), Some(empty)) = (median(&self.raw), median(&self.empty)) {
            row.note = format!(
                "{raw:.0} as timed, {empty:.0} of it by an empty program; {} runs",
                self.runs
            );
        }
        row
    }
}

/// All figures of tracked events, or of untracked ones.
#[derive(Debug, Default)]
struct Side {
    /// Mean over all programs, weighted by how often each one runs; a value for each repetition.
    all: BTreeMap<Load, Vec<f64>>,
    each: BTreeMap<(Load, &'static str), Found>,
}

impl Side {
    fn add(&mut self, load: Load, reading: &Reading, earlier: &Reading) {
        let (mut net, mut runs) = (0.0, 0.0);
        for (name, _) in load.programs() {
            let (Some(now), Some(then)) = (reading.get(name), earlier.get(name)) else { continue };
            let both = Both { own: now.own.since(then.own), empty: now.empty.since(then.empty) };
            self.each.entry((load, name)).or_default().add(both);
            if let (Some(own), Some(empty)) = (both.own.mean_ns(1), both.empty.mean_ns(1)) {
                net += (own - empty) * both.own.count as f64;
                runs += both.own.count as f64;
            }
        }
        if runs > 0.0 {
            self.all.entry(load).or_default().push(net / runs);
        }
    }
}

/// Measures.
///
/// # Errors
/// When the observer, the traffic or the statistics do not work.
pub(super) fn run(setup: &Setup) -> Result<Vec<Row>> {
    let observer = setup.observer()?;
    let meter = Meter::start(&observer)?;
    let _timing = time_programs()?;
    let mut tracked = Side::default();
    let mut untracked = Side::default();
    for _ in 0..setup.times(5, 2) {
        for (name, side) in [(MIGRATOR, &mut tracked), (STRANGER, &mut untracked)] {
            tight(setup, &observer, &meter, name, side)?;
            bulk(setup, &observer, &meter, name, side)?;
            short(setup, &meter, name, side)?;
        }
    }
    stop(observer)?;
    let sides = [("tracked", &tracked, 80.0), ("untracked", &untracked, 25.0)];
    let mut rows = Vec::new();
    for load in [Load::Tight, Load::Bulk] {
        for (kind, side, limit) in sides {
            let all = Samples::new(side.all.get(&load).into_iter().flatten().copied());
            let name = format!("all programs, {kind}, {}", load.as_str());
            let row = Row::new(Group::Programs, name, "ns", &all);
            rows.push(row.at_most(limit).note("weighted by their runs"));
        }
    }
    for load in [Load::Tight, Load::Bulk, Load::Short] {
        for (name, tracepoint) in load.programs() {
            for (kind, side, limit) in sides {
                let title = format!("{name}, {kind}, {}", load.as_str());
                rows.push(match side.each.get(&(load, *name)) {
                    // The budget of this load is kept or not by all programs together.
                    Some(found) if found.runs > 0 && load == Load::Bulk => found.row(title),
                    Some(found) if found.runs > 0 => found.row(title).at_most(limit),
                    _ => {
                        let reason = format!("{tracepoint}: fewer than {LEAST_RUNS} events");
                        Row::not_measured(Group::Programs, title, reason)
                    }
                });
            }
        }
    }
    let empty = [&tracked, &untracked].into_iter().flat_map(|side| {
        let tight = side.each.iter().filter(|((load, _), _)| *load == Load::Tight);
        tight.flat_map(|(_, found)| found.empty.iter().copied())
    });
    let row = Row::new(Group::Programs, "an empty program, tight loop", "ns", &Samples::new(empty));
    rows.push(row.note("the cost of timing; it is taken off all figures above"));
    Ok(rows)
}

/// The events of `setup.seconds(1.5, 1.0)`, of which the traffic that is running makes nearly all.
fn window(setup: &Setup, meter: &Meter, load: Load, side: &mut Side) -> Result<()> {
    std::thread::sleep(Duration::from_millis(300));
    let before = meter.read()?;
    std::thread::sleep(setup.seconds(1.5, 1.0));
    side.add(load, &meter.read()?, &before);
    Ok(())
}

fn wait_known(observer: &Observer, name: &str, pid: u32) -> Result<()> {
    if name == MIGRATOR {
        observer
            .wait_migration(Duration::from_secs(10), |record| record.has_process(pid))
            .context("the traffic is no migration to the observer")?;
    }
    Ok(())
}

// In both loads the two ends share a CPU and switch to one another, so that hardly an event is the
// idle task's.

fn tight(
    setup: &Setup,
    observer: &Observer,
    meter: &Meter,
    name: &str,
    side: &mut Side,
) -> Result<()> {
    let traffic = on_one_cpu(|| Setup::ping_pong(name, 0))?;
    wait_known(observer, name, traffic.pid())?;
    window(setup, meter, Load::Tight, side)?;
    let round_trips = traffic.stop()?;
    ensure!(round_trips > 1000, "only {round_trips} round trips");
    Ok(())
}

fn bulk(
    setup: &Setup,
    observer: &Observer,
    meter: &Meter,
    name: &str,
    side: &mut Side,
) -> Result<()> {
    let traffic = Traffic { connections: 8, first_bytes: 1000, rate: UNPACED };
    let steady = on_one_cpu(|| setup.steady(name, traffic))?;
    wait_known(observer, name, steady.pid())?;
    window(setup, meter, Load::Bulk, side)?;
    steady.stop()?;
    Ok(())
}

fn short(setup: &Setup, meter: &Meter, name: &str, side: &mut Side) -> Result<()> {
    let before = meter.read()?;
    let helper = setup.flows(name, &["exchange", "--flows", "400", "--max-bytes", "20000"])?;
    helper.finish::<FlowReport>()?;
    Setup::ping_pong(name, 400)?.stop()?;
    side.add(Load::Short, &meter.read()?, &before);
    Ok(())
}
