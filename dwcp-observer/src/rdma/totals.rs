//! Counters over all queue pairs since the start, by device; they remain when queue pairs are destroyed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use dwcp_observer_ebpf::{
    hist::{Hist, RUNQ_BUCKETS},
    rdma::{Count, OPERATIONS, Operation, STATUSES},
};

use crate::model::queue_pair::QpReading;

/// Devices with counters of their own; all further ones share one named `other`.
const MAX_DEVICES: usize = 64;

/// Counters of one device.
#[derive(Clone, Debug)]
pub struct DeviceTotals {
    /// Completions by operation, in index order of [`Operation`].
    pub completed: [Count; OPERATIONS],
    /// Failed completions by status number.
    pub errors: [u64; STATUSES],
    /// Payload sent, received and read, bytes.
    pub bytes: [u64; 3],
    /// Doorbell to completion, ns.
    pub latency: Box<Hist<RUNQ_BUCKETS>>,
    /// Queue pairs open now.
    pub open: u64,
}

impl Default for DeviceTotals {
    fn default() -> Self {
        Self {
            completed: [Count::default(); OPERATIONS],
            errors: [0; STATUSES],
            bytes: [0; 3],
            latency: Box::new(Hist { sum: 0, count: 0, buckets: [0; RUNQ_BUCKETS] }),
            open: 0,
        }
    }
}

/// Counters of all devices.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// By name of the device.
    pub devices: BTreeMap<String, DeviceTotals>,
}

/// What [`Totals`] hold already of the queue pairs that are still listed.
#[derive(Debug, Default)]
pub struct Tally(HashMap<(u32, u32), Arc<QpReading>>);

impl Tally {
    /// Adds what is new. A queue pair that was listed with its final values is forgotten once it is listed no more.
    pub fn add(&mut self, totals: &mut Totals, queue_pairs: &[Arc<QpReading>]) {
        for device in totals.devices.values_mut() {
            device.open = 0;
        }
        let mut listed = HashMap::with_capacity(queue_pairs.len());
        for qp in queue_pairs {
            let key = (qp.slot, qp.generation);
            totals.add(qp, self.0.get(&key).map(AsRef::as_ref));
            listed.insert(key, Arc::clone(qp));
        }
        self.0 = listed;
    }
}

impl Totals {
    fn add(&mut self, qp: &QpReading, was: Option<&QpReading>) {
        let known = self.devices.contains_key(&qp.device);
        let name = if known || self.devices.len() < MAX_DEVICES { &qp.device } else { "other" };
        let to = self.devices.entry(name.to_owned()).or_default();
        to.open += u64::from(qp.closed_ns.is_none());
        for operation in Operation::ALL {
            let now = qp.completed(*operation).unwrap_or_default();
            let was = was.and_then(|was| was.completed(*operation)).unwrap_or_default();
            let count = &mut to.completed[*operation as usize];
            count.operations += now.operations.saturating_sub(was.operations);
            count.bytes += now.bytes.saturating_sub(was.bytes);
        }
        for (status, sum) in to.errors.iter_mut().enumerate() {
            let was = was.map_or(0, |was| was.errors[status]);
            *sum += u64::from(qp.errors[status].saturating_sub(was));
        }
        let bytes = |qp: &QpReading| {
            [qp.bytes_sent, qp.bytes_received, qp.bytes_read].map(Option::unwrap_or_default)
        };
        let before = was.map_or([0; 3], bytes);
        for ((sum, now), was) in to.bytes.iter_mut().zip(bytes(qp)).zip(before) {
            *sum += now.saturating_sub(was);
        }
        let Some(now) = &qp.latency else { return };
        let before = was.and_then(|was| was.latency.as_ref());
        to.latency.sum += now.sum.saturating_sub(before.map_or(0, |before| before.sum));
        to.latency.count += now.count.saturating_sub(before.map_or(0, |before| before.count));
        for (index, sum) in to.latency.buckets.iter_mut().enumerate() {
            let was = before.map_or(0, |before| before.buckets[index]);
            *sum += now.buckets[index].saturating_sub(was);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdma::tests::queue_pair;

    #[test]
    fn each_completion_counts_once_also_when_its_queue_pair_is_gone() {
        let (mut totals, mut tally) = (Totals::default(), Tally::default());
        let first = queue_pair();
        let mut later = first.clone();
        later.bytes_sent = Some(100_000);
        later.errors[10] = 1;
        later.closed_ns = Some(9);
        let next = QpReading { generation: first.generation + 1, ..queue_pair() };
        for step in [vec![first.clone()], vec![first], vec![later], vec![], vec![next]] {
            tally.add(&mut totals, &step.into_iter().map(Arc::new).collect::<Vec<_>>());
        }
        let device = &totals.devices["rxe0"];
        assert_eq!(device.bytes, [166_000, 0, 0]);
        assert_eq!(device.completed[Operation::Write as usize].operations, 2);
        assert_eq!((device.errors[10], device.open), (1, 1));
    }

    #[test]
    fn devices_are_bounded() {
        let mut totals = Totals::default();
        let many = (0..2 * MAX_DEVICES as u32)
            .map(|slot| Arc::new(QpReading { slot, device: format!("rxe{slot}"), ..queue_pair() }));
        Tally::default().add(&mut totals, &many.collect::<Vec<_>>());
        assert_eq!(totals.devices.len(), MAX_DEVICES + 1);
        assert_eq!(totals.devices["other"].open, MAX_DEVICES as u64);
    }
}
