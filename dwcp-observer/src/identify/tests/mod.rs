mod decoys;
mod migrators;
mod properties;
mod roles;
mod rules;

use std::net::SocketAddr;
use std::path::Path;

use super::classify::{Context, Decision, OtherEnd, Sibling, classify};
use super::rules::RuleSet;
use crate::config::Config;
use crate::model::facts::{FlowFacts, ProcessFacts, ThreadFacts};
use crate::model::record::Role;

const MIB: u64 = 1 << 20;
const SECOND: u64 = 1_000_000_000;
/// Process id of every process here.
const PID: u32 = 100;
/// A thread of its own; 100 seconds younger than the process.
const WORKER: u32 = 150;
/// When processes start and connections open, `CLOCK_BOOTTIME` ns.
const PROCESS_START: u64 = 1000 * SECOND;
const OPENED: u64 = 1100 * SECOND;

/// A process with its main thread only.
fn process(comm: &str, cmdline: &str) -> ProcessFacts {
    let cmdline: Vec<String> = cmdline.split_whitespace().map(str::to_owned).collect();
    let exe = cmdline.first().map(|program| format!("/usr/bin/{program}"));
    ProcessFacts {
        pid: PID,
        comm: comm.to_owned(),
        exe,
        cmdline,
        threads: vec![thread(PID, comm, PROCESS_START)],
        started_boottime_ns: PROCESS_START,
        ..ProcessFacts::default()
    }
}

fn qemu(options: &str) -> ProcessFacts {
    process("qemu-system-x86", &format!("qemu-system-x86_64 -m 512 {options}"))
}

fn thread(tid: u32, comm: &str, started_boottime_ns: u64) -> ThreadFacts {
    ThreadFacts { tid, comm: comm.to_owned(), started_boottime_ns }
}

fn with_thread(mut process: ProcessFacts, tid: u32, comm: &str, started: u64) -> ProcessFacts {
    process.threads.push(thread(tid, comm, started));
    process
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A flow of an ephemeral port to `port` of another host.
fn calls(port: u16) -> FlowFacts {
    FlowFacts {
        local: address("10.0.0.1:40000"),
        peer: SocketAddr::new(address("10.0.0.2:1").ip(), port),
        active_open: Some(true),
        opener_pid: None,
        spoke_first: None,
        send_tid: 0,
        recv_tid: 0,
        bytes_queued: 0,
        bytes_received: 0,
        opened_boottime_ns: OPENED,
        rdma: false,
        closed: false,
    }
}

/// A flow of another host to `port`.
fn called(port: u16) -> FlowFacts {
    FlowFacts {
        local: SocketAddr::new(address("10.0.0.1:1").ip(), port),
        peer: address("10.0.0.2:40000"),
        active_open: Some(false),
        ..calls(port)
    }
}

fn sent(flow: FlowFacts, tid: u32, bytes: u64) -> FlowFacts {
    FlowFacts { send_tid: tid, bytes_queued: bytes, ..flow }
}

fn received(flow: FlowFacts, tid: u32, bytes: u64) -> FlowFacts {
    FlowFacts { recv_tid: tid, bytes_received: bytes, ..flow }
}

fn rules(config: &str) -> RuleSet {
    RuleSet::new(&Config::parse(config, Path::new("test.toml")).unwrap())
}

fn decide(process: &ProcessFacts, flow: &FlowFacts) -> Decision {
    classify(&rules(""), process, 0, flow, &Context::default())
}

/// The migrator and the role of a decision that must be a migration.
#[track_caller]
fn migration(decision: &Decision) -> (&str, Option<Role>) {
    match decision {
        Decision::Migration { migrator, confidence, evidence, role_hint } => {
            assert!((0.5..=0.99).contains(confidence), "{decision:?}");
            assert!(!evidence.is_empty());
            (migrator, *role_hint)
        }
        other => panic!("not a migration: {other:?}"),
    }
}

#[track_caller]
fn assert_not(decision: &Decision) {
    assert!(matches!(decision, Decision::NotMigration { .. }), "{decision:?}");
}

#[track_caller]
fn assert_undecided(decision: &Decision) {
    assert!(matches!(decision, Decision::Undecided { .. }), "{decision:?}");
}
