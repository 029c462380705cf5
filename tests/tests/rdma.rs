//! RDMA over Soft-RoCE: what the observer says of queue pairs, beside what their programs say. Needs a kernel with RDMA:
//! `cargo xtask vm-test --test rdma` runs it in VMs.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use dwcp_observer_lab::guest::Guest;
use dwcp_observer_lab::migration::{MigrationPlan, Pair, QemuFigures, Transport};
use dwcp_observer_lab::observer::{Observer, binary};
use dwcp_observer_lab::qemu::QemuSpec;
use dwcp_observer_lab::rdma::{ADDRESS, Driver, SoftDevice, provider, server_and_client, start};
use dwcp_observer_lab::record::RecordExt as _;
use dwcp_observer_lab::temp::TempDir;
use dwcp_observer_model::queue_pair::DataPath;
use dwcp_observer_model::rdma::{HostQueuePair, Rdma};
use dwcp_observer_model::record::{
    Migration, Mode, Operations, Outcome, QueuePair, Role, Transport as Carrier,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);

fn spec() -> QemuSpec {
    let guest = Guest { memory_mib: 64, working_set_mib: 4, ..Guest::default() };
    QemuSpec { guest, ..QemuSpec::default() }
}

fn plan(transport: Transport, port: u16) -> MigrationPlan {
    let host = Some(ADDRESS.parse().unwrap());
    MigrationPlan { transport, host, port, ..MigrationPlan::default() }
}

fn observer() -> Observer {
    Observer::start(&binary().unwrap(), &[]).unwrap()
}

/// An observer that probes the provider's post function, which it looks for itself.
fn probing_observer() -> Observer {
    let directory = TempDir::new().unwrap();
    let path = directory.join("config.toml");
    let library = provider().unwrap();
    std::fs::write(&path, format!("[rdma]\npost_functions = [{{ path = {library:?} }}]\n"))
        .unwrap();
    let observer =
        Observer::start(&binary().unwrap(), &["--config", path.to_str().unwrap()]).unwrap();
    let health = observer.json("/health").unwrap();
    let mut probes = health["probes"].as_array().unwrap().iter();
    let probe = probes.find(|probe| probe["probe"] == "post_send").unwrap();
    assert_eq!(probe["attached"], Value::Bool(true), "{probe}");
    observer
}

/// Losses of the probe on the provider's post function, which must be none.
fn provider_losses(observer: &Observer) -> f64 {
    let metrics = observer.metrics().unwrap();
    let reasons = ["unknown", "list", "buffers", "unreadable"];
    let of = |reason| [("map", "rdma_provider_posts"), ("reason", reason)];
    reasons.iter().map(|reason| metrics.sum("dwcp_observer_lost_total", &of(reason)).unwrap()).sum()
}

/// The figures of one migration beside QEMU's.
fn beside(name: &str, record: &Migration, figures: &QemuFigures, packets: u64) -> String {
    let blackout = record.blackout.as_ref().and_then(|blackout| blackout.seconds);
    let sent = record.totals().delivered;
    let off = 100.0 * (sent as f64 / figures.transferred as f64 - 1.0);
    format!(
        "{name}: total {:.1} ms (QEMU {} ms), bytes {sent} (QEMU {}, {off:+.2} %), device {packets} packets, \
         blackout {} (QEMU {} ms)",
        record.duration_seconds * 1e3,
        figures.total_time_ms.unwrap_or_default(),
        figures.transferred,
        blackout.map_or("-".to_owned(), |seconds| format!("{:.1} ms", seconds * 1e3)),
        figures.downtime_ms.unwrap_or_default(),
    )
}

#[test]
#[ignore = "needs RDMA: cargo xtask vm-test --test rdma"]
fn a_migration_over_rdma_is_one_record_with_queue_pairs_as_streams() {
    let device = SoftDevice::new(Driver::Rxe, "mig").unwrap();
    for (name, transport, port) in
        [("rdma", Transport::Rdma, 4445), ("rdma-pin-all", Transport::RdmaPinAll, 4446)]
    {
        let observer = observer();
        let mut pair = Pair::start(&spec()).unwrap();
        let before = device.counter("sent_pkts").unwrap();
        pair.migrate(&plan(transport, port)).unwrap();
        let figures = pair.wait_end(LIMIT).unwrap();
        assert_eq!(figures.status, "completed", "{:?}", figures.error);
        let record = observer.wait_finished(1).unwrap().remove(0);
        let packets = device.counter("sent_pkts").unwrap() - before;
        println!("{}", beside(name, &record, &figures, packets));
        println!("{:?} {:?}", record.streams, record.registered_memory);
        assert_eq!((record.transport, record.migrator.as_str()), (Some(Carrier::Rdma), "qemu"));
        assert_eq!(record.mode, Some(Mode::Datacenter));
        assert_eq!(record.outcome, Some(Outcome::Completed), "{:?}", record.evidence);
        assert_eq!(record.pid(Role::Source), Some(pair.source.pid()));
        assert_eq!(record.pid(Role::Destination), Some(pair.destination.pid()));
        assert_eq!(record.streams.len(), 1);
        let queue_pair = record.streams[0].queue_pair.as_ref().unwrap();
        assert_eq!(queue_pair.device, device.name());
        assert_eq!(queue_pair.data_path, DataPath::Completions);
        let off = record.totals().delivered.abs_diff(figures.transferred) as f64;
        assert!(
            off <= 0.02 * figures.transferred as f64,
            "{}",
            beside(name, &record, &figures, packets)
        );
        let blackout = record.blackout.as_ref().unwrap();
        assert!(blackout.complete, "{blackout:?}");
        let total = figures.total_time_ms.unwrap() as f64 / 1e3;
        assert!(
            (record.duration_seconds - total).abs() < 0.5,
            "{} {total}",
            record.duration_seconds
        );
        let source =
            record.registered_memory.iter().find(|memory| memory.end == Role::Source).unwrap();
        let whole = u64::from(spec().guest.memory_mib) << 20;
        if transport == Transport::RdmaPinAll {
            assert!(source.bytes >= whole, "all memory is registered: {source:?}");
        }
        assert!(source.registrations > 0 && source.seconds > 0.0, "{source:?}");
        assert!(observer.stop().unwrap().status.success());
    }
}

/// What the process handed to its provider beside what the kernel found in its send queue, by operation; without BTF of the driver
/// (5.10), beside the completions, which QEMU asks for of each request.
fn posts_beside(queue_pair: &QueuePair) -> Vec<(String, u64, u64)> {
    let sent = queue_pair.operations.iter().filter(|(name, _)| !name.starts_with("recv"));
    sent.map(|(name, found)| {
        let kernel = found.posted.unwrap_or(found.completed);
        (name.clone().into_owned(), found.provider_posted.unwrap_or_default(), kernel)
    })
    .collect()
}

/// The provider's post function and the kernel's doorbell count the same requests: in the process, and behind it.
#[test]
#[ignore = "needs RDMA: cargo xtask vm-test --test rdma"]
fn what_processes_hand_to_their_provider_is_what_the_kernel_finds_posted() {
    let device = SoftDevice::new(Driver::Rxe, "posts").unwrap();
    let observer = probing_observer();
    for (size, list) in [("65536", "1"), ("4096", "16")] {
        // Left to itself it posts by `ibv_wr_start`, which are other functions.
        let old = "--use_old_post_send";
        let write = ["-d", device.name(), "-s", size, "-n", "512", "-l", list, old];
        let bytes: u64 = size.parse().unwrap();
        exact("ib_write_bw", || {
            let client = [&write[..], &[ADDRESS]].concat();
            let (text, pairs) = watched(&observer, "ib_write_bw", || {
                server_and_client("ib_write_bw", &write, &client, LIMIT).unwrap()
            });
            println!("{text}");
            assert_eq!(pairs.len(), 2);
            let of_writer =
                |qp: &&HostQueuePair| qp.queue_pair.operations.contains_key("rdma_write");
            let writer = pairs.iter().find(of_writer).unwrap();
            let found = completed(writer, "rdma_write");
            // The probe is in the program's own way and misses nothing.
            assert_eq!(found.provider_posted, Some(512), "{pairs:?}");
            assert_eq!(found.provider_posted_bytes, Some(512 * bytes), "{pairs:?}");
            let kernel = found.posted.unwrap_or(512);
            println!(
                "posted: {:?} by the provider, {:?} by doorbells",
                found.provider_posted, found.posted
            );
            (kernel == 512).then_some(()).ok_or(format!("{pairs:?}"))
        });
    }
    let mut port = 4450;
    exact("qemu", || {
        port += 1;
        let mut pair = Pair::start(&spec()).unwrap();
        let known = observer.records().unwrap().len();
        pair.migrate(&plan(Transport::Rdma, port)).unwrap();
        let figures = pair.wait_end(LIMIT).unwrap();
        assert_eq!(figures.status, "completed", "{:?}", figures.error);
        let record = observer.wait_finished(known + 1).unwrap().swap_remove(0);
        let both = posts_beside(record.streams[0].queue_pair.as_ref().unwrap());
        println!("QEMU {} B: provider beside kernel: {both:?}", figures.transferred);
        assert!(both.iter().any(|(_, provider, _)| *provider > 100), "{both:?}");
        both.iter()
            .all(|(_, provider, kernel)| provider == kernel)
            .then_some(())
            .ok_or(format!("{both:?}"))
    });
    assert!(provider_losses(&observer).abs() < f64::EPSILON, "nothing is lost");
    assert!(observer.stop().unwrap().status.success());
}

/// The queue pairs of a program, in the order in which they were created. Asked while the observer still shows them.
fn queue_pairs(observer: &Observer, comm: &str) -> Vec<HostQueuePair> {
    let rdma: Rdma = serde_json::from_value(observer.json("/api/v1/rdma").unwrap()).unwrap();
    rdma.queue_pairs.into_iter().filter(|qp| qp.comm == comm).collect()
}

/// Runs a program and collects its queue pairs from every answer of the observer until it is gone.
fn watched(
    observer: &Observer,
    comm: &str,
    work: impl FnOnce() -> String + Send,
) -> (String, Vec<HostQueuePair>) {
    let older: Vec<_> = queue_pairs(observer, comm).iter().map(identity).collect();
    std::thread::scope(|scope| {
        let running = scope.spawn(work);
        let mut last: Vec<HostQueuePair> = Vec::new();
        loop {
            let done = running.is_finished();
            for qp in queue_pairs(observer, comm) {
                if older.contains(&identity(&qp)) {
                    continue;
                }
                last.retain(|known| identity(known) != identity(&qp));
                last.push(qp);
            }
            let closed = !last.is_empty() && last.iter().all(|qp| qp.close_reason.is_some());
            if done && closed {
                return (running.join().unwrap(), last);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    })
}

/// A device gives a number out again: on 5.10, the one that was freed last.
fn identity(qp: &HostQueuePair) -> (u32, u32) {
    (qp.pid, qp.queue_pair.qpn)
}

fn completed(qp: &HostQueuePair, operation: &str) -> Operations {
    qp.queue_pair.operations.get(operation).copied().unwrap_or_default()
}

/// The queues of Soft-RoCE can be read where its structs are known: from the driver's BTF (not in 5.10).
fn queues_are_read() -> bool {
    Path::new("/sys/kernel/btf/rdma_rxe").exists()
}

/// The kernel leaves a kprobe out on a CPU that is in bpf(2), so that one completion in some 10,000 is missed on a busy machine where
/// the completion queue cannot be read either (docs/operate/limitations.md). What is counted wrongly is wrong each time.
fn exact(program: &str, mut attempt: impl FnMut() -> Result<(), String>) {
    let attempts = if queues_are_read() { 1 } else { 3 };
    let counted = (1..=attempts).any(|number| match attempt() {
        Ok(()) => {
            println!("{program}: exact, attempt {number}");
            true
        }
        Err(off) => {
            println!("{program}: attempt {number} is off: {off}");
            false
        }
    });
    assert!(counted, "{program} is not counted exactly in {attempts} attempts");
}

#[test]
#[ignore = "needs RDMA: cargo xtask vm-test --test rdma"]
fn programs_that_use_verbs_are_counted_exactly_and_are_no_migrations() {
    let device = SoftDevice::new(Driver::Rxe, "tools").unwrap();
    let observer = observer();
    let name = device.name();
    let run = |program: &'static str, args: &[&str], client: &[&str]| {
        let server: Vec<&str> = args.to_vec();
        let client: Vec<&str> = [args, client].concat();
        watched(&observer, program, || server_and_client(program, &server, &client, LIMIT).unwrap())
    };

    let write = ["-d", name, "-s", "65536", "-n", "500"];
    exact("ib_write_bw", || {
        let (text, pairs) = run("ib_write_bw", &write, &[ADDRESS]);
        println!("{text}");
        assert_eq!(pairs.len(), 2);
        let found = pairs
            .iter()
            .map(|qp| completed(qp, "rdma_write"))
            .fold((0, 0), |(count, bytes), one| (count + one.completed, bytes + one.bytes));
        (found == (500, 500 * 65536)).then_some(()).ok_or(format!("{pairs:?}"))
    });

    let send = ["-d", name, "-s", "64", "-n", "1000"];
    exact("ib_send_lat", || {
        let (text, pairs) = run("ib_send_lat", &send, &[ADDRESS]);
        println!("{text}");
        let whole = |qp: &HostQueuePair| {
            let both = ["send", "recv"].map(|operation| completed(qp, operation));
            both.iter().all(|found| (found.completed, found.bytes) == (1000, 64_000))
                && (qp.bytes_sent, qp.bytes_received) == (Some(64_000), Some(64_000))
        };
        for qp in &pairs {
            println!("completion latency of one end: {:?}", qp.queue_pair.completion_latency);
        }
        (pairs.len() == 2 && pairs.iter().all(whole)).then_some(()).ok_or(format!("{pairs:?}"))
    });

    let rounds = |end| [end, "-a", ADDRESS, "-C", "50"];
    exact("rping", || {
        let (_, pairs) = watched(&observer, "rping", || {
            server_and_client("rping", &rounds("-s"), &rounds("-c"), LIMIT).unwrap()
        });
        // Each round: the server reads the client's buffer and writes it back.
        let sum =
            |operation| pairs.iter().map(|qp| completed(qp, operation).completed).sum::<u64>();
        let found = (sum("rdma_read"), sum("rdma_write"));
        (found == (50, 50)).then_some(()).ok_or(format!("{pairs:?}"))
    });

    assert!(observer.records().unwrap().is_empty(), "none of them moves a VM");
    assert!(observer.stop().unwrap().status.success());
}

#[test]
#[ignore = "needs RDMA: cargo xtask vm-test --test rdma"]
fn a_destination_that_dies_fails_the_migration() {
    let _device = SoftDevice::new(Driver::Rxe, "dies").unwrap();
    let observer = observer();
    let mut pair = Pair::start(&spec()).unwrap();
    let slow = MigrationPlan { max_bandwidth: Some(2 << 20), ..plan(Transport::Rdma, 4447) };
    pair.migrate(&slow).unwrap();
    observer
        .wait_records(LIMIT, |records| {
            records.iter().any(|record| record.totals().delivered > 1 << 20)
        })
        .unwrap();
    let Pair { mut source, destination } = pair;
    destination.kill();
    let record = observer.wait_finished(1).unwrap().remove(0);
    println!("{:?} {:?} {:?}", record.outcome, record.streams, record.evidence);
    assert_eq!(record.outcome, Some(Outcome::Failed), "{:?}", record.evidence);
    assert_eq!(record.transport, Some(Carrier::Rdma));
    source.end().unwrap();
    assert!(observer.stop().unwrap().status.success());
}

#[test]
#[ignore = "needs RDMA: cargo xtask vm-test --test rdma"]
fn a_device_that_goes_away_keeps_what_was_counted() {
    let observer = observer();
    let device = SoftDevice::new(Driver::Rxe, "gone").unwrap();
    let mut pair = Pair::start(&spec()).unwrap();
    let slow = MigrationPlan { max_bandwidth: Some(2 << 20), ..plan(Transport::Rdma, 4448) };
    pair.migrate(&slow).unwrap();
    let records = observer
        .wait_records(LIMIT, |records| {
            records.iter().any(|record| record.totals().delivered > 1 << 20)
        })
        .unwrap();
    let before = records[0].totals().delivered;
    // Soft-RoCE cannot be taken from a process that uses it: the device goes once both have let go of it.
    let record = std::thread::scope(|scope| {
        let removal = scope.spawn(|| device.remove());
        std::thread::sleep(Duration::from_secs(2));
        let Pair { mut source, mut destination } = pair;
        source.end().unwrap();
        destination.end().unwrap();
        removal.join().unwrap().unwrap();
        observer.wait_finished(1).unwrap().remove(0)
    });
    println!("{before} B before, {:?} {:?}", record.bytes, record.evidence);
    assert!(record.totals().delivered >= before);
    let metrics = observer.metrics().unwrap();
    let labels = [("device", device.name()), ("direction", "sent")];
    let counted = metrics.sum("dwcp_v3_rdma_bytes_total", &labels).unwrap();
    assert!(counted >= before as f64, "{counted}");
    assert!(observer.stop().unwrap().status.success());
}

/// A receiver that is stopped uses up its receives; then the sender's device is told to wait, again and again.
#[test]
#[ignore = "needs RDMA: cargo xtask vm-test --test rdma"]
fn waits_for_a_receiver_that_is_not_ready_are_the_devices_own_count() {
    const MESSAGES: u64 = 20_000;
    let device = SoftDevice::new(Driver::Rxe, "rnr").unwrap();
    let observer = observer();
    let directory = TempDir::new().unwrap();
    let count = MESSAGES.to_string();
    // One message at a time: what is on its way when the receiver runs dry would be refused for its place in the order instead.
    let server = ["-d", device.name(), "-s", "64", "-n", &count, "-t", "1", "-r", "32"];
    let client = [&server[..], &[ADDRESS]].concat();
    let mut receiver = start("ib_send_bw", &server, &directory.join("server")).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let refused = device.counter("rcvd_rnr_err").unwrap();
    let mut sender = start("ib_send_bw", &client, &directory.join("client")).unwrap();
    let until = |what: &str, condition: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !condition() {
            assert!(begun.elapsed() < LIMIT, "no {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let packets = || device.counter("sent_pkts").unwrap();
    let first = packets();
    until("message", &|| packets() > first + 200);
    receiver.signal(libc::SIGSTOP).unwrap();
    until("wait", &|| device.counter("rcvd_rnr_err").unwrap() > refused + 20);
    receiver.signal(libc::SIGCONT).unwrap();
    for end in [&mut sender, &mut receiver] {
        let status = end.wait_for(LIMIT).unwrap();
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
    }
    let closed = || queue_pairs(&observer, "ib_send_bw");
    until("end", &|| closed().len() == 2 && closed().iter().all(|qp| qp.close_reason.is_some()));
    let refused = device.counter("rcvd_rnr_err").unwrap() - refused;
    let pairs = closed();
    println!("{refused} refusals, {pairs:?}");
    let waits = |operation: &str| {
        let of = |qp: &&HostQueuePair| completed(qp, operation).completed > 0;
        let qp = pairs.iter().find(of).unwrap();
        let counted = completed(qp, operation).completed;
        println!("{operation}: {counted} of {MESSAGES} completions counted");
        // Without the queue, those whose kprobe the kernel left out are missing.
        let missing = if queues_are_read() { 0 } else { MESSAGES / 100 };
        assert!((MESSAGES - missing..=MESSAGES).contains(&counted), "{operation}: {counted}");
        qp.queue_pair.rnr_waits
    };
    // Which queue pair a timer belongs to is known from the driver's BTF alone, too.
    let seen = queues_are_read();
    let sender_waits = waits("send");
    assert_eq!(sender_waits.is_some(), seen);
    // Each refusal is a wait of the sender, but for those whose kprobe the kernel left out.
    let missed = sender_waits.map(|waits| refused.abs_diff(waits));
    assert!(missed.is_none_or(|missed| missed <= 1 + refused / 100), "{refused} {sender_waits:?}");
    assert_eq!(waits("recv"), seen.then_some(0));
    assert!(observer.stop().unwrap().status.success());
}

/// On a host without RDMA: one line in `check`, nothing loaded, nothing exported. On one with it: the hooks are in place.
#[test]
fn a_host_without_rdma_has_one_line_and_no_cost() {
    let module = |name: &str| Path::new("/sys/module").join(name).exists();
    let there = ["ib_core", "rdma_cm", "ib_uverbs"].into_iter().any(module);
    let output = Command::new(binary().unwrap())
        .args(["check", "--listen", "127.0.0.1:0", "--json"])
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let facts = report["facts"].as_array().unwrap();
    let lines: Vec<&Value> = facts.iter().filter(|fact| fact["name"] == "RDMA").collect();
    println!("RDMA here: {there}, {lines:?}");
    assert_eq!((lines.len(), &lines[0]["ok"]), (1, &Value::Bool(true)));
    let observer = observer();
    observer.wait_cycles().unwrap();
    let exported = observer.get("/metrics").unwrap().text().unwrap().to_owned();
    let health = observer.json("/health").unwrap();
    let hook =
        |probe: &Value| probe["probe"].as_str().is_some_and(|name| name.starts_with("rdma_"));
    let hooks = health["probes"].as_array().unwrap().iter().filter(|probe| hook(probe)).count();
    let pairs = observer.json("/api/v1/rdma").unwrap();
    assert_eq!(pairs["queue_pairs"].as_array().unwrap().len(), 0);
    if there {
        assert!(hooks > 0, "{health}");
    } else {
        let none = "none: no RDMA device or module on this host";
        assert_eq!(lines[0]["found"], none);
        assert_eq!(hooks, 0, "{health}");
        assert!(!exported.contains("dwcp_v3_rdma_"), "nothing is exported");
        assert!(!observer.output().contains("WARN"), "{}", observer.output());
    }
    assert!(observer.stop().unwrap().status.success());
}
