//! Decides why a second is slow: a visible fault, or a rate far below the usual one.

use super::{
    inputs::{Destination, Second, Thread},
    split::{Split, has_unread},
};
use crate::model::verdict::{Cause, Fractions};

/// Below this part of the reference a migration is slow.
pub(super) const SLOW: f64 = 0.5;
/// A cause with more than this share holds the migration back.
pub(super) const HELD: f64 = 0.5;
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

/// A receiver without CPU that has not read what came in so many seconds is behind.
const BACKLOG: f64 = 0.25;

/// All that explain a low rate.
const EXPLAINS: [Cause; 6] = [
    Cause::Network,
    Cause::Receiver,
    Cause::SourceCpu,
    Cause::Registration,
    Cause::Throttled,
    Cause::Application,
];

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
    pub(super) const fn cause(self) -> Option<Cause> {
        match self {
            Self::Held(cause) => Some(cause),
            Self::Lossy => Some(Cause::Network),
            Self::Rate(cause) => cause,
        }
    }
}

/// Why this second is slow; `None` when it is not.
///
/// The migrator's own limit is no fault: at it a migration is as fast as it was told to be. It explains a rate that fell.
pub(super) fn why_slow(
    second: &Second,
    rate: f64,
    usual: Option<f64>,
    split: Option<&Split>,
) -> Option<Slow> {
    let below = |part: f64| usual.is_some_and(|usual| rate < part * usual);
    let takes_most = |cause: Cause| split.is_some_and(|split| split.fractions[cause] > HELD);
    if takes_most(Cause::Receiver) && below(USUAL) {
        return Some(Slow::Held(Cause::Receiver));
    }
    let fault = fault(second, rate, usual, split);
    if fault.is_some() {
        return fault;
    }
    // A thread that works and delivers little skips zero pages, compresses or encrypts: nothing holds it back.
    let main_works =
        takes_most(Cause::Application) && split.is_some_and(|split| split.main_on_cpu > HELD);
    if takes_most(Cause::Sending) || main_works {
        return None;
    }
    let fractions = split.map(|split| &split.fractions);
    below(SLOW).then(|| Slow::Rate(explanation(second, fractions)))
}

/// The fault that is seen in this second, whatever the migration's past: it needs no reference and must not become one.
pub(super) fn fault(
    second: &Second,
    rate: f64,
    usual: Option<f64>,
    split: Option<&Split>,
) -> Option<Slow> {
    let destination = second.destination.as_ref();
    let Some(split) = split else {
        let behind = |here: &Destination| {
            here.stopped || (has_unread(here) && has_no_cpu(here, second.seconds))
        };
        return destination.is_some_and(behind).then_some(Slow::Held(Cause::Receiver));
    };
    let takes_most = |cause: Cause| split.fractions[cause] > HELD;
    let faster = usual.is_some_and(|usual| rate >= FASTER * usual);
    let behind = |here: &Destination| {
        here.stopped || has_no_cpu(here, second.seconds) || (is_idle(here, second) && !faster)
    };
    if falls_behind(second, rate)
        || (takes_most(Cause::Receiver) && destination.is_some_and(behind))
    {
        return Some(Slow::Held(Cause::Receiver));
    }
    let quota = second.source.as_ref().and_then(|source| source.quota_throttled_seconds);
    let used_up = quota.is_some_and(|quota| quota >= HELD * second.seconds);
    let waits = split.fractions[Cause::SourceCpu];
    if waits > HELD || (used_up && waits > HELD_BY_QUOTA) {
        return Some(Slow::Held(Cause::SourceCpu));
    }
    let recovers = split.recovering > RECOVERING && split.sent_again > 0.0;
    let lossy = split.sent_again > SENT_AGAIN || (recovers && !takes_most(Cause::Sending));
    lossy.then_some(Slow::Lossy)
}

/// A reading thread wants a CPU for most of the time and has none, or the CPU quota of its cgroup is used up.
fn has_no_cpu(destination: &Destination, seconds: f64) -> bool {
    let starved = |thread: &Thread| thread.cpu_wait_seconds() > HELD * seconds;
    destination.threads.iter().any(starved)
        || destination.quota_throttled_seconds.is_some_and(|quota| quota >= HELD * seconds)
}

/// The receiver has no CPU, and what it has not read would take long to come again: its buffers hide that from the sender until they are full,
/// and the switch-over waits for all of it.
fn falls_behind(second: &Second, rate: f64) -> bool {
    let here = second.destination.as_ref();
    let backlog = |here: &Destination| here.unread_bytes.unwrap_or_default() as f64;
    here.is_some_and(|here| {
        has_unread(here) && backlog(here) >= BACKLOG * rate && has_no_cpu(here, second.seconds)
    })
}

/// Its threads together neither work nor want a CPU for most of the time.
fn is_idle(destination: &Destination, second: &Second) -> bool {
    let active = |thread: &Thread| thread.on_cpu_seconds + thread.cpu_wait_seconds();
    !destination.threads.is_empty()
        && destination.threads.iter().map(active).sum::<f64>() < HELD * second.seconds
}

/// The receiving end has something to read, or would have, and does not read.
pub(super) fn does_not_read(destination: &Destination) -> bool {
    destination.stopped || has_unread(destination)
}

/// What explains that little is delivered. Of a destination alone only the receiver can be told.
pub(super) fn explanation(second: &Second, fractions: Option<&Fractions>) -> Option<Cause> {
    fractions.map(|fractions| fractions.dominant_of(&EXPLAINS)).or_else(|| {
        second.destination.as_ref().is_some_and(does_not_read).then_some(Cause::Receiver)
    })
}
