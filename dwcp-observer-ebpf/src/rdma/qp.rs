//! Queue pairs: created, modified, destroyed. All of it runs in the context of the process that asks.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_EXIST, BPF_F_MMAPABLE},
    helpers::generated::bpf_ktime_get_ns,
    macros::map,
    maps::{Array, HashMap, Stack},
};
use dwcp_observer_ebpf::{
    SLOT_CLOSED, SLOT_LIVE,
    rdma::{Loss, Offsets, QP_CLOSER_EXITING, QP_FROM_CREATION, QP_REPLACED, Qp, holder},
};

use super::{
    data,
    kernel::{bump, exiting, owner, thread},
    memory,
};
use crate::memory::read;

/// Slot 0 holds the sum of queue pairs without a slot.
#[map]
pub static QPS: Array<Qp> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Free slots, filled by the agent.
#[map]
static QP_FREE: Stack<u32> = Stack::with_max_entries(1, 0);
/// Device index and queue pair number to slot.
#[map]
static QP_INDEX: HashMap<u64, u32> = HashMap::with_max_entries(1, 0);
/// Process and queue pair number to their [`holder`](dwcp_observer_ebpf::rdma::holder): all that a process' own post function tells.
#[map]
static QP_OWNERS: HashMap<u64, u32> = HashMap::with_max_entries(1, 0);
/// Calls that have not returned, by thread and function.
#[map]
static QP_CALLS: HashMap<u64, Call> = HashMap::with_max_entries(1024, 0);

/// What a call was about.
#[derive(Clone, Copy)]
#[repr(C)]
struct Call {
    /// Key of the queue pair.
    qp: u64,
    /// `attr_mask` of a modification.
    mask: u32,
    state: u32,
    remote_qpn: u32,
    reserved: u32,
    remote_gid: [u8; 16],
}

const MODIFY: u64 = 1 << 32;
const DESTROY: u64 = 2 << 32;

/// `enum ib_qp_attr_mask`, include/rdma/ib_verbs.h: part of the kernel's contract with its drivers since 2005.
const IB_QP_STATE: u32 = 1;
const IB_QP_AV: u32 = 1 << 7;
const IB_QP_DEST_QPN: u32 = 1 << 20;
const IB_QPS_RESET: u32 = 0;
const IB_QPS_RTS: u32 = 3;
const IB_QPS_ERR: u32 = 6;

/// The key of a queue pair.
#[inline(always)]
pub unsafe fn key(o: &Offsets, device: *const u8, qpn: u32) -> u64 {
    u64::from(read::<u32>(device, o.dev_index)) << 32 | u64::from(qpn)
}

#[inline(always)]
pub unsafe fn key_of(o: &Offsets, qp: *const u8) -> u64 {
    key(o, read(qp, o.qp_device), read(qp, o.qp_number))
}

/// The record of a queue pair.
#[inline(always)]
pub unsafe fn record(key: u64) -> Option<(u32, *mut Qp)> {
    let slot = *QP_INDEX.get(key)?;
    Some((slot, QPS.get_ptr_mut(slot)?))
}

#[inline(always)]
fn owner_key(tgid: u32, qpn: u32) -> u64 {
    u64::from(tgid) << 32 | u64::from(qpn)
}

/// The record of a queue pair of a process.
#[inline(always)]
pub fn record_of_process(tgid: u32, qpn: u32) -> Option<*mut Qp> {
    // SAFETY: an entry may be replaced meanwhile; four bytes are read whole.
    let known = unsafe { *QP_OWNERS.get(owner_key(tgid, qpn))? };
    QPS.get_ptr_mut(holder::slot(known)?)
}

/// `rdma_restrack_add(struct rdma_restrack_entry *res)`: every verbs object passes here once it exists.
#[inline(always)]
pub unsafe fn on_tracked(o: &Offsets, res: *const u8) {
    // Objects of the kernel's own users have no task.
    if read::<u64>(res, o.res_task) == 0 {
        return;
    }
    let kind = read::<u32>(res, o.res_type);
    if kind == o.restrack_qp {
        on_create(o, res.wrapping_sub(o.qp_res as usize));
    } else if kind == o.restrack_mr {
        memory::on_registered(o, res);
    }
}

#[inline(always)]
unsafe fn on_create(o: &Offsets, ib_qp: *const u8) {
    let now = bpf_ktime_get_ns();
    let device: *const u8 = read(ib_qp, o.qp_device);
    let qpn: u32 = read(ib_qp, o.qp_number);
    let key = key(o, device, qpn);
    if let Some((slot, old)) = record(key) {
        // Its end went by unseen.
        (*old).flags |= QP_REPLACED;
        close(slot, old, now);
    }
    let slot = match QP_FREE.pop() {
        Ok(Some(slot)) => slot,
        Ok(None) => {
            bump(Loss::QpsFull);
            return;
        }
        Err(_) => {
            bump(Loss::HelperBusy);
            return;
        }
    };
    let Some(qp) = QPS.get_ptr_mut(slot) else { return };
    let owner = owner(o);
    // SAFETY: the slot has just come from the stack: this program alone has it until the index names it.
    (*qp).device = (key >> 32) as u32;
    (*qp).qpn = qpn;
    (*qp).kind = read(ib_qp, o.qp_type);
    (*qp).driver = read(device, o.dev_driver);
    (*qp).tgid = owner.key.tgid;
    (*qp).start_boottime = owner.key.start_boottime;
    (*qp).comm = owner.comm;
    (*qp).opened_ns = now;
    (*qp).flags = QP_FROM_CREATION;
    data::prepare(o, qp, ib_qp);
    (&raw mut (*qp).state).write_volatile(SLOT_LIVE);
    if QP_INDEX.insert(key, slot, BPF_ANY.into()).is_err() {
        bump(Loss::QpIndexFull);
        (*qp).flags |= QP_REPLACED;
        (*qp).closed_ns = now;
        (&raw mut (*qp).state).write_volatile(SLOT_CLOSED);
        return;
    }
    let owned = owner_key((*qp).tgid, qpn);
    let holder = holder::joined(QP_OWNERS.get(owned).copied(), slot);
    if QP_OWNERS.insert(owned, holder, BPF_ANY.into()).is_err() {
        bump(Loss::QpIndexFull);
    }
}

/// Finishes a record; the agent frees the slot.
#[inline(always)]
unsafe fn close(slot: u32, qp: *mut Qp, now: u64) {
    let owned = owner_key((*qp).tgid, (*qp).qpn);
    if let Some(known) = QP_OWNERS.get(owned).copied() {
        let _ = match holder::left(known, slot) {
            Some(holder) => QP_OWNERS.insert(owned, holder, BPF_EXIST.into()),
            None => QP_OWNERS.remove(owned),
        };
    }
    (*qp).address = 0;
    (*qp).queue = 0;
    (*qp).closed_ns = now;
    (&raw mut (*qp).state).write_volatile(SLOT_CLOSED);
}

#[inline(always)]
fn remember(function: u64, call: &Call) {
    if QP_CALLS.insert(function | u64::from(thread().1), call, BPF_ANY.into()).is_err() {
        bump(Loss::CallsFull);
    }
}

#[inline(always)]
unsafe fn recall(function: u64) -> Option<Call> {
    let key = function | u64::from(thread().1);
    let call = *QP_CALLS.get(key)?;
    let _ = QP_CALLS.remove(key);
    Some(call)
}

/// `ib_modify_qp_with_udata(struct ib_qp *qp, struct ib_qp_attr *attr, int attr_mask, struct ib_udata *udata)`.
#[inline(always)]
pub unsafe fn on_modify(o: &Offsets, ib_qp: *const u8, attr: *const u8, mask: u32) {
    let call = Call {
        qp: key_of(o, ib_qp),
        mask,
        state: read(attr, o.attr_state),
        remote_qpn: read(attr, o.attr_dest),
        reserved: 0,
        remote_gid: read(attr, o.attr_gid),
    };
    remember(MODIFY, &call);
}

#[inline(always)]
pub unsafe fn on_modified(result: i32) {
    let Some(call) = recall(MODIFY) else { return };
    if result != 0 {
        return;
    }
    let Some((_, qp)) = record(call.qp) else { return };
    if call.mask & IB_QP_DEST_QPN != 0 {
        (*qp).remote_qpn = call.remote_qpn;
    }
    if call.mask & IB_QP_AV != 0 {
        (*qp).remote_gid = call.remote_gid;
    }
    if call.mask & IB_QP_STATE == 0 {
        return;
    }
    (*qp).qp_state = call.state;
    match call.state {
        IB_QPS_RTS if (*qp).ready_ns == 0 => (*qp).ready_ns = bpf_ktime_get_ns(),
        IB_QPS_ERR | IB_QPS_RESET if (*qp).error_ns == 0 && (*qp).ready_ns != 0 => {
            (*qp).error_ns = bpf_ktime_get_ns();
        }
        _ => {}
    }
}

/// `ib_destroy_qp_user(struct ib_qp *qp, struct ib_udata *udata)`.
#[inline(always)]
pub unsafe fn on_destroy(o: &Offsets, ib_qp: *const u8) {
    let key = key_of(o, ib_qp);
    let Some((_, qp)) = record(key) else { return };
    // The send queue is gone when the call returns.
    data::absorb(o, qp, bpf_ktime_get_ns());
    let call = Call { qp: key, mask: 0, state: 0, remote_qpn: 0, reserved: 0, remote_gid: [0; 16] };
    remember(DESTROY, &call);
}

#[inline(always)]
pub unsafe fn on_destroyed(o: &Offsets, result: i32) {
    let Some(call) = recall(DESTROY) else { return };
    if result != 0 {
        return;
    }
    let Some((slot, qp)) = record(call.qp) else { return };
    data::find_last(o, qp);
    let _ = QP_INDEX.remove(call.qp);
    (*qp).closer_tgid = thread().0;
    if exiting(o) {
        (*qp).flags |= QP_CLOSER_EXITING;
    }
    close(slot, qp, bpf_ktime_get_ns());
}
