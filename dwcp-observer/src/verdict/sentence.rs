//! Writes the verdict as one sentence: cause, figures, advice.

use super::{
    black_hole,
    converge::Convergence,
    inputs::{Destination, Second, Source, Stream, Thread},
    neighbours,
    slow::{HELD, Slow},
    split::{SATURATED, Split},
    standstill,
    streams::carriers,
};
use crate::model::{
    record::Awaited,
    verdict::{Cause, Health},
};

/// What the words are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures<'a> {
    pub(crate) second: &'a Second,
    pub(crate) split: Option<&'a Split>,
    pub(crate) state: Health,
    pub(crate) cause: Option<Cause>,
    pub(crate) slow: Option<Slow>,
    /// Bytes per second now.
    pub(crate) rate: f64,
    /// Bytes per second usually.
    pub(crate) usual: Option<f64>,
    /// For how long nothing was delivered.
    pub(crate) quiet_seconds: f64,
    /// For how long the receiving threads have not run.
    pub(crate) receiver_off_seconds: f64,
    pub(crate) rounds: &'a Convergence,
}

/// One line; begins with the cause.
pub(crate) fn sentence(figures: &Figures<'_>) -> String {
    let standing = figures.second.standing;
    let words = match figures.state {
        _ if standing.is_some_and(|guest| guest.awaits != Awaited::SwitchOver) => {
            standing.map_or_else(String::new, |guest| standstill::words(figures.second, guest))
        }
        Health::Healthy => healthy(figures),
        Health::NotConverging => not_converging(figures),
        Health::Stalled => {
            format!("nothing delivered for {:.1} s; {}", figures.quiet_seconds, held(figures))
        }
        Health::Slow => format!("{}; {}", pace(figures), held(figures)),
    };
    let held_back = match figures.second.throttle() {
        Some(percent) if figures.state != Health::NotConverging => {
            format!("; auto-converge throttles the vCPUs by {percent} %")
        }
        _ => String::new(),
    };
    match figures.cause {
        Some(cause) => format!("{}: {words}{held_back}", cause.as_str()),
        None => words + &held_back,
    }
}

fn healthy(figures: &Figures<'_>) -> String {
    let now = rate(figures.rate);
    let (Some(cause), Some(split)) = (figures.cause, figures.split) else {
        return format!("receiving {now}; the sending end is on another host");
    };
    if cause == Cause::Network {
        let sharing = neighbours::sharing(figures.second, figures.rate);
        if !sharing.is_empty() {
            let others = neighbours::words(&sharing, rate);
            return format!(
                "{now}; the path's speed is the limit {} of the time, and {others} it too",
                percent(split.fractions[cause])
            );
        }
    }
    let why = match cause {
        Cause::Sending if split.busiest.1 >= SATURATED => return saturated(figures, split),
        Cause::Sending => "its threads are busy",
        Cause::Network => "the path's speed is the limit",
        Cause::Receiver => "the receiver's window limits it",
        Cause::SourceCpu => "its threads wait for a CPU",
        Cause::Registration => "it registers memory with the RDMA device",
        Cause::Throttled => "max-bandwidth limits it, and it waits",
        Cause::Manager => "it waits for the manager",
        Cause::Application if split.main_on_cpu >= SATURATED => {
            "the sending threads wait for the migrator's main thread, which is always on a CPU,"
        }
        Cause::Application | Cause::GuestDirtying => "it has nothing to send",
    };
    format!("{now}; {why} {} of the time", percent(split.fractions[cause]))
}

/// A thread that is always on a CPU is the limit.
fn saturated(figures: &Figures<'_>, split: &Split) -> String {
    let streams =
        figures.second.source.as_ref().map_or(0, |source| carriers(&source.streams).len());
    let (tid, share) = split.busiest;
    let advice = if streams > 1 {
        format!("use more than {streams} channels, or faster CPUs")
    } else {
        "use multifd channels to spread its work over several CPUs".to_owned()
    };
    format!(
        "{}; the sending thread (tid {tid}) is on a CPU {} of the time and is the limit: {advice}",
        rate(figures.rate),
        percent(share)
    )
}

fn not_converging(figures: &Figures<'_>) -> String {
    let sent = rate(figures.rate);
    let rounds = if figures.rounds.last_bytes.is_empty() {
        format!(
            "{} sent, more than twice the guest's memory of {}",
            bytes(figures.second.delivered_total),
            bytes(figures.second.guest_memory_bytes.unwrap_or_default())
        )
    } else {
        let last: Vec<String> =
            figures.rounds.last_bytes.iter().map(|round| bytes(*round)).collect();
        format!("the last iterations do not shrink ({})", last.join(", "))
    };
    let mut dirties = figures.rounds.dirty_rate.map_or_else(
        || "the guest dirties memory as fast as it is sent".to_owned(),
        |dirty| {
            let least = if figures.rounds.dirty_rate_reported { "" } else { "at least " };
            format!("the guest dirties {least}{}", rate(dirty))
        },
    );
    let throttle = figures.second.throttle();
    if let Some(percent) = throttle {
        dirties = format!("auto-converge throttles the vCPUs by {percent} %, and still {dirties}");
    }
    let words = format!("{dirties}, the migration sends {sent}; {rounds}");
    if figures.cause == Some(Cause::GuestDirtying) {
        let limit = figures.split.filter(|split| split.fractions[Cause::Throttled] > 0.5);
        let bandwidth = if limit.is_some() {
            "raise its own bandwidth limit"
        } else {
            "give it more bandwidth"
        };
        // What has been tried is no advice.
        let slow_down = if throttle.is_some() { "" } else { "slow the guest (auto-converge), " };
        format!("{words}: {slow_down}switch to postcopy, or {bandwidth}")
    } else {
        format!("{words}; {}; {}", pace(figures), held(figures))
    }
}

/// Now and usually.
fn pace(figures: &Figures<'_>) -> String {
    match figures.usual {
        Some(usual) if figures.rate < 0.9 * usual => {
            format!("{} of the usual {}", rate(figures.rate), rate(usual))
        }
        _ => rate(figures.rate),
    }
}

/// What holds it back, and what to do.
fn held(figures: &Figures<'_>) -> String {
    let share = match (figures.cause, figures.split) {
        (Some(cause), Some(split)) => percent(split.fractions[cause]),
        _ => String::new(),
    };
    let source = figures.second.source.as_ref();
    let pid = source.map_or(0, |source| source.pid);
    match (figures.cause, source) {
        (Some(Cause::Network), Some(source)) => network(figures, source, &share),
        (Some(Cause::Receiver), _) => receiver(figures, &share),
        (Some(Cause::SourceCpu), Some(source)) => source_cpu(source, &share),
        (Some(Cause::Registration), Some(_)) => format!(
            "it registers memory with the RDMA device {share} of the time: set `rdma-pin-all` to do this during setup"
        ),
        (Some(Cause::Throttled), Some(_)) => format!(
            "its own bandwidth limit limits it {share} of the time: raise max-bandwidth of pid {pid}"
        ),
        (Some(_), Some(_)) => format!(
            "the migrator has nothing to send {share} of the time and its main thread does not run: check pid {pid}"
        ),
        _ => "no received data waits here: check the sending end and the path".to_owned(),
    }
}

fn network(figures: &Figures<'_>, source: &Source, share: &str) -> String {
    let outstanding: u64 =
        source.streams.iter().fold(0, |sum, stream| sum.saturating_add(stream.in_flight_bytes));
    let rtt = worst_rtt(&source.streams).map_or_else(String::new, |stream| {
        let ms = |seconds: Option<f64>| seconds.unwrap_or(0.0) * 1e3;
        format!(
            ", RTT {:.1} ms (lowest {:.1} ms)",
            ms(stream.srtt_seconds),
            ms(stream.min_rtt_seconds)
        )
    });
    let (lost, recovering) =
        figures.split.map_or((0.0, 0.0), |split| (split.sent_again, split.recovering));
    let on_path = format!(
        "data is in flight {share} of the time, {} unacknowledged{rtt}",
        bytes(outstanding)
    );
    if figures.state == Health::Stalled && black_hole::swallows_large_packets(source) {
        return large_packets(source, &on_path);
    }
    let sharing = neighbours::sharing(figures.second, figures.rate);
    if !sharing.is_empty() && figures.state != Health::Stalled {
        let others = neighbours::words(&sharing, rate);
        return format!(
            "{on_path}: {others} the same path; run them one after the other to give each the full speed"
        );
    }
    if figures.slow == Some(Slow::Lossy) || recovering > 0.5 {
        format!(
            "{} of segments retransmitted, {} of the time in loss recovery, {on_path}: check the path for packet loss",
            fine_percent(lost),
            percent(recovering)
        )
    } else {
        format!("{on_path}: check the path for a bandwidth limit or congestion")
    }
}

/// Small packets pass, large ones do not.
fn large_packets(source: &Source, on_path: &str) -> String {
    let full = source.streams.iter().map(|stream| stream.segment_bytes).max().unwrap_or(0);
    let again: u64 =
        source.streams.iter().fold(0, |sum, stream| sum.saturating_add(stream.retransmitted_total));
    format!(
        "large packets do not arrive: the peer answers small ones, but none of {full} B ({again} retransmitted); {on_path}: check the path for an MTU below that of both ends (`tracepath`, `ping -M do -s {full}`)"
    )
}

fn worst_rtt(streams: &[Stream]) -> Option<&Stream> {
    let srtt = |stream: &Stream| stream.srtt_seconds.unwrap_or(0.0);
    streams
        .iter()
        .filter(|stream| stream.srtt_seconds.is_some())
        .max_by(|left, right| srtt(left).total_cmp(&srtt(right)))
}

fn receiver(figures: &Figures<'_>, share: &str) -> String {
    let Some(destination) = &figures.second.destination else {
        let window = figures.second.source.as_ref().map_or(0, |source| {
            source.streams.iter().map(|stream| stream.peer_window_bytes).max().unwrap_or(0)
        });
        return format!(
            "the receiver's window (now {}) limits it {share} of the time: check the migrator and its CPU on the destination",
            bytes(window)
        );
    };
    let unread = destination
        .unread_bytes
        .map_or_else(String::new, |unread| format!("; {} are unread", bytes(unread)));
    let held = figures.split.is_none_or(|split| split.fractions[Cause::Receiver] > HELD);
    let pace = if held {
        format!("its window limits the sender {share} of the time")
    } else {
        "it reads more slowly than data arrive".to_owned()
    };
    let pid = destination.pid;
    let off = figures.receiver_off_seconds;
    let seconds = figures.second.seconds;
    if destination.stopped {
        return format!(
            "the destination's reading thread has not run for {off:.1} s (process stopped){unread}: continue pid {pid} on the destination"
        );
    }
    if off > 0.0 {
        return format!(
            "the destination's reading thread has not run for {off:.1} s{unread}: check pid {pid} on the destination"
        );
    }
    if let Some(quota) = destination.quota_throttled_seconds.filter(|quota| *quota >= 0.5 * seconds)
    {
        return format!(
            "{pace}{unread}; the CPU quota of its cgroup was used up for {quota:.1} s: raise the quota of pid {pid} on the destination"
        );
    }
    let wait = most(destination, Thread::cpu_wait_seconds);
    let on_cpu = most(destination, |thread| thread.on_cpu_seconds);
    if let Some((tid, wait)) = wait.filter(|(_, wait)| *wait > 0.5 * seconds) {
        format!(
            "the destination's reading thread (tid {tid}) waits for a CPU {} of the time{unread}: free CPUs for pid {pid} on the destination",
            percent(wait / seconds)
        )
    } else if let Some((tid, on_cpu)) = on_cpu.filter(|(_, on)| *on >= SATURATED * seconds) {
        format!(
            "the destination's reading thread (tid {tid}) is on a CPU {} of the time and is the limit{unread}: use more multifd channels to spread its work",
            percent(on_cpu / seconds)
        )
    } else {
        format!("{pace}{unread}: check what pid {pid} on the destination waits for")
    }
}

/// The thread with the most of something.
fn most(destination: &Destination, time: impl Fn(&Thread) -> f64) -> Option<(u32, f64)> {
    destination
        .threads
        .iter()
        .map(|thread| (thread.tid, time(thread)))
        .max_by(|left, right| left.1.total_cmp(&right.1))
}

fn source_cpu(source: &Source, share: &str) -> String {
    let pid = source.pid;
    match source.quota_throttled_seconds {
        Some(quota) if quota > 0.1 => format!(
            "the sending threads wait for a CPU {share} of the time, the CPU quota of their cgroup was used up for {quota:.1} s: raise the quota of pid {pid}"
        ),
        _ => format!(
            "the sending threads wait for a CPU {share} of the time: free CPUs on the source for pid {pid}"
        ),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn fine_percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn rate(bytes_per_second: f64) -> String {
    format!("{}/s", amount(bytes_per_second))
}

fn bytes(bytes: u64) -> String {
    amount(bytes as f64)
}

/// Decimal units.
fn amount(bytes: f64) -> String {
    let units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    units.into_iter().find(|(unit, _)| bytes >= *unit).map_or_else(
        || format!("{bytes:.0} B"),
        |(unit, name)| format!("{:.1} {name}", bytes / unit),
    )
}
