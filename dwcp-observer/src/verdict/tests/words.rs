//! The sentences, word by word; and the names in JSON.

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
    for (second, state, words) in [
        (
            clean(),
            Health::Healthy,
            "network: 100.0 MB/s; the path's own speed is the limit 87 % of the time",
        ),
        (
            plain(900 * MB, 0.98, 0.3),
            Health::Healthy,
            "sending: 900.0 MB/s; the sending thread (tid 100) is on a CPU 98 % of the time and is the limit: multifd channels would spread its work over CPUs",
        ),
        (
            multifd(&[400 * MB; 2], 0.96, 0.9, 0.5),
            Health::Healthy,
            "sending: 800.0 MB/s; the sending thread (tid 101) is on a CPU 96 % of the time and is the limit: more than the 2 channels, or faster CPUs, would help",
        ),
        (
            dead,
            Health::Stalled,
            "network: nothing delivered for 2.0 s; 0.0 % of segments sent again, 100 % of the time in loss recovery, data are on their way 99 % of the time, 4.0 MB unacknowledged, RTT 2.0 ms (lowest 0.1 ms): look for packet loss on the path",
        ),
        (
            cut,
            Health::Slow,
            "network: 3.0 MB/s of the usual 100.0 MB/s; data are on their way 97 % of the time, 4.0 MB unacknowledged, RTT 2.0 ms (lowest 0.1 ms): look for a bandwidth limit or congestion on the path",
        ),
        (
            lossy,
            Health::Slow,
            "network: 12.0 MB/s of the usual 100.0 MB/s; 5.0 % of segments sent again, 85 % of the time in loss recovery, data are on their way 89 % of the time, 4.0 MB unacknowledged, RTT 2.0 ms (lowest 0.1 ms): look for packet loss on the path",
        ),
        (
            halted,
            Health::Stalled,
            "receiver: nothing delivered for 2.0 s; the destination's reading thread has not run for 2.0 s (process stopped); 4.1 MB wait unread: continue pid 9 on the destination",
        ),
        (
            reads_slowly,
            Health::Slow,
            "receiver: 60.0 MB/s of the usual 100.0 MB/s; the destination's reading thread (tid 900) is on a CPU 97 % of the time and is the limit; 2.0 MB wait unread: more multifd channels would spread its work",
        ),
        (
            far,
            Health::Slow,
            "receiver: 60.0 MB/s of the usual 100.0 MB/s; the receiver's window (now 6.0 MB) holds it back 80 % of the time: check the migrator and its CPU on the destination",
        ),
        (
            quota,
            Health::Slow,
            "source_cpu: 8.0 MB/s of the usual 100.0 MB/s; the sending threads wait for a CPU 85 % of the time, the CPU quota of their cgroup was used up for 0.9 s: raise the quota of pid 7",
        ),
        (
            starved,
            Health::Slow,
            "source_cpu: 8.0 MB/s of the usual 100.0 MB/s; the sending threads wait for a CPU 90 % of the time: free CPUs on the source for pid 7",
        ),
        (
            limited,
            Health::Slow,
            "throttled: 5.0 MB/s of the usual 100.0 MB/s; its own bandwidth limit holds it back 96 % of the time: raise max-bandwidth of pid 7",
        ),
        (
            storm,
            Health::NotConverging,
            "guest_dirtying: the guest dirties at least 98.1 MB/s, 100.0 MB/s are sent; the last rounds do not shrink (260.0 MB, 255.0 MB, 25.0 MB): slow the guest (auto-converge), switch to postcopy, or give it more bandwidth",
        ),
        (
            alone,
            Health::Stalled,
            "nothing delivered for 5.0 s; nothing waits to be read here: look at the sending end and at the path",
        ),
    ] {
        assert_eq!(said(&second, state), words);
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
