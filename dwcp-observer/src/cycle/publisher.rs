//! What follows from a look: service levels and anomalies are judged, history is kept, readers get the new state.

use jiff::Timestamp;

use crate::{
    anomaly::{
        self, features,
        feed::{Feed, Inputs, Transfer},
    },
    component::{self, Migrations},
    cycle::published::{Board, Published},
    history::Event,
    journal::{ClosedSecond, Journal},
    migration::{entry::Entry, observation::Observation, registry::Registry},
    model::status::{CycleStats, KernelStatus},
    process::host::{HostSampler, HostUsage},
    rdma::RdmaStatus,
    sla::decide::Anomaly,
};

/// All that readers get comes from here.
pub(super) struct Publisher {
    board: Board,
    journal: Journal,
    pub(super) components: component::Shared,
    pub(super) anomalies: Feed,
    host: HostSampler,
    host_usage: Option<HostUsage>,
    kernel_status: KernelStatus,
    started_at: Timestamp,
}

impl Publisher {
    pub(super) fn new(board: Board, journal: Journal) -> Self {
        Self {
            board,
            journal,
            components: component::Shared::default(),
            anomalies: Feed::default(),
            host: HostSampler::default(),
            host_usage: None,
            kernel_status: KernelStatus::default(),
            started_at: Timestamp::now(),
        }
    }

    /// What changes once a second: the use of the host, and what the kernel side does.
    pub(super) fn second(&mut self, kernel: KernelStatus) {
        self.host_usage = Some(self.host.sample());
        self.kernel_status = kernel;
    }

    /// Publishes the state after a look.
    pub(super) fn publish(
        &mut self,
        registry: &Registry,
        observation: &Observation,
        rdma: &RdmaStatus,
        cycle: &CycleStats,
    ) {
        let at = Timestamp::now();
        let entries = registry.entries(observation.now_ns, observation.wall);
        let components = self.components.view.latest().unwrap_or_default();
        let totals_v1 = registry.totals_v1().cloned();
        if observation.tick {
            let blind = self.kernel_status.blind();
            let unhealthy = components.unhealthy();
            let anomalies = self.signal(at, registry, &entries);
            let second = ClosedSecond {
                entries: &entries,
                totals: registry.totals(),
                host: self.host_usage,
                ended_v1: totals_v1.as_ref().map_or(0, |it| it.finished.values().sum()),
                missed_cycles: cycle.missed,
                blind: blind.as_deref(),
                anomalies: Some(&anomalies),
                unhealthy: unhealthy.as_deref(),
            };
            self.journal.second(at, &second);
        } else {
            self.journal.look(at, &entries);
        }
        let errors = registry.totals().errors.values().sum();
        self.components.migrations.publish(Migrations { entries: entries.clone(), errors });
        self.board.publish(Published {
            at,
            started_at: self.started_at,
            entries,
            totals: registry.totals().clone(),
            totals_v1,
            components,
            host: self.host_usage,
            kernel: self.kernel_status.clone(),
            rdma: rdma.clone(),
            cycle: cycle.clone(),
            sla: self.journal.view(),
            history: self.journal.history(),
            anomalies: self.anomalies.view(),
        });
    }

    /// Judges the second by what is usual, hands new anomalies to the journal; those that go on.
    fn signal(&mut self, at: Timestamp, registry: &Registry, entries: &[Entry]) -> Vec<Anomaly> {
        let seconds = registry.seconds();
        let features: Vec<_> = seconds.iter().map(|it| features::of_migration(it.second)).collect();
        let transfers: Vec<Transfer<'_>> = seconds
            .iter()
            .zip(&features)
            .map(|(it, features)| Transfer { migration: it.migration, mode: it.mode, features })
            .collect();
        let inputs = Inputs {
            transfers: &transfers,
            entries,
            totals: registry.totals(),
            host: self.host_usage,
        };
        for event in self.anomalies.second(at, &inputs) {
            if event.phase == anomaly::Transition::Began {
                self.journal.note(Event {
                    at,
                    kind: "anomaly".to_owned(),
                    subject: event.kind.as_str().to_owned(),
                    severity: event.severity.as_str().to_owned(),
                    text: event.why(),
                });
            }
        }
        let active = &self.anomalies.view().active;
        let lasting = active.iter().map(|told| Anomaly {
            anomaly_type: told.event.kind.as_str().to_owned(),
            severity: told.event.severity,
            why: told.why.clone(),
        });
        lasting.collect()
    }
}
