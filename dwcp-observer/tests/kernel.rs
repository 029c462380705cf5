//! The eBPF programs on the running kernel. Needs root: run by `cargo xtask test`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failing test stops where it fails"
)]
#![expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "a forked process is a row of system calls"
)]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use dwcp_observer::{
    keeper::{Kernel, LoadError, LoadOptions, load::KERNEL_BTF},
    kernel::{
        btf::Layout,
        ladder::{Allowed, HOOKS, Object, Rung},
        layout::Globals,
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
fn the_running_kernel_has_every_field() {
    let btf = Layout::from_file(Path::new(KERNEL_BTF)).unwrap();
    let globals = Globals::resolve(&btf);
    for object in Object::ALL {
        assert_eq!(globals.missing(object), Vec::<String>::new(), "{object:?}");
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

/// A process with this name that ends when told to, or is killed and reaped when dropped.
struct Named(libc::pid_t, std::os::fd::OwnedFd);

/// What a forked process of the test does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    /// Its only thread lives until told, and ends with this status.
    Single(i32),
    /// Its leader exits at once, another thread lives until told and ends the process with this status.
    LeaderExits(i32),
}

/// The end of a pipe and the status, for the thread that outlives its leader.
static ORDERS: [std::sync::atomic::AtomicI32; 2] =
    [const { std::sync::atomic::AtomicI32::new(0) }; 2];

extern "C" fn until_told(_: *mut libc::c_void) -> *mut libc::c_void {
    use std::sync::atomic::Ordering::SeqCst;
    let mut byte = 0u8;
    // SAFETY: reads one byte into a local one; nothing else of this process is left running.
    unsafe {
        libc::read(ORDERS[0].load(SeqCst), (&raw mut byte).cast(), 1);
        libc::_exit(ORDERS[1].load(SeqCst))
    }
}

impl Named {
    fn start(name: &std::ffi::CStr, life: Life) -> Self {
        use std::{os::fd::FromRawFd as _, sync::atomic::Ordering::SeqCst};
        let mut ends = [0; 2];
        // SAFETY: two descriptors are written to an array of two.
        assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
        // SAFETY: the child makes system calls and one thread, and takes no lock of this process.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let (Life::Single(status) | Life::LeaderExits(status)) = life;
            ORDERS[0].store(3, SeqCst);
            ORDERS[1].store(status, SeqCst);
            // SAFETY: in the child alone; a C string, and a thread that never returns. What other tests have open is not this
            // child's: a socket that it keeps would keep its port.
            unsafe {
                libc::dup2(ends[0], 3);
                libc::syscall(libc::SYS_close_range, 4, u32::MAX, 0);
                libc::prctl(libc::PR_SET_NAME, name.as_ptr());
                if life == Life::Single(status) {
                    until_told(std::ptr::null_mut());
                }
                let mut thread: libc::pthread_t = std::mem::zeroed();
                libc::pthread_create(
                    &raw mut thread,
                    std::ptr::null(),
                    until_told,
                    std::ptr::null_mut(),
                );
                libc::syscall(libc::SYS_exit, 0);
                libc::_exit(99)
            }
        }
        assert!(pid > 0);
        // SAFETY: both descriptors are this process' own; the reading end is the child's from now on.
        let order = unsafe {
            libc::close(ends[0]);
            std::os::fd::OwnedFd::from_raw_fd(ends[1])
        };
        let process = Self(pid, order);
        let named = [name.to_bytes(), b"\n"].concat();
        let comm = format!("/proc/{pid}/comm");
        until("it has its name", || (fs::read(&comm).ok()? == named).then_some(()));
        process
    }

    fn tell(&self) {
        use std::os::fd::AsRawFd as _;
        // SAFETY: writes one byte of a live array.
        assert_eq!(unsafe { libc::write(self.1.as_raw_fd(), [1u8].as_ptr().cast(), 1) }, 1);
    }

    /// `State` of `/proc/PID/stat`.
    fn state(&self) -> char {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap();
        text.rsplit(')').next().unwrap().trim_start().chars().next().unwrap()
    }

    fn reading(&self, kernel: &mut Kernel) -> Option<dwcp_observer::keeper::ProcessReading> {
        kernel.processes().into_iter().find(|it| it.slot != 0 && it.tgid == self.0 as u32)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        // SAFETY: a child of this process that nobody else has waited for.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

/// Looks again until it is there: a failing test waits for ten seconds.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..1000 {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}");
}

#[test]
fn a_process_lives_as_long_as_one_of_its_threads() {
    for rung in [Rung::TpBtf, Rung::RawTp] {
        let mut kernel = load(Allowed::Only(rung), &[rule("lab-leader", 5)], &[0; PORT_WORDS]);
        let process = Named::start(c"lab-leader", Life::LeaderExits(7));
        until("its leader exits", || (process.state() == 'Z').then_some(()));
        for _ in 0..3 {
            kernel.sweep_tasks();
            let found = process.reading(&mut kernel).expect("it lives on");
            assert_eq!(found.exited_ns, None, "{}", rung.as_str());
        }
        process.tell();
        let found = until("its end is seen", || {
            process.reading(&mut kernel).filter(|found| found.exited_ns.is_some())
        });
        assert_eq!(found.exit_code, 7 << 8, "{}", rung.as_str());
    }
}

#[test]
fn a_process_that_nobody_waits_for_is_not_adopted_again() {
    for rung in [Rung::TpBtf, Rung::RawTp] {
        let mut kernel = load(Allowed::Only(rung), &[rule("lab-zombie", 5)], &[0; PORT_WORDS]);
        let process = Named::start(c"lab-zombie", Life::Single(3));
        until("it is found", || process.reading(&mut kernel));
        process.tell();
        let found = until("its end is seen", || {
            process.reading(&mut kernel).filter(|found| found.exited_ns.is_some())
        });
        assert_eq!(found.exit_code, 3 << 8);
        until("nobody waits for it", || (process.state() == 'Z').then_some(()));
        kernel.release_process(found.slot);
        for _ in 0..3 {
            kernel.sweep_tasks();
            assert_eq!(process.reading(&mut kernel), None, "{}", rung.as_str());
        }
    }
}

#[test]
fn a_process_that_found_no_slot_is_given_one_when_there_is_one() {
    for rung in [Rung::TpBtf, Rung::RawTp] {
        let mut kernel = load(Allowed::Only(rung), &[rule("lab-crowd", 5)], &[0; PORT_WORDS]);
        // Slot 0 is nobody's: seven are left.
        let first: Vec<Named> =
            (0..7).map(|_| Named::start(c"lab-crowd", Life::Single(0))).collect();
        until("all are found", || (kernel.processes().len() == 8).then_some(()));
        assert!(kernel.processes_are_full());
        let late = Named::start(c"lab-crowd", Life::Single(0));
        kernel.sweep_tasks();
        assert_eq!(late.reading(&mut kernel), None);
        first[3].tell();
        let gone = until("its end is seen", || {
            first[3].reading(&mut kernel).filter(|found| found.exited_ns.is_some())
        });
        kernel.release_process(gone.slot);
        kernel.sweep_tasks();
        let found = late.reading(&mut kernel).expect("a slot is free");
        assert_eq!((found.slot, found.rule), (gone.slot, 5), "{}", rung.as_str());
    }
}

#[test]
fn a_server_on_a_tracked_port_takes_no_slot_of_a_process_and_few_of_flows() {
    let port = 32_000 + (std::process::id() % 700) as u16;
    let mut ports = [0u64; PORT_WORDS];
    ports[usize::from(port / 64)] |= 1 << (port % 64);
    for rung in [Rung::TpBtf, Rung::RawTp] {
        let mut kernel = load(Allowed::Only(rung), &[], &ports);
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let mut sockets = Vec::new();
        for _ in 0..20 {
            let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            client.write_all(&[1]).unwrap();
            server.read_exact(&mut [0]).unwrap();
            sockets.push((client, server));
        }
        let clock = kernel.clock();
        let flows = kernel.flows(clock);
        // An eighth of 64.
        assert_eq!(flows.len(), 8, "{}", rung.as_str());
        assert!(flows.iter().all(|flow| flow.process == 0 && flow.tgid == std::process::id()));
        assert_eq!(kernel.processes().len(), 1, "only slot 0");
        for flow in &flows {
            kernel.release_flow(flow.slot);
        }
        // What was given up stays so, whatever moves on it.
        let given_up = flows.iter().map(|flow| flow.local.port().max(flow.peer.port()));
        let given_up: std::collections::BTreeSet<u16> = given_up.collect();
        for (client, _) in &mut sockets {
            if given_up.contains(&client.local_addr().unwrap().port()) {
                client.write_all(&[1]).unwrap();
            }
        }
        assert_eq!(kernel.flows(clock).len(), 0, "{}", rung.as_str());
    }
}
