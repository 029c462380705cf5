//! Turns a live migration into the record that readers see.

mod streams;

use jiff::Timestamp;

pub use self::streams::errno_name;
use super::{
    blackout::Instants,
    guest::{self, Felt},
    live::{EndState, Live, StreamFlow},
    machine::Life,
    phases::{self, Span},
    rdma,
    record::{
        Blackout, BlackoutParts, ByMethod, Bytes, End, Evidence, Migration, MigratorStateChange,
        NetworkBlackout, Outcome, Phase, Postcopy, Role, Round, State, Stream, Thread, ThreadRole,
        Transport,
    },
};
use crate::{
    netdev::{self, FirstPacket},
    phase::attach::Coverage,
    process::vm_from_cmdline,
    publish::Path,
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
    let streams = streams::streams(live, wall);
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
        version: live.version,
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
        bytes: live.bytes_are_seen().then(|| bytes(live)),
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
            Some(Coverage::Probed { version, missing, .. }) => {
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
    let seen = live.bytes_are_seen();
    (1..)
        .zip(phases::rounds(source, ended_ns))
        .map(|(round, found)| Round {
            round,
            started_at: wall.at(found.from.at_ns),
            seconds: seconds(
                found.to.map_or(now_ns, |to| to.at_ns).saturating_sub(found.from.at_ns),
            ),
            bytes: found
                .to
                .filter(|_| seen)
                .map(|to| to.sent_bytes.saturating_sub(found.from.sent_bytes)),
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
