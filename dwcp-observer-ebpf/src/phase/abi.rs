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
