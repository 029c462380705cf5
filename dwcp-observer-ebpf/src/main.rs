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
    reason = "pointers come from the kernel and are proven by the verifier at load"
)]

mod access;
mod counters;
mod events;
mod freeze;
mod ladder;
mod levels;
mod netdev;
mod order;
mod phase;
mod process;
mod sched;
mod store;
mod tcp;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // A reachable panic is an endless loop, which the verifier refuses: none is shipped.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
