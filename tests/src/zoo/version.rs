//! The versions of QEMU: one of each Debian release from 11 on.

use std::fmt;
use std::str::FromStr;

use crate::vm::apt::Suite;

/// A version of QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 5.2, of Debian 11 (bullseye).
    V5_2,
    /// 7.2, of Debian 12 (bookworm).
    V7_2,
    /// 10.0, of Debian 13 (trixie).
    V10_0,
    /// 11.1, of Debian 13's backports.
    V11_1,
}

impl Version {
    /// All, the oldest first.
    pub const ALL: [Self; 4] = [Self::V5_2, Self::V7_2, Self::V10_0, Self::V11_1];

    /// As QEMU writes it, without the last number.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V5_2 => "5.2",
            Self::V7_2 => "7.2",
            Self::V10_0 => "10.0",
            Self::V11_1 => "11.1",
        }
    }

    /// The parts of Debian's archive that have it and what it needs; the one with QEMU is the last.
    #[must_use]
    pub const fn suites(self) -> &'static [Suite] {
        match self {
            Self::V5_2 => &[("bullseye", false)],
            Self::V7_2 => &[("bookworm", false)],
            Self::V10_0 => &[("trixie", false)],
            Self::V11_1 => &[("trixie", false), ("trixie-backports", false)],
        }
    }

    /// The machine type of this version that its successors know, too, bug for bug.
    #[must_use]
    pub fn machine(self) -> String {
        format!("pc-i440fx-{}", self.name())
    }

    /// Whether this is what QEMU's `--version` says.
    #[must_use]
    pub fn is_told_by(self, text: &str) -> bool {
        let version = text.strip_prefix("QEMU emulator version ");
        let rest = version.and_then(|rest| rest.strip_prefix(self.name()));
        rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|version| version.name() == text);
        found.ok_or_else(|| format!("no QEMU `{text}` here: 5.2, 7.2, 10.0 or 11.1"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_as_it_is_written() {
        for version in Version::ALL {
            assert_eq!(version.to_string().parse(), Ok(version));
        }
        assert!("5".parse::<Version>().is_err());
    }

    #[test]
    fn a_program_tells_its_version() {
        let text = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright";
        assert!(Version::V7_2.is_told_by(text));
        assert!(!Version::V5_2.is_told_by(text));
        assert!(!Version::V7_2.is_told_by("QEMU emulator version 7.20.1"));
        assert!(!Version::V7_2.is_told_by(""));
    }
}
