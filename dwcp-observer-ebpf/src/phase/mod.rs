//! Phase functions of QEMU, by uprobe. They run a few dozen times per migration; the rate limiter and postcopy page requests, which
//! run more often, only add to the record of their process.

use aya_ebpf::{
    helpers::generated::bpf_get_current_pid_tgid, helpers::generated::bpf_ktime_get_ns,
};
use dwcp_observer_ebpf::{
    EVENT_MARK,
    phase::{Mark, MarkKind},
    process::Process,
};

use crate::{
    access::current,
    events,
    process::{self, PROCESSES},
};

/// The record of the running process, if it is tracked.
#[inline(always)]
unsafe fn own_process() -> Option<(u32, *mut Process)> {
    let slot = process::slot_of(current(), false)?;
    if slot == 0 {
        return None;
    }
    Some((slot, PROCESSES.get_ptr_mut(slot)?))
}

#[inline(always)]
pub unsafe fn on_mark(mark: MarkKind, [object, old, new]: [u32; 3]) {
    let at_ns = bpf_ktime_get_ns();
    let Some((slot, process)) = own_process() else { return };
    events::emit_mark(Mark {
        kind: EVENT_MARK,
        slot,
        generation: (*process).generation,
        tid: bpf_get_current_pid_tgid() as u32,
        at_ns,
        sent_bytes: (*process).sent_bytes,
        mark: mark as u32,
        old,
        new,
        object,
    });
}

/// `migration_rate_limit()`: only the migration thread calls it.
#[inline(always)]
pub unsafe fn on_rate_limit(entered: bool) {
    let Some((_, process)) = own_process() else { return };
    let now = bpf_ktime_get_ns();
    if entered {
        (*process).limited_since_ns = now;
    } else if (*process).limited_since_ns != 0 {
        (*process).limited_ns += now - (*process).limited_since_ns;
        (*process).limited_since_ns = 0;
    }
}

/// `migrate_send_rp_req_pages()`: the destination asks for a page that a guest CPU waits for.
#[inline(always)]
pub unsafe fn on_page_request() {
    let Some((_, process)) = own_process() else { return };
    (*process).page_requests += 1;
    (*process).page_request_ns = bpf_ktime_get_ns();
}
