//! Phase functions of QEMU, by uprobe. They run a few dozen times per migration; the rate limiter, postcopy page requests and what
//! tells how much is left, which run more often, only add to the record of their process.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{
    bpf_get_attach_cookie, bpf_get_current_pid_tgid, bpf_ktime_get_ns,
};
use dwcp_observer_ebpf::{
    EVENT_MARK,
    counters::Counter,
    phase::{
        Mark, MarkKind, NOT_TOLD, PENDING_OF_THREE, PENDING_OF_TWO, PENDING_STRUCT, PENDING_TOTAL,
        PLACE_ERROR, PLACE_LIMIT, PLACE_LIMITED, PLACE_PAGE, PLACE_PENDING, PLACE_REMAINING,
        PLACE_UNTHROTTLE,
    },
    process::Process,
};

use crate::{
    access::current,
    counters::bump,
    events::{self, TextHead},
    memory::fetch_user,
    process,
};

/// The first five arguments of a function; at its return what it returns, and zero.
pub type Arguments = [u64; 5];

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
            PLACE_UNTHROTTLE => self.marks(at_ns, MarkKind::Throttle as u32, [0; 3], [0; 3]),
            PLACE_ERROR => self.says(at_ns, arguments[1]),
            PLACE_PENDING => self.counts(arguments),
            PLACE_REMAINING => self.tells(at_ns),
            mark => {
                if mark == MarkKind::Sync as u32 {
                    (*self.process).synced_sent_bytes = (*self.process).sent_bytes;
                    (*self.process).synced = 1;
                }
                self.marks(at_ns, mark, numbers(mark, arguments), [0; 3]);
            }
        }
    }

    #[inline(always)]
    unsafe fn marks(
        &self,
        at_ns: u64,
        mark: u32,
        [object, old, new]: [u32; 3],
        remaining: [u64; 3],
    ) {
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
            remaining,
        });
    }

    /// Keeps where the function is to write what is left: its arguments are gone when it returns. Only the migration thread calls
    /// these functions (`migration_iteration_run`, migration/migration.c, QEMU 5.2 to 11.1).
    #[inline(always)]
    unsafe fn counts(&self, [first, second, third, fourth, fifth]: Arguments) {
        (*self.process).pending_at = match (*self.process).pending_form {
            PENDING_OF_THREE => [third, fourth, fifth],
            PENDING_OF_TWO => [first, second, 0],
            PENDING_STRUCT => [second, second.wrapping_add(8), second.wrapping_add(16)],
            _ => [0; 3],
        };
    }

    /// The function has written it. One mark per fetch of the dirty bitmap, however often the function is called.
    #[inline(always)]
    unsafe fn tells(&self, at_ns: u64) {
        let at = (*self.process).pending_at;
        (*self.process).pending_at = [0; 3];
        if at[0] == 0 {
            return;
        }
        let Some(bytes) = self.sum(at) else {
            bump(Counter::PendingUnread);
            return;
        };
        if (*self.process).synced != 0 {
            (*self.process).synced = 0;
            let (synced, told) =
                ((*self.process).synced_sent_bytes, (*self.process).remaining_sent_bytes);
            let before = match (*self.process).remaining_ns {
                0 => NOT_TOLD,
                _ => (*self.process).remaining_bytes,
            };
            let remaining = [bytes, before, synced.wrapping_sub(told)];
            self.marks(at_ns, MarkKind::Pending as u32, [0; 3], remaining);
        }
        (*self.process).remaining_bytes = bytes;
        (*self.process).remaining_sent_bytes = (*self.process).sent_bytes;
        (*self.process).remaining_ns = at_ns;
    }

    /// What is written at these addresses, together. A struct says its own sum: another layout does not add up.
    #[inline(always)]
    unsafe fn sum(&self, [first, second, third]: [u64; 3]) -> Option<u64> {
        let mut sum = number(first)?.wrapping_add(number(second)?);
        if third != 0 {
            sum = sum.wrapping_add(number(third)?);
        }
        if (*self.process).pending_form == PENDING_STRUCT
            && number(first.wrapping_add(PENDING_TOTAL))? != sum
        {
            return None;
        }
        Some(sum)
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
        let Some(text) = number(error) else {
            bump(Counter::TextUnread);
            return;
        };
        let head = TextHead {
            slot: self.slot,
            generation: (*self.process).generation,
            tid: bpf_get_current_pid_tgid() as u32,
            at_ns,
        };
        events::emit_text(head, text);
    }
}

/// Eight bytes of the running process' memory.
#[inline(always)]
unsafe fn number(address: u64) -> Option<u64> {
    fetch_user(address as *const u8)
}

/// What the arguments of a function, or what it returns, say: object, old and new number.
#[inline(always)]
fn numbers(mark: u32, arguments: Arguments) -> [u32; 3] {
    const STATE: u32 = MarkKind::State as u32;
    const RUN_STATE: u32 = MarkKind::RunState as u32;
    const THROTTLE: u32 = MarkKind::Throttle as u32;
    const GLOBAL_STATE: u32 = MarkKind::GlobalState as u32;
    match mark {
        STATE => [arguments[0], arguments[1], arguments[2]].map(|argument| argument as u32),
        RUN_STATE | THROTTLE | GLOBAL_STATE => [0, 0, arguments[0] as u32],
        _ => [0; 3],
    }
}
