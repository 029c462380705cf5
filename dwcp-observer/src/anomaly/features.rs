//! Computes the signals' samples from the measurements of a second.

use super::Kind;
use crate::{
    model::record::StreamRole,
    process::host::HostUsage,
    verdict::inputs::{Phase, Second, Source, Stream, Thread},
};

/// A second of the transfer is full from so many seconds on; shorter ones are its beginning.
const FULL_SECOND: f64 = 0.9;
/// From here on CPUs and memory count as scarce, percent (contract 2.1: `HIGH_CPU`, `HIGH_MEMORY`).
const HIGH_CPU: f64 = 80.0;
const HIGH_MEMORY: f64 = 85.0;
/// Streams that together carried less in a second say nothing of how even they are, bytes.
const LEAST_CARRIED: u64 = 1 << 20;

/// What a full second of a migration's transfer gives, at most one value of a kind. Nothing of other seconds: setup, switch-over,
/// postcopy have a course of their own.
#[must_use]
pub fn of_migration(second: &Second) -> Vec<(Kind, f64)> {
    let transfer = matches!(second.phase, None | Some(Phase::Precopy));
    if !transfer || second.seconds < FULL_SECOND {
        return Vec::new();
    }
    let threads = || {
        let source = second.source.iter().flat_map(|end| &end.threads);
        source.chain(second.destination.iter().flat_map(|end| &end.threads))
    };
    let wait: f64 = threads().map(Thread::cpu_wait_seconds).sum();
    let mut features = vec![
        (Kind::Throughput, second.delivered_bytes as f64 / second.seconds),
        (Kind::Runqueue, wait / second.seconds),
    ];
    if let Some(source) = &second.source {
        features.extend(retransmitted(source).map(|share| (Kind::Retransmit, share)));
        features.extend(rtt(source).map(|seconds| (Kind::Rtt, seconds)));
        features.extend(imbalance(source).map(|share| (Kind::StreamImbalance, share)));
    }
    features
}

/// Segments sent again, of all that were sent.
fn retransmitted(source: &Source) -> Option<f64> {
    let sum = |of: fn(&Stream) -> u64| -> u64 { source.streams.iter().map(of).sum() };
    let sent = sum(|stream| stream.sent_segments);
    (sent > 0).then(|| sum(|stream| stream.retransmitted_segments) as f64 / sent as f64)
}

/// The lowest of the streams that have sent: what the path takes. The others wait in queues of their own making.
fn rtt(source: &Source) -> Option<f64> {
    let sending = source.streams.iter().filter(|stream| stream.sent_segments > 0);
    sending.filter_map(|stream| stream.srtt_seconds).min_by(f64::total_cmp)
}

/// How far the slowest of the parallel streams is behind their mean.
fn imbalance(source: &Source) -> Option<f64> {
    let parallel = source.streams.iter().filter(|stream| stream.role == StreamRole::Multifd);
    let carried: Vec<u64> = parallel.map(|stream| stream.delivered_bytes).collect();
    let (sum, least) = (carried.iter().sum::<u64>(), carried.iter().min().copied()?);
    let mean = sum as f64 / carried.len() as f64;
    (carried.len() > 1 && sum >= LEAST_CARRIED).then(|| 1.0 - least as f64 / mean)
}

/// How far the scarcer one of CPUs and memory is beyond what counts as high: 0 not at all, 1 all of it is in use.
#[must_use]
pub fn saturation(host: HostUsage) -> Option<f64> {
    let beyond = |percent: f64, high: f64| ((percent - high) / (100.0 - high)).clamp(0.0, 1.0);
    let cpu = host.cpu_percent.map(|percent| beyond(percent, HIGH_CPU));
    let memory = host.memory_percent.map(|percent| beyond(percent, HIGH_MEMORY));
    cpu.into_iter().chain(memory).max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::record::ThreadRole;

    fn stream(delivered_bytes: u64, srtt_seconds: f64) -> Stream {
        Stream {
            role: StreamRole::Multifd,
            tid: 1,
            delivered_bytes,
            delivered_total: delivered_bytes,
            queued_bytes: delivered_bytes,
            in_flight_bytes: 0,
            busy_seconds: 0.0,
            rwnd_limited_seconds: 0.0,
            recovery_seconds: 0.0,
            loss_seconds: 0.0,
            retransmitted_segments: 1,
            retransmitted_total: 1,
            sent_segments: 100,
            segment_bytes: 1448,
            srtt_seconds: Some(srtt_seconds),
            min_rtt_seconds: None,
            peer_window_bytes: 0,
        }
    }

    fn second() -> Second {
        let thread = Thread {
            tid: 1,
            role: ThreadRole::Stream,
            on_cpu_seconds: 0.5,
            run_queue_wait_seconds: 0.25,
            runnable_off_cpu_seconds: None,
        };
        Second {
            seconds: 1.0,
            phase: Some(Phase::Precopy),
            delivered_bytes: 60_000_000,
            source: Some(Source {
                streams: vec![stream(20_000_000, 0.001), stream(40_000_000, 0.003)],
                threads: vec![thread],
                ..Source::default()
            }),
            ..Second::default()
        }
    }

    #[test]
    fn each_kind_has_its_value() {
        let features = of_migration(&second());
        let of = |kind| features.iter().find(|(other, _)| *other == kind).map(|(_, value)| *value);
        assert_eq!(of(Kind::Throughput), Some(60e6));
        assert_eq!(of(Kind::Runqueue), Some(0.25));
        assert_eq!(of(Kind::Retransmit), Some(0.01));
        assert_eq!(of(Kind::Rtt), Some(0.001));
        let imbalance = of(Kind::StreamImbalance).unwrap();
        assert!((imbalance - 1.0 / 3.0).abs() < 1e-12, "{imbalance}");
        assert_eq!(features.len(), 5);
    }

    #[test]
    fn seconds_beside_the_transfer_say_nothing() {
        let switch_over = Second { phase: Some(Phase::StopAndCopy), ..second() };
        assert_eq!(of_migration(&switch_over), []);
        assert_eq!(of_migration(&Second { seconds: 0.4, ..second() }), []);
        assert!(!of_migration(&Second { phase: None, ..second() }).is_empty());
    }

    #[test]
    fn one_stream_is_neither_even_nor_uneven() {
        let mut second = second();
        second.source.as_mut().unwrap().streams.pop();
        assert!(of_migration(&second).iter().all(|(kind, _)| *kind != Kind::StreamImbalance));
    }

    #[test]
    fn saturation_begins_where_use_is_high() {
        let host = |cpu, memory| HostUsage { cpu_percent: cpu, memory_percent: memory };
        assert_eq!(saturation(host(None, None)), None);
        assert_eq!(saturation(host(Some(80.0), Some(20.0))), Some(0.0));
        assert_eq!(saturation(host(Some(90.0), Some(85.0))), Some(0.5));
        assert_eq!(saturation(host(Some(10.0), Some(100.0))), Some(1.0));
    }
}
