//! How the kernel side and the cycle fare.

use std::time::Duration;

use super::{histogram::Histogram, record::ThreadRole};

/// What the kernel side does and what it lost.
#[derive(Clone, Debug, Default)]
pub struct KernelStatus {
    /// One per hook.
    pub probes: Vec<ProbeStatus>,
    /// One per loaded program.
    pub programs: Vec<ProgramStats>,
    /// Share of the time in which the kernel counted program runs: 0 off, 1 always; in between, run counts are samples.
    pub program_stats_duty: f64,
    /// Named loss counters, `map:reason`.
    pub losses: Vec<(&'static str, u64)>,
    /// Use of each record array.
    pub maps: Vec<MapUse>,
    /// RTT samples of tracked flows, seconds.
    pub rtt: Histogram,
    /// Waits for a CPU by thread role, seconds.
    pub runqueue: Vec<(ThreadRole, Histogram)>,
    /// Time from a process' start to the probes on its phase functions, seconds; `None` where they are not probed.
    pub probe_delay: Option<Histogram>,
}

impl KernelStatus {
    /// Which required probes are missing, and why; `None` when migrations can be measured.
    #[must_use]
    pub fn blind(&self) -> Option<String> {
        missing_probes(&self.probes, true)
            .map(|text| format!("a required probe is not attached: {text}"))
    }

    /// Which other probes are missing, and why.
    #[must_use]
    pub fn partly_blind(&self) -> Option<String> {
        missing_probes(&self.probes, false).map(|text| format!("a probe is not attached: {text}"))
    }

    /// Which tables are full, and what that hides; `None` while every migration that begins now is measured whole.
    #[must_use]
    pub fn full(&self) -> Option<String> {
        let full = self.maps.iter().filter(|map| map.used >= map.capacity && map.capacity > 0);
        let texts: Vec<String> = full
            .filter_map(|map| {
                Some(format!("all {} slots of {} {}", map.capacity, map.map, map.hidden()?))
            })
            .collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }
}

fn missing_probes(probes: &[ProbeStatus], required: bool) -> Option<String> {
    let missing = probes.iter().filter(|probe| probe.rung.is_none() && probe.required == required);
    let texts: Vec<String> = missing
        .map(|probe| {
            let why = probe.reason.as_deref().unwrap_or("no rung of its ladder is available");
            format!("{} ({}): {why}", probe.probe, probe.purpose)
        })
        .collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

/// One hook of the attach ladder.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ProbeStatus {
    /// Kernel tracepoint or iterator.
    pub probe: &'static str,
    /// What it is for, and what is missing without it.
    pub purpose: &'static str,
    /// Whether measuring is impossible without it.
    pub required: bool,
    /// The rung that is used; absent when none works.
    pub rung: Option<&'static str>,
    /// Whether it is attached now: the scheduler's hooks are only while a migration runs.
    pub attached: bool,
    /// Why no rung, or why not a higher one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The kernel's own figures of one eBPF program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramStats {
    /// Program name, at most 15 characters.
    pub name: String,
    /// Time in the program, ns (`bpf_prog_info.run_time_ns`).
    pub run_time_ns: u64,
    /// Runs (`bpf_prog_info.run_cnt`).
    pub run_count: u64,
    /// Runs that the kernel left out, since the program was running on that CPU (`bpf_prog_info.recursion_misses`, from 5.12 on).
    pub missed_runs: Option<u64>,
    /// Instructions that the verifier walked.
    pub verified_instructions: u32,
}

/// Use of one record array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapUse {
    /// Name of the map.
    pub map: &'static str,
    /// Slots in use.
    pub used: u32,
    /// Slots.
    pub capacity: u32,
}

impl MapUse {
    /// What is missing while no slot is left; `None` where that is no migration's.
    const fn hidden(&self) -> Option<&'static str> {
        match self.map.as_bytes() {
            b"flows" => {
                Some("are taken: further connections have totals, but no streams of their own")
            }
            b"threads" => {
                Some("are taken: further threads are not measured, nor blackouts by them")
            }
            b"processes" => Some("are taken: migrations of further processes are not seen"),
            _ => None,
        }
    }
}

/// How the one-second cycle keeps time.
#[derive(Clone, Debug)]
pub struct CycleStats {
    /// Duration of each cycle, seconds.
    pub duration: Histogram,
    /// How late each cycle began, seconds.
    pub jitter: Histogram,
    /// Cycles that could not be run in time and were skipped.
    pub missed: u64,
    /// Period.
    pub period: Duration,
}
