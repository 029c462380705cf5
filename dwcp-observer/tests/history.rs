//! The history on a disk that is full: it says so, keeps running, and goes on when there is room. Needs root for a disk of its own.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::{
    ffi::CString,
    fs::File,
    io::{self, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use dwcp_observer::{
    config::Retention,
    history::{Batch, Event, History, HistoryError, State, Store, minute::Minute},
};
use jiff::Timestamp;

const RETENTION: Retention = Retention { seconds: 1 << 32, bytes: 1 << 30 };
const LIMIT: Duration = Duration::from_secs(60);

/// Runs `work` on a thread whose mounts nobody else sees, with a file system of `kibibytes` at the given place.
fn on_a_small_disk(kibibytes: u32, work: impl FnOnce(&Path) + Send) {
    // A place of its own for each test: removing a directory takes the mounts of other namespaces on it along.
    let place = std::env::temp_dir().join(format!("dwcp-full-{kibibytes}-{}", std::process::id()));
    std::fs::create_dir_all(&place).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: takes an integer only.
            let unshared = unsafe { libc::unshare(libc::CLONE_NEWNS) };
            assert_eq!(unshared, 0, "mount namespace: {} (root?)", io::Error::last_os_error());
            mount("none", Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE, "");
            mount("tmpfs", &place, Some("tmpfs"), 0, &format!("size={kibibytes}k"));
            work(&place);
        });
        let done = thread.join();
        // The mount went with the thread.
        std::fs::remove_dir_all(&place).unwrap();
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
}

fn mount(source: &str, target: &Path, kind: Option<&str>, flags: libc::c_ulong, data: &str) {
    let text = |text: &str| CString::new(text).unwrap();
    let (source, data) = (text(source), text(data));
    let kind = kind.map(text);
    let target = CString::new(target.as_os_str().as_bytes()).unwrap();
    // SAFETY: all strings live until the call returns.
    let done = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ref().map_or(std::ptr::null(), |kind| kind.as_ptr()),
            flags,
            data.as_ptr().cast(),
        )
    };
    assert_eq!(done, 0, "mount: {}", io::Error::last_os_error());
}

/// Takes all the room there is.
fn fill(directory: &Path) -> PathBuf {
    let path = directory.join("filler");
    let mut file = File::create(&path).unwrap();
    let mut size = 64 << 10;
    loop {
        match file.write(&vec![1; size]) {
            Ok(_) => {}
            Err(_) if size > 1 => size /= 2,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
                return path;
            }
        }
    }
}

fn batch(number: i64) -> Batch {
    let event = Event {
        at: Timestamp::from_second(number).unwrap(),
        kind: "anomaly".into(),
        subject: "rtt".into(),
        severity: "warning".into(),
        text: "x".repeat(2000),
    };
    let minute = Minute { at: number * 60, run_ms: 1, ..Minute::default() };
    Batch { minutes: vec![minute], events: vec![event], ..Batch::default() }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < LIMIT, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn rows(path: &Path) -> (usize, usize) {
    let store = Store::open(path).unwrap();
    let mut minutes = 0;
    store.minutes(Timestamp::MIN, Timestamp::MAX, |_| minutes += 1).unwrap();
    (minutes, store.events(Timestamp::MIN, Timestamp::MAX).unwrap().len())
}

#[test]
fn a_full_disk_is_said_and_outlived() {
    on_a_small_disk(1024, |directory| {
        let path = directory.join("history.sqlite");
        let history =
            History::start(path.clone(), RETENTION, Store::open(&path), Box::new(|_| {})).unwrap();
        for number in 0..20 {
            history.write(batch(number));
        }
        wait("the first batches", || history.status().written == 40);

        let filler = fill(directory);
        let mut number = 20;
        // Pages that the files have already may still take some.
        wait("the disk is not full", || {
            history.write(batch(number));
            number += 1;
            matches!(history.status().state, State::Failing { .. })
        });
        let status = history.status();
        let fault = status.state.fault().unwrap();
        assert!(fault.contains("the disk is full"), "{fault}");
        assert!(status.failures >= 1, "{status:?}");
        // Everything before it is there and readable.
        let reader = Store::open_read_only(&path).unwrap();
        assert!(reader.events(Timestamp::MIN, Timestamp::MAX).unwrap().len() >= 20);
        drop(reader);
        // The cycle goes on.
        for later in number..number + 10 {
            history.write(batch(later));
        }
        number += 10;

        std::fs::remove_file(filler).unwrap();
        wait("it does not go on", || history.status().state == State::Writing);
        history.write(batch(number));
        let expected = u64::try_from(2 * (number + 1)).unwrap();
        wait("rows are missing", || {
            let status = history.status();
            status.written + status.dropped == expected
        });
        assert_eq!(history.status().dropped, 0, "a short outage costs nothing");
        drop(history);
        let all = usize::try_from(number + 1).unwrap();
        assert_eq!(rows(&path), (all, all));
    });
}

#[test]
fn a_disk_without_room_for_the_database_is_tried_again() {
    on_a_small_disk(256, |directory| {
        let filler = fill(directory);
        let path = directory.join("history.sqlite");
        let opened = Store::open(&path);
        assert!(
            opened.as_ref().is_err_and(|error| !error.is_permanent()),
            "{:?}",
            opened.map(|_| ())
        );
        let failed: Result<Store, HistoryError> = Store::open(&path);
        let history = History::start(path.clone(), RETENTION, failed, Box::new(|_| {})).unwrap();
        history.write(batch(0));
        assert!(history.status().state.fault().is_some());
        std::fs::remove_file(filler).unwrap();
        wait("it does not begin", || history.status().state == State::Writing);
        drop(history);
        assert_eq!(rows(&path), (1, 1));
    });
}
