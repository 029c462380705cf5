//! Answers what the registry asks, from the kernel side and from `/proc`.

use crate::{
    identify::rules::may_be_qemu,
    keeper::{Kernel, ProcessReading},
    migration::questions::{Answers, Hindrances, Questions, Surroundings},
    model::{
        facts::{ProcessId, Unread},
        quantiles::quantiles,
    },
    netdev, process,
    process::CommandLines,
};

/// Adds the answers.
pub(super) fn answer(
    kernel: &mut Kernel,
    lines: &mut CommandLines,
    ask: Questions,
    answers: &mut Answers,
) {
    for reading in ask.facts {
        answer_facts(kernel, lines, &reading, answers);
    }
    for reading in ask.coverage {
        answers.coverage.insert(reading.id(), kernel.probe_phases(&reading));
    }
    for process in ask.surroundings {
        answers.surroundings.insert(process, surroundings(kernel, process));
    }
    for (process, quota_files) in ask.hindrances {
        let hindrances = Hindrances {
            quota_throttled_ns: process::quota::throttled_ns(&quota_files),
            stopped: process::quota::is_stopped(process),
        };
        answers.hindrances.insert(process, hindrances);
    }
    answers.arguments.extend(ask.arguments.into_iter().map(|it| (it, arguments(lines, it))));
    let strangers = ask.strangers.into_iter();
    answers.strangers.extend(strangers.map(|pid| (pid, process::facts_now(pid, lines))));
    answers.threads.extend(ask.threads.into_iter().map(|it| (it, process::threads(it))));
    let traced = ask.traced.into_iter();
    answers
        .traced
        .extend(traced.map(|(pid, tracer)| ((pid, tracer), process::traced_name(pid, tracer))));
    answers.taps.extend(ask.taps.into_iter().map(|key| (key, kernel.tap(key))));
    let rtt = |slot| quantiles(&kernel.flow_rtt(slot)?, 1e-6);
    answers.rtts.extend(ask.rtts.into_iter().map(|key| (key, rtt(key.0))));
    let waits = |slot| quantiles(&kernel.thread_waits(slot)?, 1e-9);
    answers.waits.extend(ask.waits.into_iter().map(|slot| (slot, waits(slot))));
}

/// Facts of a new process, and the coverage of its functions: its first marks may be among the readings already.
fn answer_facts(
    kernel: &mut Kernel,
    lines: &mut CommandLines,
    reading: &ProcessReading,
    answers: &mut Answers,
) {
    let facts = process::facts(reading.id(), lines);
    let may_be_qemu = facts.as_ref().is_none_or(|facts| may_be_qemu(reading.rule, facts));
    if may_be_qemu && reading.exited_ns.is_none() {
        answers.coverage.insert(reading.id(), kernel.probe_phases(reading));
    }
    answers.facts.insert(reading.id(), facts);
}

fn arguments(lines: &mut CommandLines, process: ProcessId) -> Result<Vec<String>, Unread> {
    match process::open(process) {
        Some(open) => lines.of(process, &open),
        None => Ok(Vec::new()),
    }
}

/// Watches the tap devices of a process, from now on.
fn surroundings(kernel: &mut Kernel, process: ProcessId) -> Surroundings {
    let taps = netdev::taps_of(process);
    for key in &taps {
        kernel.watch_tap(*key);
    }
    Surroundings { taps, quota_files: process::quota::files_of(process) }
}
