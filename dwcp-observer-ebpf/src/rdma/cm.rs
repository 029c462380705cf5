//! Connections: the connection manager's tracepoints, sent to the agent as they are. About thirty per migration.

use aya_ebpf::{
    EbpfContext as _,
    bindings::BPF_ANY,
    helpers::generated::bpf_ktime_get_ns,
    macros::map,
    maps::{LruHashMap, RingBuf},
    programs::TracePointContext,
};
use dwcp_observer_ebpf::{
    FIELD_ABSENT,
    rdma::{CmEvent, CmKind, Loss, Offsets},
};

use super::kernel::{bump, thread};
use crate::{memory::read, ring};

#[map]
static RDMA_EVENTS: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);
/// Length of the private data that a thread is about to send, plus one.
#[map]
static PRIVATE_DATA: LruHashMap<u32, u32> = LruHashMap::with_max_entries(256, 0);

/// `rdma_connect_ece` and `rdma_accept_ece`: `(struct rdma_cm_id *id, struct rdma_conn_param *conn_param, ece)`.
#[inline(always)]
pub unsafe fn on_parameters(o: &Offsets, parameters: *const u8) {
    if o.private_len == FIELD_ABSENT || parameters.is_null() {
        return;
    }
    let length = u32::from(read::<u8>(parameters, o.private_len));
    let _ = PRIVATE_DATA.insert(thread().1, length + 1, BPF_ANY.into());
}

#[inline(always)]
unsafe fn base(ctx: &TracePointContext) -> *const u8 {
    ctx.as_ptr().cast_const().cast()
}

#[inline(always)]
fn emit(event: CmEvent) {
    if !ring::send(&RDMA_EVENTS, event) {
        bump(Loss::EventsFull);
    }
}

#[inline(always)]
unsafe fn begin(kind: CmKind) -> CmEvent {
    let (tgid, tid) = thread();
    CmEvent {
        kind: kind as u32,
        cm_id: 0,
        at_ns: bpf_ktime_get_ns(),
        tgid,
        tid,
        qpn: 0,
        event: 0,
        status: 0,
        private_data: 0,
        source: [0; 28],
        destination: [0; 28],
    }
}

/// Tracepoints of the class `cma_qp_class`; they run in the thread that connects or accepts.
#[inline(always)]
pub unsafe fn on_queue_pair(o: &Offsets, ctx: &TracePointContext, kind: CmKind) {
    let mut event = begin(kind);
    let record = base(ctx);
    event.cm_id = read(record, o.pair_id);
    event.qpn = read(record, o.pair_qpn);
    event.source = read(record, o.pair_source);
    event.destination = read(record, o.pair_destination);
    if let Some(length) = PRIVATE_DATA.get(event.tid) {
        event.private_data = *length;
        let _ = PRIVATE_DATA.remove(event.tid);
    }
    emit(event);
}

/// Tracepoints of the class `cma_fsm_class`.
#[inline(always)]
pub unsafe fn on_step(o: &Offsets, ctx: &TracePointContext, kind: CmKind) {
    let mut event = begin(kind);
    let record = base(ctx);
    event.cm_id = read(record, o.step_id);
    event.source = read(record, o.step_source);
    event.destination = read(record, o.step_destination);
    emit(event);
}

/// `cm_event_handler`: what the wire brought, mostly in a kernel worker.
#[inline(always)]
pub unsafe fn on_event(o: &Offsets, ctx: &TracePointContext) {
    let mut event = begin(CmKind::Event);
    let record = base(ctx);
    event.cm_id = read(record, o.event_id);
    event.event = read::<u64>(record, o.event_type) as u32;
    event.status = read(record, o.event_status);
    event.source = read(record, o.event_source);
    event.destination = read(record, o.event_destination);
    emit(event);
}
