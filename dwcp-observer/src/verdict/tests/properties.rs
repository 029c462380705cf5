//! What holds for any input, absurd ones included.

use proptest::{
    collection::vec,
    num::f64::ANY,
    option::of,
    prelude::{Just, Strategy, any, prop_oneof, proptest},
    prop_assert, prop_assert_eq,
};

use super::{
    super::inputs::{Neighbour, Phase},
    *,
};
use crate::model::{
    record::{Awaited, Role},
    verdict::Standing,
};

fn time() -> impl Strategy<Value = f64> {
    prop_oneof![4 => 0.0..1.02_f64, 1 => ANY]
}

fn any_stream() -> impl Strategy<Value = Stream> {
    let role =
        prop_oneof![Just(StreamRole::Main), Just(StreamRole::Multifd), Just(StreamRole::Preempt)];
    (role, 0..6_u32, any::<[u64; 4]>(), [time(), time(), time(), time()]).prop_map(
        |(role, tid, counts, [busy, rwnd, recovery, loss])| Stream {
            queued_bytes: counts[1],
            in_flight_bytes: counts[2],
            rwnd_limited_seconds: rwnd,
            recovery_seconds: recovery,
            loss_seconds: loss,
            retransmitted_segments: counts[3] >> 8,
            srtt_seconds: Some(loss),
            ..stream(role, tid, counts[0], busy)
        },
    )
}

fn any_thread() -> impl Strategy<Value = Thread> {
    let role = prop_oneof![Just(ThreadRole::Main), Just(ThreadRole::Stream)];
    (0..6_u32, role, time(), time(), of(time())).prop_map(|(tid, role, on_cpu, wait, runnable)| {
        Thread { role, runnable_off_cpu_seconds: runnable, ..thread(tid, on_cpu, wait) }
    })
}

fn any_source() -> impl Strategy<Value = Source> {
    let times = (of(time()), of(time()), of(time()));
    (vec(any_stream(), 0..5), vec(any_thread(), 0..6), times).prop_map(
        |(streams, threads, (throttled, quota, registration))| Source {
            pid: 1,
            streams,
            threads,
            throttled_seconds: throttled,
            quota_throttled_seconds: quota,
            registration_seconds: registration,
        },
    )
}

fn any_destination() -> impl Strategy<Value = Destination> {
    (vec(any_thread(), 0..3), of(any::<u64>()), any::<bool>(), of(time())).prop_map(
        |(threads, unread_bytes, stopped, registration_seconds)| Destination {
            pid: 2,
            threads,
            unread_bytes,
            stopped,
            quota_throttled_seconds: registration_seconds,
            registration_seconds,
        },
    )
}

/// Whether it stands still, how much it is held back, and what another migration moves.
fn any_guest() -> impl Strategy<Value = (Option<Standing>, Option<u32>, Option<f64>)> {
    let awaits = proptest::sample::select(&Awaited::ALL[..]);
    let at = prop_oneof![Just(Role::Source), Just(Role::Destination)];
    let standing = (awaits, at, time()).prop_map(|(awaits, at, seconds)| Standing {
        at,
        pid: Some(3),
        seconds,
        awaits,
    });
    (of(standing), of(any::<u32>()), of(ANY))
}

fn any_second() -> impl Strategy<Value = Second> {
    let seconds = prop_oneof![6 => 0.9..1.1_f64, 1 => Just(0.0), 1 => ANY];
    let phase = of(proptest::sample::select(&Phase::ALL[..]));
    let round = (0..9_u64, any::<u64>(), time(), any::<bool>()).prop_map(
        |(number, bytes, seconds, finished)| Round {
            number,
            bytes,
            seconds,
            finished,
            left_at_begin: (number % 2 == 0).then_some(bytes),
            dirtied: (number % 3 == 0).then_some(bytes / 2),
        },
    );
    let memory = of(any::<u64>());
    let delivered = prop_oneof![Just((0, 0)), any::<(u64, u64)>()];
    let ends = (of(any_source()), of(any_destination()));
    (seconds, phase, delivered, memory, vec(round, 0..6), ends, any_guest()).prop_map(
        |(seconds, phase, delivered, memory, rounds, (source, destination), guest)| Second {
            seconds,
            phase,
            delivered_bytes: delivered.0,
            delivered_total: delivered.1,
            guest_memory_bytes: memory,
            rounds,
            remaining_bytes: memory.map(|memory| memory / 3),
            source,
            destination,
            standing: guest.0,
            throttle_percent: guest.1,
            neighbours: guest
                .2
                .map(|bytes_per_second| Neighbour { name: "other".to_owned(), bytes_per_second })
                .into_iter()
                .collect(),
            guest_cpu_stolen_seconds: None,
        },
    )
}

/// Found by the property below: the shares of two streams added up to infinity.
#[test]
fn a_second_as_long_as_numbers_go_is_none() {
    let long = plain(0, 0.0, 0.0).source(|source| {
        let stream = source.streams[0].clone();
        source.streams.push(Stream { tid: 0, ..stream });
    });
    let verdict = Judge::new().judge(&Second { seconds: f64::MAX, ..long });
    assert!(verdict.fractions.is_none_or(|it| (it.sum() - 1.0).abs() < 1e-9), "{verdict:?}");
}

proptest! {
    #[test]
    fn any_history_gives_sound_verdicts(seconds in vec(any_second(), 1..12)) {
        let mut judge = Judge::new();
        for second in &seconds {
            let verdict = judge.judge(second);
            if let Some(fractions) = verdict.fractions {
                prop_assert!((fractions.sum() - 1.0).abs() < 1e-9, "{:?}", fractions);
                for cause in Cause::ALL {
                    prop_assert!(fractions[cause] >= 0.0, "{:?}", fractions);
                }
            }
            if let Some(eta) = verdict.eta {
                prop_assert!(0.0 <= eta.eta_low_seconds && eta.eta_high_seconds.is_finite());
                prop_assert!(eta.eta_low_seconds <= eta.eta_seconds);
                prop_assert!(eta.eta_seconds <= eta.eta_high_seconds);
            }
            if let Some(balance) = verdict.balance {
                let streams = balance.stream_marginal_gain.len() as f64;
                prop_assert!(balance.stream_max_over_mean >= 1.0 - 1e-9);
                prop_assert!(balance.stream_jain_index >= 1.0 / streams - 1e-9);
                prop_assert!(balance.stream_jain_index <= 1.0 + 1e-9);
            }
            prop_assert!(!verdict.sentence.is_empty() && !verdict.sentence.contains('\n'));
        }
    }

    /// Bad seconds of any kind, with at least one good second between two of them.
    #[test]
    fn single_bad_seconds_are_noise(gaps in vec(1..5_usize, 1..20), kind in 0..3_usize) {
        let bad = [
            plain(0, 0.0, 1.0),
            plain(0, 0.0, 1.0).streams(|stream| stream.rwnd_limited_seconds = 1.0),
            plain(0, 0.0, 0.0).source(|source| source.threads[0] = thread(MAIN, 0.0, 1.0)),
        ];
        let mut judge = after(1, &clean());
        for gap in gaps {
            for _ in 0..gap {
                prop_assert_eq!(judge.judge(&clean()).state, Health::Healthy);
            }
            prop_assert_eq!(judge.judge(&bad[kind]).state, Health::Healthy);
        }
    }

    /// Rounds that shrink by a fifth or more at any size never count as not converging.
    #[test]
    fn shrinking_rounds_converge(ratios in vec(0.05..0.8_f64, 1..30), first in 1..4000_u64) {
        let mut judge = after(3, &clean());
        let mut sizes = vec![first * MB];
        for ratio in ratios {
            let last = sizes[sizes.len() - 1];
            let second = Second { rounds: rounds(&sizes, last / 20), ..clean() };
            prop_assert_eq!(judge.judge(&second).state, Health::Healthy);
            sizes.push((last as f64 * ratio) as u64);
        }
    }
}
