//! Uprobes on QEMU's phase functions (exported symbols), and what they show.
//!
//! [`binary`] finds the functions in an executable ([`elf`]) and [`reader`] attaches the probes, in a separate process that [`prober`]
//! starts and limits; [`attach`] keeps which process is probed since when. [`states`] names QEMU's numbers, [`timeline`] turns
//! the marks into spans, [`remaining`] has the remaining memory at the end of a round. The migrator need not cooperate: a stripped executable of a distribution exports them.

pub mod attach;
pub mod binary;
pub mod elf;
pub mod prober;
pub mod programs;
pub mod reader;
pub mod remaining;
pub mod states;
pub mod timeline;

use std::mem::offset_of;

use dwcp_observer_ebpf::phase::{
    Mark, MarkKind, PLACE_ERROR, PLACE_LIMIT, PLACE_LIMITED, PLACE_PAGE, PLACE_PENDING,
    PLACE_REMAINING, PLACE_UNTHROTTLE, Text,
};

/// A place in a phase function and the programs that mark it.
#[derive(Debug)]
pub struct Function {
    /// Exported symbol, and what other versions call it; the first that is there counts.
    pub symbols: &'static [&'static str],
    /// The place as probes are named in metrics and in `check`.
    pub place: &'static str,
    /// The place as it is told to a program that serves all: the number of a [`MarkKind`], or one of `PLACE_*`.
    pub number: u32,
    /// At the return instead of the entry.
    pub at_return: bool,
    /// eBPF program of this place alone, for kernels without cookies.
    pub program: &'static str,
    /// What it tells.
    pub purpose: &'static str,
    /// A blackout cannot be measured by phase functions without it.
    pub required: bool,
}

impl Function {
    /// The name in most versions.
    #[must_use]
    pub const fn symbol(&self) -> &'static str {
        self.symbols[0]
    }
}

macro_rules! functions {
    ($($symbol:literal $(| $other:literal)* $(, $return:literal)? => $number:expr, $program:literal, $required:literal, $purpose:literal;)*) => {
        &[$(Function {
            symbols: &[$symbol $(, $other)*],
            place: concat!("qemu:", $symbol $(, $return)?),
            number: $number as u32,
            at_return: !concat!($($return)?).is_empty(),
            program: $program,
            purpose: $purpose,
            required: $required,
        },)*]
    };
}

/// Every phase function, as QEMU 5.2 to 11.1 export them; what a version lacks is reported and costs only its own figure.
pub const FUNCTIONS: &[Function] = functions! {
    "migrate_set_state" => MarkKind::State, "qemu_state", true, "migration states";
    "runstate_set" => MarkKind::RunState, "qemu_runstate", true, "distinguishes a stop by the migration from a stop by the operator";
    "pause_all_vcpus" => MarkKind::Pause, "qemu_pause", true, "QEMU begins to stop the vCPUs";
    "pause_all_vcpus", ":return" => MarkKind::Paused, "qemu_paused", true, "all vCPUs have stopped";
    "resume_all_vcpus" => MarkKind::Resume, "qemu_resume", true, "QEMU starts the vCPUs";
    "memory_global_dirty_log_sync" => MarkKind::Sync, "qemu_sync", false, "iterations over RAM (rounds)";
    "qemu_savevm_state_complete_precopy" => MarkKind::LastPass, "qemu_last_pass", false, "start of the last iteration over RAM";
    "qemu_savevm_state_complete_precopy", ":return" => MarkKind::Sent, "qemu_sent", false, "source has sent everything";
    "qemu_savevm_state_complete_precopy_non_iterable" | "qemu_savevm_state_non_iterable" => MarkKind::Device, "qemu_device", false, "start of the device state";
    "cpu_synchronize_all_post_init" => MarkKind::Loaded, "qemu_loaded", false, "destination has loaded the device state";
    "global_state_get_runstate", ":return" => MarkKind::GlobalState, "qemu_global_state", false, "whether the guest was running at the source";
    "qmp_cont" => MarkKind::Continue, "qemu_cont", false, "the manager resumes the guest (cont)";
    "vm_start" => MarkKind::VmStart, "qemu_vm_start", false, "QEMU resumes the guest";
    "qmp_stop" => MarkKind::Halt, "qemu_stop", false, "the operator stops the guest";
    "qmp_migrate" => MarkKind::Migrate, "qemu_migrate", false, "the manager starts a migration";
    "qmp_migrate_continue" => MarkKind::MigrateContinue, "qemu_go_on", false, "the manager allows the switch-over";
    "qmp_migrate_cancel" => MarkKind::Cancel, "qemu_cancel", false, "the manager cancels the migration";
    "qmp_migrate_start_postcopy" => MarkKind::StartPostcopy, "qemu_postcopy", false, "the manager switches to postcopy";
    "qmp_migrate_recover" => MarkKind::Recover, "qemu_recover", false, "the manager recovers an interrupted postcopy";
    "cpu_throttle_set" => MarkKind::Throttle, "qemu_throttle", false, "QEMU throttles the vCPUs (auto-converge)";
    "cpu_throttle_stop" => PLACE_UNTHROTTLE, "qemu_unthrottle", false, "QEMU stops throttling the vCPUs";
    "qemu_announce_self" => MarkKind::Announce, "qemu_announce", false, "QEMU announces the guest to the network";
    "migration_rate_limit" => PLACE_LIMIT, "qemu_limit", false, "start of a wait in the rate limiter";
    "migration_rate_limit", ":return" => PLACE_LIMITED, "qemu_limited", false, "end of a wait in the rate limiter";
    "migrate_send_rp_req_pages" => PLACE_PAGE, "qemu_page", false, "page requests of a postcopy destination";
    "migrate_set_error" | "migrate_error_propagate" => PLACE_ERROR, "qemu_error", false, "QEMU's error text";
    "qemu_savevm_state_pending_exact" | "qemu_savevm_state_pending" | "qemu_savevm_query_pending_iter" => PLACE_PENDING, "qemu_exact", false, "QEMU counts the remaining memory";
    "qemu_savevm_state_pending_exact" | "qemu_savevm_state_pending" | "qemu_savevm_query_pending_iter", ":return" => PLACE_REMAINING, "qemu_exact_ret", false, "QEMU's count of the remaining memory";
    "qemu_savevm_state_pending_estimate" => PLACE_PENDING, "qemu_estimate", false, "QEMU estimates the remaining memory within an iteration";
    "qemu_savevm_state_pending_estimate", ":return" => PLACE_REMAINING, "qemu_est_ret", false, "QEMU's estimate of the remaining memory";
};

/// A mark, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkReading {
    /// Slot of the process on the kernel side.
    pub process: u32,
    /// Generation of that slot.
    pub generation: u32,
    /// Thread that passed.
    pub tid: u32,
    /// `CLOCK_MONOTONIC` ns.
    pub at_ns: u64,
    /// Payload that the process had handed to its sockets by then, bytes.
    pub sent_bytes: u64,
    /// Which function.
    pub kind: MarkKind,
    /// First number, where the function has one.
    pub old: u32,
    /// Second number, or the one that the function returns.
    pub new: u32,
    /// Low half of the address that `migrate_set_state` changes: outgoing and incoming state are different objects.
    pub object: u32,
    /// Of [`MarkKind::Pending`]: what is left, what was at the look before, and what was sent from there to the fetch, bytes.
    pub remaining: [u64; 3],
}

/// Decodes a mark from the lifecycle ring; `None` for anything else.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<MarkReading> {
    if bytes.len() != size_of::<Mark>() {
        return None;
    }
    let word = |index: usize| {
        let word = bytes.get(index * 4..index * 4 + 4)?;
        Some(u32::from_ne_bytes(word.try_into().ok()?))
    };
    let long = |index: usize| {
        let long = bytes.get(index * 8..index * 8 + 8)?;
        Some(u64::from_ne_bytes(long.try_into().ok()?))
    };
    if word(0)? != dwcp_observer_ebpf::EVENT_MARK {
        return None;
    }
    Some(MarkReading {
        process: word(1)?,
        generation: word(2)?,
        tid: word(3)?,
        at_ns: long(2)?,
        sent_bytes: long(3)?,
        kind: MarkKind::from_number(word(8)?)?,
        old: word(9)?,
        new: word(10)?,
        object: word(11)?,
        remaining: [long(6)?, long(7)?, long(8)?],
    })
}

/// A migrator's own words of what went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextReading {
    /// Slot of the process on the kernel side.
    pub process: u32,
    /// Generation of that slot.
    pub generation: u32,
    /// `CLOCK_MONOTONIC` ns.
    pub at_ns: u64,
    /// The text; what is no UTF-8 is replaced, control characters are gone.
    pub text: String,
}

/// Decodes such words from the lifecycle ring; `None` for anything else.
#[must_use]
pub fn decode_text(bytes: &[u8]) -> Option<TextReading> {
    if bytes.len() != size_of::<Text>() {
        return None;
    }
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    if word(offset_of!(Text, kind))? != dwcp_observer_ebpf::EVENT_TEXT {
        return None;
    }
    let at = offset_of!(Text, at_ns);
    let text = bytes.get(offset_of!(Text, text)..)?.split(|byte| *byte == 0).next()?;
    let text = String::from_utf8_lossy(text);
    Some(TextReading {
        process: word(offset_of!(Text, slot))?,
        generation: word(offset_of!(Text, generation))?,
        at_ns: u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?),
        text: text.chars().filter(|c| !c.is_control()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_up_to_their_end() {
        let mut bytes = vec![0u8; size_of::<Text>()];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(offset_of!(Text, kind), &dwcp_observer_ebpf::EVENT_TEXT.to_ne_bytes());
        put(offset_of!(Text, slot), &7u32.to_ne_bytes());
        put(offset_of!(Text, at_ns), &10u64.to_ne_bytes());
        put(offset_of!(Text, text), b"Unable to write\n\x1b[31m to socket\0old");
        let found = decode_text(&bytes).unwrap();
        assert_eq!((found.process, found.at_ns), (7, 10));
        assert_eq!(found.text, "Unable to write[31m to socket");
        assert_eq!(decode_text(&bytes[1..]), None);
        assert_eq!(decode(&bytes), None);
    }

    #[test]
    fn a_mark_is_read_field_by_field() {
        let mut bytes = vec![0u8; size_of::<Mark>()];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(offset_of!(Mark, kind), &dwcp_observer_ebpf::EVENT_MARK.to_ne_bytes());
        put(offset_of!(Mark, slot), &7u32.to_ne_bytes());
        put(offset_of!(Mark, generation), &8u32.to_ne_bytes());
        put(offset_of!(Mark, tid), &9u32.to_ne_bytes());
        put(offset_of!(Mark, at_ns), &10u64.to_ne_bytes());
        put(offset_of!(Mark, sent_bytes), &11u64.to_ne_bytes());
        put(offset_of!(Mark, mark), &(MarkKind::State as u32).to_ne_bytes());
        put(offset_of!(Mark, old), &4u32.to_ne_bytes());
        put(offset_of!(Mark, new), &8u32.to_ne_bytes());
        put(offset_of!(Mark, object), &12u32.to_ne_bytes());
        for (index, bytes) in (0..).zip([13u64, 14, 15]) {
            put(offset_of!(Mark, remaining) + 8 * index, &bytes.to_ne_bytes());
        }
        let expected = MarkReading {
            process: 7,
            generation: 8,
            tid: 9,
            at_ns: 10,
            sent_bytes: 11,
            kind: MarkKind::State,
            old: 4,
            new: 8,
            object: 12,
            remaining: [13, 14, 15],
        };
        assert_eq!(decode(&bytes), Some(expected));
        assert_eq!(decode(&bytes[1..]), None);
        bytes[offset_of!(Mark, mark)] = 99;
        assert_eq!(decode(&bytes), None);
    }
}
