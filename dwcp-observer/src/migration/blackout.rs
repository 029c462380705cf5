//! How long the guest stood still, by two independent methods, and where that time went.
//!
//! (a) `phase_functions`: the source's `pause_all_vcpus` returns, the destination's `resume_all_vcpus` is entered.
//! (b) `vcpu_scheduling`: what the threads of the guest's CPUs did (`cpus`). It needs nothing but the scheduler, so it works for
//!     any migrator.
//!
//! Pure: plain values in, plain values out. All stamps are `CLOCK_MONOTONIC` ns of this host.

use crate::phase::timeline::Timeline;

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

#[cfg(test)]
#[path = "blackout_tests.rs"]
mod tests;
