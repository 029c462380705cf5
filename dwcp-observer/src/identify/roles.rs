//! Roles of a migration's threads and connections.

use dwcp_observer_ebpf::sched::{ROLE_MAIN, ROLE_STREAM, ROLE_VCPU};

use super::rules::thread_name;
use crate::model::record::{Role, StreamRole, ThreadRole};

/// Which streams of its migration a thread moves data on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadUse {
    /// It last sent on the main stream.
    pub sends_main: bool,
    /// It last received on the main stream.
    pub receives_main: bool,
    /// It last sent or received on another stream.
    pub moves_other: bool,
}

/// The role of a thread of a migrator at one end: by its name, else by what it does.
///
/// At the source the sender of the main stream drives the migration, and whoever reads it (QEMU's return path) serves it.
/// At the destination the reader of the main stream drives it: QEMU's main loop in a coroutine, or a thread of its own in
/// postcopy. QEMU's main loop also reads the first bytes of each further stream, so `is_leader` with no hand in the main
/// stream is `Other`. A vCPU thread without a name is `Other`.
#[must_use]
pub fn thread_role(
    kernel_role: u32,
    comm: &str,
    is_leader: bool,
    end: Role,
    moves: ThreadUse,
) -> ThreadRole {
    let by_name =
        if kernel_role == 0 { thread_name(comm).map_or(0, |name| name.role) } else { kernel_role };
    match by_name {
        ROLE_MAIN => return ThreadRole::Main,
        ROLE_STREAM => return ThreadRole::Stream,
        ROLE_VCPU => return ThreadRole::Vcpu,
        _ => {}
    }
    let drives = match end {
        Role::Source => moves.sends_main,
        Role::Destination => moves.receives_main,
    };
    if drives {
        ThreadRole::Main
    } else if !is_leader && (moves.moves_other || moves.sends_main || moves.receives_main) {
        ThreadRole::Stream
    } else {
        ThreadRole::Other
    }
}

/// The place of a connection in its migration: by the name of the thread that moves its data, else by order of opening
/// (`index` 0 is the first).
#[must_use]
pub fn stream_role(index: usize, thread_comm: Option<&str>) -> StreamRole {
    let Some(comm) = thread_comm else { return by_order(index) };
    let is = |prefixes: &[&str]| prefixes.iter().any(|prefix| comm.starts_with(prefix));
    if is(&["live_migration", "mig/src/main"]) {
        StreamRole::Main
    } else if is(&[
        "multifdsend_",
        "mig/src/send_",
        "multifdrecv_",
        "mig/dst/recv_",
        "mig/src/recv_",
    ]) {
        StreamRole::Multifd
    } else if is(&["fault-fast", "mig/dst/preempt"]) {
        StreamRole::Preempt
    } else {
        by_order(index)
    }
}

const fn by_order(index: usize) -> StreamRole {
    if index == 0 { StreamRole::Main } else { StreamRole::Multifd }
}
