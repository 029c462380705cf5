//! The facts in the sentences, and the names in JSON.

use super::*;

fn said(second: &Second, state: Health) -> String {
    until(&mut after(4, &clean()), second, state).1.sentence
}

#[test]
fn sentences() {
    let dead = plain(0, 0.0, 1.0).streams(|stream| stream.loss_seconds = 1.0);
    let cut = plain(3 * MB, 0.01, 0.97);
    let lossy = plain(12 * MB, 0.1, 0.9).streams(|stream| {
        stream.recovery_seconds = 0.85;
        (stream.sent_segments, stream.retransmitted_segments) = (8000, 400);
    });
    let mut halted = plain(0, 0.0, 1.0);
    halted.destination = Some(stopped(4_100_000));
    let mut reads_slowly = plain(60 * MB, 0.1, 0.9);
    reads_slowly.destination = Some(destination(0.97, 2 * MB));
    let reads_slowly = reads_slowly.streams(|stream| stream.rwnd_limited_seconds = 0.8);
    let far = plain(60 * MB, 0.1, 0.9).streams(|stream| stream.rwnd_limited_seconds = 0.8);
    let quota = plain(8 * MB, 0.05, 0.1).source(|s| s.quota_throttled_seconds = Some(0.88));
    let starved = plain(8 * MB, 0.05, 0.1).source(|s| s.threads[0] = thread(MAIN, 0.1, 0.9));
    let limited = plain(5 * MB, 0.02, 0.1).source(|source| source.throttled_seconds = Some(0.96));
    let storm = Second { rounds: rounds(&[260 * MB, 255 * MB], 25 * MB), ..clean() };
    let alone = Second { source: None, ..plain(0, 0.0, 0.0) };
    for (second, state, facts) in [
        (clean(), Health::Healthy, &["network", "100.0 MB/s", "87 %"][..]),
        (
            plain(900 * MB, 0.98, 0.3),
            Health::Healthy,
            &["sending", "900.0 MB/s", "tid 100", "98 %", "multifd"][..],
        ),
        (
            multifd(&[400 * MB; 2], 0.96, 0.9, 0.5),
            Health::Healthy,
            &["sending", "800.0 MB/s", "tid 101", "96 %", "2 channels"][..],
        ),
        (
            dead,
            Health::Stalled,
            &[
                "network",
                "2.0 s",
                "0.0 %",
                "100 %",
                "99 %",
                "4.0 MB",
                "2.0 ms",
                "0.1 ms",
                "packet loss",
            ][..],
        ),
        (
            cut,
            Health::Slow,
            &["network", "3.0 MB/s", "100.0 MB/s", "97 %", "4.0 MB", "congestion"][..],
        ),
        (
            lossy,
            Health::Slow,
            &[
                "network",
                "12.0 MB/s",
                "100.0 MB/s",
                "5.0 %",
                "85 %",
                "89 %",
                "4.0 MB",
                "packet loss",
            ][..],
        ),
        (halted, Health::Stalled, &["receiver", "2.0 s", "4.1 MB", "continue pid 9"][..]),
        (
            reads_slowly,
            Health::Slow,
            &["receiver", "60.0 MB/s", "100.0 MB/s", "tid 900", "97 %", "2.0 MB", "multifd"][..],
        ),
        (
            far,
            Health::Slow,
            &["receiver", "60.0 MB/s", "100.0 MB/s", "6.0 MB", "80 %", "destination"][..],
        ),
        (
            quota,
            Health::Slow,
            &["source_cpu", "8.0 MB/s", "100.0 MB/s", "85 %", "0.9 s", "quota of pid 7"][..],
        ),
        (
            starved,
            Health::Slow,
            &["source_cpu", "8.0 MB/s", "100.0 MB/s", "90 %", "source", "pid 7"][..],
        ),
        (
            limited,
            Health::Slow,
            &["throttled", "5.0 MB/s", "100.0 MB/s", "96 %", "max-bandwidth of pid 7"][..],
        ),
        (
            storm,
            Health::NotConverging,
            &[
                "guest_dirtying",
                "98.1 MB/s",
                "100.0 MB/s",
                "260.0 MB, 255.0 MB, 25.0 MB",
                "auto-converge",
                "postcopy",
                "bandwidth",
            ][..],
        ),
        (alone, Health::Stalled, &["5.0 s", "sending end", "path"][..]),
    ] {
        has(&said(&second, state), facts);
    }
}

#[test]
fn json_has_the_names_of_the_record() {
    let second = Second {
        guest_memory_bytes: Some(2000 * MB),
        guest_cpu_stolen_seconds: Some(0.125),
        ..multifd(&[50 * MB, 25 * MB], 0.5, 0.5, 0.5)
    };
    let json = serde_json::to_value(after(3, &second).judge(&second)).unwrap();
    let names: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = vec![
        "state",
        "cause",
        "sentence",
        "fractions",
        "eta_seconds",
        "eta_low_seconds",
        "eta_high_seconds",
        "stream_max_over_mean",
        "stream_jain_index",
        "stream_marginal_gain",
        "stream_scaling_efficiency",
        "guest_cpu_stolen_seconds",
    ];
    expected.sort_unstable();
    let mut names = names;
    names.sort_unstable();
    assert_eq!(names, expected);
    assert_eq!(json["state"], "healthy");
    for cause in Cause::ALL {
        assert_eq!(serde_json::to_value(cause).unwrap(), cause.as_str());
        assert!(json["fractions"][cause.as_str()].is_number());
    }
    for state in Health::ALL {
        assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
    }
    let plain = serde_json::to_value(Judge::new().judge(&clean())).unwrap();
    assert!(plain.get("stream_jain_index").is_none() && plain.get("eta_seconds").is_none());
}
