//! QEMU's numbers and their names: states of a migration, and run states of the guest.
//!
//! `MigrationStatus` (qapi/migration.json) is an enum in order of declaration, and new states were put into its middle:
//!
//! | since | inserted | `completed`, `failed` |
//! |---|---|---|
//! | 2.5 | `postcopy-active` after `active` | 6, 7 |
//! | 3.0 | `postcopy-paused`, `postcopy-recover` after it | 8, 9 |
//! | 9.1 | `postcopy-recover-setup` before `postcopy-recover` | 9, 10 |
//! | 10.2 | `postcopy-device` after `active` | 10, 11 |
//! | 11.0 | `failing` before `failed` | 10, 12 |
//!
//! `none` to `active` (0 to 4) never changed. An executable that exports `MigrationStatus_lookup` and `RunState_lookup` defines
//! its numbers itself ([`Names::of_binary`]); the table is for those that do not. An unknown version is treated as the
//! newest in the table, and the order of marks decides where two versions disagree: see [`crate::phase::timeline`].

use crate::model::qemu::{MigratorState, RunState, Version};

const fn since(major: u32, minor: u32) -> Version {
    Version { major, minor }
}

/// Every state in order of declaration, and the version that brought it.
const DECLARED: &[(MigratorState, Version)] = &[
    (MigratorState::None, since(0, 0)),
    (MigratorState::Setup, since(0, 0)),
    (MigratorState::Cancelling, since(0, 0)),
    (MigratorState::Cancelled, since(0, 0)),
    (MigratorState::Active, since(0, 0)),
    (MigratorState::PostcopyDevice, since(10, 2)),
    (MigratorState::PostcopyActive, since(2, 5)),
    (MigratorState::PostcopyPaused, since(3, 0)),
    (MigratorState::PostcopyRecoverSetup, since(9, 1)),
    (MigratorState::PostcopyRecover, since(3, 0)),
    (MigratorState::Completed, since(0, 0)),
    (MigratorState::Failing, since(11, 0)),
    (MigratorState::Failed, since(0, 0)),
    (MigratorState::Colo, since(2, 8)),
    (MigratorState::PreSwitchover, since(2, 11)),
    (MigratorState::Device, since(2, 11)),
    (MigratorState::WaitUnplug, since(4, 2)),
];

/// Run states in order of declaration (qapi/run-state.json). These numbers never changed up to `colo`.
const RUN_STATES: &[RunState] = &[
    RunState::Debug,
    RunState::Inmigrate,
    RunState::InternalError,
    RunState::IoError,
    RunState::Paused,
    RunState::Postmigrate,
    RunState::Prelaunch,
    RunState::FinishMigrate,
    RunState::RestoreVm,
    RunState::Running,
    RunState::SaveVm,
    RunState::Shutdown,
    RunState::Suspended,
    RunState::Watchdog,
    RunState::GuestPanicked,
    RunState::Colo,
];

/// What an executable's numbers mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// States of a migration by number; `None` for a name that is not known here.
    migration: Vec<Option<MigratorState>>,
    /// Run states by number.
    run: Vec<Option<RunState>>,
    /// Neither the executable nor its version told: the newest table is guessed.
    guessed: bool,
    /// Rounds are counted by the loop of the migration: see [`Self::counts_rounds_in_loop`].
    rounds_in_loop: bool,
    /// How what is left is told: see [`Self::pending_form`].
    pending_form: u32,
}

impl Default for Names {
    fn default() -> Self {
        Self::of_version(None)
    }
}

impl Names {
    /// By the table of declarations; `None`: the newest.
    #[must_use]
    pub fn of_version(version: Option<Version>) -> Self {
        let here = |since: &Version| version.is_none_or(|version| *since <= version);
        let declared = DECLARED.iter().filter(|(_, since)| here(since));
        Self {
            migration: declared.map(|(state, _)| Some(*state)).collect(),
            run: RUN_STATES.iter().copied().map(Some).collect(),
            guessed: version.is_none(),
            rounds_in_loop: false,
            pending_form: 0,
        }
    }

    /// Of an executable whose rounds are counted by the loop of the migration.
    #[must_use]
    pub const fn with_rounds_in_loop(mut self, in_loop: bool) -> Self {
        self.rounds_in_loop = in_loop;
        self
    }

    /// Of an executable that tells in this form what is left (`PENDING_*`).
    #[must_use]
    pub const fn with_pending_form(mut self, form: u32) -> Self {
        self.pending_form = form;
        self
    }

    /// How the executable tells what is left: one of `PENDING_*`, or 0.
    #[must_use]
    pub const fn pending_form(&self) -> u32 {
        self.pending_form
    }

    /// Whether `dirty-sync-count` counts the loop's rounds instead of syncs of the dirty bitmap. Up to QEMU 10.0 each sync counts
    /// (`migration_bitmap_sync`); in 11.1 the loop counts when it has asked what is left (`qemu_savevm_query_pending_iter`), and the sync
    /// after the guest was stopped (`qemu_savevm_query_pending_final`) is none.
    #[must_use]
    pub const fn counts_rounds_in_loop(&self) -> bool {
        self.rounds_in_loop
    }

    /// By the executable's own tables, in order of their numbers; one that is empty is taken from the version's.
    #[must_use]
    pub fn of_binary(migration: &[String], run: &[String], version: Option<Version>) -> Self {
        let mut names = Self::of_version(version);
        if !migration.is_empty() {
            names.migration = migration.iter().map(|name| MigratorState::by_name(name)).collect();
            names.guessed = false;
        }
        if !run.is_empty() {
            names.run = run.iter().map(|name| RunState::by_name(name)).collect();
        }
        names
    }

    /// The state behind a number; `None` for a number that this executable does not have.
    #[must_use]
    pub fn state(&self, number: u32) -> Option<MigratorState> {
        self.migration.get(number as usize).copied().flatten()
    }

    /// The run state behind a number.
    #[must_use]
    pub fn run_state(&self, number: u32) -> Option<RunState> {
        self.run.get(number as usize).copied().flatten()
    }

    /// Whether the meaning of a state's number is a guess.
    #[must_use]
    pub const fn are_guessed(&self) -> bool {
        self.guessed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_mean_what_each_version_means() {
        let version = |major, minor| Some(Version { major, minor });
        for (number, at, expected) in [
            (4, version(2, 12), MigratorState::Active),
            (6, version(2, 12), MigratorState::Completed),
            (8, version(3, 0), MigratorState::Completed),
            (9, version(7, 2), MigratorState::Failed),
            (9, version(9, 0), MigratorState::Failed),
            (9, version(9, 1), MigratorState::Completed),
            (10, version(10, 0), MigratorState::Failed),
            (5, version(11, 1), MigratorState::PostcopyDevice),
            (10, version(11, 1), MigratorState::Completed),
            (11, version(11, 1), MigratorState::Failing),
            (16, version(11, 1), MigratorState::WaitUnplug),
            (10, None, MigratorState::Completed),
            (3, None, MigratorState::Cancelled),
        ] {
            assert_eq!(Names::of_version(at).state(number), Some(expected), "{number} {at:?}");
        }
        assert_eq!(Names::default().state(99), None);
    }

    #[test]
    fn an_executable_says_what_its_numbers_mean() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let names = Names::of_binary(&words("none setup brand-new completed"), &[], None);
        assert_eq!(names.state(2), None);
        assert_eq!(names.state(3), Some(MigratorState::Completed));
        assert_eq!(names.run_state(7), Some(RunState::FinishMigrate));
        assert!(!names.are_guessed());
    }

    #[test]
    fn versions_are_read_from_what_qemu_prints() {
        assert_eq!(Version::parse("7.2.22 (Debian"), Some(Version { major: 7, minor: 2 }));
        assert_eq!(Version::parse("10.0.50-rc1"), Some(Version { major: 10, minor: 0 }));
        for nonsense in ["", "x", "7", "%s\n", "99999999999.1"] {
            assert_eq!(Version::parse(nonsense), None, "{nonsense}");
        }
    }
}
