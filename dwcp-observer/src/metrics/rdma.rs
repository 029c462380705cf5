//! Metrics of RDMA devices: all queue pairs of the host, not only those of migrations.

use prometheus::proto::MetricFamily;

use super::{family::Family, table};
use crate::{
    model::quantiles::spread,
    rdma::{
        RdmaStatus,
        verbs::{Operation, status_name},
    },
};

/// Nothing on a host without RDMA.
pub(super) fn rdma(status: &RdmaStatus, families: &mut Vec<MetricFamily>) {
    let mut bytes = Family::new(&table::RDMA_BYTES);
    let mut operations = Family::new(&table::RDMA_OPERATIONS);
    let mut errors = Family::new(&table::RDMA_ERRORS);
    let mut open = Family::new(&table::RDMA_QUEUE_PAIRS);
    let mut latency = Family::new(&table::RDMA_LATENCY);
    for (device, totals) in &status.totals.devices {
        for (direction, count) in ["sent", "received", "read"].into_iter().zip(totals.bytes) {
            bytes.add(&[device, direction], count as f64);
        }
        for operation in Operation::ALL {
            let count = totals.completed[*operation as usize].operations;
            operations.add(&[device, operation.label()], count as f64);
        }
        for (number, count) in totals.errors.iter().enumerate().filter(|(_, count)| **count > 0) {
            errors.add(&[device, status_name(number)], *count as f64);
        }
        open.add(&[device], totals.open as f64);
        if totals.latency.count > 0 {
            latency.add_histogram(&[device], &spread(&totals.latency, 1e-9, 10..=34));
        }
    }
    let mut registered = Family::new(&table::RDMA_REGISTERED);
    if let Some(snapshot) = &status.snapshot {
        let now: u64 = snapshot.memory.iter().map(|memory| memory.bytes_registered_now).sum();
        registered.add(&[], now as f64);
    }
    for family in [bytes, operations, errors, open, latency, registered] {
        family.finish(families);
    }
}
