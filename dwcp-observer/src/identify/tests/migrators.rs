use super::*;
use crate::identify::classify::Decision;

const SOURCE: Option<Role> = Some(Role::Source);
const DESTINATION: Option<Role> = Some(Role::Destination);

#[test]
fn qemu_source_with_named_threads_at_its_first_byte() {
    for name in ["live_migration", "multifdsend_0", "mig/src/main", "mig/src/send_15"] {
        let process = with_thread(qemu("-name guest=a,debug-threads=on"), WORKER, name, OPENED);
        let decision = decide(&process, &sent(calls(4444), WORKER, 1));
        assert_eq!(migration(&decision), ("qemu", SOURCE), "{name}");
    }
}

#[test]
fn qemu_destination_with_named_threads_at_its_first_byte() {
    for name in [
        "multifdrecv_0",
        "mig/dst/recv_3",
        "mig/src/recv_3",
        "mig/dst/preempt",
        "fault-fast",
        "postcopy/listen",
    ] {
        let process = with_thread(qemu("-incoming defer"), WORKER, name, OPENED);
        let decision = decide(&process, &received(called(4444), WORKER, 1));
        assert_eq!(migration(&decision), ("qemu", DESTINATION), "{name}");
    }
}

#[test]
fn a_renamed_qemu_is_known_by_its_threads() {
    let process = process("web-frontend", "web-frontend");
    let process = with_thread(process, WORKER, "live_migration", OPENED);
    let flow = sent(calls(4444), WORKER, 1);
    assert_eq!(migration(&decide(&process, &flow)), ("qemu", SOURCE));
}

#[test]
fn qemu_is_known_by_its_executable() {
    let mut process = with_thread(qemu(""), WORKER, "x", OPENED);
    process.comm = "vm-7".to_owned();
    process.exe = Some("/usr/bin/qemu-system-x86_64 (deleted)".to_owned());
    assert_eq!(migration(&decide(&process, &sent(calls(49152), WORKER, 4096))), ("qemu", SOURCE));
}

#[test]
fn the_return_path_and_the_fault_thread_tell_the_end() {
    let source = with_thread(qemu(""), WORKER, "return path", OPENED);
    let decision = decide(&source, &received(calls(4444), WORKER, 8));
    assert_eq!(migration(&decision), ("qemu", SOURCE));
    let destination = with_thread(qemu("-incoming defer"), WORKER, "mig/dst/fault", OPENED);
    let decision = decide(&destination, &sent(called(4444), WORKER, 8));
    assert_eq!(migration(&decision), ("qemu", DESTINATION));
}

#[test]
fn qemu_on_a_migration_port_without_named_threads() {
    for port in [49152, 49215, 9876] {
        let process = with_thread(qemu(""), WORKER, "qemu-system-x86", OPENED);
        let decision = decide(&process, &sent(calls(port), WORKER, 4096));
        assert_eq!(migration(&decision), ("qemu", SOURCE));
        // An NBD client negotiates in a thread of its own, which may be gone when it is looked for.
        assert_undecided(&decide(&process, &sent(calls(port), WORKER, 400)));
        assert_undecided(&decide(&qemu(""), &sent(calls(port), WORKER, 400)));
        assert_eq!(
            migration(&decide(&qemu(""), &sent(calls(port), WORKER, 4096))),
            ("qemu", SOURCE)
        );
        let decision = decide(&qemu("-incoming defer"), &received(called(port), PID, 1));
        assert_eq!(migration(&decision), ("qemu", DESTINATION));
    }
}

#[test]
fn qemu_source_on_any_port_without_named_threads() {
    let process = with_thread(qemu(""), WORKER, "qemu-system-x86", OPENED + 1_000_000);
    assert_undecided(&decide(&process, &calls(4444)));
    assert_undecided(&decide(&process, &sent(calls(4444), WORKER, 1000)));
    let decision = decide(&process, &sent(calls(4444), WORKER, 64 << 10));
    assert_eq!(migration(&decision), ("qemu", SOURCE));
    // libvirt opened the connection.
    let passed = FlowFacts { opener_pid: Some(1), ..sent(calls(4444), WORKER, 64 << 10) };
    let passed = decide(&process, &passed);
    assert_eq!(migration(&passed), ("qemu", SOURCE));
    let Decision::Migration { evidence, .. } = passed else { unreachable!() };
    assert!(evidence.iter().any(|evidence| evidence.kind == "opener"));
}

#[test]
fn the_clock_of_proc_is_coarse() {
    let cut = OPENED - 9_999_999;
    let process = with_thread(qemu(""), WORKER, "qemu-system-x86", cut);
    assert_eq!(migration(&decide(&process, &sent(calls(4444), WORKER, MIB))), ("qemu", SOURCE));
}

#[test]
fn qemu_source_found_under_way_without_named_threads() {
    let process = with_thread(qemu(""), WORKER, "qemu-system-x86", OPENED - 20 * SECOND);
    let flow = FlowFacts { active_open: None, ..sent(calls(4444), WORKER, MIB) };
    assert_undecided(&decide(&process, &flow));
    let flow = FlowFacts { bytes_queued: 16 * MIB, ..flow };
    assert_eq!(migration(&decide(&process, &flow)), ("qemu", SOURCE));
    let flow = FlowFacts { active_open: None, ..sent(calls(49152), WORKER, 4096) };
    assert_eq!(migration(&decide(&process, &flow)), ("qemu", SOURCE));
}

#[test]
fn qemu_destination_on_any_port_without_named_threads() {
    for active_open in [Some(false), None] {
        let flow = FlowFacts { active_open, ..called(4444) };
        let uri = qemu("-incoming tcp:0:4444");
        assert_eq!(migration(&decide(&uri, &received(flow, PID, 1))), ("qemu", DESTINATION));
        let deferred = qemu("-incoming defer");
        assert_undecided(&decide(&deferred, &received(flow, PID, MIB - 1)));
        let decision = decide(&deferred, &received(flow, PID, MIB));
        assert_eq!(migration(&decision), ("qemu", DESTINATION));
    }
    let channel = with_thread(qemu("-incoming defer"), WORKER, "qemu-system-x86", OPENED);
    let decision = decide(&channel, &received(called(4444), WORKER, 64 << 10));
    assert_eq!(migration(&decision), ("qemu", DESTINATION));
}

#[test]
fn further_channels_go_where_the_first_goes() {
    let process = qemu("");
    let sibling = Sibling {
        local: address("10.0.0.1:39999"),
        peer: address("10.0.0.2:4444"),
        role: Role::Source,
        opened_boottime_ns: OPENED - SECOND,
    };
    let siblings = [sibling];
    let context = Context { siblings: &siblings, ..Context::default() };
    let decide = |flow: &FlowFacts| classify(&rules(""), &process, 1, flow, &context);
    assert_eq!(migration(&decide(&calls(4444))), ("qemu", SOURCE));
    // The same over an IPv4-mapped address.
    let mapped = FlowFacts { peer: address("[::ffff:10.0.0.2]:4444"), ..calls(4444) };
    assert_eq!(migration(&decide(&mapped)), ("qemu", SOURCE));
    // Another port, another host, an older connection.
    assert_undecided(&decide(&calls(4445)));
    assert_undecided(&decide(&FlowFacts { peer: address("10.0.0.3:4444"), ..calls(4444) }));
    assert_undecided(&decide(&FlowFacts {
        opened_boottime_ns: OPENED - 60 * SECOND,
        ..calls(4444)
    }));

    let siblings = [Sibling {
        local: address("10.0.0.1:4444"),
        peer: address("10.0.0.2:39999"),
        role: Role::Destination,
        opened_boottime_ns: OPENED,
    }];
    let context = Context { siblings: &siblings, ..Context::default() };
    let decision = classify(&rules(""), &process, 1, &called(4444), &context);
    assert_eq!(migration(&decision), ("qemu", DESTINATION));
}

#[test]
fn the_other_end_on_this_host_tells() {
    let other = OtherEnd { migrator: "qemu".to_owned(), confidence: 0.96, role: SOURCE };
    let context = Context { other_end: Some(&other), ..Context::default() };
    let at_once = classify(&rules(""), &qemu("-incoming defer"), 1, &called(4444), &context);
    assert_eq!(migration(&at_once), ("qemu", DESTINATION));
    // Whatever receives: `exec:nc`, a proxy.
    let proxy = classify(&rules(""), &process("nc", "nc -l 4444"), 0, &called(4444), &context);
    assert_eq!(migration(&proxy), ("qemu", DESTINATION));
}

#[test]
fn libvirts_cgroup_counts() {
    let confidence =
        |process: &ProcessFacts| match decide(process, &sent(calls(49152), WORKER, 4096)) {
            Decision::Migration { confidence, .. } => confidence,
            other => panic!("{other:?}"),
        };
    let plain = qemu("");
    let scope = "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope".to_owned();
    let libvirt = ProcessFacts { cgroup: Some(scope), has_kvm: true, ..plain.clone() };
    assert!(confidence(&libvirt) > confidence(&plain));
}

#[test]
fn cloud_hypervisor() {
    let plain = process("cloud-hyperviso", "cloud-hypervisor --api-socket /run/ch.sock");
    for (name, role) in [("migration-worke", SOURCE), ("migrate-send-me", SOURCE)] {
        let process = with_thread(plain.clone(), WORKER, name, OPENED);
        let decision = decide(&process, &sent(calls(9000), WORKER, 1));
        assert_eq!(migration(&decision), ("cloud-hypervisor", role), "{name}");
    }
    let process = with_thread(plain.clone(), WORKER, "migrate-receive", OPENED);
    let decision = decide(&process, &received(called(9000), WORKER, 1));
    assert_eq!(migration(&decision), ("cloud-hypervisor", DESTINATION));
    // Versions without such threads.
    assert_undecided(&decide(&plain, &sent(calls(9000), PID, MIB - 1)));
    let decision = decide(&plain, &sent(calls(9000), PID, MIB));
    assert_eq!(migration(&decision), ("cloud-hypervisor", SOURCE));
}

#[test]
fn criu() {
    let dump = process("criu", "criu dump --page-server --address 10.0.0.2 --port 7000");
    assert_undecided(&decide(&dump, &calls(7000)));
    assert_eq!(migration(&decide(&dump, &sent(calls(7000), PID, 1))), ("criu", SOURCE));
    let server = process("criu", "criu page-server --port 7000");
    assert_eq!(migration(&decide(&server, &received(called(7000), PID, 1))), ("criu", DESTINATION));
    let lazy = process("criu", "criu lazy-pages --page-server --address 10.0.0.1");
    assert_eq!(migration(&decide(&lazy, &sent(calls(7000), PID, 1))), ("criu", DESTINATION));
}

#[test]
fn dwcp_daemons() {
    for comm in ["dwcpd", "dwcp-v3", "dwcp", "novacron-node"] {
        let daemon = process(comm, comm);
        for port in [9876, 49152, 8081, 9000] {
            assert_undecided(&decide(&daemon, &calls(port)));
            let decision = decide(&daemon, &sent(calls(port), PID, 1));
            assert_eq!(migration(&decision), ("dwcp", SOURCE), "{comm} {port}");
            let decision = decide(&daemon, &received(called(port), PID, 1));
            assert_eq!(migration(&decision), ("dwcp", DESTINATION), "{comm} {port}");
        }
        assert_undecided(&decide(&daemon, &sent(calls(443), PID, 16 * MIB - 1)));
        let decision = decide(&daemon, &sent(calls(443), PID, 16 * MIB));
        assert_eq!(migration(&decision), ("dwcp", SOURCE));
    }
}

#[test]
fn dwcp_by_its_port() {
    let unknown = process("node", "node dist/index.js");
    assert_undecided(&decide(&unknown, &sent(calls(9876), PID, MIB - 1)));
    let flow = FlowFacts { bytes_received: 1000, ..sent(calls(9876), PID, MIB) };
    assert_eq!(migration(&decide(&unknown, &flow)), ("dwcp", SOURCE));
    let flow = received(called(9876), PID, MIB);
    assert_eq!(migration(&decide(&unknown, &flow)), ("dwcp", DESTINATION));
    // Found under way: the port tells who called.
    let flow = FlowFacts { active_open: None, ..received(called(9876), PID, MIB) };
    assert_eq!(migration(&decide(&unknown, &flow)), ("dwcp", DESTINATION));
}
