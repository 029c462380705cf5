//! Real QEMU migrations with the observer: one record each, and its figures are those of the
//! kernel's sockets, of `/proc` and of QEMU.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::time::Duration;

use dwcp_observer_lab::guest::Guest;
use dwcp_observer_lab::migration::{MigrationPlan, Pair};
use dwcp_observer_lab::observer::{Observer, binary};
use dwcp_observer_lab::qemu::QemuSpec;
use dwcp_observer_lab::record::RecordExt as _;
use dwcp_observer_lab::socket_totals::SocketWatch;
use dwcp_observer_lab::temp::free_migration_port;
use dwcp_observer_lab::watched::Watched;
use dwcp_observer_model::record::{
    Migration, Outcome, Role, Sample, State, StreamRole, ThreadRole, Transport,
};

const MIB: u64 = 1 << 20;

fn spec(debug_threads: bool) -> QemuSpec {
    QemuSpec { debug_threads, ..QemuSpec::default() }
}

fn plan(multifd_channels: Option<u8>, ipv6: bool) -> MigrationPlan {
    let port = free_migration_port(ipv6).unwrap();
    MigrationPlan { multifd_channels, ipv6, port, ..MigrationPlan::default() }
}

/// Migrates from start to end and makes the comparisons that hold for every migration.
fn migrate(name: &str, spec: &QemuSpec, plan: &MigrationPlan) -> Watched {
    migrate_with(&[], name, spec, plan)
}

/// The same with arguments for the observer.
fn migrate_with(
    observer_args: &[&str],
    name: &str,
    spec: &QemuSpec,
    plan: &MigrationPlan,
) -> Watched {
    let mut pair = Pair::start(spec).unwrap();
    let mut sockets = SocketWatch::start().unwrap();
    let observer = Observer::start(&binary().unwrap(), observer_args).unwrap();
    pair.migrate(plan).unwrap();
    let watched = Watched::finish(&observer, &mut pair, plan, &mut sockets).unwrap();
    check(name, spec, plan, &pair, &watched);
    let stopped = observer.stop().unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
    watched
}

/// How far the record's duration may be off QEMU's: QEMU closes its sockets some time after it took
/// its own, and where QEMU itself runs in a translated VM that takes seconds.
fn late_limit_ms() -> f64 {
    match std::env::var("DWCP_LATE_MS") {
        Ok(limit) => {
            println!("durations may be {limit} ms off QEMU's");
            limit.parse().unwrap()
        }
        Err(_) => 1000.0,
    }
}

fn check(name: &str, spec: &QemuSpec, plan: &MigrationPlan, pair: &Pair, watched: &Watched) {
    let record = &watched.record;
    watched.check_sockets(plan).unwrap();
    let share = watched.check_transferred().unwrap();
    let late_ms = watched.late_ms().unwrap();
    assert!(late_ms.abs() <= late_limit_ms(), "{late_ms} ms: {record:#?} {:?}", watched.figures);
    watched.check_metrics().unwrap();
    assert_eq!(record.migrator, "qemu");
    assert_eq!(record.transport, Some(Transport::Tcp));
    assert_eq!(record.vm.name, spec.name);
    assert_eq!(record.vm.uuid, spec.uuid);
    assert_eq!(record.vm.memory_bytes, Some(u64::from(spec.guest.memory_mib) * MIB));
    assert_eq!(record.ends.len(), 2, "{record:#?}");
    assert_eq!(record.pid(Role::Source), Some(pair.source.pid()), "{record:#?}");
    assert_eq!(record.pid(Role::Destination), Some(pair.destination.pid()), "{record:#?}");
    assert!(!record.evidence.is_empty());
    // The first connection is the main one, all others are multifd channels.
    let mains = record.streams.iter().filter(|stream| stream.role == StreamRole::Main).count();
    let channels =
        record.streams.iter().filter(|stream| stream.role == StreamRole::Multifd).count();
    assert_eq!((mains, channels), (1, plan.connections() - 1), "{record:#?}");
    if spec.debug_threads {
        assert_eq!(record.outcome, Some(Outcome::Completed), "{record:#?}");
    } else {
        // Guest CPUs may not be recognised then; what is not known is not guessed.
        let told = matches!(record.outcome, Some(Outcome::Completed | Outcome::Unknown));
        assert!(told, "{record:#?}");
    }
    println!(
        "{name}: {} streams, {} B delivered, 0 B off the sockets, {:+.3} % off QEMU, {:.3} s, {late_ms:+.1} ms off QEMU",
        record.streams.len(),
        record.totals().delivered,
        100.0 * share,
        record.duration_seconds,
    );
}

/// The same, slowly enough that threads are measured for most of their life: those that live for
/// a moment on a busy machine are not found in time.
fn slowly(plan: &MigrationPlan) -> MigrationPlan {
    MigrationPlan { max_bandwidth: Some(100 << 20), ..plan.clone() }
}

/// The threads that move data have their roles; with names, guest CPUs too.
fn check_threads(record: &Migration, channels: usize, names: bool) {
    let count = |end, role| record.threads_of(end, role).count();
    assert_eq!(count(Role::Source, ThreadRole::Main), 1, "{:#?}", record.threads);
    for end in [Role::Source, Role::Destination] {
        assert_eq!(count(end, ThreadRole::Stream), channels, "{end:?}: {:#?}", record.threads);
    }
    // Whoever reads or writes 256 MiB has used a CPU.
    let busy =
        |end, role| record.threads_of(end, role).map(|thread| thread.on_cpu_seconds).sum::<f64>();
    let mover = if channels == 0 { ThreadRole::Main } else { ThreadRole::Stream };
    assert!(busy(Role::Source, mover) > 0.01, "{:#?}", record.threads);
    if names {
        let named = |end, role, name: &str| {
            record.threads_of(end, role).filter(|thread| thread.comm.starts_with(name)).count()
        };
        assert_eq!(
            named(Role::Source, ThreadRole::Main, "live_migration"),
            1,
            "{:#?}",
            record.threads
        );
        assert_eq!(
            named(Role::Source, ThreadRole::Stream, "multifdsend_"),
            channels,
            "{:#?}",
            record.threads
        );
        assert_eq!(
            named(Role::Destination, ThreadRole::Stream, "multifdrecv_"),
            channels,
            "{:#?}",
            record.threads
        );
        assert_eq!(named(Role::Source, ThreadRole::Vcpu, "CPU 0"), 1, "{:#?}", record.threads);
        assert_eq!(named(Role::Destination, ThreadRole::Vcpu, "CPU 0"), 1, "{:#?}", record.threads);
    }
}

#[test]
fn the_duration_is_within_100_ms_of_qemus() {
    // Whatever else the machine does delays QEMU's closing: one quiet run of five is enough, and a
    // duration that is measured wrongly has none.
    let mut late = Vec::new();
    while late.len() < 5 && !late.iter().any(|late: &f64| late.abs() <= 100.0) {
        late.push(migrate("duration", &spec(true), &plan(None, false)).late_ms().unwrap());
    }
    assert!(late.iter().any(|late| late.abs() <= 100.0), "{late:?} ms off");
}

#[test]
fn a_single_stream_with_thread_names() {
    let watched = migrate("single, names, IPv4", &spec(true), &slowly(&plan(None, false)));
    check_threads(&watched.record, 0, true);
    assert!(!watched.record.found_under_way, "{:#?}", watched.record);
}

#[test]
fn a_single_stream_without_thread_names() {
    let watched = migrate("single, no names, IPv6", &spec(false), &slowly(&plan(None, true)));
    check_threads(&watched.record, 0, false);
    assert!(!watched.record.found_under_way, "{:#?}", watched.record);
}

#[test]
fn four_channels_without_thread_names() {
    let watched = migrate("multifd 4, no names, IPv6", &spec(false), &slowly(&plan(Some(4), true)));
    check_threads(&watched.record, 4, false);
    assert!(!watched.record.found_under_way, "{:#?}", watched.record);
}

#[test]
fn sixteen_channels_with_thread_names() {
    let watched = migrate("multifd 16, names, IPv4", &spec(true), &slowly(&plan(Some(16), false)));
    check_threads(&watched.record, 16, true);
    assert!(!watched.record.found_under_way, "{:#?}", watched.record);
}

#[test]
fn sixteen_channels_without_thread_names() {
    migrate("multifd 16, no names, IPv4", &spec(false), &plan(Some(16), false));
}

/// Which rungs a kernel has is known beforehand: one that fails to attach fails the test.
#[test]
fn a_single_stream_on_each_rung() {
    let rungs = std::env::var("DWCP_RUNGS").unwrap_or_else(|_| "tp_btf,raw_tp".to_owned());
    // Small, for the sake of kernels that are emulated.
    let guest = Guest { memory_mib: 96, working_set_mib: 2, ..Guest::default() };
    let spec = QemuSpec { guest, ..spec(true) };
    for rung in rungs.split(',') {
        // So slow that its threads are found on a fast machine, too.
        let plan = MigrationPlan { max_bandwidth: Some(32 << 20), ..plan(None, false) };
        let watched = migrate_with(&["--rung", rung], rung, &spec, &plan);
        let record = &watched.record;
        let blackout = record.blackout.as_ref().unwrap();
        println!(
            "  blackout {:.1} ms (QEMU's downtime {} ms), {} threads",
            1e3 * blackout.seconds.unwrap(),
            watched.figures.downtime_ms.unwrap(),
            record.threads.len(),
        );
        assert!(blackout.complete, "{blackout:?}");
        assert_eq!(
            record.threads_of(Role::Source, ThreadRole::Main).count(),
            1,
            "{:#?}",
            record.threads
        );
        // The kernel leaves out a kprobe on a CPU that is in bpf(2): the first call of a flow may be missed.
        assert!(rung == "kprobe" || !record.found_under_way, "{record:#?}");
    }
}

/// CPU time of a thread by the kernel's own account, seconds.
fn schedstat(pid: u32, tid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).unwrap();
    text.split(' ').next().unwrap().parse::<u64>().unwrap() as f64 / 1e9
}

/// CPU time of a thread by the record and the kernel's account before and after the record's
/// reading was taken.
fn sandwich(observer: &Observer, id: &str, role: ThreadRole) -> (f64, f64, f64) {
    let record = observer.record(id).unwrap();
    let pid = record.pid(Role::Source).unwrap();
    let tid = record.threads_of(Role::Source, role).next().unwrap().tid;
    let before = schedstat(pid, tid);
    observer.wait_cycles().unwrap();
    let record = observer.record(id).unwrap();
    let after = schedstat(pid, tid);
    let thread = record.threads.iter().find(|thread| thread.tid == tid).unwrap();
    (before, thread.on_cpu_seconds, after)
}

#[test]
fn a_long_migration_has_a_history_and_true_cpu_times() {
    const RATE: u64 = 40 << 20;
    let plan = MigrationPlan { max_bandwidth: Some(RATE), ..plan(None, false) };
    let mut pair = Pair::start(&spec(true)).unwrap();
    let mut sockets = SocketWatch::start().unwrap();
    let observer = Observer::start(&binary().unwrap(), &[]).unwrap();
    pair.migrate(&plan).unwrap();
    let live = observer
        .wait_records(Duration::from_secs(30), |records| {
            records
                .first()
                .is_some_and(|record| record.ends.len() == 2 && !record.threads.is_empty())
        })
        .unwrap()
        .remove(0);
    assert_eq!((live.state, live.outcome), (State::Active, None));
    assert_eq!(live.history.is_none(), observer.record(&live.id).unwrap().history.is_some());

    // The guest's CPU runs throughout: its time grows as /proc says.
    let (first_before, first, first_after) = sandwich(&observer, &live.id, ThreadRole::Vcpu);
    let (main_before, main, main_after) = sandwich(&observer, &live.id, ThreadRole::Main);
    let (second_before, second, second_after) = sandwich(&observer, &live.id, ThreadRole::Vcpu);
    // /proc is brought up to date at each timer tick, at most 10 ms apart.
    const TICK: f64 = 0.011;
    let grown = second - first;
    assert!(grown >= second_before - first_after - TICK, "{grown} {second_before} {first_after}");
    assert!(grown <= second_after - first_before + TICK, "{grown} {second_after} {first_before}");
    assert!(grown > 0.5, "a guest CPU that never halts");
    // The migration's main thread began with it: all its time is in the record, but for the
    // moments before it was found.
    assert!(main >= main_before - 0.1, "{main} s of {main_before} s");
    assert!(main <= main_after + TICK, "{main} s of {main_after} s");

    let watched = Watched::finish(&observer, &mut pair, &plan, &mut sockets).unwrap();
    check("single, 40 MiB/s", &spec(true), &plan, &pair, &watched);
    let record = observer.record(&live.id).unwrap();
    let history = record.history.as_ref().unwrap();
    check_history(history, record.totals().delivered, record.duration_seconds);
    assert!(observer.stop().unwrap().status.success());
    println!(
        "  {} samples of history; guest CPU {grown:.3} s within {:.3} to {:.3} s of /proc; main thread {main:.3} s of {main_after:.3} s",
        history.len(),
        second_before - first_after,
        second_after - first_before,
    );
}

fn check_history(history: &[Sample], delivered: u64, seconds: f64) {
    // A sample a second while it ran; a busy machine may have cost one or two.
    assert!(history.len() as f64 >= seconds - 3.0, "{seconds} s: {history:#?}");
    assert!(history.len() as f64 <= seconds + 1.0, "{seconds} s: {history:#?}");
    for pair in history.windows(2) {
        let [before, after] = pair else { unreachable!() };
        let (was, is) = (before.bytes.unwrap(), after.bytes.unwrap());
        assert!(is.bytes_delivered >= was.bytes_delivered, "{history:#?}");
        let interval = after.at.duration_since(before.at).as_secs_f64();
        let rate = (is.bytes_delivered - was.bytes_delivered) as f64 / interval;
        assert!((is.bytes_per_second - rate).abs() <= 0.001 * rate + 1.0, "{rate}: {pair:#?}");
        assert_eq!(before.streams, 1, "{pair:#?}");
    }
    let last = history.last().unwrap().bytes.unwrap();
    assert!(last.bytes_delivered <= delivered);
    assert!(last.bytes_delivered > delivered / 2, "{delivered} B: {history:#?}");
}
