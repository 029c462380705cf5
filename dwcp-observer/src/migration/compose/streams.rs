//! The streams of a migration, each from the one or two ends that are here.

use std::{collections::BTreeMap, net::SocketAddr};

use super::{
    super::{clock::WallClock, end::StreamFlow, live::LiveMigration},
    seconds,
};
use crate::model::record::{
    CongestionTimes, Role, SocketCounters, StateChange, Stream, StreamBytes, TcpStream,
};
use crate::{
    identify::roles::stream_role,
    rdma::describe,
    tcp::{FlowReading, state_name},
};

/// The two sockets of one connection, as far as they are here.
#[derive(Default)]
struct Pair<'a> {
    source: Option<&'a StreamFlow>,
    destination: Option<&'a StreamFlow>,
}

pub(super) fn streams(live: &LiveMigration, wall: WallClock) -> Vec<Stream> {
    let mut pairs: BTreeMap<(SocketAddr, SocketAddr, u64), Pair<'_>> = BTreeMap::new();
    // A port may be used twice within a migration: the n-th socket of an address pair belongs to the n-th at the other end.
    for (role, end) in live.roles() {
        let mut seen: BTreeMap<(SocketAddr, SocketAddr), u64> = BTreeMap::new();
        let mut flows: Vec<&StreamFlow> = end.flows.values().collect();
        flows.sort_by_key(|flow| flow.reading.opened_ns());
        for flow in flows {
            let (local, peer) = (flow.reading.local, flow.reading.peer);
            let addresses = if role == Role::Source { (local, peer) } else { (peer, local) };
            let count = seen.entry(addresses).or_default();
            let pair = pairs.entry((addresses.0, addresses.1, *count)).or_default();
            *count += 1;
            match role {
                Role::Source => pair.source = Some(flow),
                Role::Destination => pair.destination = Some(flow),
            }
        }
    }
    let mut pairs: Vec<_> = pairs.into_iter().collect();
    pairs.sort_by_key(|(_, pair)| opened_ns(pair));
    pairs
        .into_iter()
        .enumerate()
        .filter_map(|(index, ((from, to, _), pair))| stream(index, from, to, &pair, wall))
        .collect()
}

fn opened_ns(pair: &Pair<'_>) -> u64 {
    [pair.source, pair.destination]
        .into_iter()
        .flatten()
        .map(|flow| flow.reading.opened_ns())
        .min()
        .unwrap_or(u64::MAX)
}

fn stream(
    index: usize,
    from: SocketAddr,
    to: SocketAddr,
    pair: &Pair<'_>,
    wall: WallClock,
) -> Option<Stream> {
    let sender = pair.source.or(pair.destination)?;
    let receiver = pair.destination.or(pair.source)?;
    let (sent, got) = (&sender.reading, &receiver.reading);
    let comm = [pair.source, pair.destination]
        .into_iter()
        .flatten()
        .find_map(|flow| flow.thread_comm.as_deref());
    let returned = if pair.source.is_some() { sent.payload.received } else { got.payload.queued };
    let queue_pair = sent.queue_pair.as_ref().map(|qp| {
        let end = if pair.source.is_some() { Role::Source } else { Role::Destination };
        describe(Some(end), qp)
    });
    Some(Stream {
        role: stream_role(index, comm),
        local: from.to_string(),
        peer: to.to_string(),
        bytes: sent.payload_is_seen().then(|| StreamBytes {
            bytes_queued: sent.payload.queued,
            bytes_delivered: sent.payload.delivered,
            bytes_received: received(pair),
            bytes_returned: returned,
        }),
        tcp: queue_pair.is_none().then(|| tcp_stream(pair, sender, got, wall)),
        queue_pair,
        started_at: wall.at(opened_ns(pair)),
        ended_at: sent.closed_ns().map(|ns| wall.at(ns)),
    })
}

/// What arrived at the receiving end. The target of an RDMA write sees nothing of it: there it is what the source's device has an
/// acknowledgement for.
fn received(pair: &Pair<'_>) -> u64 {
    match (pair.source, pair.destination) {
        (Some(source), _) if source.reading.queue_pair.is_some() => {
            source.reading.payload.delivered
        }
        (source, destination) => {
            destination.or(source).map_or(0, |flow| flow.reading.payload.received)
        }
    }
}

/// The figures of sockets: sending from `sender`, receiving from `got`.
fn tcp_stream(
    pair: &Pair<'_>,
    sender: &StreamFlow,
    got: &FlowReading,
    wall: WallClock,
) -> TcpStream {
    let sent = &sender.reading;
    let (resets, error) = [pair.source, pair.destination].into_iter().flatten().fold(
        (0, 0),
        |(resets, error), flow| {
            (
                resets + u64::from(flow.reading.resets),
                if error == 0 { flow.reading.last_error } else { error },
            )
        },
    );
    let [busy, rwnd, sndbuf] = sent.chrono_seconds;
    let congestion = sent.ca_ns.map(|times| {
        let [open, disorder, cwr, recovery, loss] = times.map(seconds);
        CongestionTimes { open, disorder, cwr, recovery, loss }
    });
    let mut states: Vec<StateChange> = (0u32..)
        .zip(sent.state_ns)
        .filter(|(_, ns)| *ns != 0)
        .map(|(state, ns)| StateChange { state: state_name(state).into(), at: wall.at(ns) })
        .collect();
    states.sort_by_key(|change| change.at);
    TcpStream {
        bytes_retransmitted: sent.snapshot.bytes_retrans,
        retransmitted_segments: u64::from(sent.snapshot.total_retrans),
        retransmit_events: u64::from(sent.retransmit_events),
        segments_out: u64::from(sent.snapshot.segs_out),
        segments_in: u64::from(sent.snapshot.segs_in),
        srtt_seconds: sent.srtt_seconds(),
        min_rtt_seconds: sent.min_rtt_seconds(),
        rtt: sender.rtt,
        cwnd_segments: sent.snapshot.snd_cwnd,
        mss_bytes: sent.snapshot.mss,
        busy_seconds: busy,
        rwnd_limited_seconds: rwnd,
        sndbuf_limited_seconds: sndbuf,
        congestion_state_seconds: congestion,
        resets,
        last_error: (error != 0).then(|| errno_name(error)),
        tcp_state: state_name(if sent.closed { 7 } else { sent.snapshot.tcp_state }).into(),
        socket: SocketCounters {
            bytes_acked: sent.snapshot.bytes_acked,
            bytes_received: got.snapshot.bytes_received,
        },
        states,
    }
}

/// The name of the errors that TCP reports; the number of any other.
#[must_use]
pub fn errno_name(errno: u32) -> String {
    match i32::try_from(errno).unwrap_or_default() {
        libc::ECONNRESET => "ECONNRESET".to_owned(),
        libc::ECONNREFUSED => "ECONNREFUSED".to_owned(),
        libc::ETIMEDOUT => "ETIMEDOUT".to_owned(),
        libc::EPIPE => "EPIPE".to_owned(),
        libc::EHOSTUNREACH => "EHOSTUNREACH".to_owned(),
        libc::ENETUNREACH => "ENETUNREACH".to_owned(),
        other => other.to_string(),
    }
}
