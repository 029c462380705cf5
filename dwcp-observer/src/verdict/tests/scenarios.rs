//! Each fault, as it looks from inside the kernel.

use super::{super::inputs::Phase, *};

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
}

#[test]
fn a_plain_thread_is_split_by_its_socket() {
    let second = plain(100 * MB, 0.2, 0.7).streams(|stream| stream.rwnd_limited_seconds = 0.3);
    let split = fractions(&second);
    close(split[Cause::Sending], 0.2);
    close(split[Cause::SourceCpu], 0.01);
    close(split[Cause::Receiver], 0.3);
    close(split[Cause::Network], 0.4);
    close(split[Cause::Application], 0.09);
}

#[test]
fn multifd_senders_wait_for_what_the_main_thread_does() {
    let second = multifd(&[40 * MB, 0], 0.1, 0.1, 0.05).source(|source| {
        source.throttled_seconds = Some(0.6);
        source.threads[0].run_queue_wait_seconds = 0.15;
    });
    let split = fractions(&second);
    close(split[Cause::Sending], 0.1);
    close(split[Cause::Throttled], 0.6);
    close(split[Cause::Network], 0.1);
    close(split[Cause::SourceCpu], 0.15);
    close(split[Cause::Application], 0.05);
}

#[test]
fn an_idle_stream_counts_and_an_idle_main_channel_does_not() {
    let mut second = multifd(&[100 * MB, 0, 0], 0.0, 0.0, 0.0);
    second = second.source(|source| {
        source.threads[0].run_queue_wait_seconds = 0.0;
        source.threads[1].on_cpu_seconds = 1.0;
        (source.streams[2].tid, source.streams[3].tid) = (0, 0);
    });
    let split = fractions(&second);
    close(split[Cause::Sending], 1.0 / 3.0);
    close(split[Cause::Application], 2.0 / 3.0);
}

#[test]
fn an_idle_channel_waits_for_the_blocked_one_while_the_main_thread_sleeps() {
    let second = multifd(&[MB, 0], 0.0, 0.0, 0.5).source(|source| {
        source.threads[0].run_queue_wait_seconds = 0.0;
        let blocked = &mut source.streams[1];
        (blocked.busy_seconds, blocked.rwnd_limited_seconds) = (0.8, 0.3);
    });
    // The blocked one: 0.3, 0.5, 0.2. The idle one: 0.3, 0.2 of the 0.5 that the main thread slept, 0.5.
    let split = fractions(&second);
    close(split[Cause::Receiver], 0.3);
    close(split[Cause::Network], 0.35);
    close(split[Cause::Application], 0.35);
}

#[test]
fn a_full_window_of_a_receiver_that_reads_at_once_is_the_paths() {
    let mut second = plain(100 * MB, 0.1, 0.9).streams(|stream| stream.rwnd_limited_seconds = 0.9);
    close(fractions(&second)[Cause::Receiver], 0.89);
    second.destination = Some(destination(0.2, 0));
    close(fractions(&second)[Cause::Network], 0.89);
    second.destination = Some(destination(0.97, 0));
    close(fractions(&second)[Cause::Receiver], 0.89);
}

#[test]
fn clean_runs_are_healthy() {
    for second in [
        clean(),
        plain(900 * MB, 0.98, 0.3),
        multifd(&[25 * MB; 4], 0.1, 0.9, 0.2),
        plain(100 * MB, 0.3, 0.6).streams(|stream| stream.rwnd_limited_seconds = 0.2),
    ] {
        let mut judge = Judge::new();
        for _ in 0..20 {
            assert_eq!(judge.judge(&second).state, Health::Healthy);
        }
    }
    assert_eq!(after(3, &clean()).judge(&clean()).cause, Some(Cause::Network));
}

#[test]
fn zero_pages_are_work_and_not_slow() {
    let mut judge = after(8, &clean());
    for _ in 0..5 {
        assert_eq!(judge.judge(&plain(9 * MB, 0.97, 0.5)).state, Health::Healthy);
    }
    let mut judge = after(8, &multifd(&[25 * MB; 4], 0.1, 0.9, 0.2));
    for _ in 0..5 {
        let verdict = judge.judge(&multifd(&[2 * MB; 4], 0.01, 0.1, 0.97));
        assert_eq!((verdict.state, verdict.cause), (Health::Healthy, Some(Cause::Application)));
    }
}

#[test]
fn bandwidth_cut_is_slow_by_the_network() {
    let (seconds, verdict) =
        until(&mut after(4, &clean()), &plain(3 * MB, 0.01, 1.0), Health::Slow);
    assert_eq!((seconds, verdict.cause), (2, Some(Cause::Network)));
    let cut = multifd(&[MB; 4], 0.01, 1.0, 0.01);
    let mut judge = after(4, &multifd(&[25 * MB; 4], 0.1, 0.9, 0.2));
    assert_eq!(until(&mut judge, &cut, Health::Slow).1.cause, Some(Cause::Network));
}

#[test]
fn a_long_fault_does_not_become_the_norm() {
    let mut judge = after(4, &clean());
    until(&mut judge, &plain(3 * MB, 0.01, 1.0), Health::Slow);
    for _ in 0..600 {
        assert_eq!(judge.judge(&plain(3 * MB, 0.01, 1.0)).state, Health::Slow);
    }
    assert_eq!(judge.judge(&clean()).state, Health::Healthy);
}

#[test]
fn loss_is_slow_by_the_network_even_at_half_the_rate() {
    for (on_cpu, share, recovering) in [(0.6, 0.05, 0.4), (0.6, 0.05, 0.0), (0.2, 0.005, 0.3)] {
        let lossy = plain(60 * MB, on_cpu, 0.9).streams(|stream| {
            stream.recovery_seconds = recovering;
            stream.retransmitted_segments = (stream.sent_segments as f64 * share) as u64;
        });
        let (seconds, verdict) = until(&mut after(4, &clean()), &lossy, Health::Slow);
        assert_eq!((seconds, verdict.cause), (2, Some(Cause::Network)));
    }
}

#[test]
fn a_dead_network_is_a_stall() {
    let dead = plain(0, 0.0, 1.0).streams(|stream| stream.loss_seconds = 1.0);
    let (seconds, verdict) = until(&mut after(4, &clean()), &dead, Health::Stalled);
    assert_eq!((seconds, verdict.cause), (2, Some(Cause::Network)));
    assert_eq!(verdict.eta, None);
}

#[test]
fn a_stopped_receiver_is_a_stall_from_near_and_from_far() {
    let far = plain(0, 0.0, 1.0).streams(|stream| stream.rwnd_limited_seconds = 1.01);
    let mut near = plain(0, 0.0, 0.0);
    near.destination = Some(stopped(6 * MB));
    for second in [far, near] {
        let (seconds, verdict) = until(&mut after(4, &clean()), &second, Health::Stalled);
        assert_eq!((seconds, verdict.cause), (2, Some(Cause::Receiver)));
    }
}

#[test]
fn a_stall_is_called_within_three_seconds_wherever_it_begins() {
    for part in 0..100 {
        let mut judge = after(4, &clean());
        let onset = part as f64 / 100.0;
        judge.judge(&plain(MB * part, 0.1, 1.0));
        let (seconds, _) = until(&mut judge, &plain(0, 0.0, 1.0), Health::Stalled);
        let late = 1.0 - onset + f64::from(seconds);
        assert!(late <= 2.76, "begun at {onset}, called after {late} s");
    }
}

#[test]
fn a_hiccup_of_less_than_a_second_and_a_half_is_no_stall() {
    let mut judge = after(4, &clean());
    judge.judge(&plain(30 * MB, 0.1, 1.0));
    assert_ne!(judge.judge(&plain(0, 0.0, 1.0)).state, Health::Stalled);
    assert_eq!(judge.judge(&clean()).state, Health::Healthy);
}

#[test]
fn cpu_starvation_by_neighbours_and_by_quota() {
    let neighbours = plain(20 * MB, 0.1, 0.2).source(|source| {
        source.threads[0].run_queue_wait_seconds = 0.85;
    });
    // Since Linux 6.18 a throttled thread is not on a run queue.
    let runnable = plain(8 * MB, 0.05, 0.4).source(|source| {
        source.threads[0].runnable_off_cpu_seconds = Some(0.9);
    });
    let quota = plain(8 * MB, 0.05, 0.2).source(|source| {
        source.quota_throttled_seconds = Some(1.9);
    });
    for second in [neighbours, runnable, quota] {
        let (seconds, verdict) = until(&mut after(4, &clean()), &second, Health::Slow);
        assert_eq!((seconds, verdict.cause), (2, Some(Cause::SourceCpu)));
    }
}

#[test]
fn steady_at_its_own_limit_is_healthy() {
    let limit = |seconds| move |source: &mut Source| source.throttled_seconds = Some(seconds);
    for limited in [
        plain(30 * MB, 0.05, 0.2).source(limit(0.9)),
        multifd(&[MB; 4], 0.01, 0.1, 0.01).source(limit(0.95)),
    ] {
        let mut judge = Judge::new();
        for _ in 0..30 {
            let verdict = judge.judge(&limited);
            assert_eq!((verdict.state, verdict.cause), (Health::Healthy, Some(Cause::Throttled)));
            has(&verdict.sentence, &["max-bandwidth"]);
        }
    }
}

#[test]
fn a_limit_that_was_lowered_is_slow() {
    let limited = plain(30 * MB, 0.05, 0.2).source(|source| source.throttled_seconds = Some(0.9));
    let (seconds, verdict) = until(&mut after(4, &clean()), &limited, Health::Slow);
    assert_eq!((seconds, verdict.cause), (2, Some(Cause::Throttled)));
}

#[test]
fn a_limit_below_what_the_guest_dirties_does_not_converge() {
    let storm = Second {
        rounds: rounds(&[260 * MB, 255 * MB], 25 * MB),
        ..plain(100 * MB, 0.05, 0.2).source(|source| source.throttled_seconds = Some(0.9))
    };
    let (_, verdict) = until(&mut after(4, &clean()), &storm, Health::NotConverging);
    has(&verdict.sentence, &["its own bandwidth limit"]);
}

#[test]
fn a_migrator_that_does_nothing_is_a_stall_in_the_end() {
    let idle = plain(0, 0.0, 0.0).streams(|stream| stream.in_flight_bytes = 0);
    let (seconds, verdict) = until(&mut after(4, &clean()), &idle, Health::Stalled);
    assert_eq!((seconds, verdict.cause), (5, Some(Cause::Application)));
}

#[test]
fn a_postcopy_with_nothing_to_send_is_no_stall() {
    let idle = plain(0, 0.0, 0.0).streams(|stream| stream.in_flight_bytes = 0);
    let idle = Second { phase: Some(Phase::Postcopy), ..idle };
    let mut judge = after(4, &clean());
    assert!((0..10).all(|_| judge.judge(&idle).state != Health::Stalled));
}

#[test]
fn one_stuck_channel_beside_a_spinning_main_thread_is_a_stall() {
    let stuck = multifd(&[0; 8], 0.0, 0.0, 0.97).source(|source| {
        source.streams.iter_mut().for_each(|stream| stream.in_flight_bytes = 0);
        (source.streams[3].in_flight_bytes, source.streams[3].busy_seconds) = (MB, 1.0);
    });
    let mut judge = after(4, &multifd(&[25 * MB; 8], 0.1, 0.9, 0.2));
    let (seconds, verdict) = until(&mut judge, &stuck, Health::Stalled);
    assert_eq!(seconds, 2);
    assert!(verdict.fractions.unwrap()[Cause::Network] > 0.12);
}

#[test]
fn before_the_first_data_nothing_stalls() {
    let mut judge = Judge::new();
    let mut second = plain(0, 0.0, 0.0).streams(|stream| stream.in_flight_bytes = 0);
    second.delivered_total = 300;
    for _ in 0..10 {
        assert_eq!(judge.judge(&second).state, Health::Healthy);
    }
}

#[test]
fn a_switch_over_may_take_two_seconds() {
    let mut judge = after(6, &clean());
    let mut second = plain(0, 0.0, 1.0);
    second.phase = Some(Phase::StopAndCopy);
    let states: Vec<Health> = (0..4).map(|_| judge.judge(&second).state).collect();
    assert_eq!(states[..3], [Health::Healthy; 3]);
    assert_eq!(states[3], Health::Stalled);
}

#[test]
fn a_storm_does_not_converge() {
    let with = |rounds: Vec<Round>| Second { rounds, ..clean() };
    // First pass of 260 MB, then all of it again: known once the second round has grown to that.
    let mut judge = after(4, &with(rounds(&[], 200 * MB)));
    assert_eq!(judge.judge(&with(rounds(&[260 * MB], 200 * MB))).state, Health::Healthy);
    let verdict = judge.judge(&with(rounds(&[260 * MB], 240 * MB)));
    assert_eq!((verdict.state, verdict.cause), (Health::NotConverging, Some(Cause::GuestDirtying)));
    let fractions = verdict.fractions.unwrap();
    assert_eq!((fractions[Cause::Sending], fractions[Cause::GuestDirtying] > 0.1), (0.0, true));
    assert_eq!(verdict.eta, None);
    // It stays so at the beginning of the next round, and ends when the guest calms down.
    let next = judge.judge(&with(rounds(&[260 * MB, 258 * MB], MB)));
    assert_eq!(next.state, Health::NotConverging);
    let calm = with(rounds(&[260 * MB, 258 * MB, 60 * MB], MB));
    assert_eq!(until(&mut judge, &calm, Health::Healthy).0, 2);
    // Short rounds: within 3 s.
    let sizes = [260, 30, 20, 60, 64, 62, 63].map(|size| size * MB);
    let mut judge = after(4, &with(rounds(&sizes[..3], 0)));
    assert_eq!(until(&mut judge, &with(rounds(&sizes, 0)), Health::NotConverging).0, 1);
}

#[test]
fn a_slow_network_and_not_the_guest_keeps_rounds_from_shrinking() {
    let mut slow_rounds = rounds(&[10 * MB], 0);
    slow_rounds.pop();
    for number in 2..=5 {
        slow_rounds.push(Round {
            number,
            bytes: 15 * MB,
            seconds: 5.0,
            finished: true,
            ..Round::default()
        });
    }
    let with =
        |known: usize| Second { rounds: slow_rounds[..known].to_vec(), ..plain(3 * MB, 0.01, 1.0) };
    // Two large rounds that have not shrunk are not enough while the network explains them, three are.
    let mut judge = after(6, &clean());
    judge.judge(&with(4));
    let verdict = judge.judge(&with(4));
    assert_eq!((verdict.state, verdict.cause), (Health::Slow, Some(Cause::Network)));
    let verdict = judge.judge(&with(5));
    assert_eq!((verdict.state, verdict.cause), (Health::NotConverging, Some(Cause::Network)));
    // A second sync at the same moment changes nothing.
    let twice = slow_rounds
        .iter()
        .flat_map(|round| [*round, Round { bytes: 0, seconds: 0.001, ..*round }])
        .collect();
    let twice = Second { rounds: twice, ..plain(3 * MB, 0.01, 1.0) };
    assert_eq!(after(6, &clean()).judge(&twice).state, Health::NotConverging);
    // A round that the cut has made long does not count,
    let mut cut = rounds(&[900 * MB, 200 * MB], 10 * MB);
    cut[2].seconds = 3.0;
    let cut = Second { rounds: cut, ..plain(3 * MB, 0.01, 1.0) };
    let (_, verdict) = until(&mut after(6, &clean()), &cut, Health::Slow);
    assert_eq!(verdict.cause, Some(Cause::Network));
}

#[test]
fn converging_rounds_converge() {
    let sizes = [800, 240, 80, 25, 8, 3, 3, 3, 4, 3].map(|size| size * MB);
    let mut judge = after(3, &clean());
    for known in 0..=sizes.len() {
        let second = Second { rounds: rounds(&sizes[..known], MB / 2), ..clean() };
        assert_eq!(judge.judge(&second).state, Health::Healthy);
    }
    // One round that was held up, among rounds that shrink.
    let mut held_up = rounds(&[800 * MB, 120 * MB, 80 * MB], 0);
    held_up[2].seconds = 1.3;
    let held_up = Second { rounds: held_up, ..clean() };
    assert_eq!(after(4, &clean()).judge(&held_up).state, Health::Healthy);
    // A second round of nothing but zero pages' late changes is larger than the first.
    let mut zeros = rounds(&[], 0);
    zeros[0] = Round { number: 1, bytes: 5 * MB, seconds: 2.0, finished: true, ..Round::default() };
    zeros.push(Round {
        number: 2,
        bytes: 20 * MB,
        seconds: 0.2,
        finished: true,
        ..Round::default()
    });
    let mut judge = after(2, &plain(5 * MB / 2, 0.98, 0.1));
    for _ in 0..3 {
        let second = Second { rounds: zeros.clone(), ..plain(3 * MB, 0.98, 0.1) };
        assert_eq!(judge.judge(&second).state, Health::Healthy);
    }
}

#[test]
fn without_rounds_twice_the_memory_tells() {
    let mut second = Second { guest_memory_bytes: Some(500 * MB), ..clean() };
    let mut judge = after(3, &second);
    assert_eq!(judge.judge(&second).state, Health::Healthy);
    second.delivered_total += MB;
    assert_eq!(judge.judge(&second).state, Health::NotConverging);
}

#[test]
fn of_a_destination_alone_only_the_receiver_can_be_told() {
    let alone =
        |bytes, here| Second { source: None, destination: Some(here), ..plain(bytes, 0.0, 0.0) };
    let mut judge = after(4, &alone(100 * MB, destination(0.4, 0)));
    let verdict = judge.judge(&alone(100 * MB, destination(0.4, 0)));
    assert_eq!((verdict.state, verdict.cause, verdict.fractions), (Health::Healthy, None, None));
    let verdict = until(&mut judge.clone(), &alone(3 * MB, destination(0.1, 0)), Health::Slow).1;
    assert_eq!(verdict.cause, None);
    let stuck = alone(0, destination(0.0, 6 * MB));
    let (seconds, verdict) = until(&mut judge, &stuck, Health::Stalled);
    assert_eq!((seconds, verdict.cause), (2, Some(Cause::Receiver)));
}

#[test]
fn priority_is_stalled_then_not_converging_then_slow() {
    let with = |second: Second| Second { rounds: rounds(&[260 * MB, 260 * MB], 0), ..second };
    let mut judge = after(4, &clean());
    assert_eq!(judge.judge(&with(plain(3 * MB, 0.0, 1.0))).state, Health::NotConverging);
    let slow = judge.judge(&with(plain(3 * MB, 0.0, 1.0)));
    assert_eq!((slow.state, slow.cause), (Health::NotConverging, Some(Cause::Network)));
    judge.judge(&with(plain(0, 0.0, 1.0)));
    assert_eq!(judge.judge(&with(plain(0, 0.0, 1.0))).state, Health::Stalled);
}
