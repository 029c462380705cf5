//! RDMA within a look: queue pairs of processes that may migrate become flows.

use std::{os::fd::OwnedFd, sync::Arc};

use crate::{
    keeper::ProcessReading,
    kernel::stats,
    model::status::ProgramStats,
    rdma::{Flows, MemoryReading, Rdma, RdmaStatus, Tally},
    tcp::FlowReading,
};

/// The RDMA side, and what is told of it.
pub(super) struct RdmaIntake {
    rdma: Rdma,
    flows: Flows,
    tally: Tally,
    status: RdmaStatus,
}

impl RdmaIntake {
    pub(super) fn new(rdma: Rdma) -> Self {
        Self {
            rdma,
            flows: Flows::default(),
            tally: Tally::default(),
            status: RdmaStatus::default(),
        }
    }

    /// Adds the queue pairs to the flows; what is registered is handed back.
    pub(super) fn observe(
        &mut self,
        now_ns: u64,
        processes: &[ProcessReading],
        flows: &mut Vec<FlowReading>,
    ) -> Vec<Arc<MemoryReading>> {
        let Some(snapshot) = self.rdma.poll(now_ns) else { return Vec::new() };
        let slots = processes
            .iter()
            .filter(|process| process.slot != 0)
            .map(|process| (process.id(), process.slot))
            .collect();
        flows.extend(self.flows.of(&snapshot.qps, &slots));
        self.tally.add(&mut self.status.totals, &snapshot.qps);
        let memory = snapshot.memory.clone();
        self.status.take(snapshot);
        memory
    }

    /// What becomes readable with a new connection; `None` as long as there is no RDMA.
    pub(super) fn wake_fd(&self) -> Option<OwnedFd> {
        self.rdma.wake_fd()
    }

    /// RDMA on this host.
    pub(super) const fn status(&self) -> &RdmaStatus {
        &self.status
    }

    /// Statistics of its programs.
    pub(super) fn programs(&self) -> Vec<ProgramStats> {
        self.rdma.ebpf().and_then(|ebpf| stats::programs(ebpf).ok()).unwrap_or_default()
    }
}
