//! eBPF programs of dwcp-observer: one folder per measured thing, one body per hook, one program per rung of the attach ladder.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(unreachable_pub, reason = "a binary: modules share their items through pub")]
#![expect(
    internal_features,
    reason = "BPF atomics are only reachable through intrinsics (aya#1268)"
)]
#![expect(
    unsafe_op_in_unsafe_fn,
    reason = "every line of an eBPF program touches kernel memory; the verifier checks each access"
)]
#![expect(
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::allow_attributes,
    reason = "the verifier proves pointers at load; what it does not prove has a SAFETY comment"
)]

mod access;
mod atomic;
mod counters;
mod events;
mod freeze;
mod ladder;
mod levels;
mod memory;
mod netdev;
mod order;
mod phase;
mod process;
mod program;
mod ring;
mod sched;
mod store;
mod tcp;
