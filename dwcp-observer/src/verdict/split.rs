//! Divides the sending side's wall time by cause.
//!
//! Each sending thread's second is divided in this order:
//!
//! 1. on a CPU: `sending`;
//! 2. runnable without a CPU: `source_cpu`;
//! 3. asleep while the main thread is in the migrator's rate limiter: `throttled`. The limiter counts what was queued, so a main
//!    thread that waits in it is ahead of the network;
//! 4. asleep while the receiving process is stopped by a signal, or its socket is limited by the receiver's window: `receiver`.
//!    If the receiver is on this host, the rule is more exact. One that reads at once does not close its window: `network`. One that
//!    is behind sets the pace also in the moments in which the window is just open: all that is outstanding is `receiver`;
//! 5. asleep while its socket has data outstanding: `network` (congestion window, recovery, RTT, send buffer);
//! 6. asleep while the main thread wants a CPU: `source_cpu`; while the main thread sleeps and another stream's socket is held up
//!    as in 4 and 5: the same, for the main thread waits there and this one for the main thread (QEMU gives every channel its
//!    part of a round before it goes on: one blocked channel stops all);
//! 7. asleep while the cgroup's CPU quota is used up: `source_cpu`;
//! 8. asleep while the receiving process registers memory with an RDMA device: `registration`;
//! 9. everything else: `application`.
//!
//! Time in which the source itself registers memory is taken off first, as `registration`.
//!
//! The shares are the mean over the sending threads: an idle multifd stream counts as much as a busy one. Chronographs and CPU
//! times are read a moment apart and are a jiffy coarse: what exceeds the time left is cut.

use super::{
    inputs::{Destination, Second, Source, Stream, Thread},
    streams::carriers,
};
use crate::model::{
    record::ThreadRole,
    verdict::{Cause, Fractions},
};

/// A receiver that has no more than this unread reads at once.
const FEW_UNREAD_BYTES: u64 = 64 << 10;
/// From this part of the busy time in which the window is closed, a receiver with more than that unread is behind. A reader that
/// sleeps between reads was measured at half.
const BEHIND: f64 = 0.25;
/// From this share of a second on a CPU a thread is saturated.
pub const SATURATED: f64 = 0.95;

/// The sending side's second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Split {
    /// Its time by cause; `guest_dirtying` is 0 here.
    pub fractions: Fractions,
    /// The sending thread that was longest on a CPU, and its share.
    pub busiest: (u32, f64),
    /// Share of the second that the main thread was on a CPU.
    pub main_on_cpu: f64,
    /// Share of the second that the streams were in fast recovery or loss, mean.
    pub recovering: f64,
    /// Of the segments sent, the share sent again.
    pub sent_again: f64,
}

/// Time to give away.
struct Wall {
    left: f64,
    shares: Fractions,
}

impl Wall {
    fn new(seconds: f64) -> Self {
        Self { left: seconds, shares: Fractions::default() }
    }

    /// Gives at most what is left; NaN and negative times are none.
    fn give(&mut self, cause: Cause, seconds: f64) {
        let given = seconds.max(0.0).min(self.left);
        self.left -= given;
        self.shares[cause] += given;
    }
}

/// Splits a second of the sending side; one without length is all `application`.
#[must_use]
pub fn split(second: &Second, source: &Source) -> Split {
    if !is_length(second.seconds) {
        let mut split = Split::default();
        split.fractions[Cause::Application] = 1.0;
        return split;
    }
    let main = source.threads.iter().find(|thread| thread.role == ThreadRole::Main);
    let carriers = carriers(&source.streams);
    let share = |seconds: f64| seconds.max(0.0).min(second.seconds) / second.seconds;
    let mut split = Split {
        main_on_cpu: main.map_or(0.0, |main| share(main.on_cpu_seconds)),
        recovering: carriers
            .iter()
            .map(|stream| share(stream.recovery_seconds.max(0.0) + stream.loss_seconds.max(0.0)))
            .sum::<f64>()
            / carriers.len().max(1) as f64,
        sent_again: sent_again(&source.streams),
        ..Split::default()
    };
    let longest = HeldUp::longest(&carriers);
    for (tid, streams) in &senders(&carriers, main) {
        let thread = source.threads.iter().find(|thread| thread.tid == *tid);
        let waits_for = main.filter(|main| main.tid != *tid);
        let shares = wall(second, source, thread, waits_for, [HeldUp::longest(streams), longest]);
        for (cause, seconds) in shares.iter() {
            split.fractions[cause] += seconds;
        }
        let on_cpu = thread.map_or(0.0, |thread| share(thread.on_cpu_seconds));
        if on_cpu > split.busiest.1 {
            split.busiest = (*tid, on_cpu);
        }
    }
    let total = split.fractions.sum();
    for cause in Cause::ALL {
        split.fractions[cause] /= total;
    }
    split
}

/// Whether a second has a length: one of more than thirty years is a clock gone wrong, and sums of such would not be finite.
pub(crate) fn is_length(seconds: f64) -> bool {
    (1e-6..1e9).contains(&seconds)
}

/// Threads and the streams they send on. A stream that has no thread yet stands for one asleep; a migrator without streams is
/// its main thread.
fn senders<'a>(carriers: &[&'a Stream], main: Option<&Thread>) -> Vec<(u32, Vec<&'a Stream>)> {
    let mut senders: Vec<(u32, Vec<&Stream>)> = Vec::new();
    for stream in carriers {
        match senders.iter_mut().find(|(tid, _)| *tid == stream.tid && *tid != 0) {
            Some((_, streams)) => streams.push(stream),
            None => senders.push((stream.tid, vec![stream])),
        }
    }
    if senders.is_empty() {
        senders.push((main.map_or(0, |main| main.tid), Vec::new()));
    }
    senders
}

/// How long a socket had data outstanding, and how much of that its receiver's window was closed.
#[derive(Clone, Copy)]
struct HeldUp {
    busy: f64,
    rwnd_limited: f64,
}

impl HeldUp {
    /// The longest of each among some streams.
    fn longest(streams: &[&Stream]) -> Self {
        let longest = |time: fn(&Stream) -> f64| {
            streams.iter().map(|stream| time(stream)).fold(0.0, f64::max)
        };
        Self {
            busy: longest(|stream| stream.busy_seconds),
            rwnd_limited: longest(|stream| stream.rwnd_limited_seconds),
        }
    }

    /// Time for which the network and the receiver held it up.
    fn by(self, destination: Option<&Destination>, seconds: f64) -> [(Cause, f64); 2] {
        let receiver = if destination.is_some_and(|here| here.stopped) {
            seconds
        } else if destination.is_some_and(|here| reads_at_once(here, seconds)) {
            0.0
        } else if self.rwnd_limited >= BEHIND * self.busy && destination.is_some_and(has_unread) {
            self.busy
        } else {
            self.rwnd_limited
        };
        [(Cause::Receiver, receiver), (Cause::Network, self.busy - receiver)]
    }
}

/// The second of one sending thread. `waits_for` is the thread that gives it work, `held_up` its own sockets and those of all.
fn wall(
    second: &Second,
    source: &Source,
    thread: Option<&Thread>,
    waits_for: Option<&Thread>,
    held_up: [HeldUp; 2],
) -> Fractions {
    let throttled = source.throttled_seconds.unwrap_or(0.0);
    let [own, all] = held_up.map(|held_up| held_up.by(second.destination.as_ref(), second.seconds));
    let mut wall = Wall::new(second.seconds);
    // Pages are pinned on the CPU of the thread that registers them: before it counts as sending.
    let registered = source.registration_seconds.unwrap_or(0.0);
    wall.give(Cause::Registration, registered);
    if let Some(thread) = thread {
        wall.give(Cause::Sending, thread.on_cpu_seconds - registered);
        wall.give(Cause::SourceCpu, thread.cpu_wait_seconds());
    }
    wall.give(Cause::Throttled, throttled);
    for (cause, seconds) in own {
        wall.give(cause, seconds);
    }
    if let Some(main) = waits_for {
        wall.give(Cause::SourceCpu, main.cpu_wait_seconds());
        let mut sleeps = second.seconds - main.on_cpu_seconds - main.cpu_wait_seconds() - throttled;
        for ((cause, all), (_, own)) in all.into_iter().zip(own) {
            let more = (all - own).min(sleeps).max(0.0);
            wall.give(cause, more);
            sleeps -= more;
        }
    }
    wall.give(Cause::SourceCpu, source.quota_throttled_seconds.unwrap_or(0.0));
    // The source asks for a registration and waits for the answer.
    let there = second.destination.as_ref().and_then(|here| here.registration_seconds);
    wall.give(Cause::Registration, there.unwrap_or(0.0));
    wall.give(Cause::Application, second.seconds);
    wall.shares
}

/// Something waits to be read.
pub(crate) fn has_unread(destination: &Destination) -> bool {
    destination.unread_bytes.is_some_and(|unread| unread > FEW_UNREAD_BYTES)
}

/// Nothing waits to be read, and no reading thread is short of CPU.
fn reads_at_once(destination: &Destination, seconds: f64) -> bool {
    destination.unread_bytes.is_some()
        && !has_unread(destination)
        && destination
            .threads
            .iter()
            .all(|thread| thread.on_cpu_seconds + thread.cpu_wait_seconds() < SATURATED * seconds)
}

/// Share of segments that were retransmissions.
fn sent_again(streams: &[Stream]) -> f64 {
    let total = |count: fn(&Stream) -> u64| streams.iter().map(|s| count(s) as f64).sum::<f64>();
    let sent = total(|stream| stream.sent_segments);
    let again = total(|stream| stream.retransmitted_segments);
    if sent > 0.0 { (again / sent).min(1.0) } else { 0.0 }
}
