//! QEMU's words: versions, states of a migration, run states of a guest, and what its manager asks for.

use serde::{Deserialize, Serialize};

/// A version of QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl Version {
    /// From text that begins like `7.2.22 (Debian ...)`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit());
        Some(Self { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }
}

crate::named! {
    /// A state of a migration, as `query-migrate` and the `MIGRATION` event name it (qapi/migration.json, `MigrationStatus`).
    #[expect(missing_docs, reason = "the names are QEMU's")]
    pub enum MigratorState {
        None = "none",
        Setup = "setup",
        Cancelling = "cancelling",
        Cancelled = "cancelled",
        Active = "active",
        PostcopyDevice = "postcopy-device",
        PostcopyActive = "postcopy-active",
        PostcopyPaused = "postcopy-paused",
        PostcopyRecoverSetup = "postcopy-recover-setup",
        PostcopyRecover = "postcopy-recover",
        Completed = "completed",
        Failing = "failing",
        Failed = "failed",
        Colo = "colo",
        PreSwitchover = "pre-switchover",
        Device = "device",
        WaitUnplug = "wait-unplug",
    }
}

crate::named! {
    /// What a guest does, as `query-status` names it (qapi/run-state.json, `RunState`).
    #[expect(missing_docs, reason = "the names are QEMU's")]
    pub enum RunState {
        Debug = "debug",
        Inmigrate = "inmigrate",
        InternalError = "internal-error",
        IoError = "io-error",
        Paused = "paused",
        Postmigrate = "postmigrate",
        Prelaunch = "prelaunch",
        FinishMigrate = "finish-migrate",
        RestoreVm = "restore-vm",
        Running = "running",
        SaveVm = "save-vm",
        Shutdown = "shutdown",
        Suspended = "suspended",
        Watchdog = "watchdog",
        GuestPanicked = "guest-panicked",
        Colo = "colo",
    }
}

impl RunState {
    /// Whether a guest in this state runs, or sleeps of its own will (`runstate_is_live`, include/sysemu/runstate.h, QEMU 9.0).
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Running | Self::Suspended)
    }
}

impl MigratorState {
    /// Whether nothing follows.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// Whether the guest's memory is at both ends.
    #[must_use]
    pub const fn is_postcopy(self) -> bool {
        matches!(
            self,
            Self::PostcopyDevice
                | Self::PostcopyActive
                | Self::PostcopyPaused
                | Self::PostcopyRecoverSetup
                | Self::PostcopyRecover
        )
    }

    /// Whether postcopy has lost its connection, and waits to be recovered.
    #[must_use]
    pub const fn is_broken_postcopy(self) -> bool {
        matches!(self, Self::PostcopyPaused | Self::PostcopyRecoverSetup | Self::PostcopyRecover)
    }
}

/// What a manager asked a migrator for (QMP's commands).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// `migrate`; with `resume`, to go on with a postcopy that is paused.
    Migrate,
    /// `migrate-continue`: go on to the switch-over.
    MigrateContinue,
    /// `migrate_cancel`.
    MigrateCancel,
    /// `migrate-start-postcopy`.
    MigrateStartPostcopy,
    /// `migrate-recover`: listen again for a postcopy that is paused.
    MigrateRecover,
    /// `cont`: let the guest run.
    Cont,
    /// `stop`: stop the guest.
    Stop,
}
