//! QEMU's numbers and their names.
//!
//! `MigrationStatus` (qapi/migration.json) is an enum in order of declaration, and new states were put into its middle:
//!
//! | since | inserted | `completed`, `failed` |
//! |---|---|---|
//! | 2.5 | `postcopy-active` after `active` | 6, 7 |
//! | 3.0 | `postcopy-paused`, `postcopy-recover` after it | 8, 9 |
//! | 9.1 | `postcopy-recover-setup` before `postcopy-recover` | 9, 10 |
//!
//! `none` to `active` (0 to 4) never changed. A version that is not known is treated as the newest of the table, and the order of
//! marks decides where two versions disagree: see [`crate::phase::timeline`].

/// A version of QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// A state of a migration, as `query-migrate` and the `MIGRATION` event name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names are QEMU's (qapi/migration.json, MigrationStatus)")]
pub enum MigratorState {
    None,
    Setup,
    Cancelling,
    Cancelled,
    Active,
    PostcopyActive,
    PostcopyPaused,
    PostcopyRecoverSetup,
    PostcopyRecover,
    Completed,
    Failed,
    Colo,
    PreSwitchover,
    Device,
    WaitUnplug,
}

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
    (MigratorState::PostcopyActive, since(2, 5)),
    (MigratorState::PostcopyPaused, since(3, 0)),
    (MigratorState::PostcopyRecoverSetup, since(9, 1)),
    (MigratorState::PostcopyRecover, since(3, 0)),
    (MigratorState::Completed, since(0, 0)),
    (MigratorState::Failed, since(0, 0)),
    (MigratorState::Colo, since(2, 8)),
    (MigratorState::PreSwitchover, since(2, 11)),
    (MigratorState::Device, since(2, 11)),
    (MigratorState::WaitUnplug, since(4, 2)),
];

/// The state behind a number; `None` for a number that the version does not have.
#[must_use]
pub fn state(number: u32, version: Option<Version>) -> Option<MigratorState> {
    DECLARED
        .iter()
        .filter(|(_, since)| version.is_none_or(|version| *since <= version))
        .map(|(state, _)| *state)
        .nth(number as usize)
}

impl MigratorState {
    /// The name in QMP.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Setup => "setup",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
            Self::Active => "active",
            Self::PostcopyActive => "postcopy-active",
            Self::PostcopyPaused => "postcopy-paused",
            Self::PostcopyRecoverSetup => "postcopy-recover-setup",
            Self::PostcopyRecover => "postcopy-recover",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Colo => "colo",
            Self::PreSwitchover => "pre-switchover",
            Self::Device => "device",
            Self::WaitUnplug => "wait-unplug",
        }
    }
}

/// `RUN_STATE_PAUSED` (qapi/run-state.json): stopped by the operator. These numbers never changed.
pub const RUN_STATE_PAUSED: u32 = 4;
/// `RUN_STATE_FINISH_MIGRATE`: stopped by the migration.
pub const RUN_STATE_FINISH_MIGRATE: u32 = 7;
/// `RUN_STATE_RUNNING`.
pub const RUN_STATE_RUNNING: u32 = 9;

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
            (9, None, MigratorState::Completed),
            (3, None, MigratorState::Cancelled),
        ] {
            assert_eq!(state(number, at), Some(expected), "{number} {at:?}");
        }
        assert_eq!(state(99, None), None);
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
