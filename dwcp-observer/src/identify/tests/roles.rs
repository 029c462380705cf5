use dwcp_observer_ebpf::sched::{ROLE_MAIN, ROLE_OTHER, ROLE_STREAM, ROLE_VCPU};

use crate::identify::roles::{ThreadUse, stream_role, thread_role};
use crate::model::record::{Role, StreamRole, ThreadRole};

const NOTHING: ThreadUse =
    ThreadUse { sends_main: false, receives_main: false, moves_other: false };
const SENDS: ThreadUse = ThreadUse { sends_main: true, ..NOTHING };
const RECEIVES: ThreadUse = ThreadUse { receives_main: true, ..NOTHING };
const OTHER: ThreadUse = ThreadUse { moves_other: true, ..NOTHING };

#[test]
fn by_name() {
    for (comm, expected) in [
        ("live_migration", ThreadRole::Main),
        ("mig/src/main", ThreadRole::Main),
        ("multifdsend_12", ThreadRole::Stream),
        ("mig/dst/recv_1", ThreadRole::Stream),
        ("CPU 0/KVM", ThreadRole::Vcpu),
        ("CPU 11/TCG", ThreadRole::Vcpu),
        ("vcpu0", ThreadRole::Vcpu),
        ("IO mon_iothread", ThreadRole::Other),
        ("call_rcu", ThreadRole::Other),
    ] {
        let role = thread_role(ROLE_OTHER, comm, false, Role::Source, NOTHING);
        assert_eq!(role, expected, "{comm}");
    }
}

#[test]
fn the_kernels_word_counts_first() {
    for (kernel, expected) in [
        (ROLE_MAIN, ThreadRole::Main),
        (ROLE_STREAM, ThreadRole::Stream),
        (ROLE_VCPU, ThreadRole::Vcpu),
    ] {
        assert_eq!(thread_role(kernel, "x", true, Role::Source, NOTHING), expected);
    }
}

#[test]
fn by_what_it_does() {
    let role =
        |is_leader, end, moves| thread_role(ROLE_OTHER, "qemu-system-x86", is_leader, end, moves);
    let (main, stream, other) = (ThreadRole::Main, ThreadRole::Stream, ThreadRole::Other);
    assert_eq!(role(false, Role::Source, SENDS), main);
    assert_eq!(role(false, Role::Source, RECEIVES), stream, "the return path");
    assert_eq!(role(false, Role::Source, OTHER), stream);
    assert_eq!(role(false, Role::Source, NOTHING), other);
    assert_eq!(role(true, Role::Destination, RECEIVES), main, "the main loop");
    assert_eq!(role(true, Role::Destination, ThreadUse { moves_other: true, ..RECEIVES }), main);
    assert_eq!(role(true, Role::Destination, OTHER), other, "it has read a channel's greeting");
    assert_eq!(role(false, Role::Destination, OTHER), stream);
    assert_eq!(role(false, Role::Destination, RECEIVES), main, "postcopy's listener");
}

#[test]
fn streams() {
    for (index, comm, expected) in [
        (0, None, StreamRole::Main),
        (1, None, StreamRole::Multifd),
        (0, Some("qemu-system-x86"), StreamRole::Main),
        (0, Some("multifdsend_0"), StreamRole::Multifd),
        (3, Some("live_migration"), StreamRole::Main),
        (1, Some("fault-fast"), StreamRole::Preempt),
        (5, Some("mig/dst/preempt"), StreamRole::Preempt),
        (2, Some("mig/dst/recv_1"), StreamRole::Multifd),
    ] {
        assert_eq!(stream_role(index, comm), expected, "{index} {comm:?}");
    }
}
