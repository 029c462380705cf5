use super::*;
use crate::identify::classify::Decision;

/// Neither its first bytes nor a gigabyte each way may be called a migration, nor may its close leave it open.
#[track_caller]
fn assert_never(process: &ProcessFacts, flow: &FlowFacts) {
    let tids = [PID, WORKER];
    for bytes in [1, 100_000, 2 * MIB, 1024 * MIB] {
        for tid in tids {
            for (queued, received) in
                [(bytes, 0), (0, bytes), (bytes, bytes), (bytes, 500), (500, bytes)]
            {
                for closed in [false, true] {
                    let flow = FlowFacts {
                        bytes_queued: queued,
                        bytes_received: received,
                        send_tid: if queued > 0 { tid } else { 0 },
                        recv_tid: if received > 0 { tid } else { 0 },
                        closed,
                        ..*flow
                    };
                    let decision = decide(process, &flow);
                    assert!(
                        !matches!(decision, Decision::Migration { .. }),
                        "{flow:?}\n{decision:?}"
                    );
                    if closed {
                        assert_not(&decision);
                    }
                }
            }
        }
    }
}

#[test]
fn programs_that_move_much_data_on_migration_ports() {
    for (comm, cmdline) in [
        ("iperf3", "iperf3 -s -p 49152"),
        ("iperf3", "iperf3 -c 10.0.0.2 -p 9876"),
        ("sshd", "sshd"),
        ("sshd-session", "sshd-session"),
        ("ssh", "ssh host"),
        ("nginx", "nginx"),
        ("apache2", "apache2"),
        ("postgres", "postgres"),
        ("mysqld", "mysqld"),
        ("redis-server", "redis-server"),
        ("rsync", "rsync -a x host:"),
        ("curl", "curl -T x http://host:9876"),
        ("dwcp-observer", "dwcp-observer run"),
        // Renamed, but with a known executable.
        ("worker", "nginx"),
    ] {
        for port in [49152, 9876, 49200, 40000] {
            assert_never(&process(comm, cmdline), &calls(port));
            assert_never(&process(comm, cmdline), &called(port));
        }
    }
}

#[test]
fn an_unknown_program_on_an_ephemeral_migration_port() {
    let server = process("my-web-server", "my-web-server --port 49152");
    assert_never(&server, &called(49152));
    assert_never(&server, &calls(49152));
    // Its own ephemeral port lies in the range.
    assert_never(&server, &FlowFacts { local: address("10.0.0.1:49200"), ..calls(80) });
    assert_not(&decide(&server, &received(called(49152), PID, 1024 * MIB)));
    // Nobody has moved data: the connection may be passed on.
    assert_undecided(&decide(&process("libvirtd", "libvirtd"), &calls(49152)));
}

#[test]
fn a_server_on_dwcps_port() {
    let server = process("my-web-server", "my-web-server");
    // Downloads go against the dial direction, and dialogues go both ways.
    let download = FlowFacts { bytes_received: 500, ..sent(called(9876), PID, 1024 * MIB) };
    assert_undecided(&decide(&server, &download));
    let dialogue = FlowFacts { bytes_received: 100 * MIB, ..sent(calls(9876), PID, 100 * MIB) };
    assert_undecided(&decide(&server, &dialogue));
    assert_not(&decide(&server, &FlowFacts { closed: true, ..dialogue }));
}

#[test]
fn qemus_displays_disks_and_monitors() {
    let worker =
        |process| with_thread(process, WORKER, "qemu-system-x86", PROCESS_START + 10_000_000);
    let young = |process| with_thread(process, WORKER, "qemu-system-x86", OPENED + 10_000_000);
    for (options, flow) in [
        ("-vnc :1", called(5901)),
        ("-vnc :70", called(5970)),
        ("-vnc :200", called(6100)),
        ("-vnc :1,websocket=15701", called(15701)),
        ("-vnc :1 -incoming defer", called(5901)),
        ("-spice port=6000", called(6000)),
        ("-spice port=6000 -incoming defer", called(6000)),
        ("-qmp tcp:0:4444,server=on", called(4444)),
        ("-qmp tcp:0:4444,server=on -incoming defer", called(4444)),
        ("-serial tcp:10.0.0.2:5000", calls(5000)),
        ("-chardev socket,id=c,host=10.0.0.2,port=5001", calls(5001)),
        ("-gdb tcp::1235", called(1235)),
        ("-s", called(1234)),
        ("-drive file=nbd://10.0.0.2/x", calls(10809)),
        ("-drive file=nbd:10.0.0.2:12345", calls(12345)),
        ("", called(10809)),
        ("-incoming defer", called(10809)),
        ("-drive file=iscsi://10.0.0.2/t/0", calls(3260)),
        ("-drive file=rbd:pool/image", calls(6800)),
        ("-drive file=gluster://10.0.0.2/v/i", calls(49152)),
        ("-drive file=gluster://10.0.0.2/v/i", calls(24007)),
        ("-netdev user,id=n,hostfwd=tcp::5555-:22", called(5555)),
        ("-netdev user,id=n,hostfwd=tcp::49160-:22 -incoming defer", called(49160)),
    ] {
        assert_never(&worker(qemu(options)), &flow);
        assert_never(&young(qemu(options)), &flow);
    }
}

#[test]
fn user_networking_from_the_main_loop() {
    for options in [
        "-netdev user,id=n",
        "-netdev user,id=n -name guest=a,debug-threads=on",
        "-incoming defer -netdev user,id=n",
    ] {
        for port in [80, 443, 4444, 49152, 9876] {
            let process = with_thread(qemu(options), WORKER, "live_migration", OPENED);
            // A download with its request, and an upload.
            let download = received(sent(calls(port), PID, 500), PID, 1024 * MIB);
            assert_not(&decide(&process, &download));
            assert_not(&decide(&process, &sent(calls(port), PID, 1024 * MIB)));
            assert_undecided(&decide(&process, &sent(calls(port), PID, 500)));
        }
    }
}

#[test]
fn user_networking_of_a_qemu_that_has_just_started() {
    let young = ProcessFacts {
        threads: vec![thread(PID, "qemu-system-x86", OPENED)],
        started_boottime_ns: OPENED,
        ..qemu("-netdev user,id=n")
    };
    let unlisted = ProcessFacts { threads: Vec::new(), ..young.clone() };
    for process in [young, unlisted] {
        for port in [49152, 4444] {
            assert_not(&decide(&process, &sent(calls(port), PID, 1024 * MIB)));
        }
    }
}

#[test]
fn an_io_thread_is_as_old_as_its_process() {
    let process = with_thread(qemu(""), WORKER, "qemu-system-x86", PROCESS_START + 10_000_000);
    for port in [4444, 49152] {
        assert_never(&process, &calls(port));
    }
}

#[test]
fn a_short_lived_thread_that_only_greets() {
    // QEMU's NBD client connects and negotiates in a thread of its own.
    let process = with_thread(qemu(""), WORKER, "qemu-system-x86", OPENED + 1_000_000);
    assert_undecided(&decide(&process, &sent(calls(20000), WORKER, 400)));
}

#[test]
fn what_came_in_once_says_nothing_later() {
    let process = qemu("-incoming defer");
    let context = Context { incoming_done: true, ..Context::default() };
    for port in [4444, 49152] {
        let flow = received(called(port), PID, 1024 * MIB);
        assert_not(&classify(&rules(""), &process, 1, &flow, &context));
    }
}

#[test]
fn names_alone_decide_nothing() {
    // A VM with everything that supports, and traffic of its own.
    let mut process = qemu("-name guest=a,debug-threads=on");
    process.cgroup = Some("/machine.slice/machine-qemu-1.scope".to_owned());
    process.has_kvm = true;
    let lenient = rules("identify.min_confidence = 0.01");
    let flow = sent(calls(4444), PID, 1000);
    assert_undecided(&classify(&lenient, &process, 1, &flow, &Context::default()));
}

#[test]
fn a_dwcp_daemons_other_ports() {
    for port in [8080, 9090, 9091, 9092, 9093, 9094, 9095, 9096, 9100, 7946] {
        assert_never(&process("dwcpd", "dwcpd"), &called(port));
        assert_never(&process("dwcpd", "dwcpd"), &calls(port));
    }
    assert_undecided(&decide(&process("dwcpd", "dwcpd"), &sent(calls(5432), PID, MIB)));
}

/// The same flow, of which the end that was called spoke first.
fn greeted(flow: FlowFacts) -> FlowFacts {
    FlowFacts { spoke_first: flow.active_open.map(|calls| !calls), ..flow }
}

#[test]
fn a_server_that_speaks_first_is_no_destination() {
    // libvirt's NBD server: on a port of migrations, in a QEMU that waits for one, read by its main loop as the guest would be.
    let waits = qemu("-incoming defer");
    let threads = with_thread(qemu(""), WORKER, "live_migration", OPENED);
    for port in [4444, 10809, 49153] {
        let disk = greeted(received(called(port), PID, 1024 * MIB));
        assert_undecided(&decide(&waits, &disk));
        let other_end = OtherEnd {
            migrator: "qemu".to_owned(),
            confidence: 0.99,
            role: Some(Role::Destination),
        };
        let context = Context { other_end: Some(&other_end), ..Context::default() };
        let mirror = greeted(sent(calls(port), PID, 1024 * MIB));
        assert_undecided(&classify(&rules(""), &threads, 1, &mirror, &context));
        // The source of a guest speaks first, over TLS as well.
        let guest = FlowFacts { spoke_first: Some(false), ..received(called(49153), PID, MIB) };
        migration(&decide(&waits, &guest));
    }
    assert_never(&waits, &greeted(called(5900)));
}
