//! What is left to send, and how fast the guest dirties it: the record against `query-migrate`, in every version of QEMU whose
//! functions tell it in another way.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dwcp_observer_lab::blackout::wait_record;
use dwcp_observer_lab::guest::Guest;
use dwcp_observer_lab::migration::{MigrationPlan, Pair};
use dwcp_observer_lab::observer::{Observer, binary};
use dwcp_observer_lab::qemu::QemuSpec;
use dwcp_observer_lab::temp::free_migration_port;
use dwcp_observer_lab::zoo::images::{Images, Mount};
use dwcp_observer_lab::zoo::version::Version;
use dwcp_observer_model::record::Migration;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
/// Of the migration until it is let go, bytes per second: a pass over what the guest writes takes some 2 s.
const BANDWIDTH: u64 = 20_000_000;
/// QEMU sends in portions of a tenth of a second (`BUFFER_DELAY`, migration/migration.c, 5.2 to 11.1), and a few pages more: what waits in
/// a buffer is not counted. 512 pages were seen.
const PORTION: u64 = BANDWIDTH / 10 + (256 << 10);
/// Passes before it is let go.
const PASSES: u64 = 5;
/// QEMU computes its dirty rate anew at a fetch that comes at least a second after the last one that did, in whole pages and ms.
const RATE_AFTER: f64 = 1.05;
/// The fetch itself takes some ms, and QEMU's clock is read at its end; what a pass had not sent is 15 % of what it had.
const RATE_SHARE: f64 = 0.05;

/// A pass takes far longer than this: what is said then is not of its end. QEMU counts a pass when it begins to fetch (up to 10.0), or
/// when it has fetched (11.1), so that for a moment the number and what is left are of different passes.
const FIRST: Duration = Duration::from_millis(300);

/// What QEMU says of a pass.
#[derive(Clone, Copy, Debug)]
struct Told {
    /// It was first told of.
    since: Instant,
    /// The most that was left at its begin.
    most_left: u64,
    /// What the guest dirtied per second in the pass before, bytes.
    dirty_rate: u64,
}

/// By `dirty-sync-count`; and what was left over time, with `total`.
#[derive(Debug, Default)]
struct Truth {
    passes: BTreeMap<u64, Told>,
    left: Vec<(Instant, u64)>,
}

impl Truth {
    fn ask(&mut self, pair: &mut Pair) -> u64 {
        let answer = pair.source.qmp().execute("query-migrate", &Value::Null).unwrap();
        let number = |name: &str| answer.pointer(&format!("/ram/{name}")).and_then(Value::as_u64);
        let pass = number("dirty-sync-count").unwrap_or_default();
        let (left, page) = (number("remaining").unwrap_or_default(), number("page-size"));
        let since = Instant::now();
        let told = self.passes.entry(pass).or_insert(Told { since, most_left: 0, dirty_rate: 0 });
        if told.since.elapsed() < FIRST {
            told.most_left = told.most_left.max(left);
        }
        told.dirty_rate = number("dirty-pages-rate").unwrap_or_default() * page.unwrap_or(4096);
        self.left.push((Instant::now(), left));
        pass
    }

    /// What QEMU said in the last seconds: the observer looks once in one.
    fn recently(&self) -> (u64, u64) {
        let recent = |at: &Instant| at.elapsed() < Duration::from_millis(2_500);
        let left: Vec<u64> =
            self.left.iter().filter(|(at, _)| recent(at)).map(|(_, left)| *left).collect();
        (left.iter().copied().min().unwrap(), left.iter().copied().max().unwrap())
    }
}

fn own(observer: &Observer, pair: &Pair) -> Option<Migration> {
    let pid = pair.source.pid();
    let is_own = |record: &Migration| record.ends.iter().any(|end| end.pid == pid);
    observer.records().unwrap().into_iter().find(is_own)
}

/// What the record and the metric say while it runs, against what QEMU says.
fn look(observer: &Observer, pair: &Pair, truth: &Truth) -> bool {
    let Some(record) = own(observer, pair) else { return false };
    let Some(left) = record.remaining_bytes else { return false };
    let (least, most) = truth.recently();
    let range = least.saturating_sub(PORTION)..=most + PORTION;
    assert!(range.contains(&left), "{left} is left, QEMU: {range:?}");
    let metrics = observer.metrics().unwrap();
    let id = [("migration_id", record.id.as_str())];
    let metric = metrics.sum("dwcp_v3_migration_remaining_bytes", &id).unwrap();
    assert!(metric > 0.0, "{metric}");
    true
}

fn agrees(version: Version) {
    let image = Images::of_workspace().get(version).unwrap();
    let guest =
        Guest { memory_mib: 64, working_set_mib: 40, dirty_delay: 40_000, ..Guest::default() };
    let spec = QemuSpec {
        program: image.program(Mount::Plain).unwrap(),
        machine: version.machine(),
        guest,
        ..QemuSpec::default()
    };
    let observer = Observer::start(&binary().unwrap(), &[]).unwrap();
    let mut pair = Pair::start(&spec).unwrap();
    let port = free_migration_port(false).unwrap();
    let plan = MigrationPlan { port, max_bandwidth: Some(BANDWIDTH), ..MigrationPlan::default() };
    pair.migrate(&plan).unwrap();
    let (begin, mut truth, mut looks) = (Instant::now(), Truth::default(), 0);
    let mut looked = begin;
    while truth.ask(&mut pair) <= PASSES {
        assert!(begin.elapsed() < LIMIT, "{truth:?}");
        // The recent past is known by then.
        if looked.elapsed() > Duration::from_secs(3) {
            looks += u32::from(look(&observer, &pair, &truth));
            looked = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(looks > 0, "what is left was never said");
    pair.set_max_bandwidth(1 << 40).unwrap();
    let figures = pair.wait_end(LIMIT).unwrap();
    assert_eq!(figures.status, "completed", "{figures:?}");
    let record = wait_record(&observer, &pair).unwrap();
    println!("{version:?} {truth:#?} {:#?}", record.rounds);
    assert_eq!(record.remaining_bytes, None, "it is over");
    compare(&record, &truth);
    assert!(observer.stop().unwrap().status.success());
}

fn compare(record: &Migration, truth: &Truth) {
    let lengths: Vec<f64> = record.rounds.iter().map(|round| round.seconds).collect();
    let mut rates = 0;
    for pass in 1..PASSES {
        let round = &record.rounds[pass as usize - 1];
        let told = truth.passes[&(pass + 1)];
        // What was sent before QEMU was asked.
        let left = round.remaining_bytes.unwrap();
        let range = told.most_left..=told.most_left + PORTION;
        assert!(range.contains(&left), "{left} left at the end of {round:?}, QEMU: {range:?}");
        let long = |pass: u64| lengths[pass as usize - 1] > RATE_AFTER;
        if pass > 1 && long(pass) && long(pass - 1) {
            let rate = round.dirty_bytes_per_second.unwrap();
            let off = rate / told.dirty_rate as f64 - 1.0;
            assert!(off.abs() < RATE_SHARE, "{off} {round:?} {told:?}");
            rates += 1;
        }
    }
    assert!(rates > 0, "no two passes of a second: {lengths:?}");
}

#[test]
fn qemu_5_2_says_what_is_left() {
    agrees(Version::V5_2);
}

#[test]
fn qemu_7_2_says_what_is_left() {
    agrees(Version::V7_2);
}

#[test]
fn qemu_10_0_says_what_is_left() {
    agrees(Version::V10_0);
}

#[test]
fn qemu_11_1_says_what_is_left() {
    agrees(Version::V11_1);
}
