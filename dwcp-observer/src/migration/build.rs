//! Turns a live migration into the record that readers see.

use std::{collections::BTreeMap, net::SocketAddr};

use jiff::Timestamp;

use super::{
    blackout::Instants,
    guest::{self, Felt},
    live::{EndState, Live, StreamFlow},
    machine::Life,
    phases::{self, Span},
    rdma,
    record::{
        Blackout, BlackoutParts, ByMethod, Bytes, CongestionTimes, End, Evidence, Migration,
        MigratorStateChange, NetworkBlackout, Outcome, Phase, Postcopy, QueuePair, Role, Round,
        SocketCounters, State, StateChange, Stream, TcpStream, Thread, ThreadRole, Transport,
    },
};
use crate::{
    identify::roles::stream_role,
    netdev::{self, FirstPacket},
    phase::attach::Coverage,
    process::vm_from_cmdline,
    publish::Path,
    tcp::{FlowReading, state_name},
};

/// Turns `CLOCK_MONOTONIC` ns into wall time.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    /// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC`, ns.
    pub offset_ns: i128,
    /// Most that the clock may be off, seconds; `None` when it is not synchronised.
    pub max_error_seconds: Option<f64>,
}

impl WallClock {
    /// The wall time of a monotonic reading.
    #[must_use]
    pub fn at(self, monotonic_ns: u64) -> Timestamp {
        Timestamp::from_nanosecond(i128::from(monotonic_ns) + self.offset_ns)
            .unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

/// Builds the record as of `now_ns`.
#[must_use]
pub fn record(live: &Live, now_ns: u64, wall: WallClock) -> Migration {
    let ended_ns = match live.life {
        Life::Finished { ended_ns, .. } => Some(ended_ns),
        _ => None,
    };
    let (outcome, endings) = match (&live.outcome, ended_ns) {
        (Some((outcome, evidence)), _) => (Some(*outcome), evidence.clone()),
        (None, Some(_)) => (Some(Outcome::Unknown), Vec::new()),
        (None, None) => (None, Vec::new()),
    };
    let streams = streams(live, wall);
    let felt = guest::felt(live, now_ns);
    let felt = felt.as_ref();
    Migration {
        id: live.id.clone(),
        state: if ended_ns.is_some() { State::Finished } else { State::Active },
        outcome,
        vm: live
            .roles()
            .map(|(_, end)| vm_from_cmdline(&end.facts.cmdline))
            .reduce(
                |first, second| {
                    if first.name.is_some() || first.uuid.is_some() { first } else { second }
                },
            )
            .unwrap_or_default(),
        migrator: live.migrator.clone(),
        transport: live.transport(),
        mode: live.mode,
        confidence: live.confidence,
        ends: live.roles().map(|(role, end)| end_of(role, end)).collect(),
        started_at: wall.at(live.started_ns),
        found_under_way: live.found_under_way(),
        observed_from: wall.at(live.observed_ns),
        ended_at: ended_ns.map(|ns| wall.at(ns)),
        duration_seconds: seconds(ended_ns.unwrap_or(now_ns).saturating_sub(live.started_ns)),
        connection_key: connection_key(live, &streams),
        blackout: felt.map(|felt| blackout(felt, wall)),
        network_blackout: network_blackout(live, felt, wall),
        phases: phases::spans(live, felt).iter().map(|span| phase(span, now_ns, wall)).collect(),
        verdict: live.verdict.clone(),
        rounds: rounds(live, ended_ns, now_ns, wall),
        migrator_states: states(live, wall),
        postcopy: postcopy(live),
        bytes: bytes(live),
        throughput_bytes_per_second: if ended_ns.is_some() { None } else { live.rate },
        streams,
        registered_memory: rdma::registered_memory(live),
        streams_without_detail: live.roles().next().map_or(0, |(_, end)| end.overflow_here().flows),
        threads: live.roles().flat_map(|(role, end)| threads(role, end)).collect(),
        evidence: live.evidence.iter().cloned().chain(methods(live)).chain(endings).collect(),
        history: None,
    }
}

/// What the blackout and the phases of each end rest on.
fn methods(live: &Live) -> Vec<Evidence> {
    let mut evidence = Vec::new();
    let mut say = |kind: &str, detail: String| {
        evidence.push(Evidence { kind: kind.to_owned(), detail, weight: None });
    };
    for (role, end) in live.roles() {
        let role = role.as_str();
        match &end.coverage {
            Some(Coverage::Probed { version, missing }) => {
                let version = version.map_or_else(String::new, |found| {
                    format!(" of QEMU {}.{}", found.major, found.minor)
                });
                let lacks = match missing.as_slice() {
                    [] => String::new(),
                    some => format!(", without {}", some.join(", ")),
                };
                say(
                    "phase_functions",
                    format!("functions{version} are probed at the {role}{lacks}"),
                );
            }
            Some(Coverage::Unprobed(reason)) => say(
                "vcpu_scheduling",
                format!(
                    "the {role}'s executable {reason}: its guest CPUs are followed in the scheduler alone"
                ),
            ),
            None => {}
        }
        if let Some(how) = end.guest_cpus_found {
            say(
                "vcpu",
                format!(
                    "guest CPUs of the {role} were found {how}, their threads have no telling names"
                ),
            );
        }
    }
    evidence
}

/// The labels under which a migration's blackout is counted.
pub(super) fn path(live: &Live) -> Path {
    let main = live.roles().find_map(|(role, end)| {
        let flow = end.flows.values().min_by_key(|flow| flow.reading.opened_ns())?;
        let (local, peer) = (flow.reading.local.ip(), flow.reading.peer.ip());
        Some(if role == Role::Source { (local, peer) } else { (peer, local) })
    });
    let memory = live.roles().find_map(|(_, end)| vm_from_cmdline(&end.facts.cmdline).memory_bytes);
    let (source, destination) =
        main.map_or_else(Default::default, |(from, to)| (from.to_string(), to.to_string()));
    Path { source, destination, vm_size: memory.map_or_else(|| "unknown".to_owned(), size_text) }
}

/// `4GB`, or `512MB` where it is no whole number of GB; powers of 1024, as the contract writes sizes.
fn size_text(bytes: u64) -> String {
    const MB: u64 = 1 << 20;
    const GB: u64 = 1 << 30;
    if bytes >= GB && bytes.is_multiple_of(GB) {
        format!("{}GB", bytes / GB)
    } else {
        format!("{}MB", bytes / MB)
    }
}

/// Where both hosts see the same addresses, both derive the same key.
fn connection_key(live: &Live, streams: &[Stream]) -> Option<String> {
    let main = streams.first()?;
    live.roles().next()?;
    Some(format!("{}:{}>{}", live.transport().as_str(), main.local, main.peer))
}

fn blackout(felt: &Felt, wall: WallClock) -> Blackout {
    let Instants { stopped_ns, started_ns } = felt.instants;
    let length = felt.instants.length();
    let [functions, scheduling] = felt.by_method.map(|instants| instants.length().map(seconds));
    Blackout {
        seconds: length.map(seconds),
        method: felt.method,
        complete: length.is_some(),
        half: match (length, stopped_ns) {
            (Some(_), _) => None,
            (None, Some(_)) => Some(Role::Source),
            (None, None) => Some(Role::Destination),
        },
        stopped_at: stopped_ns.map(|ns| wall.at(ns)),
        started_at: started_ns.map(|ns| wall.at(ns)),
        ran_on_at_source: felt.ran_on_at_source,
        by_method: ByMethod { phase_functions: functions, vcpu_scheduling: scheduling },
        breakdown: felt.breakdown.map(|parts| BlackoutParts {
            stop: seconds(parts.stop),
            ram: seconds(parts.ram),
            device: seconds(parts.device),
            network: seconds(parts.network),
            load: seconds(parts.load),
            start: seconds(parts.start),
        }),
        clock_error_seconds: wall.max_error_seconds,
    }
}

/// The first packet of any device of the destination, against the guest's stop.
fn network_blackout(live: &Live, felt: Option<&Felt>, wall: WallClock) -> Option<NetworkBlackout> {
    let taps = |role| live.end(role).map(|end| end.taps.as_slice()).unwrap_or_default();
    let first = taps(Role::Destination)
        .iter()
        .filter(|reading| reading.tap.packets > 0)
        .min_by_key(|reading| reading.tap.first_ns)?;
    let last = taps(Role::Source).iter().max_by_key(|reading| reading.tap.last_ns);
    let stopped_ns = felt.and_then(|felt| felt.instants.stopped_ns);
    let length = stopped_ns.and_then(|stopped| first.tap.first_ns.checked_sub(stopped));
    Some(NetworkBlackout {
        seconds: length.map(seconds),
        first_packet_at: wall.at(first.tap.first_ns),
        first_packet: FirstPacket::of(first.tap.first_protocol),
        destination_interface: netdev::name_of(&first.key),
        source_interface: last.map(|reading| netdev::name_of(&reading.key)),
        last_packet_at: last
            .filter(|reading| reading.tap.packets > 0)
            .map(|reading| wall.at(reading.tap.last_ns)),
    })
}

fn phase(span: &Span, now_ns: u64, wall: WallClock) -> Phase {
    Phase {
        phase: span.phase,
        started_at: wall.at(span.from_ns),
        seconds: seconds(span.to_ns.unwrap_or(now_ns).saturating_sub(span.from_ns)),
    }
}

fn rounds(live: &Live, ended_ns: Option<u64>, now_ns: u64, wall: WallClock) -> Vec<Round> {
    let Some(source) = live.end(Role::Source) else { return Vec::new() };
    (1..)
        .zip(phases::rounds(source, ended_ns))
        .map(|(round, found)| Round {
            round,
            started_at: wall.at(found.from.at_ns),
            seconds: seconds(
                found.to.map_or(now_ns, |to| to.at_ns).saturating_sub(found.from.at_ns),
            ),
            bytes: found.to.map(|to| to.sent_bytes.saturating_sub(found.from.sent_bytes)),
        })
        .collect()
}

fn states(live: &Live, wall: WallClock) -> Vec<MigratorStateChange> {
    let timeline = live.roles().map(|(_, end)| &end.timeline).find(|line| !line.states.is_empty());
    timeline
        .into_iter()
        .flat_map(|timeline| &timeline.states)
        .map(|(at_ns, state)| MigratorStateChange { state: *state, at: wall.at(*at_ns) })
        .collect()
}

/// Page waits of the destination's guest CPUs, once it has asked for a page.
fn postcopy(live: &Live) -> Option<Postcopy> {
    let end = live.end(Role::Destination)?;
    let [before, now] = end.own_work;
    let page_requests = now.page_requests.saturating_sub(before.page_requests);
    if page_requests == 0 {
        return None;
    }
    let cpus = || {
        end.threads
            .values()
            .filter(|thread| thread.role == ThreadRole::Vcpu)
            .map(|thread| &thread.reading.cpu)
    };
    let page_waits = cpus().map(|cpu| cpu.page_waits).sum();
    let page_wait_ns: u64 = cpus().map(|cpu| cpu.page_wait_ns).sum();
    Some(Postcopy {
        page_requests,
        page_waits,
        page_wait_seconds: seconds(page_wait_ns),
        page_wait_mean_seconds: (page_waits > 0).then(|| seconds(page_wait_ns) / page_waits as f64),
    })
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn end_of(role: Role, end: &EndState) -> End {
    End {
        role,
        pid: end.facts.pid,
        comm: end.facts.comm.clone(),
        exe: end.facts.exe.clone(),
        cgroup: end.facts.cgroup.clone(),
    }
}

/// Each byte once: what was sent from the source's sockets, what arrived from the destination's, each from the end that is here.
fn bytes(live: &Live) -> Bytes {
    let sum = |end: &EndState, of: fn(&StreamFlow) -> u64| end.flows.values().map(of).sum::<u64>();
    let mut bytes = Bytes::default();
    let (source, destination) = (live.end(Role::Source), live.end(Role::Destination));
    if let Some(sender) = source.or(destination) {
        let over = sender.overflow_here();
        bytes.queued = sum(sender, |flow| flow.reading.payload.queued) + over.bytes_queued;
        bytes.delivered = sum(sender, |flow| flow.reading.payload.delivered) + over.bytes_delivered;
        bytes.retransmitted =
            sum(sender, |flow| flow.reading.snapshot.bytes_retrans) + over.bytes_retrans;
    }
    if source.is_some() && live.transport() == Transport::Rdma {
        bytes.received = bytes.delivered;
    } else if let Some(receiver) = destination.or(source) {
        bytes.received = sum(receiver, |flow| flow.reading.payload.received)
            + receiver.overflow_here().bytes_received;
    }
    bytes
}

/// The two sockets of one connection, as far as they are here.
#[derive(Default)]
struct Pair<'a> {
    source: Option<&'a StreamFlow>,
    destination: Option<&'a StreamFlow>,
}

fn streams(live: &Live, wall: WallClock) -> Vec<Stream> {
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
        QueuePair::of(Some(end), qp)
    });
    Some(Stream {
        role: stream_role(index, comm),
        local: from.to_string(),
        peer: to.to_string(),
        bytes_queued: sent.payload.queued,
        bytes_delivered: sent.payload.delivered,
        bytes_received: received(pair),
        bytes_returned: returned,
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
        .map(|(state, ns)| StateChange { state: state_name(state), at: wall.at(ns) })
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
        tcp_state: if sent.closed { state_name(7) } else { state_name(sent.snapshot.tcp_state) },
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

fn threads(role: Role, end: &EndState) -> Vec<Thread> {
    let mut threads: Vec<Thread> = end
        .threads
        .values()
        .map(|thread| {
            let reading = thread.at_end.as_ref().unwrap_or(&thread.reading);
            let on_cpu_ns = reading.now.on_cpu_ns.saturating_sub(reading.base.on_cpu_ns);
            let waited_ns = reading.now.run_delay_ns.saturating_sub(reading.base.run_delay_ns);
            let measured_ns = reading.now.at_ns.saturating_sub(reading.base.at_ns);
            let switches = |totals: &dwcp_observer_ebpf::sched::SchedTotals| {
                totals.voluntary_switches + totals.involuntary_switches
            };
            Thread {
                end: role,
                tid: reading.tid,
                comm: reading.comm.clone(),
                role: thread.role,
                on_cpu_seconds: seconds(on_cpu_ns),
                off_cpu_seconds: seconds(measured_ns.saturating_sub(on_cpu_ns + waited_ns)),
                runqueue_wait_seconds: seconds(waited_ns),
                runqueue_wait: thread.waits,
                wakeups: reading.wakeups,
                context_switches: switches(&reading.now).saturating_sub(switches(&reading.base)),
                cpu_moves: reading.now.cpu_moves.saturating_sub(reading.base.cpu_moves),
            }
        })
        .collect();
    threads.sort_by_key(|thread| (thread.role, thread.tid));
    threads
}
