//! Network devices of migrating guests: times of their packets.

/// Devices that can be watched at the same time.
pub const MAX_TAPS: u32 = 256;

/// A tap device: its name alone is not unique over network namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct TapKey {
    /// `net_device.name`, NUL-padded.
    pub name: [u64; 2],
    /// `net.ns.inum`: the network namespace.
    pub netns: u32,
    /// Unused; keeps the layout free of padding.
    pub reserved: u32,
}

/// Packets that the guest has sent through the device since it is watched.
///
/// Written by each CPU that takes packets from the device (one per queue), without a lock. `packets` is added to atomically; of two first packets at
/// once either one is the first, with the other's protocol at worst, and `last_ns` may be some ns behind. The agent reads it by a system call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tap {
    /// First packet, `CLOCK_MONOTONIC` ns; 0 none yet.
    pub first_ns: u64,
    /// Last packet.
    pub last_ns: u64,
    /// Packets.
    pub packets: u64,
    /// EtherType of the first packet, host byte order.
    pub first_protocol: u32,
    /// Unused; keeps the layout free of padding.
    pub reserved: u32,
}
