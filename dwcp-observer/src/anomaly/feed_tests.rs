use jiff::SignedDuration;

use super::*;
use crate::{
    anomaly::Direction, history::tests::Directory, metrics::sample, migration::totals::ErrorType,
    model::record::Outcome,
};

/// A host, one second after the other.
struct Host {
    feed: Feed,
    now: Timestamp,
    entries: Vec<Entry>,
    totals: Totals,
    usage: Option<HostUsage>,
}

impl Host {
    fn new(feed: Feed) -> Self {
        let now = sample::at();
        Self { feed, now, entries: Vec::new(), totals: Totals::default(), usage: None }
    }

    fn second(&mut self, features: &[(Kind, f64)]) -> Vec<Event> {
        self.now += SignedDuration::from_secs(1);
        let transfer = Transfer { migration: "m", mode: Some(Mode::Datacenter), features };
        let inputs = Inputs {
            transfers: &[transfer],
            entries: &self.entries,
            totals: &self.totals,
            host: self.usage,
        };
        self.feed.second(self.now, &inputs)
    }

    /// A rate around 1 GB/s.
    fn usual(&mut self, second: u32) -> Vec<Event> {
        let rate = 1e9 + f64::from(second * 7919 % 101) * 1e5;
        self.second(&[(Kind::Throughput, rate)])
    }
}

#[test]
fn a_collapse_of_the_rate_is_told_counted_and_lasts() {
    let mut host = Host::new(Feed::new(None));
    assert_eq!(host.feed.view().counts.len(), Kind::ALL.len() * Severity::ALL.len());
    for second in 0..60 {
        assert_eq!(host.usual(second), [], "second {second}");
    }
    let began: Vec<Event> = (0..5).flat_map(|_| host.second(&[(Kind::Throughput, 1e8)])).collect();
    assert_eq!(began[0].kind, Kind::Throughput);
    assert_eq!(began[0].direction, Direction::Below);
    let view = host.feed.view();
    assert_eq!(view.active.len(), 1);
    assert_eq!(view.active[0].event.migration.as_deref(), Some("m"));
    assert!(
        view.active[0].why.starts_with("100.000 MB/s in migration m, expected "),
        "{}",
        view.active[0].why
    );
    assert_eq!(view.counts.iter().map(|(.., count)| count).sum::<u64>(), 1);
    for second in 0..40 {
        host.usual(second);
    }
    assert!(host.feed.view().active.is_empty());
    assert_eq!(host.feed.view().events.len(), 1);
}

#[test]
fn errors_are_judged_by_what_is_new() {
    let mut host = Host::new(Feed::new(None));
    for second in 0..60 {
        assert_eq!(host.usual(second), [], "second {second}");
    }
    host.totals.errors.insert(ErrorType::ConnectionReset, 20);
    assert_eq!(host.usual(60)[0].kind, Kind::ErrorBurst);
    assert_eq!(host.feed.view().active[0].event.mode, None);
}

#[test]
fn a_blackout_is_heard_once() {
    let directory = Directory::new();
    let path = directory.path().join("samples.jsonl");
    let mut host = Host::new(Feed::new(Some(Recorder::open(&path).unwrap())));
    let mut record = sample::finished("1-2", Outcome::Completed, 5);
    record.mode = Some(Mode::Datacenter);
    let blackout = record.blackout.as_ref().and_then(|blackout| blackout.seconds).unwrap();
    host.entries = vec![sample::entry(record)];
    host.usual(0);
    host.usual(1);
    // What waits is written before it is gone.
    drop(host);
    let text = std::fs::read_to_string(&path).unwrap();
    let seconds: Vec<RecordedSecond<'_>> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let latencies: Vec<&Sample<'_>> = seconds
        .iter()
        .flat_map(|second| &second.samples)
        .filter(|sample| sample.kind == Kind::Latency)
        .collect();
    assert_eq!(latencies.len(), 1);
    assert_eq!((latencies[0].migration, latencies[0].value), (Some("1-2"), blackout));
    assert_eq!(seconds.len(), 2);
}

#[test]
fn an_idle_host_is_not_compared_with_a_busy_one() {
    let mut host = Host::new(Feed::new(None));
    for second in 0..120 {
        let busy = second % 40 < 20;
        let percent = if busy { 100.0 } else { 1.0 };
        host.usage = Some(HostUsage { cpu_percent: Some(percent), memory_percent: Some(10.0) });
        let events = if busy { host.usual(second) } else { host.second(&[]) };
        assert_eq!(events, [], "second {second}");
    }
}
