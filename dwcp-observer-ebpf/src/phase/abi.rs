//! Marks: a migrator has entered or left one of its own phase functions (uprobes on QEMU's exported symbols).

crate::names::numbered! {
    /// The phase functions that are marked.
    MarkKind:
    /// `migrate_set_state(int *state, int old, int new)`: `old` and `new` of the mark; entered also when the change does not happen.
    State = 1,
    /// `runstate_set(RunState new)`: `new` of the mark.
    RunState = 2,
    /// `pause_all_vcpus()` is entered.
    Pause = 3,
    /// `pause_all_vcpus()` returns: every vCPU thread has parked.
    Paused = 4,
    /// `resume_all_vcpus()` is entered.
    Resume = 5,
    /// `memory_global_dirty_log_sync()`: a pass over RAM ends, the next begins.
    Sync = 6,
    /// `qemu_savevm_state_complete_precopy()` is entered: the last pass over RAM.
    LastPass = 7,
    /// `qemu_savevm_state_complete_precopy_non_iterable()`: device state is saved.
    Device = 8,
    /// `qemu_savevm_state_complete_precopy()` returns: all is written.
    Sent = 9,
    /// `cpu_synchronize_all_post_init()`: the destination has loaded the device state.
    Loaded = 10,
    /// `qmp_cont(Error **)`: the manager lets the guest run.
    Continue = 11,
    /// `vm_start()`: QEMU lets the guest run.
    VmStart = 12,
    /// `qmp_stop(Error **)`: the operator stops the guest.
    Halt = 13,
    /// `qmp_migrate(...)`: the manager asks for a migration, or resumes a postcopy that is paused.
    Migrate = 14,
    /// `qmp_migrate_continue(...)`: the manager lets a migration go on that waits before its switch-over.
    MigrateContinue = 15,
    /// `qmp_migrate_cancel(...)`: the manager gives it up.
    Cancel = 16,
    /// `qmp_migrate_start_postcopy(...)`: the manager goes over to postcopy.
    StartPostcopy = 17,
    /// `qmp_migrate_recover(...)`: the manager lets a destination listen again after its postcopy broke.
    Recover = 18,
    /// `cpu_throttle_set(int percent)`: `new` of the mark.
    Throttle = 19,
    /// `qemu_announce_self(...)`: the destination announces the guest to the network.
    Announce = 20,
    /// `global_state_get_runstate()` returns at the destination: what the guest did at its source; `new` of the mark.
    GlobalState = 21,
    /// What is left is told for the first time since the dirty bitmap was fetched: `remaining` of the mark.
    Pending = 22,
}

/// A migrator passed a phase function. Travels in the lifecycle ring; `kind` is `EVENT_MARK`. Written by the thread that passes: two threads' marks may
/// come in another order than their times.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Mark {
    /// `EVENT_MARK`.
    pub kind: u32,
    /// Slot of the process.
    pub slot: u32,
    /// Generation of that slot.
    pub generation: u32,
    /// Thread that passed.
    pub tid: u32,
    /// `CLOCK_MONOTONIC` ns.
    pub at_ns: u64,
    /// Payload that the process had handed to its sockets by then, bytes.
    pub sent_bytes: u64,
    /// Number of the `MarkKind`.
    pub mark: u32,
    /// First number of the mark, where it has one.
    pub old: u32,
    /// Second number of the mark, where it has one.
    pub new: u32,
    /// Low half of the address of the object that the mark is about, where it has one.
    pub object: u32,
    /// Of [`MarkKind::Pending`], bytes: what is left; what was left at the look before that fetch, [`NOT_TOLD`] without one; payload
    /// that was handed to the sockets from that look to the fetch.
    pub remaining: [u64; 3],
}

const _: () = assert!(size_of::<Mark>() == 72);

/// No number of bytes: nothing has told it.
pub const NOT_TOLD: u64 = u64::MAX;

/// Places that leave no mark, beside the numbers of [`MarkKind`]: `migration_rate_limit` is entered.
pub const PLACE_LIMIT: u32 = 100;
/// `migration_rate_limit` returns.
pub const PLACE_LIMITED: u32 = 101;
/// `migrate_send_rp_req_pages`: a postcopy destination asks for a page.
pub const PLACE_PAGE: u32 = 102;
/// `migrate_set_error`, `migrate_error_propagate`: an error's [`Text`].
pub const PLACE_ERROR: u32 = 103;
/// `cpu_throttle_stop`: a [`MarkKind::Throttle`] of 0 per cent.
pub const PLACE_UNTHROTTLE: u32 = 104;
/// A function that tells what is left is entered: `PENDING_*` say which one a process has.
pub const PLACE_PENDING: u32 = 105;
/// It returns.
pub const PLACE_REMAINING: u32 = 106;

/// `qemu_savevm_state_pending(QEMUFile *f, uint64_t threshold, uint64_t *precopy_only, uint64_t *compatible, uint64_t *postcopy_only)`
/// (migration/savevm.c, QEMU 5.2 to 7.2): fetches the dirty bitmap first when less than the threshold is left.
pub const PENDING_OF_THREE: u32 = 1;
/// `qemu_savevm_state_pending_estimate(uint64_t *must_precopy, uint64_t *can_postcopy)`, which fetches nothing, and
/// `qemu_savevm_state_pending_exact`, which fetches first and follows it when less than the threshold is left (8.0 to 10.0).
pub const PENDING_OF_TWO: u32 = 2;
/// `qemu_savevm_query_pending_iter(MigrationState *s, MigPendingData *pending, bool exact)`, called first without and then with
/// `exact` as the two above (11.1).
pub const PENDING_STRUCT: u32 = 3;
/// Where `MigPendingData` has the sum of its first three numbers, bytes from its begin (11.1).
pub const PENDING_TOTAL: u64 = 32;

/// What a probe tells its program (`bpf_get_attach_cookie`): the executable that it was placed for, and the place. Several
/// executables may be one file below (overlay mounts of one image): each passage then runs the probes of all of them, and only
/// those of the process' own count.
#[must_use]
pub const fn cookie(executable: u32, place: u32) -> u64 {
    (executable as u64) << 32 | place as u64
}

/// Most bytes of an error's text that are kept.
pub const TEXT_LEN: usize = 200;

/// A migrator's own words of an error (`migrate_set_error`, `migrate_error_propagate`). Travels in the lifecycle ring.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Text {
    /// `EVENT_TEXT`.
    pub kind: u32,
    /// Slot of the process.
    pub slot: u32,
    /// Generation of that slot.
    pub generation: u32,
    /// Thread that passed.
    pub tid: u32,
    /// `CLOCK_MONOTONIC` ns.
    pub at_ns: u64,
    /// The text, up to its first NUL.
    pub text: [u8; TEXT_LEN],
}

const _: () = assert!(size_of::<Text>() == 24 + TEXT_LEN);
