//! Decides the state of a migration and its cause, second by second.
//!
//! A rate is judged against the migration's own past (`reference`), unless a fault is visible at once
//! (`slow`). A stopped guest has rules of its own (`standstill`).

use super::{
    converge::{Convergence, convergence},
    eta::{RateEstimate, eta},
    inputs::{Phase, Second, Stream},
    reference::Reference,
    sentence::{self, Figures},
    slow::{HELD, SLOW, Slow, does_not_read, explanation, fault, why_slow},
    split::{Split, is_length, split},
    standstill::{self, Waiting},
    streams::balance,
};
use crate::model::{
    record::Awaited,
    verdict::{Cause, Fractions, Health, Verdict},
};

/// Fewer bytes in a second than this are nothing: window probes, keep-alives of the migrator.
const NOTHING_BYTES: u64 = 64 << 10;
/// So is less than this part of the reference.
const NOTHING: f64 = 0.01;
/// A stall that begins within a second leaves up to this part of the usual rate in it.
const ONSET: f64 = 0.25;
/// Seconds in a row until `slow` and `stalled`.
const IN_A_ROW: u32 = 2;
/// The same when nothing is outstanding and nothing holds the migrator back: it may be at work elsewhere.
const IN_A_ROW_IDLE: u32 = 5;
/// What a switch-over may take before it counts as a stall.
const SWITCH_SECONDS: f64 = 2.0;

/// Causes from outside that hold the sending side back.
const OUTSIDE: [Cause; 4] = [Cause::Network, Cause::Receiver, Cause::SourceCpu, Cause::Throttled];

/// Seconds in a row in which nothing was delivered.
#[derive(Clone, Copy, Debug, Default)]
struct Quiet {
    /// How many.
    count: u32,
    /// Of them, those in which data or the migrator waited.
    waiting: u32,
    /// How long, seconds.
    seconds: f64,
}

/// Judges one migration, second by second. Its memory is bounded.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    reference: Reference,
    estimate: RateEstimate,
    /// Rate of the second before.
    before: Option<f64>,
    quiet: Quiet,
    /// Slow seconds in a row.
    slow: u32,
    /// The last second was called not converging.
    stuck: bool,
    /// Seconds in a row without proof of that.
    unstuck: u32,
    /// Time in the switch-over so far.
    switching_seconds: f64,
    /// Time for which the receiving threads have not run.
    receiver_off_seconds: f64,
    last: Option<Verdict>,
}

impl Judge {
    /// A judge who has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The verdict after one more second. A second without a length repeats the last verdict.
    pub fn judge(&mut self, second: &Second) -> Verdict {
        if is_length(second.seconds) {
            let verdict = self.next(second);
            self.last = Some(verdict);
        }
        self.last.clone().unwrap_or_else(|| Verdict {
            state: Health::Healthy,
            cause: None,
            sentence: "nothing measured yet".to_owned(),
            fractions: None,
            eta: None,
            balance: None,
            guest_cpu_stolen_seconds: None,
            standing: None,
            guest_throttle_percent: None,
        })
    }

    fn next(&mut self, second: &Second) -> Verdict {
        let rate = second.delivered_bytes as f64 / second.seconds;
        let usual = self.reference.rate();
        let split = second.source.as_ref().map(|source| split(second, source));
        let rounds = convergence(&second.rounds, usual);
        let waiting = second.standing.and_then(standstill::waiting);
        let switching = self.is_switching(second) || waiting.is_some();
        self.count_receiver(second);

        let not_converging = self.not_converging(second, &rounds);
        let stalled = self.stalled(second, rate, usual, split.as_ref(), switching);
        let slow = why_slow(second, rate, usual, split.as_ref()).filter(|_| !switching);
        self.slow = if slow.is_some() { self.slow + 1 } else { 0 };
        let slow = slow.filter(|_| self.slow >= IN_A_ROW);

        let state = match waiting {
            Some(Waiting { too_long, .. }) if too_long => Health::Stalled,
            Some(_) => Health::Healthy,
            None if stalled => Health::Stalled,
            None if not_converging => Health::NotConverging,
            None if slow.is_some() => Health::Slow,
            None => Health::Healthy,
        };
        let fractions = split.map(|split| {
            let again = not_converging && second.rounds.last().is_none_or(|last| last.number > 1);
            let fractions = if again { resent(split.fractions) } else { split.fractions };
            waiting.map_or(fractions, |waiting| waiting.takes_over(fractions))
        });
        let cause = match (state, slow) {
            _ if waiting.is_some() => waiting.map(|waiting| waiting.cause),
            (Health::Healthy, _) => fractions.map(|fractions| fractions.dominant()),
            (Health::Stalled, _) => explanation(second, fractions.as_ref()),
            (Health::NotConverging, Some(Slow::Rate(cause))) => cause,
            (Health::NotConverging, _) => Some(Cause::GuestDirtying),
            (Health::Slow, slow) => slow.and_then(Slow::cause),
        };
        if waiting.is_none() {
            self.learn(second, rate, split.as_ref());
        }
        let figures = Figures {
            second,
            split: split.as_ref(),
            state,
            cause,
            slow,
            rate,
            usual,
            quiet_seconds: self.quiet.seconds,
            receiver_off_seconds: self.receiver_off_seconds,
            rounds: &rounds,
        };
        let has_end = waiting.is_none() && matches!(state, Health::Healthy | Health::Slow);
        Verdict {
            state,
            cause,
            sentence: sentence::sentence(&figures),
            fractions,
            eta: eta(second, &self.estimate).filter(|_| has_end),
            balance: second.source.as_ref().and_then(|source| balance(&source.streams)),
            guest_cpu_stolen_seconds: second.guest_cpu_stolen_seconds,
            standing: second.standing,
            guest_throttle_percent: second.throttle(),
        }
    }

    fn learn(&mut self, second: &Second, rate: f64, split: Option<&Split>) {
        self.before = Some(rate);
        let copies = matches!(second.phase, None | Some(Phase::Precopy | Phase::Postcopy));
        if copies && second.delivered_total >= NOTHING_BYTES {
            self.estimate.learn(rate);
            // What a fault holds back is no reference, however long it has lasted.
            let faulty = fault(second, rate, self.reference.rate(), split).is_some();
            if second.delivered_bytes >= NOTHING_BYTES && !faulty {
                self.reference.learn(rate);
            }
        }
    }

    /// Whether the migrator is in its switch-over, and not for too long.
    fn is_switching(&mut self, second: &Second) -> bool {
        let stands = second.standing.is_some_and(|guest| guest.awaits == Awaited::SwitchOver);
        if !stands && !matches!(second.phase, Some(Phase::StopAndCopy | Phase::Completion)) {
            self.switching_seconds = 0.0;
            return false;
        }
        self.switching_seconds += second.seconds;
        self.switching_seconds <= SWITCH_SECONDS
    }

    fn count_receiver(&mut self, second: &Second) {
        let Some(destination) = &second.destination else { return };
        let ran: f64 = destination.threads.iter().map(|thread| thread.on_cpu_seconds).sum();
        let measured = destination.stopped || !destination.threads.is_empty();
        if measured && ran <= NOTHING * second.seconds {
            self.receiver_off_seconds += second.seconds;
        } else {
            self.receiver_off_seconds = 0.0;
        }
    }

    /// Stays on for one second more than the rounds say: between two rounds there is a moment without proof.
    fn not_converging(&mut self, second: &Second, rounds: &Convergence) -> bool {
        if !matches!(second.phase, None | Some(Phase::Precopy)) {
            self.stuck = false;
            return false;
        }
        let twice_sent = second.rounds.is_empty()
            && second
                .guest_memory_bytes
                .is_some_and(|memory| second.delivered_total > memory.saturating_mul(2));
        let now = rounds.stuck || twice_sent;
        self.unstuck = if now { 0 } else { self.unstuck.saturating_add(1) };
        self.stuck = now || (self.stuck && self.unstuck < IN_A_ROW);
        self.stuck
    }

    fn stalled(
        &mut self,
        second: &Second,
        rate: f64,
        usual: Option<f64>,
        split: Option<&Split>,
        switching: bool,
    ) -> bool {
        let begun = second.delivered_total >= NOTHING_BYTES || first_data_wait(second);
        // What a stopped process' kernel still takes (20 MB and more) is not delivered.
        let stopped = second.destination.as_ref().is_some_and(|destination| destination.stopped);
        let nothing = second.delivered_bytes < NOTHING_BYTES
            && usual.is_none_or(|usual| rate < NOTHING * usual);
        let quiet = stopped || nothing;
        let from_usual = |part: f64, rate: Option<f64>| {
            usual.zip(rate).is_some_and(|(usual, rate)| rate < part * usual)
        };
        let dropped = from_usual(ONSET, Some(rate)) && !from_usual(SLOW, self.before);
        let closed = second.source.as_ref().is_some_and(|source| {
            let closed =
                |stream: &Stream| stream.in_flight_bytes > 0 && stream.peer_window_bytes == 0;
            source.streams.iter().any(closed)
        });
        let onset = dropped || closed;
        if switching || !begun || !quiet {
            self.quiet = Quiet::default();
        }
        if switching || !begun || !(quiet || onset) {
            return false;
        }
        self.quiet.count += 1;
        self.quiet.waiting += u32::from(waits(second, split));
        let part = if quiet { 1.0 } else { 1.0 - (rate / usual.unwrap_or(rate)).min(1.0) };
        self.quiet.seconds += part * second.seconds;
        let at_work = split.is_some_and(|split| split.main_on_cpu.max(split.busiest.1) > HELD)
            || matches!(second.phase, Some(Phase::Setup | Phase::Postcopy));
        quiet && (self.quiet.waiting >= IN_A_ROW || (self.quiet.count >= IN_A_ROW_IDLE && !at_work))
    }
}

/// What is sent now was sent before.
fn resent(mut fractions: Fractions) -> Fractions {
    fractions[Cause::GuestDirtying] = fractions[Cause::Sending];
    fractions[Cause::Sending] = 0.0;
    fractions
}

/// The first data of a migration are on their way, and have been for most of the second: the peer's kernel would have acknowledged
/// them, whether its migrator reads or not.
fn first_data_wait(second: &Second) -> bool {
    let waits = |stream: &Stream| {
        stream.in_flight_bytes > 0
            && stream.delivered_bytes < NOTHING_BYTES
            && stream.busy_seconds > HELD * second.seconds
    };
    second.source.as_ref().is_some_and(|source| source.streams.iter().any(waits))
}

/// Whether data or the migrator wait for something.
fn waits(second: &Second, split: Option<&Split>) -> bool {
    let outstanding = second
        .source
        .as_ref()
        .is_some_and(|source| source.streams.iter().any(|stream| stream.in_flight_bytes > 0));
    let held = split.is_some_and(|split| {
        OUTSIDE.iter().map(|cause| split.fractions[*cause]).sum::<f64>() > HELD
    });
    outstanding || held || second.destination.as_ref().is_some_and(does_not_read)
}
