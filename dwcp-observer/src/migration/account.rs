//! What each look adds: rates, history, global counters, the end.

use super::{
    compose::{self, errno_name},
    dump,
    end::{EndState, StreamFlow},
    fate, guest,
    live::LiveMigration,
    machine::Life,
    neighbours::{self, PathUse},
    outcome::{EndEnding, Ending, Judgement, outcome},
    second,
    tick::{EndTotals, Tick},
};
use crate::model::record::{Method, Outcome, Role, Sample, SampleBytes, ThreadRole};
use crate::{
    config::ModeThresholds,
    identify::mode,
    migration::{
        observation::Observation,
        totals::{ErrorType, Totals},
    },
    model::{
        histogram::{DURATION_BUCKETS, Histogram},
        qemu::Request,
        queue_pair::STATUS_FLUSHED,
    },
    rdma::verbs::status_name,
};
use dwcp_observer_ebpf::tcp::FLOW_FIN_SENT;

/// Time after the end in which it shows where the guest runs, ns.
const SETTLE_NS: u64 = 1_000_000_000;

/// Takes one migration one look further; `paths`: what all running ones move, and over which paths.
pub fn advance(
    live: &mut LiveMigration,
    observation: &Observation,
    thresholds: &ModeThresholds,
    paths: &[PathUse],
    totals: &mut Totals,
) {
    let now_ns = observation.now_ns;
    let before = live.life;
    live.life = live.life.next(fate::streams(live, now_ns), now_ns, live.patience());
    if observation.tick && !before.is_finished() {
        tick(live, observation, paths, totals);
    }
    if live.life.is_finished() && !before.is_finished() {
        finish(live);
    }
    update_mode(live, now_ns, thresholds);
    count_bytes(live, totals);
    count_errors(live, totals);
    settle(live, observation, totals);
}

/// Settles the outcome once nothing can change it any more, or enough time has passed for it to show.
fn settle(live: &mut LiveMigration, observation: &Observation, totals: &mut Totals) {
    let Life::Finished { ended_ns, .. } = live.life else { return };
    if live.outcome.is_some() {
        return;
    }
    let since_ns = observation.now_ns.saturating_sub(ended_ns);
    let ending = ending(live, observation.now_ns, since_ns >= SETTLE_NS);
    if since_ns < SETTLE_NS && !ending.is_settled() {
        return;
    }
    // A guest CPU may still wait for the CPU on which it is to run again.
    if since_ns < SETTLE_NS && guest::start_is_awaited(live, observation.now_ns) {
        return;
    }
    let judgement = outcome(&ending);
    count_outcome(live, &ending, &judgement, ended_ns, totals);
    count_blackout(live, observation.now_ns, totals);
    let why = judgement.reason.as_ref().map_or_else(String::new, |it| format!(": {}", it.text));
    log::info!("migration {} {}{why}", live.id, judgement.outcome.as_str());
    live.outcome = Some(judgement);
}

fn count_outcome(
    live: &LiveMigration,
    ending: &Ending,
    judgement: &Judgement,
    ended_ns: u64,
    totals: &mut Totals,
) {
    let died = [&ending.source, &ending.destination].into_iter().flatten();
    let died = died.filter(|end| end.died.is_some()).count() as u64;
    match judgement.outcome {
        Outcome::Failed if died > 0 => {
            *totals.errors.entry(ErrorType::ProcessDied).or_default() += died;
        }
        Outcome::Failed => *totals.errors.entry(ErrorType::MigrationFailed).or_default() += 1,
        Outcome::Cancelled => {
            *totals.errors.entry(ErrorType::MigrationCancelled).or_default() += 1;
        }
        Outcome::Completed | Outcome::Unknown => {}
    }
    *totals.finished.entry((judgement.outcome, live.mode)).or_default() += 1;
    if let Some(reason) = &judgement.reason {
        *totals.reasons.entry(reason.class).or_default() += 1;
    }
    totals.split_brains += u64::from(judgement.split_brain);
    // How long it had run before it was found is not known.
    if !live.found_under_way() {
        let seconds = ended_ns.saturating_sub(live.started_ns) as f64 / 1e9;
        totals
            .durations
            .entry(live.mode)
            .or_insert_with(|| Histogram::new(DURATION_BUCKETS.into()))
            .observe(seconds);
    }
}

/// Counts a blackout of which both instants are known.
fn count_blackout(live: &LiveMigration, now_ns: u64, totals: &mut Totals) {
    let Some(measured) = guest::measure(live, now_ns) else { return };
    let Some(length_ns) = measured.instants.length() else { return };
    let seconds = length_ns as f64 / 1e9;
    totals.blackouts.observe(&compose::path(live), live.mode, measured.method, seconds);
}

/// CPU time and run-queue wait of migration threads, then of guest CPUs, ns.
fn cpu(live: &LiveMigration) -> [u64; 4] {
    let mut cpu = [0; 4];
    for end in &live.ends {
        for thread in end.threads.values() {
            let at = match thread.role {
                ThreadRole::Main | ThreadRole::Stream => 0,
                ThreadRole::Vcpu => 2,
                ThreadRole::Other => continue,
            };
            let (now, base) = (&thread.reading.now, &thread.reading.base);
            cpu[at] += now.on_cpu_ns.saturating_sub(base.on_cpu_ns);
            cpu[at + 1] += now.run_delay_ns.saturating_sub(base.run_delay_ns);
        }
    }
    cpu
}

fn tick(
    live: &mut LiveMigration,
    observation: &Observation,
    paths: &[PathUse],
    totals: &mut Totals,
) {
    judge(live, observation.now_ns, paths, totals);
    let (delivered, segments) = live.progress();
    let cpu = cpu(live);
    let now = Tick { at_ns: observation.now_ns, delivered, segments, cpu };
    // The first interval runs from the first connection.
    let last = live.last_tick.unwrap_or(Tick {
        at_ns: live.started_ns.max(live.observed_ns),
        delivered: 0,
        segments: 0,
        cpu: [0; 4],
    });
    let seconds = now.at_ns.saturating_sub(last.at_ns) as f64 / 1e9;
    let counts_from_start = live.last_tick.is_some() || !live.found_under_way();
    live.first_tick.get_or_insert(now);
    live.last_tick = Some(now);
    if seconds <= 0.0 || !counts_from_start {
        return;
    }
    let rate =
        live.bytes_are_seen().then(|| delivered.saturating_sub(last.delivered) as f64 / seconds);
    live.rate = rate;
    live.peak_rate = live.peak_rate.max(rate.unwrap_or_default());
    let sender = live.end(Role::Source).or_else(|| live.ends.first());
    let open = || {
        sender
            .into_iter()
            .flat_map(|end| end.flows.values())
            .map(|flow| &flow.reading)
            .filter(|reading| !reading.closed)
    };
    let rtts: Vec<f64> = open().filter_map(crate::tcp::FlowReading::srtt_seconds).collect();
    let since = |at: usize| now.cpu[at].saturating_sub(last.cpu[at]) as f64 / 1e9;
    let sample = Sample {
        at: observation.wall.at(now.at_ns),
        bytes: rate.map(|bytes_per_second| SampleBytes {
            bytes_delivered: delivered,
            bytes_per_second,
            bytes_in_flight: open()
                .map(|reading| reading.payload.queued.saturating_sub(reading.payload.delivered))
                .sum(),
        }),
        retransmitted_segments: segments.saturating_sub(last.segments),
        srtt_seconds: (!rtts.is_empty()).then(|| rtts.iter().sum::<f64>() / rtts.len() as f64),
        cwnd_bytes: open()
            .map(|reading| u64::from(reading.snapshot.snd_cwnd) * u64::from(reading.snapshot.mss))
            .sum(),
        streams: u32::try_from(open().count()).unwrap_or(u32::MAX),
        migration_cpu_seconds: since(0),
        migration_runqueue_wait_seconds: since(1),
        vcpu_cpu_seconds: since(2),
        vcpu_runqueue_wait_seconds: since(3),
        cpu_throttle_percent: live
            .end(Role::Source)
            .and_then(|end| end.timeline.throttle_percent()),
        verdict: live.verdict.as_ref().map(|verdict| verdict.state),
        cause: live.verdict.as_ref().and_then(|verdict| verdict.cause),
        fractions: live.verdict.as_ref().and_then(|verdict| verdict.fractions),
    };
    if let Ok(mut history) = live.history.lock() {
        history.push(sample);
    }
}

/// Judges the second that has passed.
fn judge(live: &mut LiveMigration, now_ns: u64, paths: &[PathUse], totals: &mut Totals) {
    let (second, next) = second::second(live, now_ns);
    live.last_second = Some(next);
    live.judged = None;
    let Some(mut second) = second else { return };
    second.neighbours = neighbours::of(live, paths);
    let verdict = live.judge.judge(&second);
    *totals.verdicts.entry((verdict.state, verdict.cause)).or_default() += second.seconds;
    totals.guest_cpu_stolen_seconds += second.guest_cpu_stolen_seconds.unwrap_or_default();
    live.verdict = Some(verdict);
    live.judged = Some(second);
}

/// The last stream has closed.
fn finish(live: &mut LiveMigration) {
    live.rate = None;
    live.verdict = None;
    live.judged = None;
    live.last_second = None;
    for thread in live.ends.iter_mut().flat_map(|end| end.threads.values_mut()) {
        thread.at_end = Some(thread.reading.clone());
    }
}

fn update_mode(live: &mut LiveMigration, now_ns: u64, thresholds: &ModeThresholds) {
    // Of one that was found under way, neither its best rate nor its shortest RTT may have been seen.
    if live.outcome.is_some() || live.found_under_way() {
        return;
    }
    if let Life::Finished { ended_ns, .. } = live.life {
        // A short migration has no tick: its mean rate is the best there is.
        let seconds = ended_ns.min(now_ns).saturating_sub(live.started_ns) as f64 / 1e9;
        if seconds > 0.0 {
            live.peak_rate = live.peak_rate.max(live.progress().0 as f64 / seconds);
        }
    }
    let sender = live.end(Role::Source).or_else(|| live.ends.first());
    let rtts: Vec<f64> = sender
        .into_iter()
        .flat_map(|end| end.flows.values())
        .filter_map(|flow| flow.reading.srtt_seconds())
        .collect();
    let mean = (!rtts.is_empty()).then(|| rtts.iter().sum::<f64>() / rtts.len() as f64);
    let Some(transport) = live.transport() else { return };
    if let Some(found) = mode::mode(transport, mean, live.peak_rate * 8.0, thresholds) {
        live.mode = Some(found);
    }
}

/// Adds what is new to the global counters.
fn count_bytes(live: &mut LiveMigration, totals: &mut Totals) {
    // What was counted as sent cannot be taken back once it turns out to be received.
    if !live.life.is_finished() && !live.roles_are_clear() {
        return;
    }
    let now: Vec<(Role, EndTotals)> =
        live.roles().map(|(role, end)| (role, LiveMigration::totals(role, end))).collect();
    for (role, now) in now {
        let last = live.counted.entry(role).or_default();
        let to = totals.bytes.entry((role, live.mode)).or_default();
        to.queued += now.queued.saturating_sub(last.queued);
        to.transferred += now.transferred.saturating_sub(last.transferred);
        to.retransmitted += now.retransmitted.saturating_sub(last.retransmitted);
        to.retransmitted_segments += now.segments.saturating_sub(last.segments);
        *last = EndTotals {
            queued: last.queued.max(now.queued),
            transferred: last.transferred.max(now.transferred),
            retransmitted: last.retransmitted.max(now.retransmitted),
            segments: last.segments.max(now.segments),
        };
    }
}

/// Counts each error of a flow once.
fn count_errors(live: &mut LiveMigration, totals: &mut Totals) {
    let mut found = Vec::new();
    for flow in live.flows() {
        let reading = &flow.reading;
        let key = (reading.slot, reading.generation);
        let failed = reading.queue_pair.as_ref().is_some_and(|qp| qp.failures() > 0);
        let error = match error_type(reading.last_error, reading.resets) {
            None if failed => Some(ErrorType::RdmaCompletion),
            other => other,
        };
        if let Some(error) = error {
            found.push(((key, error as u32), error));
        }
    }
    for (key, error) in found {
        if live.errors_counted.insert(key) {
            *totals.errors.entry(error).or_default() += 1;
        }
    }
}

fn error_type(errno: u32, resets: u32) -> Option<ErrorType> {
    match i32::try_from(errno).unwrap_or_default() {
        0 => (resets > 0).then_some(ErrorType::ConnectionReset),
        libc::ECONNRESET | libc::EPIPE => Some(ErrorType::ConnectionReset),
        libc::ECONNREFUSED => Some(ErrorType::ConnectionRefused),
        libc::ETIMEDOUT => Some(ErrorType::NetworkTimeout),
        _ => Some(ErrorType::SocketError),
    }
}

/// What is known at the end; `rested`: long enough ago for a running guest to have used its CPUs.
fn ending(live: &LiveMigration, now_ns: u64, rested: bool) -> Ending {
    let mut ending = Ending::default();
    let sender = live.end(Role::Source).or_else(|| live.ends.first());
    for flow in sender.into_iter().flat_map(|end| end.flows.values()) {
        let reading = &flow.reading;
        ending.streams += 1;
        if let Some(qp) = &reading.queue_pair {
            ending.queue_pairs += 1;
            ending.orderly += u32::from(qp.disconnected_ns.is_some() && qp.failures() == 0);
            ending.reset += u32::from(qp.failures() > 0);
            continue;
        }
        // An orphaned socket in FIN_WAIT2 is gone before the peer's FIN comes (tcp_time_wait): one FIN is enough.
        let fin = reading.flags & FLOW_FIN_SENT != 0 || reading.snapshot.fin_received != 0;
        let all_acked = reading.snapshot.snd_una == reading.snapshot.write_seq;
        ending.orderly += u32::from(reading.resets == 0 && fin && all_acked);
        ending.reset += u32::from(reading.resets > 0);
    }
    if let Some(source) = live.end(Role::Source) {
        ending.undelivered_bytes = source
            .flows
            .values()
            .map(|flow| flow.reading.payload.queued.saturating_sub(flow.reading.payload.delivered))
            .sum();
    }
    ending.postcopy = fate::is_postcopy(live);
    ending.by_exit = dump::ends_by_exit(&live.migrator);
    // What its manager has stopped, and lets run again, was not paused before.
    let resumed = live.end(Role::Destination).is_some_and(|end| end.timeline.resumed_ns.is_some());
    ending.paused_all_along = fate::paused_all_along(live) && !resumed;
    ending.source = live.end(Role::Source).map(|end| end_ending(live, Role::Source, end, rested));
    ending.destination =
        live.end(Role::Destination).map(|end| end_ending(live, Role::Destination, end, rested));
    // Where the destination's functions are probed, they tell: what its vCPU threads do for QEMU is not the guest.
    let refuted = live
        .end(Role::Destination)
        .is_some_and(|end| end.timeline.is_whole && end.timeline.resumed_ns.is_none());
    ending.handed_over = !refuted
        && guest::measure(live, now_ns).is_some_and(|measured| {
            measured.method == Method::VcpuScheduling && measured.instants.length().is_some()
        });
    ending.errors = live
        .flows()
        .filter(|flow| flow.reading.last_error != 0)
        .map(|flow| errno_name(flow.reading.last_error))
        .chain(live.flows().flat_map(failed_completions))
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    ending
}

/// Statuses of failed completions, but for work that was flushed because something else had failed.
fn failed_completions(flow: &StreamFlow) -> Vec<String> {
    let errors = flow.reading.queue_pair.iter().flat_map(|qp| qp.errors.iter().enumerate());
    errors
        .filter(|(status, count)| **count > 0 && *status != STATUS_FLUSHED)
        .map(|(status, _)| status_name(status).to_owned())
        .collect()
}

/// What is known of one end; `rested`: long enough ago for a running guest to have used its CPUs.
fn end_ending(live: &LiveMigration, role: Role, end: &EndState, rested: bool) -> EndEnding {
    let exited = end.exited_ns.map(|_| exit_of(end));
    EndEnding {
        state: end.timeline.state(),
        cancel_requested: end.probes("qmp_migrate_cancel").then(|| {
            let over_ns = end.timeline.since().filter(|_| end.timeline.is_over());
            let asked_ns = end.timeline.requested(Request::MigrateCancel);
            asked_ns.is_some_and(|asked| over_ns.is_none_or(|over| asked <= over))
        }),
        guest_resumed: match role {
            Role::Source => end.timeline.ran_on().is_some(),
            Role::Destination => end.timeline.resumed_ns.is_some(),
        },
        is_whole: end.timeline.is_whole,
        ran_after: vcpu_time_after_end(end).filter(|_| rested),
        died: exited.clone().filter(|_| exited_early(live, role, end)),
        exited,
        error: end.timeline.error.clone(),
        exit_code: dump::exit_code(live, end),
    }
}

/// Whether a hypervisor exited before its part was done; other migrators end by exiting.
fn exited_early(live: &LiveMigration, role: Role, end: &EndState) -> bool {
    let Some(exited_ns) = end.exited_ns else { return false };
    if live.migrator != "qemu" && live.migrator != "cloud-hypervisor" {
        return false;
    }
    if end.timeline.state().is_some() {
        let moved = end.timeline.resumed_ns.is_some() && !fate::is_postcopy(live);
        let done = end.timeline.is_over()
            && (role == Role::Source
                || moved
                || end.timeline.left_standing_ns.is_none()
                || fate::paused_all_along(live));
        return !(done || (moved && role == Role::Destination));
    }
    end.flows.values().any(|flow| {
        let ended = [flow.reading.shut_ns(), flow.reading.closed_ns()].into_iter().flatten().min();
        // exit_files() closes the sockets right after sched_process_exit.
        ended.is_none_or(|ended| ended >= exited_ns)
    })
}

/// Who ended and how.
fn exit_of(end: &EndState) -> String {
    let how = exit_text(end.exit_code);
    format!("{} (pid {}) {how}", end.facts.comm, end.facts.pid)
}

/// How a process ended, from its exit code as `wait(2)` gives it.
fn exit_text(code: u32) -> String {
    match (code & 0x7f, code >> 8 & 0xff) {
        (0, status) => format!("exited with status {status}"),
        (signal, _) => format!("was killed by signal {signal}"),
    }
}

/// CPU time of an end's guest CPUs since the last close, seconds; `None` when none was recognised.
fn vcpu_time_after_end(end: &EndState) -> Option<f64> {
    let times: Vec<u64> = end
        .threads
        .values()
        .filter(|thread| thread.role == ThreadRole::Vcpu)
        .filter_map(|thread| {
            Some(thread.reading.now.on_cpu_ns.saturating_sub(thread.at_end.as_ref()?.now.on_cpu_ns))
        })
        .collect();
    (!times.is_empty()).then(|| times.iter().sum::<u64>() as f64 / 1e9)
}
