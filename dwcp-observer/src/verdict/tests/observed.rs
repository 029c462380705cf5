//! Seconds of real migrations and links with a fault, as measured; QEMU 7.2 through a veth pair limited to 60 MB/s, BBR, two busy
//! CPUs, if nothing else is said.

use super::*;

const RATE: u64 = 57 * MB;

fn single() -> Second {
    let mut second =
        plain(RATE, 0.02, 1.0).source(|source| source.threads[0] = thread(MAIN, 0.02, 0.11));
    second.destination = Some(destination(0.17, MB));
    second.destination.as_mut().unwrap().threads[0].run_queue_wait_seconds = 0.5;
    second
}

/// The main thread spins while it looks for a free channel.
fn four(main_on_cpu: f64, main_waits: f64) -> Second {
    multifd(&[RATE / 4; 4], 0.005, 1.0, main_on_cpu)
        .source(|source| source.threads[0] = thread(MAIN, main_on_cpu, main_waits))
}

fn expect(usual: &Second, fault: &Second, state: Health, cause: Cause) -> Verdict {
    let (seconds, verdict) = until(&mut after(4, usual), fault, state);
    assert!(seconds <= 2, "{seconds} s: {verdict:?}");
    assert_eq!(verdict.cause, Some(cause), "{verdict:?}");
    verdict
}

#[test]
fn baselines_are_healthy() {
    for second in [single(), four(0.3, 0.45), four(0.35, 0.4), four(0.97, 0.03)] {
        let mut judge = Judge::new();
        for _ in 0..10 {
            let verdict = judge.judge(&second);
            assert_eq!((verdict.state, verdict.cause), (Health::Healthy, Some(Cause::Network)));
        }
    }
}

#[test]
fn bandwidth_cut_to_2500_kb() {
    let cut = plain(2_400_000, 0.0, 1.0);
    expect(&single(), &cut, Health::Slow, Cause::Network);
    let cut = |main| multifd(&[600_000; 4], 0.0, 1.0, main);
    expect(&four(0.3, 0.45), &cut(0.3), Health::Slow, Cause::Network);
    expect(&four(0.97, 0.03), &cut(0.97), Health::Slow, Cause::Network);
}

#[test]
fn drop_of_5_percent_leaves_bbr_its_rate() {
    for (again, recovering) in [(0.035, 0.0), (0.057, 0.9)] {
        let drop = single().streams(|stream| {
            stream.retransmitted_segments = (stream.sent_segments as f64 * again) as u64;
            stream.recovery_seconds = recovering;
        });
        expect(&single(), &drop, Health::Slow, Cause::Network);
    }
}

#[test]
fn network_cut_with_and_without_retransmissions() {
    for again in [0, 2] {
        let cut = plain(0, 0.0, 1.0).streams(|stream| {
            (stream.retransmitted_segments, stream.sent_segments) = (again, again);
            stream.loss_seconds = if again > 0 { 1.0 } else { 0.0 };
        });
        expect(&single(), &cut, Health::Stalled, Cause::Network);
    }
}

/// The receiver's kernel takes 6 to 31 MB more; then its window is closed.
#[test]
fn stopped_receiver() {
    let filling = plain(RATE, 0.02, 1.0).streams(|stream| {
        stream.rwnd_limited_seconds = 0.01;
        stream.peer_window_bytes = 0;
    });
    let full = plain(0, 0.0, 1.0).streams(|stream| {
        stream.rwnd_limited_seconds = 1.0;
        stream.peer_window_bytes = 0;
    });
    let mut far = after(4, &single());
    assert_ne!(far.judge(&filling).state, Health::Stalled);
    let (seconds, verdict) = until(&mut far, &full, Health::Stalled);
    assert_eq!((seconds, verdict.cause), (1, Some(Cause::Receiver)));
    let near = Second { destination: Some(stopped(31 * MB)), ..filling };
    expect(&single(), &near, Health::Stalled, Cause::Receiver);
}

/// One channel is blocked, the others have nothing to send, the main thread sleeps.
#[test]
fn stopped_receiver_of_four_channels() {
    let far = multifd(&[0; 4], 0.0, 0.0, 0.0).source(|source| {
        source.streams.iter_mut().for_each(|stream| stream.in_flight_bytes = 0);
        let blocked = &mut source.streams[2];
        (blocked.busy_seconds, blocked.rwnd_limited_seconds) = (1.0, 1.0);
        (blocked.in_flight_bytes, blocked.peer_window_bytes) = (4 * MB, 0);
    });
    let near = Second { destination: Some(stopped(9 * MB)), ..far.clone() };
    for second in [far, near] {
        let verdict = expect(&four(0.3, 0.45), &second, Health::Stalled, Cause::Receiver);
        assert!(verdict.fractions.unwrap()[Cause::Receiver] > 0.95);
    }
}

/// 5 % of a CPU; more than half of the rate is left.
#[test]
fn cpu_quota() {
    for (rate, busy, wait) in [(33, 0.52, 0.97), (43, 0.68, 0.57)] {
        let starved = plain(rate * MB, 0.015, busy).source(|source| {
            source.threads[0] = thread(MAIN, 0.015, wait);
            source.quota_throttled_seconds = Some(1.7);
        });
        expect(&single(), &starved, Health::Slow, Cause::SourceCpu);
    }
}

/// The same where the rate hardly suffers.
#[test]
fn cpu_quota_that_takes_less_than_half() {
    let mut judge = after(4, &single());
    for (index, waits) in [0.47, 0.62, 0.42, 0.45].into_iter().enumerate() {
        let starved = plain(52 * MB, 0.02, 0.99).source(|source| {
            source.threads[0] = thread(MAIN, 0.02, waits);
            source.quota_throttled_seconds = Some(1.5);
        });
        let verdict = judge.judge(&starved);
        let slow = (Health::Slow, Some(Cause::SourceCpu));
        assert_eq!((verdict.state, verdict.cause) == slow, index > 0, "{verdict:?}");
    }
}

/// A host with much to do: no quota, and the rate is as ever.
#[test]
fn some_wait_for_a_cpu_is_healthy() {
    let busy = single().source(|source| source.threads[0] = thread(MAIN, 0.1, 0.42));
    let mut judge = after(4, &single());
    assert!((0..5).all(|_| judge.judge(&busy).state == Health::Healthy));
}

/// Whole seconds without a slice.
#[test]
fn competing_processes() {
    let starved = |bytes| {
        plain(bytes, 0.0, 0.08)
            .source(|source| source.threads[0] = thread(MAIN, 0.0, 0.99))
            .streams(|stream| stream.in_flight_bytes = 0)
    };
    expect(&single(), &starved(0), Health::Stalled, Cause::SourceCpu);
    expect(&single(), &starved(8 * MB), Health::Slow, Cause::SourceCpu);
}

/// First pass 4.1 s, then 34 MB in 0.58 s each; the onset is the end of the first pass, wherever the seconds are cut.
#[test]
fn dirty_storm() {
    for offset in 0..20 {
        let mut judge = Judge::new();
        let mut verdict = None;
        let mut now = 0.05 * f64::from(offset);
        while verdict.is_none() {
            let mut rounds = vec![];
            let mut begin = 0.0;
            for number in 1.. {
                let seconds: f64 = if number == 1 { 4.1 } else { 0.58 };
                if begin >= now {
                    break;
                }
                let took = seconds.min(now - begin);
                rounds.push(Round {
                    number,
                    bytes: (took * 58e6) as u64,
                    seconds: took,
                    finished: took >= seconds,
                    ..Round::default()
                });
                begin += seconds;
            }
            let state = judge.judge(&Second { rounds, ..single() }).state;
            verdict = (state == Health::NotConverging).then_some(now - 4.1);
            assert!(now < 10.0);
            now += 1.0;
        }
        let late = verdict.unwrap();
        assert!((0.0..=2.8).contains(&late), "{late} s after the first pass");
    }
}

/// QEMU's last rounds, 50 ms each: what is dirty nearly fits. Some syncs come twice.
#[test]
fn a_clean_end_with_many_tiny_rounds() {
    let tail = |seconds: f64| {
        let round = |number, bytes, seconds| Round {
            number,
            bytes,
            seconds,
            finished: true,
            ..Round::default()
        };
        let mut rounds = vec![round(1, 792_102_519, 13.75), round(2, 15 * MB, 0.27)];
        while rounds.iter().skip(2).map(|round| round.seconds).sum::<f64>() < seconds {
            let number = rounds.len() as u64 + 1;
            rounds.push(if number.is_multiple_of(3) {
                round(number, 0, 0.0003)
            } else {
                round(number, 2_900_000, 0.051)
            });
        }
        Second { rounds, ..single() }
    };
    let mut judge = after(13, &single());
    for tenth in 0..30 {
        let verdict = judge.judge(&tail(0.1 * f64::from(tenth)));
        assert_eq!(verdict.state, Health::Healthy, "{verdict:?}");
    }
    // With a limit that it never meets it goes on for ever.
    assert_eq!(judge.judge(&tail(11.0)).state, Health::NotConverging);
}

/// From 60 to 5 MB/s: the sockets are empty.
#[test]
fn max_bandwidth() {
    let limit = |source: &mut Source| source.throttled_seconds = Some(0.98);
    let single_limited = plain(4_700_000, 0.0, 0.06).source(limit);
    expect(&single(), &single_limited, Health::Slow, Cause::Throttled);
    let four_limited = multifd(&[1_200_000; 4], 0.0, 0.08, 0.0).source(limit);
    expect(&four(0.3, 0.45), &four_limited, Health::Slow, Cause::Throttled);
}

/// The destination's reading threads are the limit.
#[test]
fn a_wire_without_a_limit_is_healthy() {
    for threads in [1, 3] {
        let mut judge = after(8, &single());
        for (rate, rwnd_limited) in [(100, 0.5), (300, 0.98), (200, 0.9), (180, 0.7)] {
            let mut free = plain(rate * MB, 0.1, 1.0).streams(|stream| {
                stream.rwnd_limited_seconds = rwnd_limited;
                stream.peer_window_bytes = 0;
            });
            let mut here = destination(0.0, 30 * MB);
            let on_cpu = if threads == 1 { 0.8 } else { 0.1 };
            here.threads = (900..900 + threads).map(|tid| thread(tid, on_cpu, 0.05)).collect();
            free.destination = Some(here);
            let verdict = judge.judge(&free);
            assert_eq!((verdict.state, verdict.cause), (Health::Healthy, Some(Cause::Receiver)));
        }
    }
}

/// Measured: a reader that sleeps 20 ms between reads of 256 kB.
#[test]
fn a_receiver_that_is_behind_sets_the_pace_also_between_two_closed_windows() {
    let mut second =
        plain(13_300_000, 0.003, 1.016).streams(|stream| stream.rwnd_limited_seconds = 0.51);
    second.destination = Some(destination(0.01, 3_500_000));
    let (_, verdict) = until(&mut Judge::new(), &second, Health::Slow);
    assert_eq!(verdict.cause, Some(Cause::Receiver));
    assert!(verdict.fractions.unwrap()[Cause::Receiver] > 0.95);
}

/// Measured: two namespaces joined by a veth pair without a limit, sender and receiver on a CPU each.
#[test]
fn a_virtual_link_at_full_speed_loses_segments_and_is_healthy() {
    let mut second = plain(1180 * MB, 0.957, 1.016).streams(|stream| {
        (stream.sent_segments, stream.retransmitted_segments) = (838_323, 12_083);
        stream.recovery_seconds = 0.3;
    });
    second.destination = Some(destination(0.9, 7_300_000));
    let verdict = after(8, &second).judge(&second);
    assert_eq!((verdict.state, verdict.cause), (Health::Healthy, Some(Cause::Sending)));
}

/// Measured: 20 MB go into the buffers of a stopped receiver, at a slow rate for seconds.
#[test]
fn what_a_stopped_receivers_kernel_takes_is_not_delivered() {
    let usual = plain(10 * MB, 0.02, 0.99);
    let mut halted = plain(10 * MB, 0.02, 0.99);
    halted.destination = Some(stopped(9 * MB));
    let (seconds, verdict) = until(&mut after(4, &usual), &halted, Health::Stalled);
    assert_eq!((seconds, verdict.cause), (2, Some(Cause::Receiver)));
}
