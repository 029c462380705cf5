//! The maps of the RDMA object, as plain values.

use std::{
    net::IpAddr,
    ptr::NonNull,
    sync::atomic::{Ordering, fence},
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuArray, RingBuf, Stack},
};
use dwcp_observer_ebpf::{
    SLOT_CLOSED, SLOT_FREE, SLOT_LIVE,
    hist::{Hist, RUNQ_BUCKETS},
    rdma::{
        CmEvent, LOSSES, Latency, Loss, Memory, ProcessKey, QP_CLOSER_EXITING, QP_FROM_CREATION,
        QP_REPLACED, QP_SEND_QUEUE, Qp,
    },
};

use super::{connection::gid_address, netlink::QpInfo, reading::Overflow, verbs};
use crate::model::queue_pair::{CloseReason, DataPath, QpReading, QpState};
use crate::{
    kernel::{
        maps::{MapError, free_slots, mapped, pod, take},
        sys::{Mapped, peek, poke, renew},
    },
    sched::comm,
};

pod! {
    PodLatency: Latency;
    PodMemory: Memory;
    PodProcess: ProcessKey;
    PodLosses: [u64; LOSSES];
}

/// The maps that the agent works with.
pub(super) struct Maps {
    qps: Mapped<Qp>,
    free: Stack<MapData, u32>,
    rings: Stack<MapData, u32>,
    index: HashMap<MapData, u64, u32>,
    owners: HashMap<MapData, u64, u32>,
    latency: Array<MapData, PodLatency>,
    memory: HashMap<MapData, PodProcess, PodMemory>,
    losses: PerCpuArray<MapData, PodLosses>,
    events: RingBuf<MapData>,
    /// Times that a queue pair from before the observer was found and no slot was free.
    not_adopted: u64,
}

impl Maps {
    /// Fills the stacks of free slots, before anything is attached.
    ///
    /// # Errors
    /// A map is missing or has another shape.
    pub(super) fn prepare(
        ebpf: &mut Ebpf,
        max_qps: u32,
        max_send_queues: u32,
    ) -> Result<Self, MapError> {
        Ok(Self {
            qps: mapped(ebpf, "QPS", u32::MAX)?,
            // Slot 0 is the sum of those without one, ring 0 is none.
            free: free_slots(ebpf, "QP_FREE", 1..max_qps + 1)?,
            rings: free_slots(ebpf, "RING_FREE", 1..max_send_queues + 1)?,
            index: take(ebpf, "QP_INDEX")?,
            owners: take(ebpf, "QP_OWNERS")?,
            latency: take(ebpf, "QP_LATENCY")?,
            memory: take(ebpf, "MEMORY")?,
            losses: take(ebpf, "RDMA_LOSSES")?,
            events: take(ebpf, "RDMA_EVENTS")?,
            not_adopted: 0,
        })
    }

    /// The ring of connection events, to be waited on.
    pub(super) const fn events(&self) -> &RingBuf<MapData> {
        &self.events
    }

    /// Steps of connections since the last call.
    pub(super) fn steps(&mut self, mut each: impl FnMut(&CmEvent)) {
        while let Some(item) = self.events.next() {
            if let Some(event) = decode(&item) {
                each(&event);
            }
        }
    }

    /// Every queue pair with a slot.
    pub(super) fn visit(&self, mut each: impl FnMut(u32, NonNull<Qp>)) {
        for slot in 1..self.qps.len() {
            if let Some(record) = self.qps.slot(slot)
                && peek!(record, state) != SLOT_FREE
            {
                each(slot, record);
            }
        }
    }

    /// Sum of the queue pairs without a slot.
    pub(super) fn overflow(&self) -> Overflow {
        self.qps.slot(0).map_or_else(Overflow::default, |record| Overflow {
            completed: peek!(record, completed),
            errors: peek!(record, statuses),
            doorbells: peek!(record, doorbells),
        })
    }

    /// Doorbell to completion of a queue pair.
    pub(super) fn latency(&self, slot: u32) -> Option<Box<Latency>> {
        self.latency.get(&slot, 0).ok().map(|latency| Box::new(latency.0))
    }

    /// Begins a record for a queue pair that was there before the observer, unless the kernel was faster or no slot is free.
    pub(super) fn adopt(
        &mut self,
        device: u32,
        qp: &QpInfo,
        driver: u32,
        (start_boottime, comm): (u64, [u8; 16]),
        now_ns: u64,
    ) {
        const NOEXIST: u64 = 1;
        let Ok(slot) = self.free.pop(0) else {
            self.not_adopted += 1;
            return;
        };
        let Some(record) = self.qps.slot(slot) else { return };
        poke!(record, device, device);
        poke!(record, qpn, qp.qpn);
        poke!(record, remote_qpn, qp.remote_qpn);
        poke!(record, kind, qp.kind);
        poke!(record, qp_state, qp.state);
        poke!(record, driver, driver);
        poke!(record, tgid, qp.pid);
        poke!(record, start_boottime, start_boottime);
        poke!(record, comm, comm);
        poke!(record, opened_ns, now_ns);
        if QpState::from_number(qp.state) == QpState::ReadyToSend {
            poke!(record, ready_ns, now_ns);
        }
        fence(Ordering::Release);
        poke!(record, state, SLOT_LIVE);
        let key = u64::from(device) << 32 | u64::from(qp.qpn);
        if self.index.insert(key, slot, NOEXIST).is_err() {
            poke!(record, state, SLOT_CLOSED);
            self.release(slot);
            return;
        }
        // Without it a probed post function finds no record, and says so among the losses.
        if let Err(error) = self.owners.insert(owner_key(qp.pid, qp.qpn), slot, NOEXIST) {
            log::debug!("RDMA: cannot store the owner of queue pair {key:#x}: {error}");
        }
    }

    /// Ends the record of a queue pair whose end was not seen.
    pub(super) fn forget(&mut self, slot: u32, now_ns: u64) {
        let Some(record) = self.qps.slot(slot).filter(|record| peek!(*record, state) == SLOT_LIVE)
        else {
            return;
        };
        let key = u64::from(peek!(record, device)) << 32 | u64::from(peek!(record, qpn));
        // The number may be another queue pair's by now.
        if self.index.get(&key, 0).is_ok_and(|holder| holder == slot)
            && let Err(error) = self.index.remove(&key)
        {
            log::debug!("RDMA: cannot remove queue pair {key:#x}: {error}");
        }
        let owner = owner_key(peek!(record, tgid), peek!(record, qpn));
        if self.owners.get(&owner, 0).is_ok_and(|holder| holder == slot)
            && let Err(error) = self.owners.remove(&owner)
        {
            log::debug!("RDMA: cannot remove the owner of queue pair {key:#x}: {error}");
        }
        poke!(record, closed_ns, now_ns);
        poke!(record, state, SLOT_CLOSED);
    }

    /// Frees the slot of a closed queue pair, and its ring.
    pub(super) fn release(&mut self, slot: u32) {
        let Some(record) =
            self.qps.slot(slot).filter(|record| peek!(*record, state) == SLOT_CLOSED)
        else {
            return;
        };
        let ring = peek!(record, ring);
        renew!(record, Qp);
        let zero = PodLatency(Hist { sum: 0, count: 0, buckets: [0; RUNQ_BUCKETS] });
        if let Err(error) = self.latency.set(slot, zero, 0) {
            log::warn!("RDMA: cannot clear histogram {slot}: {error}");
        }
        if ring != 0
            && let Err(error) = self.rings.push(ring, 0)
        {
            log::warn!("RDMA: cannot free ring {ring}: {error}");
        }
        if let Err(error) = self.free.push(slot, 0) {
            log::warn!("RDMA: cannot free slot {slot}: {error}");
        }
    }

    /// What processes have registered.
    pub(super) fn memory(&self) -> Vec<(ProcessKey, Memory)> {
        self.memory.iter().filter_map(Result::ok).map(|(key, memory)| (key.0, memory.0)).collect()
    }

    /// Drops the record of a process that has ended.
    pub(super) fn forget_process(&mut self, key: ProcessKey) {
        if let Err(error) = self.memory.remove(&PodProcess(key)) {
            log::debug!("RDMA: cannot remove process {}: {error}", key.tgid);
        }
    }

    /// Named loss counters, summed over CPUs.
    pub(super) fn losses(&self) -> Vec<(&'static str, u64)> {
        let banks = self.losses.get(&0, 0).ok();
        let sum = |loss: Loss| -> u64 {
            banks.iter().flat_map(|banks| banks.iter()).map(|bank| bank.0[loss as usize]).sum()
        };
        let own = |loss: Loss| match loss {
            Loss::QpsFull => self.not_adopted,
            _ => 0,
        };
        Loss::ALL.iter().map(|loss| (loss.label(), sum(*loss) + own(*loss))).collect()
    }
}

/// Process and number of a queue pair.
fn owner_key(tgid: u32, qpn: u32) -> u64 {
    u64::from(tgid) << 32 | u64::from(qpn)
}

/// One entry of the ring; `None` when it has another size.
fn decode(bytes: &[u8]) -> Option<CmEvent> {
    let word =
        |at: usize| -> Option<u32> { Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?)) };
    (bytes.len() == size_of::<CmEvent>()).then_some(())?;
    Some(CmEvent {
        kind: word(0)?,
        cm_id: word(4)?,
        at_ns: u64::from_ne_bytes(*bytes.get(8..)?.first_chunk()?),
        tgid: word(16)?,
        tid: word(20)?,
        qpn: word(24)?,
        event: word(28)?,
        status: word(32)?.cast_signed(),
        private_data: word(36)?,
        source: *bytes.get(40..)?.first_chunk()?,
        destination: *bytes.get(68..)?.first_chunk()?,
    })
}

/// What is known about devices and probes when a record is read.
pub(super) struct Context<'a> {
    /// Name of a device by its index.
    pub(super) device: &'a dyn Fn(u32) -> Option<String>,
    /// Whether a device has port counters.
    pub(super) counters: &'a dyn Fn(u32) -> bool,
    /// Soft-RoCE's completions are probed.
    pub(super) completions: bool,
    /// Soft-RoCE's waits for a receive are probed.
    pub(super) rnr: bool,
    /// Doorbells by driver number: probed or not.
    pub(super) doorbells: &'a dyn Fn(u32) -> bool,
}

const fn nonzero(value: u64) -> Option<u64> {
    if value == 0 { None } else { Some(value) }
}

/// Why a closed record ended.
fn close_reason(flags: u32, tgid: u32, closer_tgid: u32) -> CloseReason {
    if flags & QP_REPLACED != 0 {
        CloseReason::Replaced
    } else if closer_tgid == 0 {
        CloseReason::Vanished
    } else if flags & QP_CLOSER_EXITING != 0 {
        CloseReason::ProcessEnded
    } else if closer_tgid == tgid {
        CloseReason::Destroyed
    } else {
        CloseReason::DeviceRemoved
    }
}

/// Reads a record; what only the connection manager knows is filled in later.
pub(super) fn read(
    slot: u32,
    qp: &Qp,
    latency: Option<Box<Latency>>,
    context: &Context<'_>,
) -> QpReading {
    use dwcp_observer_ebpf::rdma::Operation;
    let closed = qp.state == SLOT_CLOSED;
    let rxe = qp.driver == verbs::DRIVER_RXE;
    let handed = (qp.provider_calls > 0).then_some(qp.provider_posted);
    let visible = if rxe && context.completions {
        DataPath::Completions
    } else if handed.is_some() {
        DataPath::Posts
    } else if (context.counters)(qp.device) {
        DataPath::Counters
    } else {
        DataPath::None
    };
    let seen = visible == DataPath::Completions;
    let queue = qp.flags & QP_SEND_QUEUE != 0;
    let completions = qp.completions();
    let bytes = |operation: Operation| completions[operation as usize].bytes;
    let signalled = bytes(Operation::Send) + bytes(Operation::Write);
    // A request whose completion was found, and not seen, is not in the former.
    let sent = if queue { qp.sent_bytes.max(signalled) } else { signalled };
    let asked = handed.filter(|_| visible == DataPath::Posts);
    let asked = |operation: Operation| asked.map(|counts| counts[operation as usize].bytes);
    let asked_to_send =
        asked(Operation::Send).zip(asked(Operation::Write)).map(|(sends, writes)| sends + writes);
    QpReading {
        slot,
        generation: qp.generation,
        device: (context.device)(qp.device).unwrap_or_else(|| format!("ib{}", qp.device)),
        driver: verbs::driver_name(qp.driver),
        qpn: qp.qpn,
        remote_qpn: (qp.remote_qpn != 0).then_some(qp.remote_qpn),
        tgid: qp.tgid,
        comm: comm(&qp.comm),
        start_boottime_ns: nonzero(qp.start_boottime),
        kind: verbs::kind_name(qp.kind),
        state: QpState::from_number(qp.qp_state),
        local: None,
        peer: None,
        remote_address: gid_address(qp.remote_gid).filter(|ip: &IpAddr| !ip.is_unspecified()),
        active_open: None,
        found_open: qp.flags & QP_FROM_CREATION == 0,
        opened_ns: qp.opened_ns,
        connected_ns: nonzero(qp.ready_ns),
        connect_seconds: None,
        error_ns: nonzero(qp.error_ns),
        disconnected_ns: None,
        closed_ns: nonzero(qp.closed_ns),
        close_reason: closed.then(|| close_reason(qp.flags, qp.tgid, qp.closer_tgid)),
        visible,
        posted: queue.then_some(qp.posted),
        completed: seen.then_some(completions),
        provider_posted: handed,
        bytes_sent: seen.then_some(sent).or(asked_to_send),
        bytes_received: seen.then(|| bytes(Operation::Recv) + bytes(Operation::RecvWrite)),
        bytes_read: seen.then(|| bytes(Operation::Read)).or(asked(Operation::Read)),
        errors: qp.errors(),
        doorbells: (context.doorbells)(qp.driver).then_some(qp.doorbells),
        last_post_ns: nonzero(qp.doorbell_ns),
        last_completion_ns: nonzero(qp.completion_ns),
        last_send_tid: (qp.send_tid != 0).then_some(qp.send_tid),
        outstanding: (queue && QpState::from_number(qp.qp_state) != QpState::Error)
            .then(|| qp.produced.saturating_sub(qp.consumed)),
        latency: latency.filter(|_| queue),
        late_doorbells: qp.late_doorbells,
        rnr_waits: (rxe && context.rnr).then_some(qp.rnr_waits),
    }
}

#[cfg(test)]
mod tests {
    use dwcp_observer_ebpf::rdma::{Count, Operation};

    use super::*;

    fn record() -> Qp {
        // SAFETY: zero is valid for all fields of the record.
        let mut qp: Qp = unsafe { std::mem::zeroed() };
        qp.state = SLOT_LIVE;
        qp.driver = verbs::DRIVER_RXE;
        qp.kind = 2;
        qp.qpn = 17;
        qp.tgid = 100;
        qp.comm[..4].copy_from_slice(b"qemu");
        qp.flags = QP_FROM_CREATION | QP_SEND_QUEUE;
        qp.completed[Operation::Write as usize] = Count { operations: 2, bytes: 8192 };
        qp.completed[Operation::Recv as usize] = Count { operations: 1, bytes: 24 };
        qp.sent_bytes = 12_288;
        qp.produced = 5;
        qp.consumed = 3;
        qp
    }

    fn context(completions: bool, counters: &'static dyn Fn(u32) -> bool) -> Context<'static> {
        Context {
            device: &|index| (index == 0).then(|| "rxe0".to_owned()),
            counters,
            completions,
            rnr: completions,
            doorbells: &|driver| driver == verbs::DRIVER_RXE,
        }
    }

    #[test]
    fn with_the_send_queue_unsignalled_requests_count_and_without_it_only_completions_do() {
        let mut qp = record();
        let seen = read(1, &qp, None, &context(true, &|_| true));
        assert_eq!((seen.device.as_str(), seen.kind, seen.driver), ("rxe0", "RC", "rxe"));
        assert_eq!((seen.bytes_sent, seen.bytes_received), (Some(12_288), Some(24)));
        assert_eq!(seen.outstanding, Some(2));
        assert!(!seen.found_open && seen.posted.is_some());
        qp.flags = QP_FROM_CREATION;
        let seen = read(1, &qp, None, &context(true, &|_| true));
        assert_eq!((seen.bytes_sent, seen.posted, seen.outstanding), (Some(8192), None, None));
    }

    #[test]
    fn completions_are_as_many_as_were_seen_or_found() {
        let mut qp = record();
        let write = Operation::Write as usize;
        let completed = |qp: &Qp| {
            let seen = read(1, qp, None, &context(true, &|_| true));
            (seen.completed.unwrap_or_default()[write], seen.bytes_sent, seen.errors[5])
        };
        let two = Count { operations: 2, bytes: 8192 };
        // The last one is found at the next: what was seen is ahead.
        qp.found[write] = Count { operations: 1, bytes: 4096 };
        qp.statuses[5] = 1;
        assert_eq!(completed(&qp), (two, Some(12_288), 1));
        // The kernel left the program out: what was found is ahead.
        let four = Count { operations: 4, bytes: 16_384 };
        qp.found[write] = four;
        qp.found_statuses[5] = 2;
        assert_eq!(completed(&qp), (four, Some(16_384), 2));
    }

    #[test]
    fn what_cannot_be_seen_is_absent_and_not_zero() {
        let mut qp = record();
        qp.driver = 1;
        qp.flags = QP_FROM_CREATION;
        let seen = read(1, &qp, None, &context(true, &|_| true));
        assert_eq!(seen.visible, DataPath::Counters);
        assert_eq!((seen.bytes_sent, seen.completed, seen.doorbells), (None, None, None));
        assert_eq!((seen.rnr_waits, seen.driver), (None, "mlx5"));
        let seen = read(1, &qp, None, &context(false, &|_| false));
        assert_eq!(seen.visible, DataPath::None);
    }

    #[test]
    fn what_a_process_posts_is_all_that_is_known_of_hardware_and_stands_beside_completions() {
        let mut qp = record();
        qp.provider_calls = 1;
        qp.provider_posted[Operation::Send as usize] = Count { operations: 1, bytes: 100 };
        qp.provider_posted[Operation::Write as usize] = Count { operations: 3, bytes: 16_384 };
        qp.provider_posted[Operation::Read as usize] = Count { operations: 1, bytes: 7 };
        let seen = read(1, &qp, None, &context(true, &|_| true));
        assert_eq!((seen.visible, seen.bytes_sent), (DataPath::Completions, Some(12_288)));
        assert_eq!(
            seen.provider_posted(Operation::Write),
            Some(Count { operations: 3, bytes: 16_384 })
        );
        qp.driver = 1;
        qp.flags = QP_FROM_CREATION;
        let seen = read(1, &qp, None, &context(true, &|_| true));
        assert_eq!((seen.visible, seen.completed), (DataPath::Posts, None));
        assert_eq!((seen.bytes_sent, seen.bytes_read), (Some(16_484), Some(7)));
        assert_eq!(seen.bytes_received, None);
    }

    #[test]
    fn the_end_tells_who_brought_it() {
        assert_eq!(close_reason(0, 100, 100), CloseReason::Destroyed);
        assert_eq!(close_reason(QP_CLOSER_EXITING, 100, 100), CloseReason::ProcessEnded);
        assert_eq!(close_reason(0, 100, 7), CloseReason::DeviceRemoved);
        assert_eq!(close_reason(QP_REPLACED, 100, 0), CloseReason::Replaced);
        assert_eq!(close_reason(0, 100, 0), CloseReason::Vanished);
    }

    #[test]
    fn an_entry_of_the_ring_is_read_field_by_field() {
        let mut bytes = vec![0u8; size_of::<CmEvent>()];
        for (at, value) in
            [(0, 5u32), (4, 9), (16, 77), (24, 18), (28, 8), (32, u32::MAX), (36, 57)]
        {
            bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        bytes[8..16].copy_from_slice(&123u64.to_ne_bytes());
        bytes[40] = 2;
        bytes[68] = 10;
        let event = decode(&bytes).unwrap();
        assert_eq!((event.kind, event.cm_id, event.at_ns, event.tgid), (5, 9, 123, 77));
        assert_eq!((event.qpn, event.event, event.status, event.private_data), (18, 8, -1, 57));
        assert_eq!((event.source[0], event.destination[0]), (2, 10));
        assert_eq!(decode(&bytes[1..]), None);
    }
}
