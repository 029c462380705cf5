//! What holds a migration back from its first second on, and what shares its path.

use super::{super::inputs::Neighbour, *};

/// The handshake was answered, and no data have been since.
fn unanswered(seconds_busy: f64) -> Second {
    let mut second = plain(0, 0.0, seconds_busy).streams(|stream| {
        stream.delivered_total = 0;
        stream.retransmitted_total = 3;
        stream.sent_segments = 2;
        stream.in_flight_bytes = 600_000;
    });
    second.delivered_total = 0;
    second
}

#[test]
fn a_path_that_swallows_large_packets_is_a_stall_from_the_start() {
    let mut judge = Judge::new();
    assert_eq!(judge.judge(&unanswered(0.3)).state, Health::Healthy);
    let (seconds, verdict) = until(&mut judge, &unanswered(1.0), Health::Stalled);
    assert_eq!((seconds, verdict.cause), (2, Some(Cause::Network)));
    assert!(verdict.sentence.contains("large packets do not arrive"), "{}", verdict.sentence);
    assert!(verdict.sentence.contains("none of 1448 B"), "{}", verdict.sentence);
}

#[test]
fn small_packets_that_arrive_do_not_hide_it() {
    let mut second = unanswered(1.0).streams(|stream| stream.delivered_total = 312);
    second.delivered_bytes = 312;
    second.delivered_total = 312;
    let (_, verdict) = until(&mut Judge::new(), &second, Health::Stalled);
    assert!(verdict.sentence.contains("large packets do not arrive"), "{}", verdict.sentence);
}

#[test]
fn large_packets_are_blamed_with_evidence_only() {
    // Some were delivered: the path was cut later.
    let cut = unanswered(1.0).streams(|stream| stream.delivered_total = 40_000);
    // Nothing large waits: a migrator that has little to say.
    let small = unanswered(1.0).streams(|stream| stream.in_flight_bytes = 100);
    // Nothing was sent again: it may only be slow.
    let slow = unanswered(1.0).streams(|stream| stream.retransmitted_total = 0);
    for second in [cut, small, slow] {
        let (_, verdict) = until(&mut Judge::new(), &second, Health::Stalled);
        assert_eq!(verdict.cause, Some(Cause::Network));
        assert!(!verdict.sentence.contains("large packets"), "{}", verdict.sentence);
    }
}

/// 8 MB/s with the window closed most of the time.
fn behind(change: impl FnOnce(&mut Destination)) -> Second {
    let mut second = plain(8 * MB, 0.02, 0.95).streams(|stream| stream.rwnd_limited_seconds = 0.9);
    let mut here = destination(0.02, 5 * MB);
    change(&mut here);
    second.destination = Some(here);
    second
}

#[test]
fn a_receiver_without_cpu_time_from_the_start_is_slow_and_no_norm() {
    for second in [
        behind(|here| here.quota_throttled_seconds = Some(0.97)),
        behind(|here| here.threads[0].run_queue_wait_seconds = 0.9),
        behind(|_| ()),
    ] {
        let mut judge = Judge::new();
        let (seconds, verdict) = until(&mut judge, &second, Health::Slow);
        assert_eq!((seconds, verdict.cause), (2, Some(Cause::Receiver)));
        for _ in 0..60 {
            let verdict = judge.judge(&second);
            assert_eq!((verdict.state, verdict.cause), (Health::Slow, Some(Cause::Receiver)));
            assert!(!verdict.sentence.contains("usual"), "{}", verdict.sentence);
        }
        // Relieved, it shows what it can do, and that is the norm from then on.
        judge.judge(&clean());
        let relieved = judge.judge(&clean());
        assert_eq!(relieved.state, Health::Healthy);
        let (_, verdict) = until(&mut judge, &second, Health::Slow);
        assert!(verdict.sentence.contains("of the usual 100.0 MB/s"), "{}", verdict.sentence);
    }
}

/// Its buffers take what it does not read, and the path is the limit until they are full.
#[test]
fn a_receiver_without_cpu_time_is_told_before_its_buffers_are_full() {
    let filling = |unread, quota| {
        let mut second = plain(48 * MB, 0.02, 0.95);
        let mut here = destination(0.02, unread);
        here.quota_throttled_seconds = Some(quota);
        second.destination = Some(here);
        second
    };
    let (seconds, verdict) = until(&mut Judge::new(), &filling(20 * MB, 0.97), Health::Slow);
    assert_eq!((seconds, verdict.cause), (2, Some(Cause::Receiver)));
    has(&verdict.sentence, &["reads more slowly", "20.0 MB", "1.0 s", "quota of pid 9"]);
    // A burst that is soon read, and a quota that is not used up.
    for healthy in [filling(MB, 0.97), filling(20 * MB, 0.2)] {
        assert_eq!(after(10, &healthy).judge(&healthy).state, Health::Healthy);
    }
}

#[test]
fn the_receivers_quota_is_named() {
    let second = behind(|here| here.quota_throttled_seconds = Some(0.97));
    let (_, verdict) = until(&mut Judge::new(), &second, Health::Slow);
    let facts =
        ["receiver", "8.0 MB/s", "95 %", "5.0 MB", "1.0 s", "quota of pid 9", "destination"];
    has(&verdict.sentence, &facts);
}

#[test]
fn a_receiver_that_works_as_fast_as_it_can_is_the_limit_and_no_fault() {
    let second = behind(|here| here.threads[0].on_cpu_seconds = 0.98);
    let mut judge = Judge::new();
    for _ in 0..30 {
        assert_eq!(judge.judge(&second).state, Health::Healthy);
    }
    // Whose threads are not measured cannot be called idle.
    let second = behind(|here| here.threads.clear());
    assert_eq!(after(10, &second).judge(&second).state, Health::Healthy);
}

#[test]
fn a_destination_alone_knows_that_it_has_no_cpu() {
    let second =
        Second { source: None, ..behind(|here| here.quota_throttled_seconds = Some(0.97)) };
    let (seconds, verdict) = until(&mut Judge::new(), &second, Health::Slow);
    assert_eq!((seconds, verdict.cause), (2, Some(Cause::Receiver)));
}

#[test]
fn a_source_without_cpu_time_or_a_lossy_path_from_the_start_is_no_norm() {
    let starved = plain(8 * MB, 0.05, 0.1).source(|s| s.threads[0] = thread(MAIN, 0.1, 0.9));
    let lossy = plain(12 * MB, 0.1, 0.9).streams(|stream| {
        stream.recovery_seconds = 0.85;
        (stream.sent_segments, stream.retransmitted_segments) = (8000, 400);
    });
    for second in [starved, lossy] {
        let mut judge = after(20, &second);
        assert!(!judge.judge(&second).sentence.contains("usual"));
        judge.judge(&clean());
        let (_, verdict) = until(&mut judge, &second, Health::Slow);
        assert!(verdict.sentence.contains("of the usual 100.0 MB/s"), "{}", verdict.sentence);
    }
}

fn beside(second: Second, others: &[(&str, u64)]) -> Second {
    let neighbour = |(name, rate): &(&str, u64)| Neighbour {
        name: (*name).to_owned(),
        bytes_per_second: *rate as f64,
    };
    Second { neighbours: others.iter().map(neighbour).collect(), ..second }
}

#[test]
fn the_migration_that_shares_its_path_is_named() {
    let mut judge = after(4, &clean());
    let shared = beside(plain(48 * MB, 0.05, 0.97), &[("db-02", 51 * MB)]);
    let (_, verdict) = until(&mut judge, &shared, Health::Slow);
    let facts =
        ["network", "48.0 MB/s", "100.0 MB/s", "94 %", "4.0 MB", "RTT 2.0 ms", "db-02 (51.0 MB/s)"];
    has(&verdict.sentence, &facts);
    // Both from the start: each is as fast as the path lets it be.
    let verdict = after(3, &shared).judge(&shared);
    assert_eq!(verdict.state, Health::Healthy);
    has(&verdict.sentence, &["network", "48.0 MB/s", "94 %", "db-02 (51.0 MB/s)"]);
}

#[test]
fn many_neighbours_are_counted_and_small_ones_left_out() {
    let shared = beside(
        plain(20 * MB, 0.05, 0.97),
        &[("a", 19 * MB), ("tiny", MB), ("b", 21 * MB), ("c", 20 * MB)],
    );
    let (_, verdict) = until(&mut after(4, &clean()), &shared, Health::Slow);
    has(&verdict.sentence, &["b (21.0 MB/s), c (20.0 MB/s), 1 more"]);
    // One that moves next to nothing explains nothing.
    let alone = beside(plain(20 * MB, 0.05, 0.97), &[("tiny", MB)]);
    let (_, verdict) = until(&mut after(4, &clean()), &alone, Health::Slow);
    has(&verdict.sentence, &["congestion"]);
    assert!(!verdict.sentence.contains("tiny"), "{}", verdict.sentence);
}
