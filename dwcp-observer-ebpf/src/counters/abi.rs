//! Named counters, one bank per CPU: they count what an early return loses.

crate::names::labelled! {
    /// Index of a counter in the bank of its CPU. Whoever counts adds atomically, since a program may interrupt another on its CPU; the agent
    /// adds the banks up, each at a moment of its own.
    Counter:
    /// No free flow slot: the flow counts in its process' overflow totals only.
    FlowSlotsFull = "flows:full",
    /// No free slot for a connection on a migration port that no recognised process has moved data on: it is not looked at.
    StrangerSlotsFull = "flows_by_port:full",
    /// Socket storage could not be allocated: the flow is retried at its next event.
    FlowTagFailed = "flows:storage",
    /// No program was told that a socket closed: its record ends where it was last seen, and its slot is freed late.
    CloseUnseen = "closes:unseen",
    /// No free thread slot: the thread is not measured.
    ThreadSlotsFull = "threads:full",
    /// Task storage could not be allocated.
    TaskTagFailed = "threads:storage",
    /// No free process slot: counted at each attempt, the process is tried again with each task sweep.
    ProcessSlotsFull = "processes:full",
    /// The lifecycle ring buffer was full: the agent notices at its next cycle instead of at once.
    EventsFull = "events:full",
    /// The event was seen while a helper refused (recursion on the same CPU, map lock contended).
    HelperBusy = "helpers:busy",
    /// Two looks at a socket came at once, or it moved meanwhile: one of them was left out.
    SnapshotRaced = "snapshots:discarded",
    /// An RTT sample of zero or beyond the histogram's range.
    RttDiscarded = "rtt:discarded",
    /// A migrator's words of an error could not be read from its memory.
    TextUnread = "texts:unread",
    /// What a migrator told to be left could not be read from its memory, or does not add up.
    PendingUnread = "pending:unread",
    /// A run-queue wait that went backwards or beyond the histogram's range.
    RunqDiscarded = "runqueue:discarded",
}

/// Number of counters.
pub const COUNTERS: usize = Counter::ALL.len();
