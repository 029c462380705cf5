//! Every kind of migrator is found, and what only looks like one is not.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dwcp_observer_lab::flows::{FlowHelper, FlowReport, Listening, WebReport};
use dwcp_observer_lab::guest::Guest;
use dwcp_observer_lab::migration::{MigrationPlan, Pair};
use dwcp_observer_lab::observer::{Observer, binary, shared_host};
use dwcp_observer_lab::process::ChildGuard;
use dwcp_observer_lab::qemu::{Qemu, QemuSpec, Role};
use dwcp_observer_lab::record::RecordExt as _;
use dwcp_observer_lab::temp::{TempDir, free_migration_port, free_port};
use dwcp_observer_model::record::Migration;
use serde_json::{Value, json};

const DWCP_PORT: u16 = 9876;
const LIMIT: Duration = Duration::from_secs(60);

fn lab(name: &str, args: &[&str]) -> FlowHelper {
    FlowHelper::start(Path::new(env!("CARGO_BIN_EXE_lab-flows")), name, args).unwrap()
}

/// One flow of 50 MB over `port` between two processes called `name`; returns what was sent.
fn bulk(name: &str, port: u16, more: &[&str]) -> u64 {
    let port = port.to_string();
    let mut args = more.to_vec();
    args.extend(["exchange", "--flows", "1", "--max-bytes", "50000000", "--port", &port]);
    let reports: Vec<FlowReport> = lab(name, &args).finish().unwrap();
    assert_eq!(reports.len(), 1);
    reports[0].bytes_read
}

/// A port of the kernel's choice that no built-in rule names.
fn arbitrary_port() -> u16 {
    let mut kept = Vec::new();
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        if port != DWCP_PORT && !(49152..=49215).contains(&port) {
            return port;
        }
        kept.push(listener);
    }
}

fn observe(config: &str) -> (Observer, TempDir) {
    let directory = TempDir::new().unwrap();
    let file = directory.join("observer.toml");
    std::fs::write(&file, config).unwrap();
    let args = ["--config", file.to_str().unwrap()];
    (Observer::start(&binary().unwrap(), &args).unwrap(), directory)
}

/// The one record that was not there before.
fn newest(observer: &Observer, count: usize) -> Migration {
    observer.wait_finished(count).unwrap().remove(0)
}

#[test]
fn each_migrator_that_is_known_without_configuration() {
    let (observer, _directory) = observe("");
    let cases: [(&str, &str, u16, &[&str]); 4] = [
        (
            "cloud-hypervisor",
            "cloud-hypervisor",
            arbitrary_port(),
            &["--thread-comm", "migration-worker"],
        ),
        (
            "cloud-hypervisor",
            "cloud-hypervisor",
            arbitrary_port(),
            &["--thread-comm", "migrate-send-memory-0"],
        ),
        ("criu", "criu", arbitrary_port(), &[]),
        ("dwcpd", "dwcp", DWCP_PORT, &[]),
    ];
    for (number, (process, migrator, port, more)) in cases.into_iter().enumerate() {
        let sent = bulk(process, port, more);
        let record = newest(&observer, number + 1);
        assert_eq!(record.migrator, migrator, "{record:#?}");
        assert_eq!(
            (record.totals().delivered, record.totals().received),
            (sent, sent),
            "{record:#?}"
        );
        assert_eq!(record.ends.len(), 2, "{record:#?}");
        println!("{process} on {port} {more:?}: {migrator}, {sent} B; {}", because(&record));
    }
    assert!(observer.stop().unwrap().status.success());
}

/// A receiver that takes data by splice(2) alone, as a proxy that hands them on: no receive call is seen.
#[test]
fn a_receiver_that_only_splices() {
    let (observer, _directory) = observe("");
    let sent = bulk("criu", arbitrary_port(), &["--splice"]);
    let record = newest(&observer, 1);
    assert_eq!(record.ends.len(), 2, "{record:#?}");
    assert_eq!((record.totals().delivered, record.totals().received), (sent, sent), "{record:#?}");
    assert!(!record.found_under_way, "{record:#?}");
    assert!(observer.stop().unwrap().status.success());
}

fn because(record: &Migration) -> String {
    let lines: Vec<&str> = record.evidence.iter().map(|line| line.detail.as_str()).collect();
    lines.join("; ")
}

#[test]
fn qemu_on_any_port_with_and_without_thread_names() {
    let (observer, _directory) = observe("");
    for (number, (port, debug_threads)) in
        [(arbitrary_port(), true), (arbitrary_port(), false)].into_iter().enumerate()
    {
        let spec = QemuSpec { debug_threads, ..QemuSpec::default() };
        let plan = MigrationPlan { port, multifd_channels: Some(2), ..MigrationPlan::default() };
        let mut pair = Pair::start(&spec).unwrap();
        pair.migrate(&plan).unwrap();
        assert_eq!(pair.wait_end(LIMIT).unwrap().status, "completed");
        let record = newest(&observer, number + 1);
        assert_eq!(record.migrator, "qemu");
        assert_eq!(record.streams.len(), 3, "{record:#?}");
        assert_eq!(record.pid(Role::Source), Some(pair.source.pid()));
        assert_eq!(record.pid(Role::Destination), Some(pair.destination.pid()));
        println!("qemu on {port}, thread names {debug_threads}: {}", because(&record));
    }
    assert!(observer.stop().unwrap().status.success());
}

/// The cgroup of this process and its children as the observer names it.
fn own_cgroup() -> String {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let paths = || text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let v2 = text.lines().find_map(|line| line.strip_prefix("0::"));
    v2.or_else(|| paths().max_by_key(|path| path.len())).unwrap().to_owned()
}

#[test]
fn what_a_few_lines_of_configuration_add() {
    let (by_port, in_rule, free) = (arbitrary_port(), arbitrary_port(), arbitrary_port());
    let cgroup = own_cgroup();
    let config = format!(
        "[identify]\nports = [{by_port}]\n\
         [[rule]]\nname = 'by-comm'\ncomm = 'mover-a*'\n\
         [[rule]]\nname = 'by-port'\ncomm = 'mover-b'\nports = [{in_rule}]\n\
         [[rule]]\nname = 'by-exe'\nexe = '*/mover-c'\n\
         [[rule]]\nname = 'by-cgroup'\ncgroup = '{cgroup}*'\ncmdline = '--thread-comm y4711'\n\
         [[rule]]\nname = 'no-match'\ncgroup = '/no/such/*'\nexe = '*'\n"
    );
    let (observer, _directory) = observe(&config);
    let mut count = 0;
    for (process, port, migrator) in [
        ("anything", by_port, "port"),
        ("mover-a1", free, "by-comm"),
        ("mover-b", in_rule, "by-port"),
    ] {
        let sent = bulk(process, port, &[]);
        count += 1;
        let record = newest(&observer, count);
        assert_eq!(record.migrator, migrator, "{record:#?}");
        assert_eq!(
            (record.totals().delivered, record.totals().received),
            (sent, sent),
            "{record:#?}"
        );
        println!("{process} on {port}: {migrator}, {sent} B");
    }
    // Nothing else matches a rule by half.
    bulk("mover-b", free, &[]);
    bulk("mover-x", in_rule, &[]);
    observer.wait_cycles().unwrap();
    observer.wait_finished(count).unwrap();
    // What only /proc can tell is found within a cycle.
    let rate = ["steady", "--connections", "1", "--rate", "1000000"];
    for (process, args, migrator) in
        [("mover-c", &[][..], "by-exe"), ("x", &["--thread-comm", "y4711"], "by-cgroup")]
    {
        let mut helper = lab(process, &[args, &rate].concat());
        let _: Value = helper.line().unwrap();
        let found =
            |records: &[Migration]| records.iter().any(|record| record.migrator == migrator);
        observer.wait_records(Duration::from_secs(10), found).unwrap();
        helper.tell_stop().unwrap();
        assert_eq!(helper.finish::<Value>().unwrap().len(), 1);
        count += 1;
        observer.wait_finished(count).unwrap();
        println!("{process} {args:?}: {migrator}");
    }
    assert!(observer.stop().unwrap().status.success());
}

/// Runs decoys and looks after each whether a migration is said to be there.
struct Decoys {
    observer: Observer,
}

impl Decoys {
    fn new() -> Self {
        Self { observer: Observer::start(&binary().unwrap(), &[]).unwrap() }
    }

    fn none(&self, what: &str) {
        self.observer.wait_cycles().unwrap();
        let records = self.observer.records().unwrap();
        assert!(records.is_empty(), "{what}: {records:#?}");
        if !shared_host() {
            let counted = self.observer.metrics().unwrap().sum("dwcp_v3_migrations_total", &[]);
            assert_eq!(counted.unwrap(), 0.0, "{what}");
        }
        println!("{what}: no migration");
    }
}

fn iperf3(port: u16) {
    for direction in [None, Some("-R")] {
        let port = port.to_string();
        let mut server = Command::new("iperf3");
        server.args(["-s", "-1", "-B", "127.0.0.1", "-p", &port]).stdout(Stdio::null());
        let mut server = ChildGuard::spawn(&mut server).unwrap();
        let start = Instant::now();
        loop {
            let mut client = Command::new("iperf3");
            client.args(["-c", "127.0.0.1", "-p", &port, "-n", "100M"]).args(direction);
            let output = client.output().unwrap();
            if output.status.success() {
                break;
            }
            // The server takes a moment to listen.
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(start.elapsed() < Duration::from_secs(10), "{said}");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(server.wait_for(LIMIT).unwrap().is_some_and(|status| status.success()));
    }
}

#[test]
fn iperf3_is_no_migration() {
    let decoys = Decoys::new();
    for port in [arbitrary_port(), free_migration_port(false).unwrap(), DWCP_PORT] {
        iperf3(port);
        decoys.none(&format!("iperf3 on {port}, both ways"));
    }
    assert!(decoys.observer.stop().unwrap().status.success());
}

/// Downloads of `bytes` from a server of this name.
fn downloads(server: &str, client: &str, port: u16, bytes: &str, count: &str) {
    let port = port.to_string();
    let mut serving = lab(server, &["web-serve", "--port", &port, "--bytes", bytes]);
    let listening: Listening = serving.line().unwrap();
    let address = listening.ipv4.to_string();
    let got = lab(client, &["web-get", "--server", &address, "--downloads", count]);
    assert_eq!(got.finish::<WebReport>().unwrap().len(), 1);
    assert!(serving.finish::<Value>().unwrap().is_empty());
}

#[test]
fn servers_on_migration_ports_are_no_migrations() {
    let decoys = Decoys::new();
    let port = || free_migration_port(false).unwrap();
    downloads("nginx", "curl", port(), "100000000", "2");
    decoys.none("nginx and curl on a libvirt port, downloads");
    bulk("nginx", port(), &[]);
    decoys.none("nginx on a libvirt port, an upload");
    downloads("my-service", "my-client", port(), "100000000", "2");
    bulk("my-service", port(), &[]);
    decoys.none("programs of unknown names on a libvirt port, both ways");
    downloads("nginx", "curl", DWCP_PORT, "100000000", "2");
    downloads("my-service", "my-client", DWCP_PORT, "100000000", "2");
    bulk("nginx", DWCP_PORT, &[]);
    decoys.none("web servers on DWCP's port");
    for port in [arbitrary_port(), port(), DWCP_PORT] {
        bulk("sshd", port, &[]);
    }
    decoys.none("sshd on three ports");
    for port in [arbitrary_port(), port()] {
        downloads("postgres", "psql", port, "8000", "300");
        downloads("postgres", "psql", port, "20000000", "3");
    }
    decoys.none("a database, small and large answers");
    downloads("dwcpd", "prometheus", 9090, "20000000", "2");
    decoys.none("a DWCP daemon's metrics");
    assert!(decoys.observer.stop().unwrap().status.success());
}

/// A small VM that stays where it is.
fn vm(extra_args: &[&str]) -> Qemu {
    let guest = Guest { memory_mib: 16, ..Guest::default() };
    let extra_args = extra_args.iter().map(Into::into).collect();
    let mut vm =
        Qemu::start(&QemuSpec { guest, extra_args, ..QemuSpec::default() }, Role::Source).unwrap();
    vm.wait_filled(LIMIT).unwrap();
    vm
}

/// Copies a disk of 64 MiB from one VM's NBD server into another VM's file, and back.
fn nbd(port: u16) {
    const DISK: u64 = 64 << 20;
    let directory = TempDir::new().unwrap();
    let (there, here) = (directory.join("there"), directory.join("here"));
    std::fs::write(&there, vec![0x5a; DISK as usize]).unwrap();
    File::create(&here).unwrap().set_len(DISK).unwrap();
    let (mut server, mut client) = (vm(&[]), vm(&[]));
    let address = json!({ "host": "127.0.0.1", "port": port.to_string() });
    let disk = |name: &str, path: &Path| json!({ "driver": "file", "node-name": name, "filename": path.to_str().unwrap() });
    server.qmp().execute("blockdev-add", &disk("disk", &there)).unwrap();
    let listen = json!({ "addr": { "type": "inet", "data": address } });
    server.qmp().execute("nbd-server-start", &listen).unwrap();
    let export = json!({ "type": "nbd", "id": "export", "node-name": "disk", "writable": true });
    server.qmp().execute("block-export-add", &export).unwrap();
    let mut inet = address;
    inet["type"] = "inet".into();
    let remote =
        json!({ "driver": "nbd", "node-name": "remote", "export": "disk", "server": inet });
    client.qmp().execute("blockdev-add", &remote).unwrap();
    client.qmp().execute("blockdev-add", &disk("local", &here)).unwrap();
    for (job, from, to) in [("fetch", "remote", "local"), ("push", "local", "remote")] {
        let copy = json!({ "job-id": job, "device": from, "target": to, "sync": "full" });
        client.qmp().execute("blockdev-backup", &copy).unwrap();
        let start = Instant::now();
        while client.qmp().execute("query-block-jobs", &Value::Null).unwrap() != json!([]) {
            assert!(start.elapsed() < LIMIT, "{job} does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert!(std::fs::read(&here).unwrap().iter().all(|byte| *byte == 0x5a), "the disk was copied");
}

/// Asks for whole frames of a VM's display again and again.
fn vnc(port: u16) -> usize {
    let display = format!("127.0.0.1:{}", port - 5900);
    let _vm = vm(&["-vga", "std", "-vnc", &display]);
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let read = |stream: &mut TcpStream, length: usize| {
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).unwrap();
        bytes
    };
    assert!(read(&mut stream, 12).starts_with(b"RFB 003"));
    stream.write_all(b"RFB 003.008\n").unwrap();
    let kinds = usize::from(read(&mut stream, 1)[0]);
    read(&mut stream, kinds);
    // Security type 1: none. Then: share the display.
    stream.write_all(&[1]).unwrap();
    assert_eq!(read(&mut stream, 4), [0; 4]);
    stream.write_all(&[1]).unwrap();
    let about = read(&mut stream, 24);
    let name = u32::from_be_bytes([about[20], about[21], about[22], about[23]]);
    read(&mut stream, name as usize);
    let mut total = 0;
    for _ in 0..20 {
        // A whole frame, not only what has changed.
        let mut ask = vec![3, 0, 0, 0, 0, 0];
        ask.extend_from_slice(&about[..4]);
        stream.write_all(&ask).unwrap();
        let head = read(&mut stream, 4);
        for _ in 0..u16::from_be_bytes([head[2], head[3]]) {
            let rectangle = read(&mut stream, 12);
            let side =
                |at: usize| usize::from(u16::from_be_bytes([rectangle[at], rectangle[at + 1]]));
            // Raw pixels of 32 bits: nothing else was offered.
            assert_eq!(rectangle[8..], [0; 4]);
            total += read(&mut stream, 4 * side(4) * side(6)).len();
        }
    }
    total
}

/// Large answers of a VM's monitor over TCP.
fn monitor(port: u16) -> usize {
    let _vm = vm(&["-qmp", &format!("tcp:127.0.0.1:{port},server=on,wait=off")]);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut total = 0;
    let mut line = |stream: &mut TcpStream| {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "QEMU closed its monitor");
            total += read;
            if buffer[read - 1] == b'\n' {
                return total;
            }
        }
    };
    line(&mut stream);
    stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\n").unwrap();
    line(&mut stream);
    for _ in 0..30 {
        stream.write_all(b"{\"execute\":\"query-qmp-schema\"}\n").unwrap();
        line(&mut stream);
    }
    total
}

#[test]
fn qemus_other_traffic_is_no_migration() {
    let decoys = Decoys::new();
    for port in [free_port().unwrap(), free_migration_port(false).unwrap()] {
        nbd(port);
        decoys.none(&format!("NBD on {port}, 64 MiB each way"));
    }
    for port in [5987, free_migration_port(false).unwrap()] {
        let bytes = vnc(port);
        assert!(bytes > 4 << 20, "{bytes} B");
        decoys.none(&format!("VNC on {port}, {bytes} B"));
    }
    for port in [arbitrary_port(), free_migration_port(false).unwrap()] {
        let bytes = monitor(port);
        assert!(bytes > 2 << 20, "{bytes} B");
        decoys.none(&format!("a monitor on {port}, {bytes} B"));
    }
    assert!(decoys.observer.stop().unwrap().status.success());
}
