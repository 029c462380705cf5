//! Why a migration did not complete.

use serde::{Deserialize, Serialize};

/// One line for a reader, and its class for a label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Of a fixed set.
    pub class: ReasonClass,
    /// The migrator's own words where it had some, else what killed or reset it.
    pub text: String,
}

crate::named! {
    /// What kind of thing went wrong.
    pub enum ReasonClass {
        /// The manager asked to give up (`migrate_cancel`).
        CancelledByManager = "cancelled_by_manager",
        /// It was given up, by whom was not seen.
        Cancelled = "cancelled",
        /// Nobody listened at the destination.
        ConnectionRefused = "connection_refused",
        /// The destination, or the way to it, did not answer in time.
        ConnectionTimedOut = "connection_timed_out",
        /// The connection broke.
        ConnectionLost = "connection_lost",
        /// The destination did not accept what the source had sent.
        LoadFailed = "load_failed",
        /// The migrator at the source ended.
        SourceExited = "source_exited",
        /// The migrator at the destination ended.
        DestinationExited = "destination_exited",
        /// Postcopy ended before all pages had arrived: the guest is lost.
        GuestLost = "guest_lost",
        /// All arrived, and nobody let the guest run at the destination.
        NotResumed = "not_resumed",
        /// The guest ran on at the source, where it was to leave.
        RanOnAtSource = "ran_on_at_source",
        /// The migrator gave up with words of its own, which are in the text.
        MigratorError = "migrator_error",
        /// The migrator gave up, and why was not seen.
        Failed = "failed",
        /// What is seen from this host does not tell how it ended.
        #[serde(other)]
        NotKnown = "not_known",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_names_of_the_labels() {
        for class in ReasonClass::ALL {
            assert_eq!(serde_json::to_value(class).unwrap(), class.as_str());
        }
    }
}
