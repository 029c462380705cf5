//! What tests ask of a migration's record beyond what it says itself.

use dwcp_observer_model::record::{Bytes, Migration, Role, State, Thread, ThreadRole};

use crate::process::was_started_here;
use crate::temp::TempDir;

/// Questions to a record.
pub trait RecordExt {
    /// The process id of the end with this role.
    fn pid(&self, role: Role) -> Option<u32>;

    /// Totals; zeros where no connection was seen.
    fn totals(&self) -> Bytes;

    /// Whether it is over, its outcome is settled and the final counters of all its sockets are in.
    fn is_final(&self) -> bool;

    /// Whether one of its processes was started by this test: directly, or from a copy of a program
    /// in one of its temporary directories.
    fn is_own(&self) -> bool;

    /// Threads of one end with one role.
    fn threads_of(&self, end: Role, role: ThreadRole) -> impl Iterator<Item = &Thread>;
}

impl RecordExt for Migration {
    fn pid(&self, role: Role) -> Option<u32> {
        self.end(role).map(|end| end.pid)
    }

    fn totals(&self) -> Bytes {
        self.bytes.unwrap_or_default()
    }

    fn is_final(&self) -> bool {
        // How the streams closed is told once the outcome is settled.
        self.state == State::Finished
            && self.evidence.iter().any(|line| line.kind == "close")
            && self.streams.iter().all(|stream| stream.ended_at.is_some())
    }

    fn is_own(&self) -> bool {
        let directories = TempDir::prefix();
        self.ends.iter().any(|end| {
            was_started_here(end.pid)
                || end.exe.as_ref().is_some_and(|exe| exe.starts_with(&directories))
        })
    }

    fn threads_of(&self, end: Role, role: ThreadRole) -> impl Iterator<Item = &Thread> {
        self.threads.iter().filter(move |thread| thread.end == end && thread.role == role)
    }
}
