//! Seconds as in real migrations, and the verdicts on them.

mod awaited;
mod forecast;
mod held_back;
mod observed;
mod properties;
mod scenarios;
mod words;

use super::{
    Judge,
    inputs::{Destination, Round, Second, Source, Stream, Thread},
    split::split,
};
use crate::model::{
    record::{StreamRole, ThreadRole},
    verdict::{Cause, Fractions, Health, Verdict},
};

/// Asserts that a sentence has all these facts in it.
fn has(sentence: &str, facts: &[&str]) {
    for fact in facts {
        assert!(sentence.contains(fact), "no {fact:?} in: {sentence}");
    }
}

pub(super) const MB: u64 = 1_000_000;
const MAIN: u32 = 100;

pub(super) fn stream(role: StreamRole, tid: u32, delivered_bytes: u64, busy: f64) -> Stream {
    Stream {
        role,
        tid,
        delivered_bytes,
        delivered_total: delivered_bytes,
        queued_bytes: delivered_bytes,
        in_flight_bytes: 4 * MB,
        busy_seconds: busy,
        rwnd_limited_seconds: 0.0,
        recovery_seconds: 0.0,
        loss_seconds: 0.0,
        retransmitted_segments: 0,
        retransmitted_total: 0,
        segment_bytes: 1448,
        sent_segments: delivered_bytes / 1448,
        srtt_seconds: Some(0.002),
        min_rtt_seconds: Some(0.0001),
        peer_window_bytes: 6 * MB,
    }
}

pub(super) fn thread(tid: u32, on_cpu: f64, wait: f64) -> Thread {
    Thread {
        tid,
        role: if tid == MAIN { ThreadRole::Main } else { ThreadRole::Stream },
        on_cpu_seconds: on_cpu,
        run_queue_wait_seconds: wait,
        runnable_off_cpu_seconds: None,
    }
}

/// One thread, one stream: so many bytes, so long on a CPU, so long with data outstanding.
pub(super) fn plain(delivered_bytes: u64, on_cpu: f64, busy: f64) -> Second {
    Second {
        seconds: 1.0,
        delivered_bytes,
        delivered_total: 1000 * MB,
        source: Some(Source {
            pid: 7,
            streams: vec![stream(StreamRole::Main, MAIN, delivered_bytes, busy)],
            threads: vec![thread(MAIN, on_cpu, 0.01)],
            ..Source::default()
        }),
        ..Second::default()
    }
}

/// 100 MB/s through a link of that speed.
pub(super) fn clean() -> Second {
    plain(100 * MB, 0.12, 0.99)
}

/// Streams of so many bytes each beside an idle main channel; the main thread is on a CPU for so long.
pub(super) fn multifd(delivered: &[u64], sender_on_cpu: f64, busy: f64, main: f64) -> Second {
    let mut second = plain(0, main, 0.0);
    second.delivered_bytes = delivered.iter().sum();
    if let Some(source) = &mut second.source {
        for (tid, bytes) in (MAIN + 1..).zip(delivered) {
            source.streams.push(stream(StreamRole::Multifd, tid, *bytes, busy));
            source.threads.push(thread(tid, sender_on_cpu, 0.0));
        }
    }
    second
}

pub(super) trait Change {
    /// Changes the sending end.
    fn source(self, change: impl FnOnce(&mut Source)) -> Self;
    /// Changes all streams.
    fn streams(self, change: impl FnMut(&mut Stream)) -> Self;
}

impl Change for Second {
    fn source(mut self, change: impl FnOnce(&mut Source)) -> Self {
        change(self.source.as_mut().unwrap());
        self
    }

    fn streams(self, change: impl FnMut(&mut Stream)) -> Self {
        self.source(|source| source.streams.iter_mut().for_each(change))
    }
}

/// A judge who has seen so many seconds.
pub(super) fn after(seconds: u32, second: &Second) -> Judge {
    let mut judge = Judge::new();
    for _ in 0..seconds {
        judge.judge(second);
    }
    judge
}

/// Seconds of it until the verdict is this one.
pub(super) fn until(judge: &mut Judge, second: &Second, state: Health) -> (u32, Verdict) {
    for seconds in 1..=10 {
        let verdict = judge.judge(second);
        if verdict.state == state {
            return (seconds, verdict);
        }
    }
    panic!("never {state:?}: {:?}", judge.judge(second));
}

pub(super) fn fractions(second: &Second) -> Fractions {
    split(second, second.source.as_ref().unwrap()).fractions
}

/// Finished rounds of these sizes at 100 MB/s, the first pass first, then one that runs.
pub(super) fn rounds(sizes: &[u64], running: u64) -> Vec<Round> {
    let round = |number, bytes: u64, finished| Round {
        number,
        bytes,
        seconds: bytes as f64 / 100e6,
        finished,
        ..Round::default()
    };
    let mut rounds: Vec<Round> =
        (1..).zip(sizes).map(|(number, bytes)| round(number, *bytes, true)).collect();
    rounds.push(round(sizes.len() as u64 + 1, running, false));
    rounds
}

pub(super) fn destination(on_cpu: f64, unread: u64) -> Destination {
    Destination {
        pid: 9,
        threads: vec![thread(900, on_cpu, 0.0)],
        unread_bytes: Some(unread),
        stopped: false,
        quota_throttled_seconds: None,
        registration_seconds: None,
    }
}

pub(super) fn stopped(unread: u64) -> Destination {
    Destination { stopped: true, ..destination(0.0, unread) }
}
