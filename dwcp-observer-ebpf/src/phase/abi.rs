//! Marks: a migrator has entered or left one of its own phase functions (uprobes on QEMU's exported symbols).

macro_rules! marks {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// The phase functions that are marked.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum MarkKind { $($(#[$doc])* $name = $number,)* }

        impl MarkKind {
            /// The kind for its number.
            #[must_use]
            pub const fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

marks! {
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
}

/// A migrator passed a phase function. Travels in the lifecycle ring; `kind` is `EVENT_MARK`.
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
}

const _: () = assert!(size_of::<Mark>() == 48);

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
