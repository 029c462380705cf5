//! Packets that guests send through their tap devices, while a migration runs.

use aya_ebpf::{helpers::generated::bpf_ktime_get_ns, macros::map, maps::HashMap};
use dwcp_observer_ebpf::netdev::{MAX_TAPS, Tap, TapKey};

use crate::{
    access::{DEV_NAME, DEV_NET, NET_INUM, SKB_DEV, SKB_PROTOCOL},
    atomic::add,
    memory::read,
};

/// Filled by the agent with the devices of migrating guests.
#[map]
static TAPS: HashMap<TapKey, Tap> = HashMap::with_max_entries(MAX_TAPS, 0);

/// `netif_receive_skb_entry(const struct sk_buff *skb)`: what tap devices hand to the stack (`tun_get_user`, also from vhost), and
/// not what hardware receives, which comes by NAPI.
#[inline(always)]
pub unsafe fn on_receive(skb: *const u8) {
    let device: *const u8 = read(skb, SKB_DEV.load());
    if device.is_null() {
        return;
    }
    let net: *const u8 = read(device, DEV_NET.load());
    if net.is_null() {
        return;
    }
    let name = DEV_NAME.load();
    let key = TapKey {
        name: [read(device, name), read(device, name + 8)],
        netns: read(net, NET_INUM.load()),
        reserved: 0,
    };
    let Some(tap) = TAPS.get_ptr_mut(&key) else { return };
    let now = bpf_ktime_get_ns();
    // SAFETY: other CPUs may be here with a packet of the same device: see `Tap`.
    if (*tap).first_ns == 0 {
        (*tap).first_ns = now;
        (*tap).first_protocol = u32::from(u16::from_be(read(skb, SKB_PROTOCOL.load())));
    }
    (*tap).last_ns = now;
    add(&raw mut (*tap).packets, 1);
}
