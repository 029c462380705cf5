//! Detects a path that drops large packets only: its MTU is too small, and the ICMP messages that would report this are filtered.

use super::inputs::{Source, Stream};

/// Whether the source's connections look like that: full segments were sent, sent again, and none of them has ever arrived, though
/// the peer has answered smaller packets on the same connections.
pub(super) fn swallows_large_packets(source: &Source) -> bool {
    let waiting: Vec<&Stream> = source.streams.iter().filter(|it| waits_with_large(it)).collect();
    !waiting.is_empty() && waiting.iter().all(|stream| never_large(stream))
}

/// It has at least one full segment outstanding.
fn waits_with_large(stream: &Stream) -> bool {
    stream.segment_bytes > 0 && stream.in_flight_bytes >= stream.segment_bytes
}

/// It has never delivered as much as a full segment, and has sent again what it could not deliver. The handshake was answered, or
/// there would be no RTT.
fn never_large(stream: &Stream) -> bool {
    stream.delivered_total < stream.segment_bytes
        && stream.retransmitted_total > 0
        && stream.srtt_seconds.is_some()
}
