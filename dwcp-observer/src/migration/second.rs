//! What the verdict is told of each second: differences between two ticks of one migration.

use super::{
    end::{EndState, EndThread, FlowKey, Registrations, StreamFlow},
    guest,
    live::LiveMigration,
    phases,
    tick::{FlowTotals, TickTotals},
};
use crate::model::record::{PhaseName, Role, ThreadRole};
use crate::{
    identify::roles::stream_role,
    model::queue_pair::{DataPath, QpReading},
    phase::attach::Coverage,
    process::vm_from_cmdline,
    verdict::inputs::{Destination, Phase, Round, Second, Source, Stream, Thread},
};

/// Rounds that the verdict looks back.
const ROUNDS: usize = 256;

/// The second since the last tick, and what the next one starts from. The first second of a migration that was found under way has
/// no begin: it only sets the start.
pub(super) fn second(live: &LiveMigration, now_ns: u64) -> (Option<Second>, TickTotals) {
    let totals = totals(live, now_ns);
    // Nothing can be said of data that are not seen, nor of what holds them up where no request can be timed.
    let hidden = |flow: &StreamFlow| {
        let qp = flow.reading.queue_pair.as_ref();
        qp.is_some_and(|qp| qp.visible != DataPath::Completions || qp.latency.is_none())
    };
    let unseen = live.flows().next().is_none() && guest::standing(live, now_ns).is_none();
    if unseen || live.flows().any(hidden) {
        return (None, totals);
    }
    let first = TickTotals {
        at_ns: live.started_ns.max(live.observed_ns),
        threads: own_threads(live)
            .map(|thread| (thread.reading.tid, times(&thread.reading.base)))
            .collect(),
        ..TickTotals::default()
    };
    let last = match &live.last_second {
        Some(last) => last,
        None if live.found_under_way() => return (None, totals),
        None => &first,
    };
    (Some(difference(live, last, &totals)), totals)
}

fn totals(live: &LiveMigration, now_ns: u64) -> TickTotals {
    let source = live.end(Role::Source);
    TickTotals {
        at_ns: now_ns,
        delivered: live.progress().0,
        flows: live
            .ends
            .iter()
            .flat_map(|end| &end.flows)
            .map(|(key, flow)| (*key, FlowTotals::of(flow)))
            .collect(),
        threads: own_threads(live)
            .map(|thread| (thread.reading.tid, times(&thread.reading.now)))
            .collect(),
        registered: live
            .ends
            .iter()
            .filter_map(|end| Some((end.process, Registrations::of(end.registered.as_ref()?))))
            .collect(),
        limited_ns: source.map_or(0, |end| {
            let [before, now] = end.own_work;
            now.limited_ns.saturating_sub(before.limited_ns)
        }),
        quota_ns: live
            .ends
            .iter()
            .filter_map(|end| {
                let now = end.quota_throttled_ns?;
                let last =
                    live.last_second.as_ref().and_then(|last| last.quota_ns.get(&end.process));
                Some((end.process, [last.map_or(now, |last| last[1]), now]))
            })
            .collect(),
        stolen_ns: live
            .ends
            .iter()
            .flat_map(|end| end.threads.values())
            .map(|thread| thread.reading.cpu.stolen_ns)
            .sum(),
    }
}

/// Threads that work for the migration.
fn own_threads(live: &LiveMigration) -> impl Iterator<Item = &EndThread> {
    live.ends.iter().flat_map(|end| end.threads.values()).filter(|thread| works(thread))
}

fn works(thread: &EndThread) -> bool {
    matches!(thread.role, ThreadRole::Main | ThreadRole::Stream)
}

fn times(totals: &dwcp_observer_ebpf::sched::SchedTotals) -> [u64; 3] {
    [totals.on_cpu_ns, totals.run_delay_ns, totals.runs]
}

fn difference(live: &LiveMigration, last: &TickTotals, now: &TickTotals) -> Second {
    let seconds = |now: u64, last: u64| now.saturating_sub(last) as f64 / 1e9;
    let memory = live.roles().find_map(|(_, end)| vm_from_cmdline(&end.facts.cmdline).memory_bytes);
    Second {
        seconds: seconds(now.at_ns, last.at_ns),
        phase: phase(live, now.at_ns),
        delivered_bytes: now.delivered.saturating_sub(last.delivered),
        delivered_total: now.delivered,
        guest_memory_bytes: memory,
        rounds: rounds(live, now.at_ns),
        remaining_bytes: live.remaining().map(|look| look.bytes),
        source: live.end(Role::Source).map(|end| Source {
            pid: end.facts.pid,
            streams: streams(end, last, seconds(now.at_ns, last.at_ns)),
            threads: threads(end, last, now),
            throttled_seconds: probes_limiter(end)
                .then(|| seconds(now.limited_ns, last.limited_ns)),
            registration_seconds: registration(end, last),
            quota_throttled_seconds: quota(end, last),
        }),
        destination: live.end(Role::Destination).map(|end| Destination {
            pid: end.facts.pid,
            threads: threads(end, last, now),
            unread_bytes: unread(end),
            stopped: end.stopped,
            quota_throttled_seconds: quota(end, last),
            registration_seconds: registration(end, last),
        }),
        standing: guest::standing(live, now.at_ns),
        throttle_percent: live.end(Role::Source).and_then(|end| end.timeline.throttle_percent()),
        neighbours: Vec::new(),
        guest_cpu_stolen_seconds: Some(seconds(now.stolen_ns, last.stolen_ns)),
    }
}

/// Time in registrations of memory since the last tick.
fn registration(end: &EndState, last: &TickTotals) -> Option<f64> {
    let now = Registrations::of(end.registered.as_ref()?);
    let was = last.registered.get(&end.process).copied().unwrap_or(end.registered_base);
    Some(now.since(was).ns as f64 / 1e9)
}

/// Time since the last tick for which the CPU quota of its cgroup was used up, or per tick of the last two if that is more: the kernel
/// counts it when it ends (`unthrottle_cfs_rq`, kernel/sched/fair.c, 5.10 to 6.18), and a group in debt waits for many periods. The first look
/// only sets the start: what the quota held back before has nothing to do with this migration.
fn quota(end: &EndState, last: &TickTotals) -> Option<f64> {
    let now = end.quota_throttled_ns?;
    let [before, was] = last.quota_ns.get(&end.process).copied().unwrap_or([now; 2]);
    let per_tick = now.saturating_sub(before) / 2;
    Some(now.saturating_sub(was).max(per_tick) as f64 / 1e9)
}

fn probes_limiter(end: &EndState) -> bool {
    matches!(&end.coverage, Some(Coverage::Probed { missing, .. }) if !missing.contains(&"migration_rate_limit"))
}

fn streams(end: &EndState, last: &TickTotals, length: f64) -> Vec<Stream> {
    let mut flows: Vec<(&FlowKey, &StreamFlow)> = end.flows.iter().collect();
    flows.sort_by_key(|(_, flow)| flow.reading.opened_ns());
    flows
        .into_iter()
        .enumerate()
        .filter(|(_, (_, flow))| !flow.reading.closed)
        .map(|(index, (key, flow))| {
            let (reading, now) = (&flow.reading, FlowTotals::of(flow));
            let was = last.flows.get(key).copied().unwrap_or_default();
            let chrono = |kind: usize| (now.chrono[kind] - was.chrono[kind]).max(0.0);
            let mut busy = [chrono(0), chrono(1)];
            if let Some(qp) = &reading.queue_pair {
                busy = held_up(qp, &was, &now, length);
            }
            let in_state = |kind: usize| {
                now.recovering[kind].saturating_sub(was.recovering[kind]) as f64 / 1e9
            };
            Stream {
                role: stream_role(index, flow.thread_comm.as_deref()),
                tid: reading.send_tid,
                delivered_bytes: now.delivered.saturating_sub(was.delivered),
                delivered_total: now.delivered,
                queued_bytes: now.queued.saturating_sub(was.queued),
                in_flight_bytes: now.queued.saturating_sub(now.delivered),
                busy_seconds: busy[0],
                rwnd_limited_seconds: busy[1],
                recovery_seconds: in_state(0),
                loss_seconds: in_state(1),
                retransmitted_segments: u64::from(
                    now.retransmitted.saturating_sub(was.retransmitted),
                ),
                retransmitted_total: u64::from(now.retransmitted),
                sent_segments: u64::from(now.sent.wrapping_sub(was.sent)),
                segment_bytes: u64::from(reading.snapshot.mss),
                srtt_seconds: reading.srtt_seconds(),
                min_rtt_seconds: reading.min_rtt_seconds(),
                peer_window_bytes: u64::from(reading.snapshot.snd_wnd),
            }
        })
        .collect()
}

/// How long a queue pair had work outstanding, and how much of that the receiver had no buffer for it.
///
/// Work overlaps: the sum of what each request took is at most that time, and a whole second when none of it came back. A receiver
/// that is not ready makes the sender wait for its RNR timer, which is as long as the receiver says: all of it is the receiver's.
fn held_up(qp: &QpReading, was: &FlowTotals, now: &FlowTotals, length: f64) -> [f64; 2] {
    let none_came_back =
        qp.outstanding.is_some_and(|open| open > 0) && now.completions == was.completions;
    let busy = if none_came_back { length } else { (now.chrono[0] - was.chrono[0]).min(length) };
    let not_ready = now.rnr_waits > was.rnr_waits || (none_came_back && now.rnr_waits > 0);
    [busy, if not_ready { busy } else { 0.0 }]
}

fn threads(end: &EndState, last: &TickTotals, now: &TickTotals) -> Vec<Thread> {
    end.threads
        .values()
        .filter(|thread| works(thread))
        .map(|thread| {
            let tid = thread.reading.tid;
            // One that came since did all its work since.
            let was = last.threads.get(&tid).copied();
            let [cpu, wait, runs] = was.unwrap_or_else(|| times(&thread.reading.base));
            let [cpu_now, wait_now, runs_now] = now.threads.get(&tid).copied().unwrap_or_default();
            // The kernel adds a wait once it is over: one that took the whole second and goes on is not in it.
            let whole = thread.reading.waiting && runs == runs_now && cpu == cpu_now;
            Thread {
                tid,
                role: thread.role,
                on_cpu_seconds: cpu_now.saturating_sub(cpu) as f64 / 1e9,
                run_queue_wait_seconds: wait_now.saturating_sub(wait) as f64 / 1e9,
                runnable_off_cpu_seconds: whole
                    .then_some(now.at_ns.saturating_sub(last.at_ns) as f64 / 1e9),
            }
        })
        .collect()
}

/// In its sockets, and not read by the application; `None` for queue pairs, which have no such buffer.
fn unread(end: &EndState) -> Option<u64> {
    if end.flows.values().any(|flow| flow.reading.queue_pair.is_some()) {
        return None;
    }
    let open = end.flows.values().map(|flow| &flow.reading).filter(|reading| !reading.closed);
    let unread = open
        .map(|reading| reading.snapshot.rcv_nxt.wrapping_sub(reading.snapshot.copied_seq))
        // A snapshot between two changes may be a little behind itself.
        .filter(|unread| *unread < u32::MAX / 2)
        .map(u64::from)
        .sum();
    Some(unread)
}

/// The phase now; `None` where the migrator's functions are not probed.
fn phase(live: &LiveMigration, now_ns: u64) -> Option<Phase> {
    if !live.ends.iter().any(|end| end.probed() && !end.timeline.states.is_empty()) {
        return None;
    }
    let measured = guest::measure(live, now_ns);
    let last = phases::spans(live, measured.as_ref()).last().map(|span| span.phase);
    Some(match last? {
        PhaseName::Setup | PhaseName::Freeze => Phase::Setup,
        PhaseName::Precopy | PhaseName::Dump => Phase::Precopy,
        PhaseName::StopAndCopy => Phase::StopAndCopy,
        PhaseName::Postcopy => Phase::Postcopy,
        PhaseName::Completion => Phase::Completion,
    })
}

fn rounds(live: &LiveMigration, now_ns: u64) -> Vec<Round> {
    let Some(end) = live.end(Role::Source) else { return Vec::new() };
    let all = phases::rounds(end, None);
    let skipped = all.len().saturating_sub(ROUNDS);
    let sent_now = end.sums().0;
    (1..)
        .zip(&all)
        .skip(skipped)
        .map(|(number, round)| {
            let (to_ns, to_bytes) =
                round.to.map_or((now_ns, sent_now), |to| (to.at_ns, to.sent_bytes));
            Round {
                number,
                bytes: to_bytes.saturating_sub(round.from.sent_bytes),
                seconds: to_ns.saturating_sub(round.from.at_ns) as f64 / 1e9,
                finished: round.to.is_some(),
                left_at_begin: round.left_at_begin,
                dirtied: round.dirtied,
            }
        })
        .collect()
}
