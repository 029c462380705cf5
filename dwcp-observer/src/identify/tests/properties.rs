use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::identify::classify::Decision;

const COMMS: [&str; 14] = [
    "qemu-system-x86",
    "live_migration",
    "multifdsend_0",
    "multifdrecv_1",
    "return path",
    "fault-default",
    "cloud-hyperviso",
    "migrate-send-me",
    "criu",
    "dwcpd",
    "iperf3",
    "nginx",
    "unknown",
    "",
];
const OPTIONS: [&str; 8] = [
    "-incoming",
    "defer",
    "tcp:0:4444",
    "-vnc",
    ":1",
    "-netdev user,hostfwd=tcp::5555-:22",
    "gluster://x",
    "lazy-pages",
];
const PORTS: [u16; 9] = [4444, 49152, 9876, 5901, 10809, 8080, 7000, 40000, 0];

fn bytes() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..200_000u64, 0..100 * MIB, any::<u64>()]
}

fn processes() -> impl Strategy<Value = ProcessFacts> {
    let comm =
        || prop_oneof![prop::sample::select(&COMMS[..]).prop_map(str::to_owned), "\\PC{0,20}"];
    let option =
        prop_oneof![prop::sample::select(&OPTIONS[..]).prop_map(str::to_owned), "\\PC{0,30}"];
    (
        comm(),
        comm(),
        prop::option::of("\\PC{0,30}"),
        prop::collection::vec(option, 0..5),
        any::<u64>(),
        any::<bool>(),
    )
        .prop_map(|(comm, other, path, cmdline, started, has_kvm)| ProcessFacts {
            pid: PID,
            threads: vec![thread(PID, &comm, PROCESS_START), thread(WORKER, &other, started)],
            comm,
            exe: path.clone(),
            cgroup: path,
            cmdline,
            unread: None,
            has_kvm,
            started_boottime_ns: PROCESS_START,
        })
}

fn flows() -> impl Strategy<Value = FlowFacts> {
    let port = || prop_oneof![prop::sample::select(&PORTS[..]), any::<u16>()];
    let tid = || prop::sample::select(&[0, PID, WORKER, 999][..]);
    let opened = prop_oneof![Just(OPENED), any::<u64>()];
    (
        port(),
        port(),
        any::<Option<bool>>(),
        tid(),
        tid(),
        bytes(),
        bytes(),
        opened,
        any::<bool>(),
        any::<Option<u32>>(),
    )
        .prop_map(
            |(
                local,
                peer,
                active_open,
                send_tid,
                recv_tid,
                queued,
                received,
                opened,
                closed,
                opener_pid,
            )| FlowFacts {
                local: SocketAddr::new(address("10.0.0.1:1").ip(), local),
                peer: SocketAddr::new(address("10.0.0.2:1").ip(), peer),
                active_open,
                opener_pid,
                spoke_first: None,
                send_tid,
                recv_tid,
                bytes_queued: queued,
                bytes_received: received,
                opened_boottime_ns: opened,
                rdma: false,
                closed,
            },
        )
}

const CONFIG: &str =
    "identify.ports = [7000]\n[[rule]]\nname = 'r'\ncomm = 'unknown'\nports = [40000]";

static RULES: LazyLock<RuleSet> = LazyLock::new(|| rules(CONFIG));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn decisions_are_sane(process in processes(), flow in flows(), rule in 0..20u32) {
        match classify(&RULES, &process, rule, &flow, &Context::default()) {
            Decision::Migration { confidence, evidence, migrator, .. } => {
                prop_assert!((0.5..=0.99).contains(&confidence));
                prop_assert!(!evidence.is_empty() && !migrator.is_empty());
                for evidence in evidence {
                    prop_assert!(evidence.weight.is_some_and(|weight| (0.0..=1.0).contains(&weight)));
                    prop_assert!(!evidence.kind.is_empty() && !evidence.detail.is_empty());
                }
            }
            Decision::NotMigration { reason, .. } => prop_assert!(!reason.is_empty()),
            Decision::Undecided { reason, .. } => {
                prop_assert!(!reason.is_empty());
                prop_assert!(!flow.closed, "a closed flow is decided");
            }
        }
    }

    #[test]
    fn more_bytes_never_deny_a_migration(process in processes(), flow in flows(), rule in 0..20u32, more in (bytes(), bytes())) {
        let flow = FlowFacts { closed: false, ..flow };
        let later = FlowFacts {
            bytes_queued: flow.bytes_queued.saturating_add(more.0),
            bytes_received: flow.bytes_received.saturating_add(more.1),
            ..flow
        };
        if let Decision::Migration { .. } = classify(&RULES, &process, rule, &flow, &Context::default()) {
            let decision = classify(&RULES, &process, rule, &later, &Context::default());
            prop_assert!(!matches!(decision, Decision::NotMigration { .. }), "{:?}", decision);
        }
    }

    #[test]
    fn more_of_the_same_keeps_a_migration(process in processes(), flow in flows(), rule in 0..20u32, more in bytes()) {
        let mut later = flow;
        let larger = if flow.bytes_queued >= flow.bytes_received { &mut later.bytes_queued } else { &mut later.bytes_received };
        *larger = larger.saturating_add(more);
        let confidence = |flow| match classify(&RULES, &process, rule, flow, &Context::default()) {
            Decision::Migration { confidence, .. } => Some(confidence),
            _ => None,
        };
        if let Some(before) = confidence(&flow) {
            let after = confidence(&later);
            prop_assert!(after.is_some_and(|after| after >= before - 1e-12), "{} {:?}", before, after);
        }
    }
}
