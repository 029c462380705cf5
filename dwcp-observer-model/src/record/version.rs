//! The version of DWCP that moves a guest.

use serde::{Deserialize, Serialize};

/// By the rule `[v1]` of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// The rule matches.
    V1,
    /// It does not.
    V3,
}

impl Version {
    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V3 => "v3",
        }
    }
}
