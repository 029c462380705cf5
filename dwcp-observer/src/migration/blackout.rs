//! How long the guest stood still, by two independent methods, and where that time went.
//!
//! (a) `phase_functions`: the source's `pause_all_vcpus` returns, the destination's `resume_all_vcpus` is entered.
//! (b) `vcpu_scheduling`: the last instant at which a guest CPU of the source ran on a CPU, and the first at the destination. It
//!     needs nothing but the scheduler, so it works for any migrator.
//!
//! Pure: plain values in, plain values out. All stamps are `CLOCK_MONOTONIC` ns of this host.

use dwcp_observer_ebpf::sched::{Activity, BURSTS, CpuTimes, GUEST_BURST_NS};

use crate::phase::timeline::Timeline;

/// CPU time of an activity that shows a running guest rather than a vCPU thread that is given its registers.
const GUEST_ACTIVITY_NS: u64 = 500_000;
/// CPU time after the guest was let run that is more than waking up for a lock.
const AWAKE_NS: u64 = 30_000;

/// How an instant was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The migrator's own functions, by uprobe.
    PhaseFunctions,
    /// Guest CPUs in the scheduler.
    VcpuScheduling,
}

impl Method {
    /// Both.
    pub const ALL: [Self; 2] = [Self::PhaseFunctions, Self::VcpuScheduling];

    /// The name in records and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PhaseFunctions => "phase_functions",
            Self::VcpuScheduling => "vcpu_scheduling",
        }
    }
}

/// When the guest stopped and when it ran again, as far as one method tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Instants {
    /// It last ran.
    pub stopped_ns: Option<u64>,
    /// It ran again.
    pub started_ns: Option<u64>,
}

impl Instants {
    /// Length of the blackout, ns; `None` while an end is unknown, or when they contradict each other.
    #[must_use]
    pub fn length(self) -> Option<u64> {
        self.started_ns?.checked_sub(self.stopped_ns?)
    }
}

/// The parts of a blackout, ns; they sum to its length. A part whose edge is not known is absent, its time is in the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breakdown {
    /// Guest stopped, until the last pass over RAM begins: devices are quiesced, disks flushed.
    pub stop: Option<u64>,
    /// Last pass over RAM.
    pub ram: Option<u64>,
    /// Device state is saved and written.
    pub device: Option<u64>,
    /// The last of it travels to the destination.
    pub network: Option<u64>,
    /// The destination loads it.
    pub load: Option<u64>,
    /// Loaded, until the manager lets the guest run.
    pub resume: Option<u64>,
    /// Until a guest CPU runs: devices start, the vCPU threads wake.
    pub start: Option<u64>,
}

impl Breakdown {
    /// Length of the whole.
    #[must_use]
    pub fn sum(&self) -> u64 {
        let Self { stop, ram, device, network, load, resume, start } = *self;
        [stop, ram, device, network, load, resume, start].into_iter().flatten().sum()
    }

    /// Splits `[stopped, started]` at the edges that are known.
    /// Edges out of order are moved between their neighbours: ends overlap, since the destination loads while the source sends.
    #[must_use]
    pub fn split(stopped: u64, started: u64, edges: Edges) -> Self {
        let Edges { last_pass, device, sent, received, loaded, resumed } = edges;
        let mut from = stopped;
        let mut part = |edge: Option<u64>| {
            let to = edge?.clamp(from, started.max(from));
            Some(std::mem::replace(&mut from, to).abs_diff(to))
        };
        Self {
            stop: part(last_pass),
            ram: part(device),
            device: part(sent),
            network: part(received),
            load: part(loaded),
            resume: part(resumed),
            start: part(Some(started)),
        }
    }
}

/// Edges within a blackout, ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edges {
    /// The last pass over RAM begins.
    pub last_pass: Option<u64>,
    /// Saving the device state begins.
    pub device: Option<u64>,
    /// All is written.
    pub sent: Option<u64>,
    /// The last segment has arrived at the destination.
    pub received: Option<u64>,
    /// The destination has loaded all.
    pub loaded: Option<u64>,
    /// The manager let the guest run.
    pub resumed: Option<u64>,
}

/// What phase functions tell. A stop after which the guest ran on at the source counts unless it ran at the destination.
#[must_use]
pub fn by_phase_functions(source: Option<&Timeline>, destination: Option<&Timeline>) -> Instants {
    let started_ns = destination.and_then(|destination| destination.resumed_ns);
    let ran_on = source.and_then(Timeline::ran_on).filter(|_| started_ns.is_none());
    if let Some((stop, at)) = ran_on {
        return Instants { stopped_ns: stop.paused_ns, started_ns: Some(at) };
    }
    let stopped_ns = source.and_then(|source| source.stop?.paused_ns);
    Instants { stopped_ns, started_ns }
}

/// When the guest last ran, by the scheduler: the latest end of a burst over its CPUs. `paused_ns`: by then all vCPU threads had
/// parked, so that what began later is no guest code, and what ended later ended then: a vCPU thread says that it is stopped
/// before it leaves its CPU. `None` while one of them runs, or when none ever did.
#[must_use]
pub fn last_ran(cpus: &[CpuTimes], paused_ns: Option<u64>) -> Option<u64> {
    if paused_ns.is_none() && cpus.iter().any(|cpu| cpu.on_ns != 0) {
        return None;
    }
    cpus.iter().filter_map(|cpu| last_guest_burst(cpu, paused_ns.unwrap_or(u64::MAX))).max()
}

fn last_guest_burst(cpu: &CpuTimes, paused_ns: u64) -> Option<u64> {
    let held = usize::try_from(cpu.bursts).unwrap_or(usize::MAX).min(BURSTS);
    let newest_first = (1..=held).filter_map(|back| {
        let index = cpu.bursts.wrapping_sub(back as u64) % BURSTS as u64;
        cpu.recent.get(usize::try_from(index).ok()?).copied()
    });
    let mut bursts = newest_first.filter(|burst| burst.on_ns < paused_ns).peekable();
    let newest = bursts.peek().map(|burst| burst.off_ns);
    bursts
        .find(|burst| burst.off_ns.saturating_sub(burst.on_ns) >= GUEST_BURST_NS)
        .map(|burst| burst.off_ns)
        .or(newest)
        .map(|off_ns| off_ns.min(paused_ns))
}

/// When the guest first ran, by the scheduler: the earliest burst of guest code over its CPUs, in an activity that began at `after`
/// or later; of a guest that idles from its first moment on, the begin of the first activity.
#[must_use]
pub fn first_ran(cpus: &[CpuTimes], after: Option<u64>, now_ns: u64) -> Option<u64> {
    let after = after.unwrap_or_default();
    let seen = || activities(cpus, now_ns).filter(|seen| seen.began_ns >= after);
    let guest =
        seen().filter(|seen| seen.cpu_ns >= GUEST_ACTIVITY_NS).filter_map(|seen| seen.guest_ns);
    guest.min().or_else(|| seen().map(|seen| seen.began_ns).min())
}

/// The same for a guest that was let run at `allowed_ns`: even a short burst after that is guest code, but for those in which the
/// thread only waits for QEMU's lock. `None` while no guest CPU has run since.
#[must_use]
pub fn ran_once_allowed(cpus: &[CpuTimes], allowed_ns: u64, now_ns: u64) -> Option<u64> {
    activities(cpus, now_ns)
        .filter(|seen| seen.off_ns > allowed_ns && seen.cpu_ns >= AWAKE_NS)
        .map(|seen| {
            // Awake before, to be told to run: its first long burst is the guest's.
            let began_before = seen.began_ns < allowed_ns;
            let began = if began_before { seen.guest_ns } else { Some(seen.began_ns) };
            began.unwrap_or(allowed_ns).max(allowed_ns)
        })
        .min()
}

/// An activity with the burst that still runs.
struct Seen {
    began_ns: u64,
    guest_ns: Option<u64>,
    /// End; now, while it runs.
    off_ns: u64,
    cpu_ns: u64,
}

fn activities(cpus: &[CpuTimes], now_ns: u64) -> impl Iterator<Item = Seen> {
    cpus.iter().flat_map(move |cpu| {
        let count = usize::try_from(cpu.activities).unwrap_or(usize::MAX);
        let current = count.checked_sub(1).filter(|_| cpu.on_ns != 0);
        cpu.first.iter().take(count).enumerate().map(move |(index, activity)| {
            let running_ns = match Some(index) == current {
                true => now_ns.saturating_sub(cpu.on_ns),
                false => 0,
            };
            let Activity { began_ns, guest_ns, off_ns, cpu_ns } = *activity;
            let guest = Some(guest_ns).filter(|ns| *ns != 0);
            Seen {
                began_ns,
                guest_ns: guest.or_else(|| (running_ns >= GUEST_BURST_NS).then_some(cpu.on_ns)),
                off_ns: if running_ns > 0 { now_ns } else { off_ns },
                cpu_ns: cpu_ns + running_ns,
            }
        })
    })
}

#[cfg(test)]
#[path = "blackout_tests.rs"]
mod tests;
