//! Turns a live migration into the record that readers see.

mod storage;
mod streams;

pub(super) use self::storage::delivered as storage_delivered;
pub use self::streams::errno_name;
use super::{
    blackout::Instants,
    clock::WallClock,
    dump,
    end::{EndState, StreamFlow},
    fate,
    guest::{self, GuestBlackout},
    live::LiveMigration,
    machine::Life,
    phases::{self, Span},
    rdma,
};
use crate::model::record::{
    Blackout, BlackoutParts, ByMethod, Bytes, End, Evidence, Interruption, ManagerRequest,
    Migration, MigratorStateChange, NetworkBlackout, Outcome, Phase, Postcopy, Role, Round,
    Standstill, State, Stream, Thread, ThreadRole, Transport,
};
use crate::{
    migration::totals::Path,
    model::{
        qemu::{MigratorState, Request},
        record::FirstPacket,
    },
    netdev,
    phase::attach::Coverage,
    process::vm_from_cmdline,
};

/// Builds the record as of `now_ns`.
#[must_use]
pub fn record(live: &LiveMigration, now_ns: u64, wall: WallClock) -> Migration {
    let ended_ns = match live.life {
        Life::Finished { ended_ns, .. } => Some(ended_ns),
        _ => None,
    };
    let judgement = live.outcome.as_ref();
    let endings = judgement.map(|judgement| judgement.evidence.clone()).unwrap_or_default();
    let not_yet = ended_ns.map(|_| Outcome::Unknown);
    let streams = streams::streams(live, wall);
    let measured = guest::measure(live, now_ns);
    let measured = measured.as_ref();
    Migration {
        id: live.id.clone(),
        state: if ended_ns.is_some() { State::Finished } else { State::Active },
        outcome: judgement.map(|judgement| judgement.outcome).or(not_yet),
        reason: judgement.and_then(|judgement| judgement.reason.clone()),
        split_brain: judgement.is_some_and(|judgement| judgement.split_brain) || runs_twice(live),
        vm: live
            .roles()
            .map(|(_, end)| vm_from_cmdline(&end.facts.cmdline))
            .reduce(
                |first, second| {
                    if first.name.is_some() || first.uuid.is_some() { first } else { second }
                },
            )
            .unwrap_or_default(),
        dumped_process: dump::dumped_process(live, wall),
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
        blackout: measured.map(|measured| blackout(live, measured, wall)),
        standstill: standstill(live, now_ns, wall),
        network_blackout: network_blackout(live, measured, wall),
        phases: phases::spans(live, measured)
            .iter()
            .map(|span| phase(span, now_ns, wall))
            .collect(),
        verdict: live.verdict.clone(),
        rounds: rounds(live, ended_ns, now_ns, wall),
        remaining_bytes: live.remaining().map(|look| look.bytes),
        migrator_states: states(live, wall),
        requests: requests(live, wall),
        cpu_throttle_percent: live
            .end(Role::Source)
            .and_then(|end| end.timeline.throttle_percent())
            .filter(|_| ended_ns.is_none()),
        announced_at: live
            .end(Role::Destination)
            .and_then(|end| end.timeline.announced_ns)
            .map(|ns| wall.at(ns)),
        postcopy: postcopy(live, now_ns, wall),
        bytes: live.bytes_are_seen().then(|| bytes(live)),
        throughput_bytes_per_second: if ended_ns.is_some() { None } else { live.rate },
        mean_throughput_bytes_per_second: ended_ns.and_then(|ended| mean_rate(live, ended)),
        streams,
        storage: storage::storage(live, now_ns, wall),
        registered_memory: rdma::registered_memory(live),
        streams_without_detail: live.roles().next().map_or(0, |(_, end)| end.overflow_here().flows),
        threads: live.roles().flat_map(|(role, end)| threads(role, end)).collect(),
        evidence: live.evidence.iter().cloned().chain(methods(live)).chain(endings).collect(),
        history: None,
    }
}

/// Mean rate from the begin, or from the first look at a migration that was under way, bytes/s.
fn mean_rate(live: &LiveMigration, ended_ns: u64) -> Option<f64> {
    let moved = live.bytes_are_seen().then(|| live.progress().0)?;
    let (from_ns, before) = match live.first_tick {
        _ if !live.found_under_way() => (live.started_ns, 0),
        Some(tick) => (tick.at_ns, tick.delivered),
        None => return None,
    };
    let length = ended_ns.checked_sub(from_ns).filter(|length| *length > 0)?;
    Some(moved.saturating_sub(before) as f64 / seconds(length))
}

/// What the blackout and the phases of each end rest on.
fn methods(live: &LiveMigration) -> Vec<Evidence> {
    let mut evidence = Vec::new();
    let mut say = |kind: &str, detail: String| {
        evidence.push(Evidence { kind: kind.to_owned(), detail, weight: None });
    };
    if dump::ends_by_exit(&live.migrator) {
        return evidence;
    }
    for (role, end) in live.roles() {
        let role = role.as_str();
        if let Some(unread) = end.facts.unread {
            say("cmdline", format!("the command line of the {role} {}", unread.why()));
        }
        if let Some(state) = end.timeline.arrived_as {
            let state = state.as_str();
            say(
                "global_state",
                format!("the guest's state at the source was {state} (sent to the {role})"),
            );
        }
        match &end.coverage {
            Some(Coverage::Probed { version, missing, since_ns, .. }) => {
                let version = version.map_or_else(String::new, |found| {
                    format!(" of QEMU {}.{}", found.major, found.minor)
                });
                let lacks = match missing.as_slice() {
                    [] => String::new(),
                    some => format!(", without {}", some.join(", ")),
                };
                let since = match since_ns.saturating_sub(live.started_ns) {
                    0 => String::new(),
                    late => format!(", since {:.3} s after its start", late as f64 / 1e9),
                };
                say(
                    "phase_functions",
                    format!("functions{version} are probed at the {role}{since}{lacks}"),
                );
            }
            Some(Coverage::Unprobed(reason)) => say(
                "vcpu_scheduling",
                format!("the {role}'s executable {reason}: only the scheduler shows its vCPUs"),
            ),
            None => {}
        }
        if let Some(how) = end.guest_cpus_found {
            say(
                "vcpu",
                format!(
                    "vCPUs of the {role} were found {how}, because their threads have no recognisable names"
                ),
            );
        }
    }
    evidence
}

/// The labels under which a migration's blackout is counted.
pub(super) fn path(live: &LiveMigration) -> Path {
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
fn connection_key(live: &LiveMigration, streams: &[Stream]) -> Option<String> {
    let main = streams.first()?;
    live.roles().next()?;
    Some(format!("{}:{}>{}", live.transport()?.as_str(), main.local, main.peer))
}

/// Whether the guest was let run at both ends.
pub(super) fn runs_twice(live: &LiveMigration) -> bool {
    let source = live.end(Role::Source).is_some_and(|end| end.timeline.ran_on().is_some());
    let destination =
        live.end(Role::Destination).is_some_and(|end| end.timeline.resumed_ns.is_some());
    source && destination
}

fn standstill(live: &LiveMigration, now_ns: u64, wall: WallClock) -> Option<Standstill> {
    let standing = guest::standing(live, now_ns)?;
    Some(Standstill { since: wall.at(fate::still(live)?.since_ns), standing })
}

fn requests(live: &LiveMigration, wall: WallClock) -> Vec<ManagerRequest> {
    let mut all: Vec<(u64, Role, Request)> = live
        .roles()
        .flat_map(|(role, end)| {
            end.timeline.requests.iter().map(move |(at, request)| (*at, role, *request))
        })
        .collect();
    all.sort_unstable_by_key(|(at, ..)| *at);
    all.into_iter()
        .map(|(at, end, request)| ManagerRequest { at: wall.at(at), end, request })
        .collect()
}

fn blackout(live: &LiveMigration, measured: &GuestBlackout, wall: WallClock) -> Blackout {
    let Instants { stopped_ns, started_ns } = measured.instants;
    let length = measured.instants.length();
    let [functions, scheduling] = measured.by_method.map(|instants| instants.length().map(seconds));
    Blackout {
        seconds: length.map(seconds),
        method: measured.method,
        complete: length.is_some(),
        half: match live.ends.as_slice() {
            [only] if length.is_none() => Some(only.role()),
            _ => None,
        },
        incomplete: guest::incomplete(live, measured),
        stopped_at: stopped_ns.map(|ns| wall.at(ns)),
        started_at: started_ns.map(|ns| wall.at(ns)),
        ran_on_at_source: measured.ran_on_at_source,
        by_method: ByMethod { phase_functions: functions, vcpu_scheduling: scheduling },
        breakdown: measured.breakdown.map(|parts| BlackoutParts {
            stop: parts.stop.map(seconds),
            ram: parts.ram.map(seconds),
            device: parts.device.map(seconds),
            network: parts.network.map(seconds),
            load: parts.load.map(seconds),
            resume: parts.resume.map(seconds),
            start: parts.start.map(seconds),
        }),
        clock_error_seconds: wall.max_error_seconds,
    }
}

/// The first packet of any device of the destination, against the guest's stop.
fn network_blackout(
    live: &LiveMigration,
    measured: Option<&GuestBlackout>,
    wall: WallClock,
) -> Option<NetworkBlackout> {
    let taps = |role| live.end(role).map(|end| end.taps.as_slice()).unwrap_or_default();
    let first = taps(Role::Destination)
        .iter()
        .filter(|reading| reading.tap.packets > 0)
        .min_by_key(|reading| reading.tap.first_ns)?;
    let last = taps(Role::Source).iter().max_by_key(|reading| reading.tap.last_ns);
    let stopped_ns = measured.and_then(|measured| measured.instants.stopped_ns);
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

fn rounds(live: &LiveMigration, ended_ns: Option<u64>, now_ns: u64, wall: WallClock) -> Vec<Round> {
    let Some(source) = live.end(Role::Source) else { return Vec::new() };
    let seen = live.bytes_are_seen();
    (1..)
        .zip(phases::rounds(source, ended_ns))
        .map(|(round, found)| {
            let to_ns = found.to.map_or(now_ns, |to| to.at_ns);
            let length = seconds(to_ns.saturating_sub(found.from.at_ns));
            Round {
                round,
                started_at: wall.at(found.from.at_ns),
                seconds: length,
                bytes: found
                    .to
                    .filter(|_| seen)
                    .map(|to| to.sent_bytes.saturating_sub(found.from.sent_bytes)),
                remaining_bytes: found.left_at_end,
                dirty_bytes_per_second: found
                    .dirtied
                    .filter(|_| length > 0.0)
                    .map(|dirtied| dirtied as f64 / length),
            }
        })
        .collect()
}

fn states(live: &LiveMigration, wall: WallClock) -> Vec<MigratorStateChange> {
    let timeline = live.roles().map(|(_, end)| &end.timeline).find(|line| !line.states.is_empty());
    timeline
        .into_iter()
        .flat_map(|timeline| &timeline.states)
        .map(|(at_ns, state)| MigratorStateChange { state: *state, at: wall.at(*at_ns) })
        .collect()
}

/// Page waits of the destination's guest CPUs, and times without a connection.
fn postcopy(live: &LiveMigration, now_ns: u64, wall: WallClock) -> Option<Postcopy> {
    let interruptions = interruptions(live, now_ns, wall);
    let destination = live.end(Role::Destination);
    let page_requests = destination.map(|end| {
        let [before, now] = end.own_work;
        now.page_requests.saturating_sub(before.page_requests)
    });
    if page_requests.unwrap_or_default() == 0 && !fate::is_postcopy(live) {
        return None;
    }
    let Some(end) = destination else {
        return Some(Postcopy { interruptions, ..Postcopy::default() });
    };
    let cpus = || {
        end.threads
            .values()
            .filter(|thread| thread.role == ThreadRole::Vcpu)
            .map(|thread| &thread.reading.cpu)
    };
    let page_waits: u64 = cpus().map(|cpu| cpu.page_waits).sum();
    let page_wait_ns: u64 = cpus().map(|cpu| cpu.page_wait_ns).sum();
    Some(Postcopy {
        page_requests,
        page_waits: Some(page_waits),
        page_wait_seconds: Some(seconds(page_wait_ns)),
        page_wait_mean_seconds: (page_waits > 0).then(|| seconds(page_wait_ns) / page_waits as f64),
        interruptions,
    })
}

/// From each break of a postcopy to when pages flow again, by the end that tells: the source, else the destination.
fn interruptions(live: &LiveMigration, now_ns: u64, wall: WallClock) -> Vec<Interruption> {
    let Some((_, end)) = live.roles().next() else { return Vec::new() };
    let end_ns = match live.life {
        Life::Finished { ended_ns, .. } => ended_ns,
        _ => now_ns,
    };
    let states = &end.timeline.states;
    let broken = states.iter().enumerate().filter(|(at, (_, state))| {
        *state == MigratorState::PostcopyPaused
            && !at.checked_sub(1).is_some_and(|last| states[last].1.is_broken_postcopy())
    });
    broken
        .map(|(at, (broken_ns, _))| {
            let recovered = states[at..].iter().find(|(_, state)| !state.is_broken_postcopy());
            let recovered_ns = recovered
                .filter(|(_, state)| *state == MigratorState::PostcopyActive)
                .map(|(ns, _)| *ns);
            Interruption {
                broken_at: wall.at(*broken_ns),
                recovered_at: recovered_ns.map(|ns| wall.at(ns)),
                seconds: seconds(recovered_ns.unwrap_or(end_ns).saturating_sub(*broken_ns)),
            }
        })
        .collect()
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
fn bytes(live: &LiveMigration) -> Bytes {
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
    if source.is_some() && live.transport() == Some(Transport::Rdma) {
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
