//! Phase functions of QEMU, by uprobe. They run a few dozen times per migration; the rate limiter and postcopy page requests, which
//! run more often, only add to the record of their process.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{
    bpf_get_attach_cookie, bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_user,
};
use dwcp_observer_ebpf::{
    EVENT_MARK,
    counters::Counter,
    phase::{
        Mark, MarkKind, PLACE_ERROR, PLACE_LIMIT, PLACE_LIMITED, PLACE_PAGE, PLACE_UNTHROTTLE,
    },
    process::Process,
};

use crate::{
    access::current,
    counters::bump,
    events::{self, TextHead},
    process,
};

/// The first three arguments of a function; at its return what it returns, and zero.
pub type Arguments = [u64; 3];

/// The running process, tracked.
struct Own {
    slot: u32,
    process: *mut Process,
}

#[inline(always)]
unsafe fn own_process() -> Option<Own> {
    let owner = process::owner_of(current())?;
    if owner.slot == 0 {
        return None;
    }
    Some(Own { slot: owner.slot, process: owner.record()? })
}

/// A place of which the probe itself tells: see [`dwcp_observer_ebpf::phase::cookie`].
#[inline(always)]
pub unsafe fn on_cookie(ctx: *mut c_void, arguments: Arguments) {
    let cookie = bpf_get_attach_cookie(ctx);
    let Some(own) = own_process() else { return };
    // One passage runs the probes of every mount of the file: one of them is the process' own.
    if (*own.process).executable == (cookie >> 32) as u32 {
        own.passes(cookie as u32, arguments);
    }
}

/// A place that has a program of its own, for kernels without cookies.
#[inline(always)]
pub unsafe fn on_place(place: u32, arguments: Arguments) {
    if let Some(own) = own_process() {
        own.passes(place, arguments);
    }
}

impl Own {
    #[inline(always)]
    unsafe fn passes(&self, place: u32, arguments: Arguments) {
        let at_ns = bpf_ktime_get_ns();
        match place {
            PLACE_LIMIT => (*self.process).limited_since_ns = at_ns,
            PLACE_LIMITED => self.leaves_limiter(at_ns),
            PLACE_PAGE => {
                (*self.process).page_requests += 1;
                (*self.process).page_request_ns = at_ns;
            }
            PLACE_UNTHROTTLE => self.marks(at_ns, MarkKind::Throttle as u32, [0; 3]),
            PLACE_ERROR => self.says(at_ns, arguments[1]),
            mark => self.marks(at_ns, mark, numbers(mark, arguments)),
        }
    }

    #[inline(always)]
    unsafe fn marks(&self, at_ns: u64, mark: u32, [object, old, new]: [u32; 3]) {
        events::emit_mark(Mark {
            kind: EVENT_MARK,
            slot: self.slot,
            generation: (*self.process).generation,
            tid: bpf_get_current_pid_tgid() as u32,
            at_ns,
            sent_bytes: (*self.process).sent_bytes,
            mark,
            old,
            new,
            object,
        });
    }

    /// `migration_rate_limit()`: only the migration thread calls it.
    #[inline(always)]
    unsafe fn leaves_limiter(&self, at_ns: u64) {
        let since = (*self.process).limited_since_ns;
        if since != 0 {
            (*self.process).limited_ns += at_ns - since;
            (*self.process).limited_since_ns = 0;
        }
    }

    /// `struct Error` begins with `char *msg` (util/error.c, QEMU 2.4 to 11.1).
    #[inline(always)]
    unsafe fn says(&self, at_ns: u64, error: u64) {
        if error == 0 {
            return;
        }
        let mut text = 0u64;
        let size = size_of::<u64>() as u32;
        if bpf_probe_read_user((&raw mut text).cast(), size, error as *const c_void) != 0 {
            bump(Counter::TextUnread);
            return;
        }
        let head = TextHead {
            slot: self.slot,
            generation: (*self.process).generation,
            tid: bpf_get_current_pid_tgid() as u32,
            at_ns,
        };
        events::emit_text(head, text);
    }
}

/// What the arguments of a function, or what it returns, say: object, old and new number.
#[inline(always)]
fn numbers(mark: u32, arguments: Arguments) -> [u32; 3] {
    const STATE: u32 = MarkKind::State as u32;
    const RUN_STATE: u32 = MarkKind::RunState as u32;
    const THROTTLE: u32 = MarkKind::Throttle as u32;
    const GLOBAL_STATE: u32 = MarkKind::GlobalState as u32;
    match mark {
        STATE => arguments.map(|argument| argument as u32),
        RUN_STATE | THROTTLE | GLOBAL_STATE => [0, 0, arguments[0] as u32],
        _ => [0; 3],
    }
}
