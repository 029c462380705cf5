//! What the record says of one connection.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Name, Quantiles, QueuePair};

/// One connection of a migration. Figures of sending come from the sending end's socket, figures of receiving from the receiving end's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stream {
    /// `main` (first connection), `multifd`, or `preempt`.
    pub role: StreamRole,
    /// `address:port` of the source's end.
    pub local: String,
    /// `address:port` of the destination's end.
    pub peer: String,
    /// Its payload; these fields stand beside those above. Absent where a device moves it without the kernel.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<StreamBytes>,
    /// The socket behind it; its fields stand beside those above. Absent for a queue pair.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpStream>,
    /// The queue pair behind it; absent for a socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_pair: Option<QueuePair>,
    /// First sign of the connection: SYN sent, established, or first data.
    pub started_at: Timestamp,
    /// When the sending end reached CLOSE; absent while open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// Payload of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamBytes {
    /// Payload that the sending application queued.
    pub bytes_queued: u64,
    /// Payload acknowledged.
    pub bytes_delivered: u64,
    /// Payload received in order.
    pub bytes_received: u64,
    /// Payload that travelled the other way (QEMU's return path).
    pub bytes_returned: u64,
}

/// What a socket tells of its stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TcpStream {
    /// Payload bytes retransmitted.
    pub bytes_retransmitted: u64,
    /// Segments retransmitted (`tcp_sock.total_retrans`).
    pub retransmitted_segments: u64,
    /// `tcp_retransmit_skb` events.
    pub retransmit_events: u64,
    /// Segments sent.
    pub segments_out: u64,
    /// Segments received by the sending end.
    pub segments_in: u64,
    /// Smoothed RTT (RFC 6298) of the sending end; absent before the first sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub srtt_seconds: Option<f64>,
    /// Windowed minimum RTT of the sending end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_rtt_seconds: Option<f64>,
    /// RTT quantiles over the life of the stream (bucket upper bounds, relative error at most 12.5 %).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt: Option<Quantiles>,
    /// Congestion window of the sending end, segments.
    pub cwnd_segments: u32,
    /// Maximum segment size of the sending end, bytes.
    pub mss_bytes: u32,
    /// Time with data outstanding, seconds (TCP_INFO `tcpi_busy_time`).
    pub busy_seconds: f64,
    /// Of that, limited by the receiver's window (`tcpi_rwnd_limited`).
    pub rwnd_limited_seconds: f64,
    /// Of that, limited by the send buffer (`tcpi_sndbuf_limited`).
    pub sndbuf_limited_seconds: f64,
    /// Seconds in each congestion state of the sending end; absent where the kernel does not tell (`tcp_cong_state_set`, Linux 5.17).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub congestion_state_seconds: Option<CongestionTimes>,
    /// RSTs seen by either end on this host.
    pub resets: u64,
    /// Last error reported to an application on this host, as errno name or number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// TCP state of the sending end (`ESTABLISHED`, ...).
    pub tcp_state: Name,
    /// The socket's own counters of the sending end: with the sequence numbers of SYN and FIN, as `ss -ti` prints them.
    pub socket: SocketCounters,
    /// When each TCP state of the sending end was entered.
    pub states: Vec<StateChange>,
}

crate::named! {
    /// A stream's place in its migration.
    pub enum StreamRole {
        /// The first connection: device state, and RAM without multifd.
        Main = "main",
        /// A further connection.
        Multifd = "multifd",
        /// The postcopy preempt channel.
        Preempt = "preempt",
    }
}

/// `tcpi_bytes_acked` and `tcpi_bytes_received` as the kernel counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketCounters {
    /// Sending end: `tcp_sock.bytes_acked`.
    pub bytes_acked: u64,
    /// Receiving end if it is on this host, else sending end: `tcp_sock.bytes_received`.
    pub bytes_received: u64,
}

/// Time in each congestion state (include/uapi/linux/tcp.h, `enum tcp_ca_state`), seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CongestionTimes {
    /// Nothing suspicious.
    pub open: f64,
    /// Duplicate ACKs or SACKs.
    pub disorder: f64,
    /// Window reduced by ECN or local congestion.
    pub cwr: f64,
    /// Fast retransmit.
    pub recovery: f64,
    /// Retransmission timeout.
    pub loss: f64,
}

/// A TCP state and when it was last entered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StateChange {
    /// Name of the state.
    pub state: Name,
    /// When.
    pub at: Timestamp,
}
