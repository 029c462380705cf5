//! What queue pairs and registered memory give to the record.

use std::collections::BTreeMap;

use dwcp_observer_ebpf::rdma::Count;

use super::{end::Registrations, live::Live, quantiles::quantiles};
use crate::model::record::{Operations, QueuePair, RegisteredMemory, Role};
use crate::{
    model::queue_pair::QpReading,
    rdma::verbs::{Operation, status_name},
};

impl QueuePair {
    /// What is shown of a queue pair; `end`: of a migration.
    #[must_use]
    pub fn of(end: Option<Role>, qp: &QpReading) -> Self {
        let operations = Operation::ALL.iter().filter_map(|operation| {
            let posted = qp.posted(*operation);
            let completed = qp.completed(*operation).unwrap_or_default();
            let handed = qp.provider_posted(*operation);
            let any = |count: Option<Count>| count.is_some_and(|count| count.operations > 0);
            let seen = completed.operations > 0 || any(posted) || any(handed);
            seen.then_some((
                operation.label(),
                Operations {
                    posted: posted.map(|posted| posted.operations),
                    provider_posted: handed.map(|handed| handed.operations),
                    provider_posted_bytes: handed.map(|handed| handed.bytes),
                    completed: completed.operations,
                    bytes: completed.bytes,
                },
            ))
        });
        let errors = qp.errors.iter().enumerate().filter(|(_, count)| **count > 0);
        Self {
            end,
            device: qp.device.clone(),
            qpn: qp.qpn,
            remote_qpn: qp.remote_qpn,
            kind: qp.kind,
            qp_state: qp.state.as_str(),
            data_path: qp.visible.as_str(),
            connect_seconds: qp.connect_seconds,
            operations: operations.collect(),
            completion_latency: qp.latency.as_ref().and_then(|hist| quantiles(hist, 1e-9)),
            completion_errors: errors
                .map(|(status, count)| (status_name(status), u64::from(*count)))
                .collect::<BTreeMap<_, _>>(),
            rnr_waits: qp.rnr_waits,
            outstanding: qp.outstanding,
        }
    }
}

/// What each end has registered since the migration began.
pub(super) fn registered_memory(live: &Live) -> Vec<RegisteredMemory> {
    let ends = live
        .roles()
        .filter_map(|(role, end)| Some((role, end.registered_base, end.registered.as_ref()?)));
    ends.map(|(end, base, now)| {
        let Registrations { count, bytes, ns } = Registrations::of(now).since(base);
        RegisteredMemory {
            end,
            registrations: count,
            bytes,
            seconds: ns as f64 / 1e9,
            pinned_peak_bytes: now.bytes_pinned_peak,
        }
    })
    .collect()
}
