//! The eBPF programs on the running kernel. Needs root: run by `cargo xtask test`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failing test stops where it fails"
)]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use dwcp_observer::{
    kernel::{
        Kernel, LoadError, LoadOptions,
        ladder::{Allowed, HOOKS, Rung},
    },
    phase::{self, FUNCTIONS, attach::Coverage, programs::SHARED, reader},
    tcp::FlowReading,
};
use dwcp_observer_ebpf::{
    phase::MarkKind,
    process::{CommRule, PORT_WORDS},
};

fn options(rungs: Allowed) -> LoadOptions {
    LoadOptions {
        max_flows: 64,
        max_threads: 64,
        max_processes: 8,
        rungs,
        btf_path: None,
        phase_functions: true,
        phase_rungs: reader::Rung::ALL,
        reader: env!("CARGO_BIN_EXE_dwcp-observer").into(),
        log_lifecycle: false,
    }
}

fn rule(comm: &str, process: u32) -> CommRule {
    let (mut value, mut mask) = ([0u8; 16], [0u8; 16]);
    value[..comm.len()].copy_from_slice(comm.as_bytes());
    mask[..=comm.len()].fill(0xff);
    let words = |bytes: [u8; 16]| {
        let (first, second) = bytes.split_at(8);
        [first, second].map(|half| u64::from_ne_bytes(half.try_into().unwrap()))
    };
    CommRule { value: words(value), mask: words(mask), process, role: 0 }
}

fn load(rungs: Allowed, rules: &[CommRule], ports: &[u64; PORT_WORDS]) -> Kernel {
    Kernel::load(&options(rungs), rules, ports).expect("needs root and a kernel with BTF")
}

/// Ends the process when dropped.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn every_program_of_every_rung_loads_and_attaches() {
    for rung in [Rung::TpBtf, Rung::RawTp] {
        let kernel = load(Allowed::Only(rung), &[], &[0; PORT_WORDS]);
        for probe in kernel.probes() {
            let hook = HOOKS.iter().find(|hook| hook.name == probe.probe);
            let expected = match hook.map(|hook| hook.ways) {
                Some(ways) if ways.iter().any(|way| way.rung == rung) => rung.as_str(),
                // One rung, whatever is pinned.
                Some(ways) => ways[0].rung.as_str(),
                None => probe.rung.filter(|rung| rung.starts_with('u')).unwrap_or("uprobe_multi"),
            };
            assert_eq!(probe.rung, Some(expected), "{}: {:?}", probe.probe, probe.reason);
        }
        let programs = kernel.program_stats();
        assert_eq!(
            programs.len(),
            HOOKS.len() + SHARED.len(),
            "exactly one program per hook, and two for all phase functions, are in the kernel"
        );
        for program in programs {
            println!(
                "{} {}: {} instructions verified",
                rung.as_str(),
                program.name,
                program.verified_instructions
            );
            assert!(program.verified_instructions > 0);
        }
    }
}

/// A guest that its operator stops and lets run on.
fn stop_and_continue(qemu: &mut Child) {
    let input = qemu.stdin.as_mut().unwrap();
    for command in ["qmp_capabilities", "stop", "cont"] {
        writeln!(input, "{{\"execute\": \"{command}\"}}").unwrap();
    }
}

/// QEMU with its control on its standard input.
fn qemu() -> Reaped {
    let arguments = ["-nodefaults", "-display", "none", "-m", "32", "-qmp", "stdio"];
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null());
    Reaped(qemu.spawn().unwrap())
}

#[test]
fn phase_functions_are_marked_once_on_every_rung() {
    for (object, rung) in [Rung::TpBtf, Rung::RawTp]
        .into_iter()
        .flat_map(|object| reader::Rung::ALL.iter().map(move |rung| (object, rung)))
    {
        let options = LoadOptions {
            phase_rungs: std::slice::from_ref(rung),
            ..options(Allowed::Only(object))
        };
        let rules = [rule("qemu-system-x86", 1)];
        let mut kernel = Kernel::load(&options, &rules, &[0; PORT_WORDS]).unwrap();
        let mut events = kernel.take_events().unwrap();
        let mut qemu = qemu();
        let pid = qemu.0.id();
        let process = loop {
            let mut known = kernel.processes().into_iter();
            if let Some(process) = known.find(|process| process.tgid == pid) {
                break process;
            }
        };
        let coverage = loop {
            kernel.collect_phases();
            if let Some(coverage) = kernel.probe_phases(&process) {
                break coverage;
            }
        };
        let Coverage::Probed { missing, version, .. } = coverage else { panic!("{coverage:?}") };
        println!("{object:?} {rung:?}: QEMU {version:?}, {} without {missing:?}", FUNCTIONS.len());
        stop_and_continue(&mut qemu.0);
        let mut marks = Vec::new();
        while !marks.contains(&MarkKind::Resume) || !marks.contains(&MarkKind::Continue) {
            while let Some(item) = events.next() {
                let mark = phase::decode(&item).filter(|mark| mark.process == process.slot);
                marks.extend(mark.map(|mark| mark.kind));
            }
        }
        for kind in [MarkKind::Halt, MarkKind::Pause, MarkKind::Paused, MarkKind::Continue] {
            let count = marks.iter().filter(|mark| **mark == kind).count();
            assert_eq!(count, 1, "{object:?} {rung:?} {kind:?}: {marks:?}");
        }
    }
}

#[test]
fn a_missing_btf_file_is_named() {
    let options =
        LoadOptions { btf_path: Some("/nonexistent/btf".into()), ..options(Allowed::Auto) };
    match Kernel::load(&options, &[], &[0; PORT_WORDS]) {
        Err(error @ LoadError::Btf(_)) => {
            assert!(error.to_string().contains("/nonexistent/btf"), "{error}");
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("loaded without BTF"),
    }
}

/// One connection on a tracked port: payload both ways, an orderly end. Gives the two ends' readings.
fn exchange(kernel: &mut Kernel, port: u16, there: usize, back: usize) -> [FlowReading; 2] {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut data = vec![0; there];
        socket.read_exact(&mut data).unwrap();
        socket.write_all(&vec![7; back]).unwrap();
    });
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.write_all(&vec![9; there]).unwrap();
    let mut data = Vec::new();
    client.read_to_end(&mut data).unwrap();
    assert_eq!(data.len(), back);
    drop(client);
    server.join().unwrap();
    for _ in 0..200 {
        let clock = kernel.clock();
        let mut flows: Vec<FlowReading> = kernel.flows(clock);
        flows.retain(|flow| flow.closed && (flow.local.port() == port || flow.peer.port() == port));
        if flows.len() == 2 {
            flows.sort_by_key(|flow| flow.local.port() == port);
            let pair: [FlowReading; 2] = flows.try_into().unwrap();
            for flow in &pair {
                kernel.release_flow(flow.slot);
            }
            return pair;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("both ends of a connection on port {port} should be seen, closed");
}

#[test]
fn payload_is_exact_on_every_rung() {
    // A port of the test's own: below the ephemeral range, so that nobody else is given it.
    let port = 20_000 + (std::process::id() % 10_000) as u16;
    let mut ports = [0u64; PORT_WORDS];
    ports[usize::from(port / 64)] |= 1 << (port % 64);
    for rung in [Rung::TpBtf, Rung::RawTp] {
        let mut kernel = load(Allowed::Only(rung), &[], &ports);
        for (there, back) in [(1, 0), (70_000, 3), (5_000_000, 1_000_000)] {
            let [client, server] = exchange(&mut kernel, port, there, back);
            let payload = |flow: &FlowReading| {
                (flow.payload.queued, flow.payload.delivered, flow.payload.received)
            };
            let (there, back) = (there as u64, back as u64);
            assert_eq!(payload(&client), (there, there, back), "{} client", rung.as_str());
            assert_eq!(payload(&server), (back, back, there), "{} server", rung.as_str());
            assert_eq!(client.tgid, std::process::id());
            assert_eq!((client.active_open(), server.active_open()), (Some(true), Some(false)));
            assert!(
                client.opened_ns() <= client.first_data_ns
                    && client.first_data_ns <= client.closed_ns().unwrap()
            );
        }
        let lost: Vec<_> = kernel
            .losses()
            .into_iter()
            .filter(|(name, count)| *count > 0 && !name.starts_with("rtt"))
            .collect();
        assert_eq!(lost, Vec::new());
    }
}

#[test]
fn a_first_byte_that_nothing_follows_is_seen() {
    let port = 30_000 + (std::process::id() % 2_000) as u16;
    let mut ports = [0u64; PORT_WORDS];
    ports[usize::from(port / 64)] |= 1 << (port % 64);
    for rung in [Rung::TpBtf, Rung::RawTp] {
        let mut kernel = load(Allowed::Only(rung), &[], &ports);
        for _ in 0..20 {
            let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
            // Answered within the millisecond in which packets take no second snapshot.
            let server = std::thread::spawn(move || {
                let (mut socket, _) = listener.accept().unwrap();
                socket.read_exact(&mut [0]).unwrap();
                socket
            });
            let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            client.write_all(&[1]).unwrap();
            let server = server.join().unwrap();
            let clock = kernel.clock();
            let flows = kernel.flows(clock);
            let open = |local: u16| {
                flows.iter().find(|flow| !flow.closed && flow.local.port() == local).unwrap()
            };
            assert_eq!(
                open(client.local_addr().unwrap().port()).payload.queued,
                1,
                "{}",
                rung.as_str()
            );
            assert_eq!(open(port).payload.received, 1, "{}", rung.as_str());
            drop((client, server));
            std::thread::sleep(Duration::from_millis(20));
            for flow in kernel.flows(clock).iter().filter(|flow| flow.closed) {
                kernel.release_flow(flow.slot);
            }
        }
    }
}

fn scheduler_attached(kernel: &Kernel) -> bool {
    kernel.probes().iter().any(|probe| probe.probe == "sched_switch" && probe.attached)
}

fn schedstat(pid: u32) -> (u64, u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/schedstat")).unwrap();
    let mut numbers = text.split_whitespace().map(|word| word.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn thread_totals_lie_between_two_readings_of_schedstat() {
    for rung in [Rung::TpBtf, Rung::RawTp] {
        let mut kernel = load(Allowed::Only(rung), &[rule("yes", 5)], &[0; PORT_WORDS]);
        let child = Reaped(Command::new("yes").stdout(Stdio::null()).spawn().unwrap());
        let pid = child.0.id();
        std::thread::sleep(Duration::from_millis(50));
        let slot = kernel
            .processes()
            .iter()
            .find(|process| process.tgid == pid)
            .expect("found by its name at exec")
            .slot;
        assert!(!scheduler_attached(&kernel), "nothing is watched: the host's tasks cost nothing");
        kernel.watch(slot, true);
        assert!(scheduler_attached(&kernel));
        kernel.sweep_tasks();
        std::thread::sleep(Duration::from_millis(300));
        let before = schedstat(pid);
        kernel.sweep_tasks();
        let after = schedstat(pid);
        let threads = kernel.threads();
        let thread =
            threads.iter().find(|thread| thread.tid == pid).expect("its thread is measured");
        let now = thread.now;
        // schedstat adds the running slice, the scheduler's own total is at most one tick behind.
        let tick = 10_000_000;
        assert!(
            now.on_cpu_ns + tick >= before.0 && now.on_cpu_ns <= after.0,
            "{now:?} {before:?} {after:?}"
        );
        assert!(
            now.run_delay_ns >= before.1 && now.run_delay_ns <= after.1,
            "{now:?} {before:?} {after:?}"
        );
        assert!(now.runs >= before.2 && now.runs <= after.2, "{now:?} {before:?} {after:?}");
        let waits = kernel.thread_waits(thread.slot).unwrap();
        assert_eq!(waits.count, waits.buckets.iter().map(|count| u64::from(*count)).sum::<u64>());
        assert!(waits.sum <= now.run_delay_ns - thread.base.run_delay_ns, "{waits:?}");
        assert!(now.on_cpu_ns > thread.base.on_cpu_ns, "a busy thread used CPU");
        kernel.release_thread(thread.slot);
        kernel.watch(slot, false);
        assert!(!scheduler_attached(&kernel));
        drop(child);
    }
}
