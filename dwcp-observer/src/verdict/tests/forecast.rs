//! Streams' evenness and the time to the end.

use super::{
    super::{inputs::Phase, streams::balance},
    *,
};

#[test]
fn evenness_of_streams() {
    let of =
        |delivered: &[u64]| balance(&multifd(delivered, 0.1, 0.1, 0.1).source.unwrap().streams);
    let even = of(&[5, 5, 5, 5]).unwrap();
    assert_eq!((even.stream_max_over_mean, even.stream_jain_index), (1.0, 1.0));
    assert_eq!(even.stream_scaling_efficiency, 1.0);
    let one = of(&[0, 8, 0, 0]).unwrap();
    assert_eq!((one.stream_max_over_mean, one.stream_jain_index), (4.0, 0.25));
    let falling = of(&[2, 8, 6]).unwrap();
    assert_eq!(falling.stream_marginal_gain, [1.0, 0.75, 0.25]);
    assert!((falling.stream_jain_index - 256.0 / (3.0 * 104.0)).abs() < 1e-12);
    assert!((falling.stream_scaling_efficiency - 2.0 / 3.0).abs() < 1e-12);
    assert_eq!((of(&[9]), of(&[0, 0]), of(&[])), (None, None, None));
}

#[test]
fn the_first_connection_counts_where_it_carries_as_much() {
    let mut second = multifd(&[40 * MB, 60 * MB], 0.1, 0.1, 0.1);
    let streams = &mut second.source.as_mut().unwrap().streams;
    streams[0].queued_bytes = 50 * MB;
    streams[0].delivered_bytes = 60 * MB;
    assert_eq!(balance(streams).unwrap().stream_marginal_gain.len(), 3);
}

#[test]
fn the_first_pass_ends_when_the_memory_is_sent() {
    let second =
        Second { guest_memory_bytes: Some(2000 * MB), rounds: rounds(&[], 500 * MB), ..clean() };
    let eta = after(5, &second).judge(&second).eta.unwrap();
    assert!((eta.eta_seconds - 15.0).abs() < 1e-6, "{eta:?}");
    assert_eq!(eta.eta_low_seconds, 0.0);
    assert!(eta.eta_high_seconds > 20.0, "the rounds after it: {eta:?}");
}

#[test]
fn later_rounds_are_a_geometric_series() {
    let rounds = rounds(&[1600 * MB, 800 * MB, 400 * MB], 100 * MB);
    let second = Second { guest_memory_bytes: Some(2000 * MB), rounds, ..clean() };
    let eta = after(5, &second).judge(&second).eta.unwrap();
    // 100 MB of this round, then 100, 50 and 25 MB, of which the last fit into 0.3 s.
    assert!((eta.eta_seconds - 2.75).abs() < 1e-6, "{eta:?}");
    assert!(eta.eta_low_seconds < 2.75 && eta.eta_high_seconds > 2.75);
}

/// What the migrator tells outweighs what follows from the bytes that were sent.
#[test]
fn what_the_migrator_tells_to_be_left_is_what_is_left() {
    // 500 MB of 2,000 went as 250 MB, as half of the pages were zero; so may half of the rest.
    let mut first = rounds(&[], 250 * MB);
    first[0].left_at_begin = Some(2000 * MB);
    let first = Second { rounds: first, remaining_bytes: Some(1500 * MB), ..clean() };
    let eta = after(5, &first).judge(&first).eta.unwrap();
    assert!((eta.eta_seconds - 7.5).abs() < 1e-6, "{eta:?}");
    assert!(eta.eta_high_seconds > 15.0, "{eta:?}");

    // The second round runs: nothing that was sent tells yet that it has 800 MB, of which the guest dirtied half of what was sent.
    let mut second = rounds(&[1600 * MB], 100 * MB);
    second[0].dirtied = Some(800 * MB);
    second[1].left_at_begin = Some(800 * MB);
    let second = Second { rounds: second, remaining_bytes: Some(700 * MB), ..clean() };
    let eta = after(5, &second).judge(&second).eta.unwrap();
    // 700 MB, then 400, 200, 100, 50 and 25.
    assert!((eta.eta_seconds - 14.75).abs() < 1e-6, "{eta:?}");

    let phase = Some(Phase::Postcopy);
    let postcopy = Second { phase, remaining_bytes: Some(300 * MB), ..clean() };
    let eta = after(5, &postcopy).judge(&postcopy).eta.unwrap();
    assert!((eta.eta_seconds - 3.0).abs() < 1e-6, "{eta:?}");
}

#[test]
fn an_unsteady_rate_widens_the_interval() {
    let second = |rate| Second {
        rounds: rounds(&[1600 * MB, 800 * MB, 400 * MB], 100 * MB),
        ..plain(rate * MB, 0.1, 0.9)
    };
    let width = |spread: u64| {
        let mut judge = Judge::new();
        let mut eta = None;
        for number in 0..21 {
            eta = judge.judge(&second(100 - spread + number % 2 * 2 * spread)).eta;
        }
        let eta = eta.unwrap();
        (eta.eta_high_seconds - eta.eta_low_seconds) / eta.eta_seconds
    };
    assert!(width(40) > 1.5 * width(0), "{} and {}", width(40), width(0));
}

#[test]
fn no_forecast_without_ground() {
    let level = rounds(&[100 * MB, 10 * MB, 10 * MB], MB);
    let level = Second { rounds: level, ..clean() };
    let verdict = after(3, &level).judge(&level);
    assert_eq!((verdict.state, verdict.eta), (Health::Healthy, None));

    let known = Second { guest_memory_bytes: Some(2000 * MB), ..clean() };
    assert!(after(3, &known).judge(&known).eta.is_some());
    let unknown = Second { guest_memory_bytes: None, ..known.clone() };
    assert_eq!(after(3, &unknown).judge(&unknown).eta, None);
    let mut endless = rounds(&[100 * MB], MB);
    endless[0].seconds = f64::MAX;
    let endless = Second { rounds: endless, ..clean() };
    assert_eq!(after(3, &endless).judge(&endless).eta, None);
    let postcopy = Second { phase: Some(Phase::Postcopy), ..known.clone() };
    assert_eq!(after(3, &postcopy).judge(&postcopy).eta, None);
    let mut judge = after(3, &known);
    let dead = Second { guest_memory_bytes: Some(2000 * MB), ..plain(0, 0.0, 1.0) };
    assert_eq!(until(&mut judge, &dead, Health::Stalled).1.eta, None);
}

/// Simulated migrations with a noisy rate and a noisy dirty rate: the end lies within the interval about nine times of ten.
#[test]
fn the_interval_covers_what_comes() {
    let mut seed = 1_u64;
    let mut noise = || {
        // xorshift64: uniform in -1 to 1.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as f64 / u64::MAX as f64 * 2.0 - 1.0
    };
    // Asked and covered, in the first pass and later.
    let mut tally = [[0_u32; 2]; 2];
    for _ in 0..300 {
        let rate = 100e6 * (1.0 + 0.5 * noise());
        let ratio = 0.4 + 0.3 * noise();
        let mut judge = Judge::new();
        let mut size = 2000e6;
        let mut done = vec![];
        let (mut elapsed, mut sent) = (0.0, 0.0);
        let mut forecasts = vec![];
        // Ends when a round is below what the downtime limit of 0.3 s permits.
        while size > 0.3 * rate {
            let mut left: f64 = size;
            let mut took = 0.0;
            while left > 0.0 {
                let now = rate * (1.0 + 0.2 * noise());
                let step = (left / now).min(1.0);
                left -= now * step;
                took += step;
                elapsed += step;
                sent += now * step;
                let mut rounds = done.clone();
                rounds.push(Round {
                    number: done.len() as u64 + 1,
                    bytes: (size - left) as u64,
                    seconds: took,
                    finished: false,
                    ..Round::default()
                });
                let verdict = judge.judge(&Second {
                    seconds: step,
                    delivered_bytes: (now * step) as u64,
                    delivered_total: sent as u64,
                    guest_memory_bytes: Some(2000 * MB),
                    rounds,
                    ..clean()
                });
                forecasts.extend(verdict.eta.map(|eta| (elapsed, eta, done.len().min(1))));
            }
            let number = done.len() as u64 + 1;
            done.push(Round {
                number,
                bytes: size as u64,
                seconds: took,
                finished: true,
                ..Round::default()
            });
            size *= ratio * (1.0 + 0.2 * noise());
        }
        elapsed += size / rate;
        for (at, eta, later) in forecasts {
            let left = elapsed - at;
            let within = eta.eta_low_seconds <= left && left <= eta.eta_high_seconds;
            tally[later][0] += 1;
            tally[later][1] += u32::from(within);
        }
    }
    for [asked, covered] in tally {
        let share = f64::from(covered) / f64::from(asked);
        println!("{asked} forecasts, {:.1} % within their interval", share * 100.0);
        assert!(share >= 0.9, "{share}");
    }
}
