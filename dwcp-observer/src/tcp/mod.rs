//! TCP flows: decodes the kernel side's records into plain values.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
};

use dwcp_observer_ebpf::{
    SLOT_CLOSED,
    tcp::{
        CA_STATES, FLOW_ACTIVE_OPEN, FLOW_FOUND_OPEN, FLOW_PASSIVE_OPEN, FLOW_RECEIVED_FIRST,
        FLOW_SENT_FIRST, Flow, Payload, Snapshot, TCP_CLOSE, TCP_FIN_WAIT1, TCP_LAST_ACK,
        TCP_STATES,
    },
};

use crate::{
    kernel::sys::{peek, renew},
    model::queue_pair::QpReading,
};

const AF_INET6: u16 = 10;

/// One end of one connection at one moment.
#[derive(Clone, Debug)]
pub struct FlowReading {
    /// Its place in the kernel's array.
    pub slot: u32,
    /// Generation of the slot: with `slot`, the flow's identity.
    pub generation: u32,
    /// Slot of the process that moves the data.
    pub process: u32,
    /// Its id; 0 while nobody has moved data.
    pub tgid: u32,
    /// Thread that last sent; 0 none.
    pub send_tid: u32,
    /// Thread that last received; 0 none.
    pub recv_tid: u32,
    /// Process that called `connect()`; 0 not seen.
    pub opener_tgid: u32,
    /// `FLOW_*` bits.
    pub flags: u32,
    /// Inode of the network namespace.
    pub netns: u32,
    /// Own address.
    pub local: SocketAddr,
    /// Peer's address.
    pub peer: SocketAddr,
    /// When the kernel side began the record, `CLOCK_MONOTONIC` ns.
    pub tagged_ns: u64,
    /// When data first moved; 0 not yet.
    pub first_data_ns: u64,
    /// When each TCP state was last entered; 0 never seen.
    pub state_ns: [u64; TCP_STATES],
    /// `tcp_retransmit_skb` events.
    pub retransmit_events: u32,
    /// RSTs sent and received.
    pub resets: u32,
    /// Errors reported to the application.
    pub errors: u32,
    /// Last of these, errno; 0 none.
    pub last_error: u32,
    /// Time in each congestion state, the current one included, ns; `None` where the kernel does not tell (`tcp_cong_state_set`).
    pub ca_ns: Option<[u64; CA_STATES]>,
    /// The socket's counters.
    pub snapshot: Snapshot,
    /// Payload totals.
    pub payload: Payload,
    /// When the last segment with payload arrived, `CLOCK_MONOTONIC` ns; `None` before the first. One segment behind while open.
    pub arrived_ns: Option<u64>,
    /// Busy, rwnd-limited, sndbuf-limited time, the running one included, seconds.
    pub chrono_seconds: [f64; 3],
    /// The record is final.
    pub closed: bool,
    /// The queue pair that stands behind it, where it is no socket: what TCP alone has is zero then.
    pub queue_pair: Option<Arc<QpReading>>,
}

/// Clock readings that go with a set of readings.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// `CLOCK_MONOTONIC`, ns.
    pub monotonic_ns: u64,
    /// Length of a jiffy, ns.
    pub jiffy_ns: u64,
}

impl FlowReading {
    /// First sign of the connection, `CLOCK_MONOTONIC` ns: SYN sent, established, or when it was tagged.
    #[must_use]
    pub fn opened_ns(&self) -> u64 {
        [self.state_ns[2], self.state_ns[1], self.tagged_ns]
            .into_iter()
            .filter(|ns| *ns != 0)
            .min()
            .unwrap_or_default()
    }

    /// When the application or the peer ended it; `None` while open.
    #[must_use]
    pub fn closed_ns(&self) -> Option<u64> {
        (self.state_ns[TCP_CLOSE as usize] != 0).then_some(self.state_ns[TCP_CLOSE as usize])
    }

    /// When the application closed its side, though the kernel may still be sending; `None` while it has not.
    #[must_use]
    pub fn shut_ns(&self) -> Option<u64> {
        [self.state_ns[TCP_FIN_WAIT1 as usize], self.state_ns[TCP_LAST_ACK as usize]]
            .into_iter()
            .find(|ns| *ns != 0)
    }

    /// Who called `connect()`, where it is known.
    #[must_use]
    pub const fn active_open(&self) -> Option<bool> {
        if self.flags & FLOW_ACTIVE_OPEN != 0 {
            Some(true)
        } else if self.flags & FLOW_PASSIVE_OPEN != 0 {
            Some(false)
        } else {
            None
        }
    }

    /// Whether it was open before the observer saw it.
    #[must_use]
    pub const fn found_open(&self) -> bool {
        self.flags & FLOW_FOUND_OPEN != 0
    }

    /// Whether this end sent the first payload; `None` where that was not seen.
    #[must_use]
    pub const fn spoke_first(&self) -> Option<bool> {
        if self.flags & FLOW_SENT_FIRST != 0 {
            Some(true)
        } else if self.flags & FLOW_RECEIVED_FIRST != 0 {
            Some(false)
        } else {
            None
        }
    }

    /// Whether the end that was called spoke first, as servers of NBD, VNC or ssh do, and destinations of migrations never.
    #[must_use]
    pub const fn is_greeted(&self) -> bool {
        match (self.active_open(), self.spoke_first()) {
            (Some(calls), Some(speaks)) => calls != speaks,
            _ => false,
        }
    }

    /// Whether [`Self::payload`] is measured: not where a device moves a queue pair's data without the kernel.
    #[must_use]
    pub fn payload_is_seen(&self) -> bool {
        self.queue_pair.as_ref().is_none_or(|qp| qp.bytes_sent.is_some())
    }

    /// Smoothed RTT, seconds; `None` before the first sample.
    #[must_use]
    pub fn srtt_seconds(&self) -> Option<f64> {
        (self.snapshot.srtt_us8 != 0).then(|| f64::from(self.snapshot.srtt_us8) / 8e6)
    }

    /// Windowed minimum RTT, seconds; `None` before the first sample.
    #[must_use]
    pub fn min_rtt_seconds(&self) -> Option<f64> {
        let min = self.snapshot.min_rtt_us;
        (min != u32::MAX && self.snapshot.srtt_us8 != 0).then(|| f64::from(min) / 1e6)
    }
}

/// Reads a flow; `congestion`: changes of the congestion state are seen. `None` when both of its snapshots were written all the while: what
/// was read before holds until the next look.
#[must_use]
pub fn read(
    slot: u32,
    record: NonNull<Flow>,
    clock: Clock,
    congestion: bool,
) -> Option<FlowReading> {
    let closed = peek!(record, state) == SLOT_CLOSED;
    fence(Ordering::Acquire);
    let event = consistent(|| peek!(record, event));
    let swept = consistent(|| peek!(record, swept));
    let snapshot = if closed { event? } else { fresher(event, swept)? };
    let mut flags = peek!(record, flags);
    if flags & (FLOW_ACTIVE_OPEN | FLOW_PASSIVE_OPEN) == 0 {
        flags |= match snapshot.opened_actively(flags) {
            Some(true) => FLOW_ACTIVE_OPEN,
            Some(false) => FLOW_PASSIVE_OPEN,
            None => 0,
        };
    }
    let v6 = peek!(record, family) == AF_INET6;
    let mut ca_ns = peek!(record, ca_ns);
    let (ca_state, ca_since) = (peek!(record, ca_state), peek!(record, ca_since_ns));
    let tagged_ns = peek!(record, tagged_ns);
    if !closed && let Some(current) = ca_ns.get_mut(ca_state as usize) {
        *current +=
            clock.monotonic_ns.saturating_sub(if ca_since == 0 { tagged_ns } else { ca_since });
    }
    Some(FlowReading {
        slot,
        generation: peek!(record, generation),
        process: peek!(record, process),
        tgid: peek!(record, tgid),
        send_tid: peek!(record, send_tid),
        recv_tid: peek!(record, recv_tid),
        opener_tgid: peek!(record, opener_tgid),
        flags,
        netns: peek!(record, netns),
        local: SocketAddr::new(address(v6, peek!(record, local_addr)), peek!(record, local_port)),
        peer: SocketAddr::new(address(v6, peek!(record, peer_addr)), peek!(record, peer_port)),
        tagged_ns,
        first_data_ns: peek!(record, first_data_ns),
        state_ns: peek!(record, state_ns),
        retransmit_events: peek!(record, retransmit_events),
        resets: peek!(record, resets_sent) + peek!(record, resets_received),
        errors: peek!(record, errors),
        last_error: peek!(record, last_error),
        ca_ns: congestion.then_some(ca_ns),
        payload: snapshot.payload(flags),
        arrived_ns: Some(peek!(record, arrived_us) * 1000).filter(|ns| *ns != 0),
        chrono_seconds: chrono_seconds(&snapshot, (!closed).then_some(clock), clock.jiffy_ns),
        snapshot,
        closed,
        queue_pair: None,
    })
}

/// Makes a record ready for its next flow: all zero but the generation, which moves on.
pub fn reset(record: NonNull<Flow>) {
    renew!(record, Flow);
}

/// Reads again while the kernel side was writing; `None` when it never was at rest.
fn consistent(read: impl Fn() -> Snapshot) -> Option<Snapshot> {
    let mut before = read();
    for _ in 0..64 {
        // Loads of the copy that follows are not served before those of the copy before.
        fence(Ordering::Acquire);
        let after = read();
        if before.sequence.is_multiple_of(2) && before.sequence == after.sequence {
            return Some(before);
        }
        before = after;
    }
    None
}

/// The event's snapshot is the state before its packet, the sweep's that of its own moment.
fn fresher(event: Option<Snapshot>, swept: Option<Snapshot>) -> Option<Snapshot> {
    match (event, swept) {
        (Some(event), Some(swept)) if swept.at_us < event.at_us => Some(event),
        (event, swept) => swept.or(event),
    }
}

/// `tcp_get_info_chrono_stats`: the running chronograph counts until now, busy is the sum of all three.
fn chrono_seconds(snapshot: &Snapshot, running: Option<Clock>, jiffy_ns: u64) -> [f64; 3] {
    let mut jiffies = snapshot.chrono_stat.map(u64::from);
    let kind = snapshot.chrono_type as usize;
    if let Some(current) = kind.checked_sub(1).and_then(|kind| jiffies.get_mut(kind)) {
        *current += u64::from(snapshot.jiffies.wrapping_sub(snapshot.chrono_start));
        if let Some(clock) = running
            && jiffy_ns != 0
            && snapshot.at_us != 0
        {
            *current += clock.monotonic_ns.saturating_sub(snapshot.at_us * 1000) / jiffy_ns;
        }
    }
    let seconds = |jiffies: u64| (jiffies * jiffy_ns) as f64 / 1e9;
    [seconds(jiffies.iter().sum()), seconds(jiffies[1]), seconds(jiffies[2])]
}

fn address(v6: bool, bytes: [u8; 16]) -> IpAddr {
    if v6 {
        let addr = Ipv6Addr::from(bytes);
        // A dual-stack socket shows IPv4 peers as ::ffff:a.b.c.d; the other end calls itself a.b.c.d.
        return addr.to_ipv4_mapped().map_or(IpAddr::V6(addr), IpAddr::V4);
    }
    IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
}

/// Name of a TCP state (include/net/tcp_states.h).
#[must_use]
pub const fn state_name(state: u32) -> &'static str {
    match state {
        1 => "ESTABLISHED",
        2 => "SYN_SENT",
        3 => "SYN_RECV",
        4 => "FIN_WAIT1",
        5 => "FIN_WAIT2",
        6 => "TIME_WAIT",
        7 => "CLOSE",
        8 => "CLOSE_WAIT",
        9 => "LAST_ACK",
        10 => "LISTEN",
        11 => "CLOSING",
        12 => "NEW_SYN_RECV",
        _ => "UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn at(at_us: u64) -> Snapshot {
        Snapshot { at_us, ..Snapshot::default() }
    }

    #[test]
    fn a_copy_that_was_torn_each_time_is_none() {
        let reads = Cell::new(0);
        let torn = consistent(|| {
            reads.set(reads.get() + 1);
            Snapshot { sequence: reads.get(), ..Snapshot::default() }
        });
        assert_eq!(torn, None);
        assert_eq!(consistent(|| Snapshot { sequence: 7, ..at(1) }), None);
        let ended = Cell::new(2);
        let whole = consistent(|| {
            ended.set(if ended.get() == 2 { 3 } else { 4 });
            Snapshot { sequence: ended.get(), ..Snapshot::default() }
        });
        assert_eq!(whole.map(|whole| whole.sequence), Some(4));
    }

    #[test]
    fn the_later_of_two_snapshots_counts_and_one_alone_is_enough() {
        assert_eq!(fresher(Some(at(2)), Some(at(1))), Some(at(2)));
        assert_eq!(fresher(Some(at(1)), Some(at(2))), Some(at(2)));
        assert_eq!(fresher(None, Some(at(1))), Some(at(1)));
        assert_eq!(fresher(Some(at(1)), None), Some(at(1)));
        assert_eq!(fresher(None, None), None);
    }

    #[test]
    fn a_chronograph_without_a_time_does_not_run_since_the_boot() {
        let snapshot = Snapshot { chrono_type: 1, chrono_stat: [5, 0, 0], ..Snapshot::default() };
        let clock = Clock { monotonic_ns: 1_000_000_000_000, jiffy_ns: 4_000_000 };
        assert_eq!(chrono_seconds(&snapshot, Some(clock), 4_000_000), [0.02, 0.0, 0.0]);
        let later = Snapshot { at_us: 999_000_000, ..snapshot };
        assert_eq!(chrono_seconds(&later, Some(clock), 4_000_000), [1.02, 0.0, 0.0]);
    }
}
