//! Processes that may migrate, and the rules by which the kernel side recognises them.

use crate::freeze::Freeze;

/// Length of a task's `comm`, including its NUL.
pub const COMM_LEN: usize = 16;
/// Entries of the comm rule table.
pub const COMM_RULES: usize = 64;
/// `u64` words of the port bitmap: one bit per TCP port.
pub const PORT_WORDS: usize = 65536 / 64;

/// Matches a `comm` by value under mask: an exact name or a prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CommRule {
    /// `comm` under `mask`, native byte order.
    pub value: [u64; 2],
    /// Bits that must match; all zero ends the table.
    pub mask: [u64; 2],
    /// Non-zero: a thread-group leader with this name may migrate; the number is the agent's rule number.
    pub process: u32,
    /// Non-zero: a thread with this name has this role (`sched::ROLE_*`).
    pub role: u32,
}

/// A process that the agent recognised by other means than its name; the key is its thread-group id, which may be another one's by now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Wanted {
    /// `task_struct.start_boottime` of its leader is at least this, ns: the agent knows it in clock ticks.
    pub from_boottime: u64,
    /// And less than this, ns.
    pub until_boottime: u64,
    /// The agent's rule number.
    pub rule: u32,
    /// Zero.
    pub reserved: u32,
}

/// What the kernel keeps of a process that may migrate.
///
/// Begun by whoever recognises the process and tags its leader first: who finds the tag in between reads what the slot's former user left, or adds to
/// what is cleared then. Written without a lock from there on:
/// - `sent_bytes` and `overflow` by all its threads and by softirqs: atomic additions.
/// - `limited_*`, `remaining_*`, `synced*` and `pending_at` by its migration thread alone, which is the only one to call these functions of QEMU
///   (migration/migration.c, 5.2 to 11.1); `synced*` also by one that measures the dirty rate (migration/dirtyrate.c), at the cost of a mark.
/// - `page_requests` by the thread that takes page faults (`postcopy_ram_fault_thread`, migration/postcopy-ram.c, 5.2 to 11.1); were there a second
///   one, a count could be lost.
/// - `exited_ns`, `exit_code`, `state` by the last thread that exits. Two that exit at once may both be the last: their events
///   wake the agent twice for one end.
/// - `seen` by the sweep, `freeze` as [`Freeze`] says, `watch`, `executable` and `pending_form` by the agent alone.
/// - Slot 0 is shared by all processes without a slot: of it only `overflow` means something.
///
/// The agent reads each field for itself. `limited_ns` and `limited_since_ns` may miss or hold twice the stay that just ended, `remaining_bytes` and
/// `remaining_ns` may be of two looks of QEMU's that follow each other: both are right at the next look.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Process {
    /// `SLOT_*`.
    pub state: u32,
    /// Bumped by the agent when it frees the slot; tags of an older generation are void.
    pub generation: u32,
    /// Thread-group id in the initial pid namespace.
    pub tgid: u32,
    /// Number of the comm rule that matched, or of the agent's; 0 for a process of no known name whose flow is a migration: only its
    /// flows on migration ports are followed.
    pub rule: u32,
    /// Written by the agent: non-zero while the threads are to be measured.
    pub watch: u32,
    /// As `wait(2)` gives it: signal in the low seven bits, else status in the next byte.
    pub exit_code: u32,
    /// `task_struct.start_boottime` of the leader: ns since boot; with `tgid` it identifies the process for ever.
    pub start_boottime: u64,
    /// When its last thread exited, `CLOCK_MONOTONIC` ns; 0 while it lives.
    pub exited_ns: u64,
    /// Name of the leader when it was recognised.
    pub comm: [u8; COMM_LEN],
    /// Totals of flows that found no slot; exact once these flows are closed.
    pub overflow: FlowOverflow,
    /// Payload that the process has handed to its tracked sockets, bytes.
    pub sent_bytes: u64,
    /// Time in its own rate limiter (`migration_rate_limit`), ns.
    pub limited_ns: u64,
    /// When it entered the rate limiter, `CLOCK_MONOTONIC` ns; 0 while it is not in it.
    pub limited_since_ns: u64,
    /// Pages that a postcopy destination has asked for.
    pub page_requests: u64,
    /// When it last asked for one, `CLOCK_MONOTONIC` ns.
    pub page_request_ns: u64,
    /// Written by the agent: number of the executable whose probes count for this process; 0 while it is not probed.
    pub executable: u32,
    /// Number of the last task sweep that met a living thread of it.
    pub seen: u32,
    /// What it has stopped to dump it.
    pub freeze: Freeze,
    /// What is left of its memory, and of what else it sends in rounds, as it last told, bytes.
    pub remaining_bytes: u64,
    /// When it last told, `CLOCK_MONOTONIC` ns; 0 while it has not.
    pub remaining_ns: u64,
    /// `sent_bytes` when it last told.
    pub remaining_sent_bytes: u64,
    /// `sent_bytes` when it last fetched the dirty bitmap.
    pub synced_sent_bytes: u64,
    /// Where in its memory the function that runs now is to write what is left; the first is 0 while none runs.
    pub pending_at: [u64; 3],
    /// Written by the agent: one of `phase::PENDING_*`; 0 where its executable has no such function.
    pub pending_form: u32,
    /// Non-zero: it has fetched the dirty bitmap since it last told what is left.
    pub synced: u32,
}

/// Totals of the flows of one process that have no record of their own: differences that are added atomically, each under its socket's lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowOverflow {
    /// Flows that found no slot.
    pub flows: u64,
    /// Of these, closed.
    pub closed: u64,
    /// Payload bytes queued by `sendmsg`: acknowledged and still to be acknowledged.
    pub bytes_queued: u64,
    /// Payload bytes acknowledged by the peer.
    pub bytes_delivered: u64,
    /// Payload bytes received in order.
    pub bytes_received: u64,
    /// `tcp_sock.bytes_retrans`.
    pub bytes_retrans: u64,
    /// `tcp_sock.total_retrans`.
    pub segs_retrans: u64,
}
