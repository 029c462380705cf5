//! From one second to the next: one word and its cause.
//!
//! A rate is good or bad only beside the migration's own past, so the [`Judge`] keeps a reference: the 80th percentile of its
//! rates. The first ten seconds count as they are; after that a second counts only if it reached half of the reference, so that
//! a long fault does not become the norm.

use std::collections::VecDeque;

use super::{
    Cause, Fractions, Health, Verdict,
    converge::{Convergence, convergence},
    eta::{RateEstimate, eta},
    inputs::{Destination, Phase, Second, Stream, Thread},
    sentence::{self, Figures},
    split::{Split, has_unread, is_length, split},
    streams::balance,
};

/// Fewer bytes in a second than this are nothing: window probes, keep-alives of the migrator.
const NOTHING_BYTES: u64 = 64 << 10;
/// So is less than this part of the reference.
const NOTHING: f64 = 0.01;
/// A stall that begins within a second leaves up to this part of the usual rate in it.
const ONSET: f64 = 0.25;
/// Below this part of the reference a migration is slow.
const SLOW: f64 = 0.5;
/// A cause with more than this share holds the migration back.
const HELD: f64 = 0.5;
/// More than this share of time in fast recovery or loss is a lossy path, ...
const RECOVERING: f64 = 0.1;
/// ... unless its threads work most of the time: a virtual link without a limit loses up to 1.5 % and is at its best. More than
/// this share of segments sent again is a lossy path in any case, though BBR hardly slows down for it.
const SENT_AGAIN: f64 = 0.02;
/// Below this part of the reference a receiver that works is slower than it could be, ...
const USUAL: f64 = 0.8;
/// ... and above this one even a receiver that seems idle is faster than ever.
const FASTER: f64 = 1.25;
/// With the CPU quota used up for half of the time, this share without a CPU is enough.
const HELD_BY_QUOTA: f64 = 1.0 / 3.0;
/// Seconds in a row until `slow` and `stalled`.
const IN_A_ROW: u32 = 2;
/// The same when nothing is outstanding and nothing holds the migrator back: it may be at work elsewhere.
const IN_A_ROW_IDLE: u32 = 5;
/// What a switch-over may take before it counts as a stall.
const SWITCH_SECONDS: f64 = 2.0;

/// Causes from outside that hold the sending side back.
const OUTSIDE: [Cause; 4] = [Cause::Network, Cause::Receiver, Cause::SourceCpu, Cause::Throttled];
/// All that explain a low rate.
const EXPLAINS: [Cause; 6] = [
    Cause::Network,
    Cause::Receiver,
    Cause::SourceCpu,
    Cause::Registration,
    Cause::Throttled,
    Cause::Application,
];

/// Usual rate of a migration.
#[derive(Clone, Debug, Default)]
struct Reference {
    rates: VecDeque<f64>,
    learned: usize,
}

impl Reference {
    const AT_ONCE: usize = 10;
    const KEPT: usize = 32;

    fn rate(&self) -> Option<f64> {
        let mut rates: Vec<f64> = self.rates.iter().copied().collect();
        rates.sort_by(f64::total_cmp);
        // Nearest rank.
        rates.get((rates.len() * 4).div_ceil(5).checked_sub(1)?).copied()
    }

    fn learn(&mut self, rate: f64) {
        let usual = self.rate().unwrap_or(0.0);
        if self.learned >= Self::AT_ONCE && rate < SLOW * usual {
            return;
        }
        self.learned += 1;
        if self.rates.len() == Self::KEPT {
            self.rates.pop_front();
        }
        self.rates.push_back(rate);
    }
}

/// Why a second is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slow {
    /// One cause takes most of the time.
    Held(Cause),
    /// The path loses packets.
    Lossy,
    /// The rate is low, and this explains it.
    Rate(Option<Cause>),
}

impl Slow {
    const fn cause(self) -> Option<Cause> {
        match self {
            Self::Held(cause) => Some(cause),
            Self::Lossy => Some(Cause::Network),
            Self::Rate(cause) => cause,
        }
    }
}

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
        })
    }

    fn next(&mut self, second: &Second) -> Verdict {
        let rate = second.delivered_bytes as f64 / second.seconds;
        let usual = self.reference.rate();
        let split = second.source.as_ref().map(|source| split(second, source));
        let rounds = convergence(&second.rounds, usual);
        let switching = self.is_switching(second);
        self.count_receiver(second);

        let not_converging = self.not_converging(second, &rounds);
        let stalled = self.stalled(second, rate, usual, split.as_ref(), switching);
        let slow = why_slow(second, rate, usual, split.as_ref()).filter(|_| !switching);
        self.slow = if slow.is_some() { self.slow + 1 } else { 0 };
        let slow = slow.filter(|_| self.slow >= IN_A_ROW);

        let state = if stalled {
            Health::Stalled
        } else if not_converging {
            Health::NotConverging
        } else if slow.is_some() {
            Health::Slow
        } else {
            Health::Healthy
        };
        let fractions = split.map(|split| {
            let again = not_converging && second.rounds.last().is_none_or(|last| last.number > 1);
            if again { resent(split.fractions) } else { split.fractions }
        });
        let cause = match (state, slow) {
            (Health::Healthy, _) => fractions.map(|fractions| fractions.dominant()),
            (Health::Stalled, _) => explanation(second, fractions.as_ref()),
            (Health::NotConverging, Some(Slow::Rate(cause))) => cause,
            (Health::NotConverging, _) => Some(Cause::GuestDirtying),
            (Health::Slow, slow) => slow.and_then(Slow::cause),
        };
        self.learn(second, rate);
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
        Verdict {
            state,
            cause,
            sentence: sentence::sentence(&figures),
            fractions,
            eta: eta(second, &self.estimate)
                .filter(|_| matches!(state, Health::Healthy | Health::Slow)),
            balance: second.source.as_ref().and_then(|source| balance(&source.streams)),
            guest_cpu_stolen_seconds: second.guest_cpu_stolen_seconds,
        }
    }

    fn learn(&mut self, second: &Second, rate: f64) {
        self.before = Some(rate);
        let copies = matches!(second.phase, None | Some(Phase::Precopy | Phase::Postcopy));
        if copies && second.delivered_total >= NOTHING_BYTES {
            self.estimate.learn(rate);
            if second.delivered_bytes >= NOTHING_BYTES {
                self.reference.learn(rate);
            }
        }
    }

    /// Whether the migrator is in its switch-over, and not for too long.
    fn is_switching(&mut self, second: &Second) -> bool {
        if !matches!(second.phase, Some(Phase::StopAndCopy | Phase::Completion)) {
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
        let begun = second.delivered_total >= NOTHING_BYTES;
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

/// The receiving end has something to read, or would have, and does not read.
fn does_not_read(destination: &Destination) -> bool {
    destination.stopped || has_unread(destination)
}

/// What explains that little is delivered. Of a destination alone only the receiver can be told.
fn explanation(second: &Second, fractions: Option<&Fractions>) -> Option<Cause> {
    fractions.map(|fractions| fractions.dominant_of(&EXPLAINS)).or_else(|| {
        second.destination.as_ref().is_some_and(does_not_read).then_some(Cause::Receiver)
    })
}

/// Why this second is slow; `None` when it is not.
fn why_slow(second: &Second, rate: f64, usual: Option<f64>, split: Option<&Split>) -> Option<Slow> {
    let below = |part: f64| usual.is_some_and(|usual| rate < part * usual);
    let destination = second.destination.as_ref();
    let fractions = split.map(|split| split.fractions);
    if let Some(split) = split {
        let takes_most = |cause: Cause| split.fractions[cause] > HELD;
        let idle = destination.is_some_and(|here| here.stopped || is_idle(here, second));
        if takes_most(Cause::Receiver) && (below(USUAL) || (idle && below(FASTER))) {
            return Some(Slow::Held(Cause::Receiver));
        }
        let quota = second.source.as_ref().and_then(|source| source.quota_throttled_seconds);
        let used_up = quota.is_some_and(|quota| quota >= HELD * second.seconds);
        let waits = split.fractions[Cause::SourceCpu];
        if waits > HELD || (used_up && waits > HELD_BY_QUOTA) {
            return Some(Slow::Held(Cause::SourceCpu));
        }
        if takes_most(Cause::Throttled) {
            return Some(Slow::Held(Cause::Throttled));
        }
        let recovers = split.recovering > RECOVERING && split.sent_again > 0.0;
        if split.sent_again > SENT_AGAIN || (recovers && !takes_most(Cause::Sending)) {
            return Some(Slow::Lossy);
        }
        // A thread that works and delivers little skips zero pages, compresses or encrypts: nothing holds it back.
        let main_works = takes_most(Cause::Application) && split.main_on_cpu > HELD;
        if takes_most(Cause::Sending) || main_works {
            return None;
        }
    } else if destination.is_some_and(|here| here.stopped) {
        return Some(Slow::Held(Cause::Receiver));
    }
    below(SLOW).then(|| Slow::Rate(explanation(second, fractions.as_ref())))
}

/// Its threads together neither work nor want a CPU for most of the time.
fn is_idle(destination: &Destination, second: &Second) -> bool {
    let active = |thread: &Thread| thread.on_cpu_seconds + thread.cpu_wait_seconds();
    destination.threads.iter().map(active).sum::<f64>() < HELD * second.seconds
}
