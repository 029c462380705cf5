//! Reasons why a flow is not a migration, as a fixed set for labels. The sentence beside it contains names and numbers that any user can choose.

crate::model::named! {
    /// The class of a reason for which a flow is not, or not yet, called a migration.
    pub enum Rejection {
        /// Nobody has moved data on it.
        NoData = "no data has moved",
        /// Too little, or not one way.
        LittleData = "little data",
        /// Evidence that does not reach `identify.min_confidence`.
        LowConfidence = "confidence below the minimum",
        /// A program that is known to move no guests.
        OtherProgram = "a program that moves no guests",
        /// On a migration port, by a process that is not a known migrator.
        UnknownProgram = "no known migrator",
        /// A port or end point that the migrator uses for something else.
        Service = "a service of the migrator",
        /// A queue pair that may be a device's or a disk's.
        QueuePair = "a queue pair of a device or disk",
        /// QEMU's main loop moves the data.
        MainLoop = "QEMU's main loop moves it",
        /// A migrator's flow without any sign of a migration.
        NoSign = "no sign of a migration",
        /// Its process is gone, or could not be looked at.
        ProcessUnknown = "its process is not known",
        /// Its process, or strangers on migration ports together, hold too many flows about which nothing is known.
        Crowd = "one of too many",
    }
}
