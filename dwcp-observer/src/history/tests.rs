use std::{
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;

use super::{schema, writer::State, *};
use crate::{
    config::Retention,
    metrics::sample,
    model::record::{Mode, Outcome, PhaseName},
    sla::counts::{Counts, FinishedBlackout},
};

/// A directory that goes with the test.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("dwcp-history-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.0.join("history.sqlite")
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn second(at: i64) -> Timestamp {
    Timestamp::from_second(at).unwrap()
}

/// A migration that ended `age` seconds before the sample's cycle.
fn migration(id: &str, age: i64) -> Batch {
    let entry = sample::entry(sample::finished(id, Outcome::Completed, age));
    Batch { migrations: vec![(entry.record, entry.history)], ..Batch::default() }
}

fn minute(at: i64, failed: u64) -> Minute {
    Minute {
        at,
        run_ms: 1,
        counts: Counts { observed_seconds: 60, failed, ..Counts::default() },
        ..Minute::default()
    }
}

fn minutes(minutes: Vec<Minute>) -> Batch {
    Batch { minutes, ..Batch::default() }
}

fn event(at: i64) -> Event {
    Event {
        at: second(at),
        kind: "sla_violated".into(),
        subject: "latency".into(),
        severity: "critical".into(),
        text: "p99 600 ms".into(),
    }
}

fn all_minutes(store: &Store) -> Vec<Minute> {
    let mut found = Vec::new();
    store.minutes(Timestamp::MIN, Timestamp::MAX, |minute| found.push(minute)).unwrap();
    found
}

fn ids(store: &Store) -> Vec<String> {
    let mut found = Vec::new();
    store.migrations(Timestamp::MIN, Timestamp::MAX, |one| found.push(one.id)).unwrap();
    found
}

#[test]
fn what_is_written_is_read() {
    let directory = Directory::new();
    let mut store = Store::open(&directory.file()).unwrap();
    store.write(&migration("1-1", 10)).unwrap();
    store.write(&migration("2-2", 5)).unwrap();
    let mut full = minute(1_795_350_600, 2);
    full.blackouts = vec![FinishedBlackout { mode: Some(Mode::Internet), seconds: 3.5 }];
    full.throughput.observe(1e9);
    full.errors.insert("connection_reset".into(), 3);
    store.write(&minutes(vec![full.clone(), minute(1_795_350_660, 0)])).unwrap();
    let events = vec![event(100), event(50)];
    store.write(&Batch { events, ..Batch::default() }).unwrap();

    let mut found = Vec::new();
    let end = sample::at();
    let ago = |seconds| end - SignedDuration::from_secs(seconds);
    store.migrations(ago(7), end, |one| found.push(one)).unwrap();
    let [one] = found.as_slice() else { panic!("{found:?}") };
    let record = sample::finished("2-2", Outcome::Completed, 5);
    assert_eq!((one.id.as_str(), one.name()), ("2-2", "web-01"));
    assert_eq!((one.outcome, one.mode), (record.outcome, record.mode));
    assert_eq!((one.started_at, one.ended_at), (record.started_at, record.ended_at));
    assert_eq!(one.blackout_seconds(), Some(0.0078125));
    assert_eq!(one.transferred(), record.bytes.map(|bytes| bytes.delivered));
    assert_eq!((one.streams.len(), one.phases[0].phase), (2, PhaseName::Precopy));
    assert_eq!(ids(&store), ["1-1", "2-2"]);
    // The whole record is there, with its seconds.
    let sql = "SELECT record ->> '$.history[0].bytes_delivered' FROM migrations WHERE id = '1-1'";
    let delivered: i64 = store.connection().query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(delivered, 3_800_000);

    assert_eq!(all_minutes(&store), [full, minute(1_795_350_660, 0)]);
    let events = store.events(second(0), second(1000)).unwrap();
    assert_eq!(events, [event(50), event(100)]);
    assert_eq!(store.events(second(51), second(100)).unwrap(), []);
}

#[test]
fn a_minute_is_written_anew_and_runs_do_not_mix() {
    let directory = Directory::new();
    let mut store = Store::open(&directory.file()).unwrap();
    store.write(&minutes(vec![minute(60, 1)])).unwrap();
    store.write(&minutes(vec![minute(60, 2)])).unwrap();
    let other_run = Minute { run_ms: 2, ..minute(60, 4) };
    store.write(&minutes(vec![other_run])).unwrap();
    let failed: Vec<u64> = all_minutes(&store).iter().map(|minute| minute.counts.failed).collect();
    assert_eq!(failed, [2, 4]);
}

#[test]
fn a_reader_and_a_writer_do_not_disturb_each_other() {
    let directory = Directory::new();
    assert!(matches!(Store::open_read_only(&directory.file()), Err(HistoryError::Missing { .. })));
    let mut writer = Store::open(&directory.file()).unwrap();
    writer.write(&minutes(vec![minute(60, 1)])).unwrap();
    let reader = Store::open_read_only(&directory.file()).unwrap();
    let mut seen = 0;
    reader
        .minutes(Timestamp::MIN, Timestamp::MAX, |_| {
            seen += 1;
            // In the middle of a reader's query.
            writer.write(&minutes(vec![minute(120, 1)])).unwrap();
        })
        .unwrap();
    assert_eq!((seen, all_minutes(&reader).len()), (1, 2));
}

#[test]
fn an_older_schema_becomes_current_and_a_newer_one_is_left_alone() {
    let directory = Directory::new();
    let path = directory.file();
    let old = Connection::open(&path).unwrap();
    schema::older(&old, 1);
    let body = serde_json::to_string(&minute(60, 7)).unwrap();
    old.execute("INSERT INTO minutes VALUES (60000, 1, ?)", [&body]).unwrap();
    drop(old);
    let error = Store::open_read_only(&path).unwrap_err().to_string();
    assert!(error.contains("schema 1") && error.contains("`dwcp-observer run`"), "{error}");
    let mut store = Store::open(&path).unwrap();
    assert_eq!(all_minutes(&store), [minute(60, 7)]);
    // The table that the older schema lacks.
    store.write(&Batch { events: vec![event(1)], ..Batch::default() }).unwrap();
    drop(store);

    let newer = Connection::open(&path).unwrap();
    newer.execute_batch("PRAGMA user_version = 99").unwrap();
    drop(newer);
    let before = std::fs::read(&path).unwrap();
    for opened in [Store::open(&path), Store::open_read_only(&path)] {
        let error = opened.unwrap_err();
        assert!(error.is_permanent());
        let text = error.to_string();
        let known = "written by a newer dwcp-observer (schema 99, this version knows up to 2)";
        assert!(text.contains(known) && !text.contains('\n'), "{text}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn files_of_others_stay_as_they_are() {
    let directory = Directory::new();
    let path = directory.file();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    drop(other);
    let before = std::fs::read(&path).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(error.is_permanent() && error.to_string().contains("history.path"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);

    let text = directory.path().join("notes.txt");
    std::fs::write(&text, "not a database, but long enough to be read as one".repeat(20)).unwrap();
    let error = Store::open(&text).unwrap_err();
    assert!(error.is_permanent() && error.to_string().contains("SQLite database"), "{error}");

    // What stands in the way of the directory is named.
    let error = Store::open(&text.join("history.sqlite")).unwrap_err();
    assert!(matches!(error, HistoryError::Directory { .. }) && !error.is_permanent(), "{error}");
}

#[test]
fn a_full_disk_takes_nothing_that_was_committed() {
    let directory = Directory::new();
    let mut store = Store::open(&directory.file()).unwrap();
    store.write(&migration("1-1", 10)).unwrap();
    // What SQLite says of a full disk, without one.
    let limit = |store: &Store, pages: i64| {
        let sql = format!("PRAGMA max_page_count = {pages}");
        store.connection().query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let held = limit(&store, 1);
    let mut large = minutes((1..2000).map(|number| minute(number * 60, 1)).collect());
    large.migrations = migration("2-2", 5).migrations;
    let error = store.write(&large).unwrap_err();
    assert!(matches!(error, HistoryError::Full { .. }), "{error}");
    assert!(!error.is_permanent() && !error.is_of_the_batch());
    assert_eq!((ids(&store), all_minutes(&store).len()), (vec!["1-1".to_owned()], 0));
    assert!(limit(&store, 1 << 20) > held);
    store.write(&large).unwrap();
    assert_eq!((ids(&store).len(), all_minutes(&store).len()), (2, 1999));
}

/// Makes the file a damaged one: its first page stands, the others hold nothing that a database may.
fn damage(path: &Path) {
    let mut content = std::fs::read(path).unwrap();
    assert!(content.len() > 4 * 4096, "{}", content.len());
    content[4096..].fill(0xA5);
    std::fs::write(path, content).unwrap();
}

#[test]
fn a_damaged_file_is_named_and_left_and_another_takes_its_place() {
    let directory = Directory::new();
    let path = directory.file();
    let mut store = Store::open(&path).unwrap();
    store.write(&minutes((1..500).map(|number| minute(number * 60, 1)).collect())).unwrap();
    drop(store);
    damage(&path);
    let damaged = std::fs::read(&path).unwrap();
    let history =
        History::start(path.clone(), retention(), Store::open(&path), Box::new(|_| {})).unwrap();
    history.write(minutes(vec![minute(60, 7)]));
    wait("nothing was said of it", || matches!(history.status().state, State::Failing { .. }));
    let fault = history.status().state.fault().unwrap();
    assert!(fault.contains("damaged") && !fault.contains('\n'), "{fault}");
    let aside = directory.path().join("damaged.sqlite");
    std::fs::rename(&path, &aside).unwrap();
    wait("no new one was begun", || history.status().state == State::Writing);
    drop(history);
    assert_eq!(all_minutes(&Store::open(&path).unwrap()), [minute(60, 7)]);
    assert_eq!(std::fs::read(&aside).unwrap(), damaged, "what was left of it is for its owner");
}

#[test]
fn a_file_that_is_moved_away_is_not_written_on() {
    let directory = Directory::new();
    let path = directory.file();
    let history =
        History::start(path.clone(), retention(), Store::open(&path), Box::new(|_| {})).unwrap();
    history.write(minutes(vec![minute(60, 1)]));
    wait("it is not written", || history.status().written == 1);
    let aside = directory.path().join("aside.sqlite");
    std::fs::rename(&path, &aside).unwrap();
    history.write(minutes(vec![minute(120, 1)]));
    drop(history);
    assert_eq!(all_minutes(&Store::open(&path).unwrap()), [minute(120, 1)]);
}

#[test]
fn rows_go_when_they_are_too_old() {
    let directory = Directory::new();
    let mut store = Store::open(&directory.file()).unwrap();
    for (id, age) in [("1-1", 1000), ("2-2", 500), ("3-3", 10)] {
        store.write(&migration(id, age)).unwrap();
    }
    let now = sample::at();
    let at = now.as_second();
    store.write(&minutes(vec![minute(at - 900, 0), minute(at - 60, 0)])).unwrap();
    let events = vec![event(at - 601), event(at)];
    store.write(&Batch { events, ..Batch::default() }).unwrap();
    let retention = Retention { seconds: 600, bytes: 1 << 30 };
    assert_eq!(store.prune(now, retention).unwrap(), 3);
    assert_eq!(ids(&store), ["2-2", "3-3"]);
    assert_eq!(all_minutes(&store).len(), 1);
    assert_eq!(store.events(Timestamp::MIN, Timestamp::MAX).unwrap().len(), 1);
    assert_eq!(store.prune(now, retention).unwrap(), 0);
}

#[test]
fn the_file_stays_below_its_limit_and_the_newest_stay() {
    let directory = Directory::new();
    let mut store = Store::open(&directory.file()).unwrap();
    let retention = Retention { seconds: i64::MAX / 10_000_000, bytes: 400_000 };
    store.write(&minutes(vec![minute(60, 1)])).unwrap();
    let mut removed = 0;
    for number in 0..600 {
        store.write(&migration(&format!("{number:04}-1"), 10_000 - number)).unwrap();
        removed += store.prune(sample::at(), retention).unwrap();
        assert!(store.used_bytes().unwrap() <= retention.bytes);
    }
    assert!(removed > 100, "600 records never filled the file: {removed}");
    let left = ids(&store);
    assert_eq!(left.last().unwrap(), "0599-1");
    assert_eq!(left.len() as u64 + removed, 600);
    assert_eq!(left[0], format!("{removed:04}-1"), "the oldest went first, and all of them");
    assert_eq!(all_minutes(&store).len(), 1, "what the error budgets need goes last");
    drop(store);
    assert!(std::fs::metadata(directory.file()).unwrap().len() <= retention.bytes);
}

fn retention() -> Retention {
    Retention { seconds: 1 << 32, bytes: 1 << 30 }
}

fn wait(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_thread_writes_what_is_queued_before_it_ends() {
    let directory = Directory::new();
    let path = directory.file();
    let looked = Arc::new(AtomicU32::new(0));
    let after: writer::AfterWrite = {
        let looked = Arc::clone(&looked);
        Box::new(move |_| {
            looked.fetch_add(1, Ordering::Relaxed);
        })
    };
    let history = History::start(path.clone(), retention(), Store::open(&path), after).unwrap();
    for number in 0..100 {
        history.write(minutes(vec![minute(number * 60, 0)]));
    }
    drop(history);
    assert_eq!(all_minutes(&Store::open(&path).unwrap()).len(), 100);
    assert_eq!(looked.load(Ordering::Relaxed), 100);
}

#[test]
fn a_refused_file_is_no_end_of_the_observer() {
    let directory = Directory::new();
    let path = directory.file();
    std::fs::write(&path, "x".repeat(4096)).unwrap();
    let history =
        History::start(path.clone(), retention(), Store::open(&path), Box::new(|_| {})).unwrap();
    history.write(minutes(vec![minute(60, 0)]));
    let state = history.status().state;
    assert!(matches!(state, State::Refused { .. }), "{state:?}");
    assert!(state.fault().unwrap().contains("SQLite database"));
}

#[test]
fn what_waits_is_bounded_and_what_goes_is_counted() {
    let directory = Directory::new();
    // A directory is no database; a file in its place later is one.
    let path = directory.file();
    std::fs::create_dir(&path).unwrap();
    let history =
        History::start(path.clone(), retention(), Store::open(&path), Box::new(|_| {})).unwrap();
    assert!(matches!(history.status().state, State::Failing { .. }));
    // None of them waits for the writer: what finds no room goes.
    for number in 0..1000 {
        history.write(minutes(vec![minute(number * 60, 0)]));
    }
    wait("nothing was dropped", || history.status().dropped >= 1000 - 2 * 128);
    std::fs::remove_dir(&path).unwrap();
    wait("it did not recover", || history.status().state == State::Writing);
    let dropped = history.status().dropped;
    drop(history);
    let written = all_minutes(&Store::open(&path).unwrap()).len() as u64;
    assert_eq!(written + dropped, 1000);
    assert!(written >= 128, "{written}");
}

/// Names the database to the child of the next test.
const CHILD: &str = "DWCP_TEST_HISTORY_CHILD";

/// The child: writes and says what is committed, until it is killed.
fn write_until_killed(path: &Path) -> ! {
    let mut store = Store::open(path).unwrap();
    let first = all_minutes(&store).len() as i64;
    println!();
    for number in first.. {
        let mut batch = migration(&format!("{number:06}-1"), 1_000_000 - number);
        batch.minutes = vec![minute(number * 60, 1)];
        store.write(&batch).unwrap();
        println!("committed {number}");
    }
    unreachable!()
}

#[test]
fn a_kill_in_the_middle_of_a_write_loses_nothing_that_was_committed() {
    if let Some(path) = std::env::var_os(CHILD) {
        write_until_killed(Path::new(&path));
    }
    let directory = Directory::new();
    let path = directory.file();
    let mut total = 0;
    for round in 0..12u64 {
        let name = "a_kill_in_the_middle_of_a_write_loses_nothing_that_was_committed";
        let said = directory.path().join("said");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("history::tests::{name}"), "--nocapture"])
            .env(CHILD, &path)
            .stdout(std::fs::File::create(&said).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let committed = || {
            let text = std::fs::read_to_string(&said).unwrap();
            text.lines().filter(|line| line.starts_with("committed ")).count() as u64
        };
        let before = total;
        wait("the child commits nothing", || committed() >= 5);
        // At another place each time: within a transaction or its checkpoint.
        std::thread::sleep(Duration::from_micros(round * 777));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));

        let store = Store::open(&path).unwrap();
        let check: String =
            store.connection().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        let (minutes, migrations) = (all_minutes(&store), ids(&store));
        // A batch is there as a whole or not at all; the one whose word did not get out may be.
        assert_eq!(minutes.len(), migrations.len(), "round {round}");
        total = minutes.len() as u64;
        let known = before + committed();
        assert!(total == known || total == known + 1, "round {round}: {total} of {known}");
        for (number, (minute, id)) in minutes.iter().zip(&migrations).enumerate() {
            assert_eq!(minute.at, number as i64 * 60);
            assert_eq!(*id, format!("{number:06}-1"));
        }
    }
}

#[test]
fn a_lock_of_the_samples_that_is_poisoned_is_no_obstacle() {
    let directory = Directory::new();
    let mut store = Store::open(&directory.file()).unwrap();
    let batch = migration("1-1", 5);
    let samples: Arc<Mutex<Samples>> = Arc::clone(&batch.migrations[0].1);
    let poisoned = std::thread::spawn(move || {
        let _guard = samples.lock().unwrap();
        panic!("on purpose");
    });
    assert!(poisoned.join().is_err());
    store.write(&batch).unwrap();
    assert_eq!(ids(&store), ["1-1"]);
}
