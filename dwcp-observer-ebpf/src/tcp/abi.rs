//! TCP flows: one end of one connection.

/// Number of TCP states in `include/net/tcp_states.h`, index 0 unused.
pub const TCP_STATES: usize = 13;
/// `TCP_ESTABLISHED`.
pub const TCP_ESTABLISHED: u32 = 1;
/// `TCP_SYN_SENT`.
pub const TCP_SYN_SENT: u32 = 2;
/// `TCP_SYN_RECV`.
pub const TCP_SYN_RECV: u32 = 3;
/// `TCP_FIN_WAIT1`.
pub const TCP_FIN_WAIT1: u32 = 4;
/// `TCP_FIN_WAIT2`.
pub const TCP_FIN_WAIT2: u32 = 5;
/// `TCP_CLOSE`.
pub const TCP_CLOSE: u32 = 7;
/// `TCP_CLOSE_WAIT`.
pub const TCP_CLOSE_WAIT: u32 = 8;
/// `TCP_LAST_ACK`.
pub const TCP_LAST_ACK: u32 = 9;

/// `TCP_LISTEN`.
pub const TCP_LISTEN: u32 = 10;
/// `TCP_CLOSING`.
pub const TCP_CLOSING: u32 = 11;

/// Number of congestion states (`TCP_CA_Open` to `TCP_CA_Loss`, `include/uapi/linux/tcp.h`).
pub const CA_STATES: usize = 5;

/// The flow's `connect()` was seen: it is the active opener.
pub const FLOW_ACTIVE_OPEN: u32 = 1 << 0;
/// The flow's passive open was seen.
pub const FLOW_PASSIVE_OPEN: u32 = 1 << 1;
/// The application had moved data on the flow before the observer saw it.
pub const FLOW_FOUND_OPEN: u32 = 1 << 2;
/// A FIN was queued for sending.
pub const FLOW_FIN_SENT: u32 = 1 << 3;
/// A port rule matched the local or the peer's port.
pub const FLOW_PORT_MATCH: u32 = 1 << 5;
/// The first payload on the flow was sent from this end.
pub const FLOW_SENT_FIRST: u32 = 1 << 6;
/// The first payload on the flow came from the peer.
pub const FLOW_RECEIVED_FIRST: u32 = 1 << 7;

/// The socket's own counters and gauges at one moment.
///
/// One writer at a time: [`Flow`] says which. The agent copies it until two copies that follow each other have the same even `sequence`; after 64
/// it leaves the flow out of that look, which then shows what it showed before, and counts it (`snapshots:torn`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Snapshot {
    /// Odd while being written.
    pub sequence: u64,
    /// `tcp_sock.tcp_mstamp` (us, `CLOCK_MONOTONIC`) when taken by an event; ktime in us when taken by the sweep; 0 before the first.
    pub at_us: u64,
    /// `tcp_sock.bytes_acked` (RFC 4898 tcpEStatsAppHCThruOctetsAcked): includes 1 for an active opener's SYN and 1 for a FIN.
    pub bytes_acked: u64,
    /// `tcp_sock.bytes_received` (RFC 4898 tcpEStatsAppHCThruOctetsReceived): includes 1 for a FIN.
    pub bytes_received: u64,
    /// `tcp_sock.bytes_sent`: payload put on the wire, retransmissions included.
    pub bytes_sent: u64,
    /// `tcp_sock.bytes_retrans`.
    pub bytes_retrans: u64,
    /// `tcp_sock.write_seq`: end of what the application has queued.
    pub write_seq: u32,
    /// `tcp_sock.snd_una`: first unacknowledged sequence number.
    pub snd_una: u32,
    /// `tcp_sock.snd_nxt`.
    pub snd_nxt: u32,
    /// `tcp_sock.rcv_nxt`.
    pub rcv_nxt: u32,
    /// `tcp_sock.copied_seq`: what the application has read.
    pub copied_seq: u32,
    /// `tcp_sock.segs_out`.
    pub segs_out: u32,
    /// `tcp_sock.segs_in`.
    pub segs_in: u32,
    /// `tcp_sock.data_segs_out`.
    pub data_segs_out: u32,
    /// `tcp_sock.data_segs_in`.
    pub data_segs_in: u32,
    /// `tcp_sock.total_retrans`: segments retransmitted.
    pub total_retrans: u32,
    /// `tcp_sock.delivered`: segments.
    pub delivered: u32,
    /// `tcp_sock.lost`: segments marked lost.
    pub lost: u32,
    /// `tcp_sock.srtt_us`: smoothed RTT, us x 8.
    pub srtt_us8: u32,
    /// `tcp_sock.mdev_us`: RTT mean deviation, us x 4.
    pub mdev_us4: u32,
    /// `tcp_sock.rtt_min.s[0].v`: windowed minimum RTT, us; `u32::MAX` before the first sample.
    pub min_rtt_us: u32,
    /// `tcp_sock.snd_cwnd`: segments.
    pub snd_cwnd: u32,
    /// `tcp_sock.snd_ssthresh`: segments.
    pub snd_ssthresh: u32,
    /// `tcp_sock.mss_cache`: bytes.
    pub mss: u32,
    /// `tcp_sock.snd_wnd`: the peer's advertised window, bytes.
    pub snd_wnd: u32,
    /// `tcp_sock.rcv_wnd`: the own advertised window, bytes.
    pub rcv_wnd: u32,
    /// `tcp_sock.chrono_type`: 0 none, 1 busy, 2 rwnd-limited, 3 sndbuf-limited.
    pub chrono_type: u32,
    /// `tcp_sock.chrono_start`: jiffies.
    pub chrono_start: u32,
    /// `tcp_sock.chrono_stat`: jiffies spent busy, rwnd-limited, sndbuf-limited.
    pub chrono_stat: [u32; 3],
    /// Jiffies when the snapshot was taken, low 32 bits.
    pub jiffies: u32,
    /// `SOCK_DONE`: the peer's FIN was received in order and is in `bytes_received`.
    pub fin_received: u32,
    /// `sk_state`.
    pub tcp_state: u32,
}

/// What the kernel keeps of a flow.
///
/// Three kinds of writers:
/// - Under the socket's lock: segments, retransmits, changes of state and of the congestion state, resets (net/ipv4/tcp_input.c, tcp_output.c and
///   tcp.c, 5.10 to 6.18). They write `event`, `state`, `state_ns`, the addresses, `ca_*`, the counts of events and `arrived_us`.
/// - In the context of a thread that moves data, once the lock is given back (`sock_sendmsg_nosec`, net/socket.c, 6.3 to 6.18): `process`, `tgid`,
///   `first_data_ns`, `send_tid`, `recv_tid`, and at the first data `swept`.
/// - In the context of the agent, without the lock: its sweeps write `swept`, and `process` and `tgid` while nobody has moved data.
///
/// Races that are left:
/// - Two threads move data at once: the later one's id stays, as if they had come one after the other.
/// - `flags` gets bits from all three, and one may be lost. Who opened the connection is found again at the next snapshot; who spoke first is then
///   unknown. A lost [`FLOW_FIN_SENT`] would count the FIN as a byte of payload: a thread would have to close the socket in the few
///   nanoseconds in which another one's first data are noted.
/// - `errors`: all reports come under the lock but those of zero-copy sends that are done (`__msg_zerocopy_callback`, `sock_dequeue_err_skb`,
///   net/core/skbuff.c, 5.14 to 6.18): one may be lost.
///
/// The agent reads each field for itself, and the snapshots as they say. Torn, an address is that of a connection which is not established
/// yet; `ca_ns` and `ca_since_ns` may miss or hold twice the stay that just ended, until the next look. Of a closed flow `event` alone counts,
/// which nobody writes any more.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Flow {
    /// `SLOT_*`; written last when a record is begun or finished.
    pub state: u32,
    /// Bumped by the agent when it frees the slot.
    pub generation: u32,
    /// Slot of the process that first moved data on the socket.
    pub process: u32,
    /// Its thread-group id; 0 while nobody has moved data.
    pub tgid: u32,
    /// Thread that last sent on the socket; 0 none.
    pub send_tid: u32,
    /// Thread that last received from the socket; 0 none.
    pub recv_tid: u32,
    /// Process that called `connect()`; differs from `tgid` when the descriptor was passed on.
    pub opener_tgid: u32,
    /// `FLOW_*` bits.
    pub flags: u32,
    /// `net.ns.inum`: the network namespace.
    pub netns: u32,
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
    /// Local port, host byte order.
    pub local_port: u16,
    /// Peer's port, host byte order.
    pub peer_port: u16,
    /// Unused; keeps the layout free of padding.
    pub reserved: u16,
    /// `sk_err` last reported by `inet_sk_error_report`: errno, 0 none.
    pub last_error: u32,
    /// Local address, network byte order; IPv4 in the first four bytes.
    pub local_addr: [u8; 16],
    /// Peer's address.
    pub peer_addr: [u8; 16],
    /// When the record was begun, `CLOCK_MONOTONIC` ns.
    pub tagged_ns: u64,
    /// When the process first moved data, `CLOCK_MONOTONIC` ns; 0 not yet.
    pub first_data_ns: u64,
    /// When each TCP state was last entered, `CLOCK_MONOTONIC` ns, indexed by state; 0 never seen.
    pub state_ns: [u64; TCP_STATES],
    /// Current congestion state.
    pub ca_state: u32,
    /// `tcp_retransmit_skb` events: one may carry several segments.
    pub retransmit_events: u32,
    /// RSTs sent for this socket.
    pub resets_sent: u32,
    /// RSTs received.
    pub resets_received: u32,
    /// Errors reported to the application.
    pub errors: u32,
    /// Unused; keeps the layout free of padding.
    pub reserved2: u32,
    /// Writers of `swept` that are at work: the first does, others leave it. In process context, in and out within one program.
    pub swept_claims: u64,
    /// When the last segment with payload arrived, `tcp_sock.tcp_mstamp` us; one segment behind while the flow is open.
    pub arrived_us: u64,
    /// When the current congestion state was entered, `CLOCK_MONOTONIC` ns.
    pub ca_since_ns: u64,
    /// Time in each congestion state before the current one, ns.
    pub ca_ns: [u64; CA_STATES],
    /// Written by events, under the socket's lock.
    pub event: Snapshot,
    /// Written without the lock: by the socket sweep each cycle, still right when no packet arrives; at the first data; when it is tagged.
    /// One writer at a time (`swept_claims`).
    pub swept: Snapshot,
}

/// Payload bytes of a flow: what applications wrote and read, without the sequence numbers that SYN and FIN consume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// Queued by the local application.
    pub queued: u64,
    /// Acknowledged by the peer.
    pub delivered: u64,
    /// Received in order from the peer.
    pub received: u64,
}

impl Snapshot {
    /// Whether the socket opened actively, derived from its counters; `None` when they do not tell.
    ///
    /// `bytes_acked` plus what is in flight counts SYN, payload and FIN; `bytes_sent` less `bytes_retrans` counts payload alone.
    /// A retransmission that failed locally is in `bytes_retrans` only: then the difference is neither 0 nor 1.
    #[inline(always)]
    #[must_use]
    pub fn opened_actively(&self, flags: u32) -> Option<bool> {
        if self.tcp_state == TCP_SYN_SENT || self.tcp_state == TCP_SYN_RECV {
            return None;
        }
        let sequence_space = self.bytes_acked + u64::from(self.snd_nxt.wrapping_sub(self.snd_una));
        let control = sequence_space.wrapping_sub(self.bytes_sent.wrapping_sub(self.bytes_retrans));
        let fin = u64::from(self.fin_queued(flags) && self.snd_nxt == self.write_seq);
        match control.wrapping_sub(fin) {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// Whether `write_seq` holds a FIN: by the state at that moment, which a change of state shows only at the next one; once
    /// closed, by whether a FIN was ever sent.
    #[inline(always)]
    #[must_use]
    pub const fn fin_queued(&self, flags: u32) -> bool {
        match self.tcp_state {
            TCP_FIN_WAIT1 | TCP_FIN_WAIT2 | TCP_LAST_ACK | TCP_CLOSING => true,
            TCP_CLOSE => flags & FLOW_FIN_SENT != 0,
            _ => false,
        }
    }

    /// The payload behind the socket's counters, exact once it is known who opened the connection.
    #[inline(always)]
    #[must_use]
    pub fn payload(&self, flags: u32) -> Payload {
        let syn = u64::from(flags & FLOW_ACTIVE_OPEN != 0);
        let fin_queued = u64::from(self.fin_queued(flags));
        let unacked = self.write_seq.wrapping_sub(self.snd_una);
        let fin_acked = if unacked == 0 { fin_queued } else { 0 };
        let fin_received = u64::from(self.fin_received != 0);
        Payload {
            queued: (self.bytes_acked + u64::from(unacked)).saturating_sub(syn + fin_queued),
            delivered: self.bytes_acked.saturating_sub(syn + fin_acked),
            received: self.bytes_received.saturating_sub(fin_received),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A socket that has queued `queued` bytes from sequence number `first`, of which `sent` are on their way and `acked` are
    /// acknowledged; `syn` and `fin` as the kernel counts them.
    fn socket(first: u32, syn: u64, queued: u64, sent: u64, acked: u64, fin: u64) -> Snapshot {
        let at = |bytes: u64| first.wrapping_add(bytes as u32);
        let fin_sent = if sent == queued { fin } else { 0 };
        let fin_acked = if acked == queued { fin } else { 0 };
        Snapshot {
            tcp_state: if fin == 1 { TCP_FIN_WAIT1 } else { TCP_ESTABLISHED },
            bytes_acked: syn + acked + fin_acked,
            bytes_sent: sent,
            write_seq: at(queued + fin),
            snd_nxt: at(sent + fin_sent),
            snd_una: at(acked + fin_acked),
            ..Snapshot::default()
        }
    }

    #[test]
    fn payload_leaves_out_syn_and_fin_across_a_wrap_of_sequence_numbers() {
        for first in [1u32, u32::MAX - 5] {
            for syn in [0, 1] {
                let opener = if syn == 1 { FLOW_ACTIVE_OPEN } else { FLOW_PASSIVE_OPEN };
                let open = socket(first, syn, 100, 80, 30, 0).payload(opener);
                assert_eq!((open.queued, open.delivered), (100, 30));
                let closing = socket(first, syn, 100, 100, 60, 1).payload(opener | FLOW_FIN_SENT);
                assert_eq!((closing.queued, closing.delivered), (100, 60));
                let closed = socket(first, syn, 100, 100, 100, 1).payload(opener | FLOW_FIN_SENT);
                assert_eq!((closed.queued, closed.delivered), (100, 100));
            }
        }
    }

    #[test]
    fn the_opener_shows_in_the_counters_with_and_without_retransmissions() {
        for retransmitted in [0, 7_000] {
            for syn in [0, 1] {
                for (sent, acked, fin) in [(80, 30, 0), (100, 60, 1), (100, 100, 1)] {
                    let mut seen = socket(u32::MAX - 50, syn, 100, sent, acked, fin);
                    seen.bytes_sent += retransmitted;
                    seen.bytes_retrans = retransmitted;
                    let flags = if fin == 1 { FLOW_FIN_SENT } else { 0 };
                    assert_eq!(seen.opened_actively(flags), Some(syn == 1));
                }
            }
        }
    }

    #[test]
    fn a_retransmission_that_failed_locally_leaves_the_opener_open() {
        let mut seen = socket(9, 1, 100, 80, 30, 0);
        seen.bytes_retrans = 1448;
        assert_eq!(seen.opened_actively(0), None);
    }

    #[test]
    fn a_fin_counts_from_the_state_that_queues_it_and_for_ever_after() {
        let mut seen = socket(9, 0, 100, 100, 100, 1);
        seen.fin_received = 1;
        seen.bytes_received = 51;
        seen.tcp_state = TCP_CLOSE;
        let closed = seen.payload(FLOW_PASSIVE_OPEN | FLOW_FIN_SENT);
        assert_eq!((closed.queued, closed.delivered, closed.received), (100, 100, 50));
        let before = socket(9, 0, 100, 100, 100, 0).payload(FLOW_PASSIVE_OPEN | FLOW_FIN_SENT);
        assert_eq!(
            (before.queued, before.delivered),
            (100, 100),
            "the change of state comes before the FIN"
        );
    }

    #[test]
    fn a_connection_that_was_never_established_has_no_payload() {
        let refused = Snapshot {
            tcp_state: TCP_SYN_SENT,
            write_seq: 8,
            snd_una: 7,
            snd_nxt: 8,
            ..Snapshot::default()
        };
        assert_eq!(refused.payload(FLOW_ACTIVE_OPEN), Payload::default());
    }
}
