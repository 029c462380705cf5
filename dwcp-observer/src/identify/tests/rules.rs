use dwcp_observer_ebpf::process::{COMM_LEN, COMM_RULES, CommRule};
use dwcp_observer_ebpf::sched::{ROLE_MAIN, ROLE_OTHER, ROLE_STREAM, ROLE_VCPU};

use super::*;
use crate::config::MAX_RULES;

/// As the kernel side does it (`process::match_comm`).
fn kernel_match<'a>(table: &'a [CommRule], comm: &str) -> Option<&'a CommRule> {
    let mut raw = [0; COMM_LEN];
    let length = comm.len().min(COMM_LEN - 1);
    raw[..length].copy_from_slice(&comm.as_bytes()[..length]);
    let word = |index: usize| u64::from_ne_bytes(raw[index * 8..][..8].try_into().unwrap());
    let words = [word(0), word(1)];
    table
        .iter()
        .take_while(|rule| rule.mask[0] != 0)
        .find(|rule| (0..2).all(|i| words[i] & rule.mask[i] == rule.value[i]))
}

#[test]
fn the_kernels_table_knows_migrators_and_threads() {
    let rules = rules("");
    for (comm, migrator, role) in [
        ("qemu-system-x86", Some("qemu"), ROLE_OTHER),
        ("qemu-system-aarch64", Some("qemu"), ROLE_OTHER),
        ("qemu-kvm", Some("qemu"), ROLE_OTHER),
        ("kvm", Some("qemu"), ROLE_OTHER),
        ("cloud-hypervisor", Some("cloud-hypervisor"), ROLE_OTHER),
        ("criu", Some("criu"), ROLE_OTHER),
        ("dwcpd", Some("dwcp"), ROLE_OTHER),
        ("dwcp-v3", Some("dwcp"), ROLE_OTHER),
        ("novacron", Some("dwcp"), ROLE_OTHER),
        ("live_migration", Some("qemu"), ROLE_MAIN),
        ("mig/src/main", Some("qemu"), ROLE_MAIN),
        ("multifdsend_11", Some("qemu"), ROLE_STREAM),
        ("multifdrecv_0", Some("qemu"), ROLE_STREAM),
        ("mig/dst/recv_0", Some("qemu"), ROLE_STREAM),
        ("migrate-send-memory-3", Some("cloud-hypervisor"), ROLE_STREAM),
        ("migrate-receive-memory-3", Some("cloud-hypervisor"), ROLE_STREAM),
        ("CPU 3/KVM", None, ROLE_VCPU),
    ] {
        let rule = kernel_match(rules.comm_rules(), comm).unwrap_or_else(|| panic!("{comm}"));
        assert_eq!((rules.name(rule.process), rule.role), (migrator, role), "{comm}");
    }
    for comm in [
        "dwcp-observer",
        "dwcp-ctl",
        "qemu-img",
        "qemu-nbd",
        "kvm-irqfd-clean",
        "sshd",
        "criu2",
        "",
    ] {
        assert_eq!(kernel_match(rules.comm_rules(), comm), None, "{comm}");
    }
}

#[test]
fn the_fullest_table_fits() {
    let config: String =
        (0..MAX_RULES).map(|i| format!("[[rule]]\nname = 'r{i}'\ncomm = 'c{i}'\n")).collect();
    let rules = rules(&config);
    assert!(rules.comm_rules().len() <= COMM_RULES, "{}", rules.comm_rules().len());
    let last = format!("c{}", MAX_RULES - 1);
    let last = kernel_match(rules.comm_rules(), &last).unwrap();
    assert_eq!(rules.name(last.process), Some("r31"));
}

#[test]
fn the_port_set() {
    let rules =
        rules("identify.ports = [1, '60000-60001', 65535]\n[[rule]]\nname = 'x'\nports = [7000]");
    let bitmap = rules.port_bitmap();
    // As the kernel side asks (`process::port_matches`).
    let set: Vec<u16> = (0..=u16::MAX)
        .filter(|port| bitmap[usize::from(port >> 6)] >> (port & 63) & 1 != 0)
        .collect();
    let expected: Vec<u16> =
        [1, 7000, 9876].into_iter().chain(49152..=49215).chain([60000, 60001, 65535]).collect();
    assert_eq!(set, expected);
}

#[test]
fn configured_rules_come_first_but_leave_threads_alone() {
    let rules = rules(
        "[[rule]]\nname = 'mine'\ncomm = 'qemu-system*'\n[[rule]]\nname = 'm'\ncomm = 'mig*'",
    );
    let found = |comm| kernel_match(rules.comm_rules(), comm).unwrap();
    assert_eq!(rules.name(found("qemu-system-x86").process), Some("mine"));
    assert_eq!(rules.name(found("mig/src/main").process), Some("qemu"));
    assert_eq!(found("mig/src/main").role, ROLE_MAIN);
    assert_eq!(rules.name(found("migrator").process), Some("m"));
    assert_eq!(rules.name(0), None);
    assert_eq!(rules.name(99), None);
}

fn configured(config: &str, process: &ProcessFacts, flow: &FlowFacts) -> Decision {
    classify(&rules(config), process, 0, flow, &Context::default())
}

#[test]
fn a_configured_rule_decides_at_the_first_byte() {
    let mut own = process("mover", "mover --to host --live");
    own.cgroup = Some("/movers.slice/a.service".to_owned());
    let flow = sent(calls(7000), PID, 1);
    for matcher in [
        "comm = 'mover'",
        "comm = 'mov*'",
        "exe = '/usr/*/mover'",
        "cgroup = '/movers.slice/*'",
        "cmdline = '--to host'",
        "ports = ['6999-7001']",
        "comm = 'mover'\nexe = '*mover'\ncgroup = '*a.service'\ncmdline = 'live'\nports = [7000]",
    ] {
        let config = format!("[[rule]]\nname = 'mine'\nconfidence = 0.8\n{matcher}");
        let decision = configured(&config, &own, &flow);
        assert_eq!(migration(&decision), ("mine", Some(Role::Source)), "{matcher}");
        let Decision::Migration { confidence, .. } = decision else { unreachable!() };
        assert!((confidence - 0.8).abs() < 1e-9);
        assert_undecided(&configured(&config, &own, &calls(7000)));
    }
    for matcher in [
        "comm = 'other'",
        "exe = '/opt/*'",
        "cgroup = '/x'",
        "cmdline = 'y'",
        "ports = [7001]",
        "comm = 'mover'\nports = [1]",
    ] {
        let config = format!("[[rule]]\nname = 'mine'\n{matcher}");
        assert_not(&configured(&config, &own, &flow));
    }
}

#[test]
fn a_configured_rule_names_its_component() {
    let config = "[[rule]]\nname = 'mine'\ncomm = 'mover'\ncomponent = 'hde'";
    let decision = configured(config, &process("mover", "mover"), &sent(calls(1), PID, 1));
    let Decision::Migration { evidence, .. } = decision else { panic!("{decision:?}") };
    assert!(evidence[0].detail.contains("component hde"), "{evidence:?}");
}

#[test]
fn a_rule_that_does_not_match_leaves_the_built_in_ones() {
    let config = "[[rule]]\nname = 'mine'\ncomm = 'qemu-system*'\nports = [1]";
    let process = with_thread(qemu(""), WORKER, "live_migration", OPENED);
    let decision =
        classify(&rules(config), &process, 16, &sent(calls(4444), WORKER, 1), &Context::default());
    assert_eq!(migration(&decision).0, "qemu");
}

#[test]
fn configured_ports_are_enough() {
    let config = "identify.ports = ['50000-50010']";
    let unknown = process("mover", "mover");
    let decision = configured(config, &unknown, &sent(calls(50000), PID, 1));
    assert_eq!(migration(&decision), ("port", Some(Role::Source)));
    let decision = configured(config, &qemu(""), &received(called(50010), PID, 1));
    assert_eq!(migration(&decision), ("qemu", Some(Role::Destination)));
    assert_undecided(&configured(config, &unknown, &calls(50000)));
    // A caller's own port means nothing.
    let ephemeral = FlowFacts { local: address("10.0.0.1:50001"), ..sent(calls(80), PID, MIB) };
    assert_not(&configured(config, &unknown, &ephemeral));
}

#[test]
fn a_high_threshold_asks_for_more() {
    let config = "identify.min_confidence = 0.9";
    let process = with_thread(qemu(""), WORKER, "qemu-system-x86", OPENED);
    let decision = configured(config, &process, &sent(calls(49152), WORKER, 4096));
    assert!(
        matches!(&decision, Decision::Undecided { reason, .. } if reason.contains("min_confidence")),
        "{decision:?}"
    );
}

#[test]
fn what_only_proc_can_tell() {
    assert!(!rules("").needs_scan());
    assert!(!rules("[[rule]]\nname = 'x'\ncomm = 'x'\nexe = '*'").needs_scan());
    assert!(!rules("[[rule]]\nname = 'x'\nports = [1]").needs_scan());
    let rules = rules("[[rule]]\nname = 'x'\ncgroup = '/vms/*'");
    assert!(rules.needs_scan());
    let mut found = process("any", "any");
    assert_eq!(rules.scan(&found), None);
    found.cgroup = Some("/vms/1".to_owned());
    assert_eq!(rules.scan(&found).and_then(|number| rules.name(number)), Some("x"));
    // A QEMU that had renamed itself before the observer came.
    let mut renamed = process("vm-7", "qemu-system-x86_64");
    assert_eq!(rules.scan(&renamed).and_then(|number| rules.name(number)), Some("qemu"));
    renamed.exe = None;
    assert_eq!(rules.scan(&renamed), None);
}
