//! How long the guest stood still, by two independent methods, and where that time went.
//!
//! (a) `phase_functions`: the source's `pause_all_vcpus` returns, the destination's `resume_all_vcpus` is entered.
//! (b) `vcpu_scheduling`: the last instant at which a guest CPU of the source ran on a CPU, and the first at the destination. It
//!     needs nothing but the scheduler, so it works for any migrator.
//!
//! Pure: plain values in, plain values out. All stamps are `CLOCK_MONOTONIC` ns of this host.

use dwcp_observer_ebpf::sched::{Activity, BURSTS, CpuTimes};

use crate::phase::timeline::Timeline;

/// A burst that is shorter only handles the request to stop, or lets QEMU read registers: no guest code runs in it.
const GUEST_BURST_NS: u64 = 100_000;
/// CPU time of an activity that shows a running guest rather than a vCPU thread that is given its registers.
const GUEST_ACTIVITY_NS: u64 = 500_000;

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

/// The parts of a blackout, ns; they sum to its length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breakdown {
    /// Guest stopped, until the last pass over RAM begins: devices are quiesced, disks flushed.
    pub stop: u64,
    /// Last pass over RAM.
    pub ram: u64,
    /// Device state is saved and written.
    pub device: u64,
    /// The last of it travels to the destination.
    pub network: u64,
    /// The destination loads it.
    pub load: u64,
    /// Loaded, until a guest CPU runs: devices start, the vCPU threads wake.
    pub start: u64,
}

impl Breakdown {
    /// Length of the whole.
    #[must_use]
    pub const fn sum(&self) -> u64 {
        self.stop + self.ram + self.device + self.network + self.load + self.start
    }

    /// Splits `[stopped, started]` at the edges that are known; a part whose edge is not known counts with the one after it.
    /// Edges out of order are moved between their neighbours: ends overlap, since the destination loads while the source sends.
    #[must_use]
    pub fn split(stopped: u64, started: u64, edges: Edges) -> Self {
        let Edges { last_pass, device, sent, received, loaded } = edges;
        let mut from = stopped;
        let mut part = |edge: Option<u64>| {
            let Some(edge) = edge else { return 0 };
            let to = edge.clamp(from, started.max(from));
            std::mem::replace(&mut from, to).abs_diff(to)
        };
        Self {
            stop: part(last_pass),
            ram: part(device),
            device: part(sent),
            network: part(received),
            load: part(loaded),
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
}

/// What phase functions tell. A stop after which the guest ran on at the source counts as long as no other followed.
#[must_use]
pub fn by_phase_functions(source: Option<&Timeline>, destination: Option<&Timeline>) -> Instants {
    let ran_on = source.and_then(|source| source.ran_on.filter(|_| source.stop.is_none()));
    if let Some((stop, at)) = ran_on {
        return Instants { stopped_ns: stop.paused_ns, started_ns: Some(at) };
    }
    Instants {
        stopped_ns: source.and_then(|source| source.stop?.paused_ns),
        started_ns: destination.and_then(|destination| destination.resumed_ns),
    }
}

/// When the guest last ran, by the scheduler: the latest end of a burst over its CPUs. `before` bounds it: all vCPU threads had
/// parked by then. `None` while one of them runs, or when none ever did.
#[must_use]
pub fn last_ran(cpus: &[CpuTimes], before: Option<u64>) -> Option<u64> {
    if before.is_none() && cpus.iter().any(|cpu| cpu.on_ns != 0) {
        return None;
    }
    cpus.iter().filter_map(|cpu| last_guest_burst(cpu, before)).max()
}

fn last_guest_burst(cpu: &CpuTimes, before: Option<u64>) -> Option<u64> {
    let held = usize::try_from(cpu.bursts).unwrap_or(usize::MAX).min(BURSTS);
    let newest_first = (1..=held).filter_map(|back| {
        let index = cpu.bursts.wrapping_sub(back as u64) % BURSTS as u64;
        cpu.recent.get(usize::try_from(index).ok()?).copied()
    });
    let mut bursts =
        newest_first.filter(|burst| before.is_none_or(|before| burst.off_ns <= before)).peekable();
    let newest = bursts.peek().map(|burst| burst.off_ns);
    bursts
        .find(|burst| burst.off_ns.saturating_sub(burst.on_ns) >= GUEST_BURST_NS)
        .map(|burst| burst.off_ns)
        .or(newest)
}

/// When the guest first ran, by the scheduler: the earliest activity over its CPUs that began at `after` or later and is long enough
/// to be guest code; of a guest that idles from its first moment on, the first activity.
#[must_use]
pub fn first_ran(cpus: &[CpuTimes], after: Option<u64>, now_ns: u64) -> Option<u64> {
    let after = after.unwrap_or_default();
    earliest(cpus, now_ns, |activity, _| (activity.on_ns >= after).then_some(activity.on_ns))
}

/// The same for a guest that was let run at `allowed_ns`: a vCPU thread that was already awake, to be told so, began then.
#[must_use]
pub fn ran_once_allowed(cpus: &[CpuTimes], allowed_ns: u64, now_ns: u64) -> Option<u64> {
    earliest(cpus, now_ns, |activity, running| {
        (running || activity.off_ns > allowed_ns).then_some(activity.on_ns.max(allowed_ns))
    })
}

/// The least of what `begin` makes of each activity (and whether it is still running), those of guest code first.
fn earliest(
    cpus: &[CpuTimes],
    now_ns: u64,
    begin: impl Fn(&Activity, bool) -> Option<u64>,
) -> Option<u64> {
    let mut guest = None;
    let mut any = None;
    for cpu in cpus {
        let count = usize::try_from(cpu.activities).unwrap_or(usize::MAX);
        let current = count.checked_sub(1).filter(|_| cpu.on_ns != 0);
        for (index, activity) in cpu.first.iter().take(count).enumerate() {
            let running = Some(index) == current;
            let Some(began) = begin(activity, running) else { continue };
            let current_ns = if running { now_ns.saturating_sub(cpu.on_ns.max(began)) } else { 0 };
            let first = |least: Option<u64>| Some(least.map_or(began, |least| least.min(began)));
            any = first(any);
            if activity.cpu_ns + current_ns >= GUEST_ACTIVITY_NS {
                guest = first(guest);
            }
        }
    }
    guest.or(any)
}

#[cfg(test)]
#[path = "blackout_tests.rs"]
mod tests;
