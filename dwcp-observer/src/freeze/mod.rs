//! Process trees that a checkpoint tool stops and dumps: decodes the kernel side's records.

use dwcp_observer_ebpf::freeze::{FREEZE_EXIT, FREEZE_RESUME, FREEZE_TRACER_EXIT, Freeze};

use crate::{model::record::FreezeEnd, sched};

/// What a process has stopped last, all times `CLOCK_MONOTONIC` ns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreezeReading {
    /// Process id of the first task that stopped, in the initial pid namespace.
    pub tgid: u32,
    /// Name of that process.
    pub comm: String,
    /// When its cgroup was frozen; `None` where it was not.
    pub cgroup_ns: Option<u64>,
    /// When the first task stopped.
    pub stopped_ns: u64,
    /// When the last task stopped.
    pub all_stopped_ns: u64,
    /// Tasks that stopped.
    pub stops: u64,
    /// When and how it ended; `None` while it lasts, or where that was not seen.
    pub ended: Option<(u64, FreezeEnd)>,
}

impl FreezeReading {
    /// When the process was kept from running: frozen with its cgroup, else stopped.
    #[must_use]
    pub fn began_ns(&self) -> u64 {
        self.cgroup_ns.map_or(self.stopped_ns, |frozen_ns| frozen_ns.min(self.stopped_ns))
    }
}

/// What the kernel side keeps of it; `None` while nothing was stopped.
#[must_use]
pub fn read(freeze: &Freeze) -> Option<FreezeReading> {
    let how = match freeze.end {
        FREEZE_EXIT => Some(FreezeEnd::Exit),
        FREEZE_RESUME => Some(FreezeEnd::Resume),
        FREEZE_TRACER_EXIT => Some(FreezeEnd::TracerExit),
        _ => None,
    };
    (freeze.stopped_ns != 0).then(|| FreezeReading {
        tgid: freeze.tgid,
        comm: sched::comm(&freeze.comm),
        cgroup_ns: (freeze.cgroup_ns != 0).then_some(freeze.cgroup_ns),
        stopped_ns: freeze.stopped_ns,
        all_stopped_ns: freeze.all_stopped_ns.max(freeze.stopped_ns),
        stops: freeze.stops,
        ended: how.map(|how| (freeze.ended_ns, how)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_stopped_is_no_freeze_and_a_frozen_cgroup_begins_one() {
        let mut seen = Freeze { cgroup_ns: 5, ..Freeze::default() };
        assert_eq!(read(&seen), None);
        seen =
            Freeze { stopped_ns: 9, all_stopped_ns: 12, end: FREEZE_RESUME, ended_ns: 20, ..seen };
        seen.comm[..8].copy_from_slice(b"postgres");
        let found = read(&seen).unwrap();
        assert_eq!((found.began_ns(), found.comm.as_str()), (5, "postgres"));
        assert_eq!(found.ended, Some((20, FreezeEnd::Resume)));
        seen.cgroup_ns = 0;
        assert_eq!(read(&seen).unwrap().began_ns(), 9);
    }
}
