//! The registry over made-up readings: no kernel, no `/proc`.

use std::{collections::HashMap, net::SocketAddr, path::Path};

use dwcp_observer_ebpf::{
    process::FlowOverflow,
    sched::{CpuTimes, SchedTotals},
    tcp::{FLOW_ACTIVE_OPEN, FLOW_FIN_SENT, FLOW_FOUND_OPEN, FLOW_PASSIVE_OPEN, Payload, Snapshot},
};
use proptest::prelude::*;

use super::{
    super::{
        clock::WallClock,
        observation::{Actions, Observation, Options},
        questions::{Answers, Hindrances, Questions, Surroundings},
    },
    Registry,
};
use crate::model::record::{Bytes, Migration, Outcome, Role, State, ThreadRole};
use crate::{
    config::Config,
    identify::{rejection::Rejection, rules::RuleSet},
    keeper::ProcessReading,
    model::facts::{ProcessFacts, ProcessId, ThreadFacts, Unread},
    phase::attach::Coverage,
    sched::ThreadReading,
    tcp::FlowReading,
};

mod bounds;
mod dump;
mod paused;
mod questions;
mod rdma;
mod storage;
mod words;

const SECOND: u64 = 1_000_000_000;
const START: u64 = 100 * SECOND;
/// A process that the one in slot 1 traces.
const DUMPED: u32 = 77;

/// What a host answers: processes by id, and whether their phase functions are probed.
#[derive(Default)]
struct Proc(HashMap<u32, ProcessFacts>, Option<Coverage>);

impl Proc {
    fn facts(&self, process: ProcessId) -> Option<ProcessFacts> {
        self.0.get(&process.pid).filter(|facts| facts.id() == process).cloned()
    }

    fn arguments(&self, process: ProcessId) -> Result<Vec<String>, Unread> {
        match self.facts(process) {
            Some(facts) => facts.unread.map_or(Ok(facts.cmdline), Err),
            None => Ok(Vec::new()),
        }
    }

    fn coverage(&self) -> Coverage {
        self.1.clone().unwrap_or_else(|| Coverage::Unprobed("no functions here".to_owned()))
    }

    fn traced_name(&self, pid: u32, tracer: ProcessId) -> Option<String> {
        let traced = (pid, tracer.pid) == (DUMPED, 1001);
        self.0.get(&pid).filter(|_| traced).map(|facts| facts.comm.clone())
    }

    fn answer(&self, ask: &Questions, answers: &mut Answers) {
        for reading in &ask.facts {
            answers.coverage.insert(reading.id(), Some(self.coverage()));
            answers.facts.insert(reading.id(), self.facts(reading.id()));
        }
        for reading in &ask.coverage {
            answers.coverage.insert(reading.id(), Some(self.coverage()));
        }
        answers.arguments.extend(ask.arguments.iter().map(|it| (*it, self.arguments(*it))));
        answers.strangers.extend(ask.strangers.iter().map(|it| (*it, self.0.get(it).cloned())));
        let threads = |it| self.facts(it).map(|facts| facts.threads).unwrap_or_default();
        answers.threads.extend(ask.threads.iter().map(|it| (*it, threads(*it))));
        let nothing = |it: &ProcessId| (*it, Surroundings::default());
        answers.surroundings.extend(ask.surroundings.iter().map(nothing));
        let traced = ask.traced.iter();
        answers.traced.extend(traced.map(|(pid, by)| ((*pid, *by), self.traced_name(*pid, *by))));
        let free = ask.hindrances.iter().map(|(it, _)| (*it, Hindrances::default()));
        answers.hindrances.extend(free);
        answers.rtts.extend(ask.rtts.iter().map(|key| (*key, None)));
        answers.waits.extend(ask.waits.iter().map(|slot| (*slot, None)));
    }
}

impl Registry {
    /// A whole look at a host; what all its steps want done.
    fn look_at(&mut self, observation: &Observation, host: &Proc) -> Actions {
        let mut all = Actions::default();
        self.look(&mut observation.clone(), |actions, answers| {
            host.answer(&actions.ask, answers);
            all.watch.extend(actions.watch);
            all.release_flows.extend(actions.release_flows);
            all.release_threads.extend(actions.release_threads);
            all.release_processes.extend(actions.release_processes);
            all.adopt.extend(actions.adopt);
            all.release_taps.extend(actions.release_taps);
            all.roles.extend(actions.roles);
        });
        all
    }
}

/// A host with QEMUs: process slot n has pid 1000 + n, its migration thread 2000 + n.
fn world(processes: &[u32]) -> Proc {
    let facts = |slot: u32| ProcessFacts {
        pid: 1000 + slot,
        comm: "qemu-system-x86".to_owned(),
        cmdline: ["qemu-system-x86_64", "-name", "guest=vm-1,debug-threads=on", "-m", "512"]
            .map(str::to_owned)
            .to_vec(),
        threads: vec![
            ThreadFacts {
                tid: 1000 + slot,
                comm: "qemu-system-x86".to_owned(),
                started_boottime_ns: 1,
            },
            ThreadFacts {
                tid: 2000 + slot,
                comm: "live_migration".to_owned(),
                started_boottime_ns: 2,
            },
            ThreadFacts {
                tid: 3000 + slot,
                comm: "multifdrecv_0".to_owned(),
                started_boottime_ns: 2,
            },
        ],
        ..ProcessFacts::default()
    };
    Proc(processes.iter().map(|slot| (1000 + slot, facts(*slot))).collect(), None)
}

fn process(slot: u32) -> ProcessReading {
    ProcessReading {
        slot,
        generation: 0,
        tgid: 1000 + slot,
        rule: 1,
        comm: "qemu-system-x86".to_owned(),
        start_boottime_ns: 1,
        exited_ns: None,
        exit_code: 0,
        overflow: FlowOverflow::default(),
        limited_ns: 0,
        page_requests: 0,
        freeze: None,
        remaining: None,
    }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The socket of the source (`source` true) or of the destination of the connection with client port `port`.
fn flow(slot: u32, process: u32, port: u16, source: bool, bytes: u64) -> FlowReading {
    let (local, peer) =
        if source { (address(port), address(49152)) } else { (address(49152), address(port)) };
    let payload = if source {
        Payload { queued: bytes, delivered: bytes, received: 0 }
    } else {
        Payload { queued: 0, delivered: 0, received: bytes }
    };
    let mut state_ns = [0; 13];
    state_ns[1] = START;
    FlowReading {
        slot,
        generation: 0,
        process,
        tgid: 1000 + process,
        send_tid: if source { 2000 + process } else { 0 },
        recv_tid: if source { 0 } else { 3000 + process },
        opener_tgid: 0,
        flags: if source { FLOW_ACTIVE_OPEN } else { FLOW_PASSIVE_OPEN },
        netns: 1,
        local,
        peer,
        tagged_ns: START,
        first_data_ns: START,
        state_ns,
        retransmit_events: 0,
        resets: 0,
        errors: 0,
        last_error: 0,
        ca_ns: Some([0; 5]),
        queue_pair: None,
        snapshot: Snapshot { srtt_us8: 800, ..Snapshot::default() },
        payload,
        arrived_ns: None,
        chrono_seconds: [0.0; 3],
        closed: false,
    }
}

fn close(mut flow: FlowReading, at_ns: u64) -> FlowReading {
    flow.state_ns[7] = at_ns;
    flow.flags |= FLOW_FIN_SENT;
    flow.closed = true;
    flow
}

fn vcpu(slot: u32, process: u32, on_cpu_ns: u64) -> ThreadReading {
    ThreadReading {
        slot,
        generation: 0,
        tid: 4000 + process,
        tgid: 1000 + process,
        process,
        role: ThreadRole::Vcpu,
        comm: "CPU 0/TCG".to_owned(),
        start_boottime_ns: 2,
        base: SchedTotals::default(),
        now: SchedTotals { on_cpu_ns, at_ns: 1, ..SchedTotals::default() },
        wakeups: 0,
        exited: false,
        waiting: false,
        cpu: CpuTimes::default(),
    }
}

fn observation(seconds: f64, flows: Vec<FlowReading>, processes: &[u32]) -> Observation {
    Observation {
        now_ns: START + (seconds * SECOND as f64) as u64,
        boot_offset_ns: 0,
        wall: WallClock { offset_ns: 0, max_error_seconds: None },
        tick: true,
        flows,
        threads: Vec::new(),
        processes: processes.iter().map(|slot| process(*slot)).collect(),
        memory: Vec::new(),
        texts: Vec::new(),
        marks: Vec::new(),
        answers: Answers::default(),
    }
}

fn registry() -> Registry {
    let config = Config::default();
    Registry::new(
        RuleSet::new(&config),
        Options {
            crowd: 8,
            strangers: 4,
            max_finished: 8,
            history: 60,
            mode: config.mode,
            v1: None,
        },
    )
}

fn records(registry: &Registry, observation: &Observation) -> Vec<Migration> {
    registry
        .entries(observation.now_ns, observation.wall)
        .iter()
        .map(|entry| (*entry.record).clone())
        .collect()
}

#[test]
fn both_ends_on_one_host_are_one_record_and_each_byte_counts_once() {
    let (mut registry, world) = (registry(), world(&[1, 2]));
    let look = observation(
        1.0,
        vec![flow(0, 1, 40000, true, 1 << 20), flow(1, 2, 40000, false, 1 << 20)],
        &[1, 2],
    );
    let actions = registry.look_at(&look, &world);
    let found = records(&registry, &look);
    assert_eq!(found.len(), 1, "{found:#?}");
    let record = &found[0];
    assert_eq!(
        (bytes(record).delivered, bytes(record).received, record.streams.len()),
        (1 << 20, 1 << 20, 1)
    );
    assert_eq!(
        record.ends.iter().map(|end| (end.role, end.pid)).collect::<Vec<_>>(),
        [(Role::Source, 1001), (Role::Destination, 1002)]
    );
    assert_eq!(record.vm.name.as_deref(), Some("vm-1"));
    assert_eq!(actions.watch.len(), 2);
}

#[test]
fn a_destination_seen_first_joins_its_source() {
    let (mut registry, world) = (registry(), world(&[1, 2]));
    let destination = flow(1, 2, 40000, false, 1 << 20);
    registry.look_at(&observation(0.5, vec![destination.clone()], &[2]), &world);
    let look = observation(1.0, vec![destination, flow(0, 1, 40000, true, 1 << 20)], &[1, 2]);
    registry.look_at(&look, &world);
    let found = records(&registry, &look);
    assert_eq!((found.len(), found[0].ends.len()), (1, 2));
    assert!(
        found[0].evidence.iter().all(|line| line.kind != "peer"),
        "the first end speaks for itself"
    );
}

#[test]
fn a_migration_ends_with_its_last_stream_and_the_next_one_is_another() {
    let (mut registry, world) = (registry(), world(&[1]));
    let first = flow(0, 1, 40000, true, 1 << 20);
    registry.look_at(&observation(1.0, vec![first.clone()], &[1]), &world);
    let actions = registry
        .look_at(&observation(2.0, vec![close(first, START + 3 * SECOND / 2)], &[1]), &world);
    assert_eq!(actions.release_flows, [0]);
    let mut second = flow(0, 1, 40001, true, 5);
    second.generation = 1;
    second.state_ns[1] = START + 2 * SECOND;
    second.tagged_ns = START + 2 * SECOND;
    let look = observation(4.0, vec![second], &[1]);
    registry.look_at(&look, &world);
    let found = records(&registry, &look);
    assert_eq!(
        found.iter().map(|record| record.state).collect::<Vec<_>>(),
        [State::Active, State::Finished]
    );
    assert!((found[1].duration_seconds - 1.5).abs() < 1e-9);
    assert_ne!(found[0].id, found[1].id);
}

#[test]
fn a_flow_whose_close_nobody_saw_gives_its_slot_back() {
    let (mut registry, world) = (registry(), world(&[1]));
    let open = flow(0, 1, 40000, true, 1 << 20);
    registry.look_at(&observation(1.0, vec![open.clone()], &[1]), &world);
    let mut look = observation(1300.0, vec![open], &[1]);
    // A socket of a living process may be silent as long as it likes.
    assert!(registry.look_at(&look, &world).release_flows.is_empty());
    look.processes[0].exited_ns = Some(START + 2 * SECOND);
    let actions = registry.look_at(&look, &world);
    assert_eq!((actions.release_flows, look.processes[0].slot), (vec![0], 1));
}

#[test]
fn the_outcome_waits_to_see_where_the_guest_runs() {
    let (mut registry, world) = (registry(), world(&[1, 2]));
    let (source, destination) =
        (flow(0, 1, 40000, true, 1 << 20), flow(1, 2, 40000, false, 1 << 20));
    let step = |registry: &mut Registry, world: &Proc, seconds, flows, ran: u64| {
        let mut look = observation(seconds, flows, &[1, 2]);
        look.threads = vec![vcpu(0, 1, 7 * SECOND), vcpu(1, 2, ran)];
        let actions = registry.look_at(&look, world);
        (records(registry, &look), actions)
    };
    step(&mut registry, &world, 1.0, vec![source.clone(), destination.clone()], 0);
    let end = START + 3 * SECOND / 2;
    let (found, _) =
        step(&mut registry, &world, 1.6, vec![close(source, end), close(destination, end)], 0);
    assert_eq!((found[0].state, found[0].outcome), (State::Finished, Some(Outcome::Unknown)));
    let (found, actions) = step(&mut registry, &world, 2.6, vec![], SECOND);
    assert_eq!(found[0].outcome, Some(Outcome::Completed));
    let destination = found[0].threads.iter().find(|thread| thread.tid == 4002).unwrap();
    assert_eq!(destination.on_cpu_seconds, 0.0, "the record ends with the migration");
    assert_eq!(registry.totals().finished.values().sum::<u64>(), 1);
    assert!(actions.watch.iter().all(|(_, on)| !on) && actions.watch.len() == 2);
    assert_eq!(actions.release_threads, [0, 1]);
}

#[test]
fn a_port_that_is_used_again_is_another_connection() {
    let (mut registry, world) = (registry(), world(&[1, 2]));
    let ends = |generation: u32, opened: u64, bytes: u64| {
        [(0, 1, true), (1, 2, false)].map(|(slot, process, source)| {
            let mut reading = flow(slot, process, 40000, source, bytes);
            reading.generation = generation;
            reading.state_ns[1] = opened;
            reading.tagged_ns = opened;
            reading
        })
    };
    let mut main = flow(2, 1, 39999, true, 1 << 20);
    main.generation = 9;
    let first = ends(0, START, 1 << 20).map(|reading| close(reading, START + SECOND));
    let mut flows: Vec<FlowReading> = first.into();
    flows.push(main.clone());
    registry.look_at(&observation(1.1, flows, &[1, 2]), &world);
    let mut flows: Vec<FlowReading> = ends(1, START + 2 * SECOND, 1 << 10).into();
    flows.push(main);
    let look = observation(2.5, flows, &[1, 2]);
    registry.look_at(&look, &world);
    let found = records(&registry, &look);
    assert_eq!((found.len(), found[0].streams.len(), found[0].ends.len()), (1, 3, 2));
    assert_eq!(bytes(&found[0]).received, (1 << 20) + (1 << 10));
}

#[test]
fn a_thread_created_for_the_migration_counts_from_its_birth() {
    let (mut registry, world) = (registry(), world(&[1]));
    let mut look = observation(1.0, vec![flow(0, 1, 40000, true, 1 << 20)], &[1]);
    let mut thread = vcpu(0, 1, 900);
    thread.base.on_cpu_ns = 300;
    look.threads = vec![thread.clone()];
    registry.look_at(&look, &world);
    assert!((records(&registry, &look)[0].threads[0].on_cpu_seconds - 600e-9).abs() < 1e-15);
    look.threads[0].start_boottime_ns = START + 1;
    registry.look_at(&look, &world);
    assert!((records(&registry, &look)[0].threads[0].on_cpu_seconds - 900e-9).abs() < 1e-15);
}

#[test]
fn flows_without_a_slot_count_in_the_bytes_of_their_process() {
    let (mut registry, world) = (registry(), world(&[1]));
    registry.look_at(&observation(1.0, vec![flow(0, 1, 40000, true, 100_000)], &[1]), &world);
    let mut look = observation(2.0, vec![flow(0, 1, 40000, true, 100_000)], &[1]);
    look.processes[0].overflow = FlowOverflow {
        flows: 3,
        closed: 1,
        bytes_queued: 70_000,
        bytes_delivered: 60_000,
        ..FlowOverflow::default()
    };
    registry.look_at(&look, &world);
    let record = &records(&registry, &look)[0];
    assert_eq!(
        (bytes(record).queued, bytes(record).delivered, record.streams_without_detail),
        (170_000, 160_000, 3)
    );
}

#[test]
fn totals_of_a_migration_found_under_way_say_so() {
    let (mut registry, world) = (registry(), world(&[1]));
    let mut found_open = flow(0, 1, 40000, true, 1 << 30);
    found_open.flags |= FLOW_FOUND_OPEN;
    let look = observation(1.0, vec![found_open], &[1]);
    registry.look_at(&look, &world);
    let record = &records(&registry, &look)[0];
    assert!(record.found_under_way);
    assert_eq!(record.throughput_bytes_per_second, None, "what was sent before is no rate");
}

#[test]
fn a_connection_that_one_end_has_seen_from_its_begin_is_not_found_under_way() {
    let (mut registry, world) = (registry(), world(&[1, 2]));
    let mut reader = flow(1, 2, 40000, false, 1 << 20);
    // Its process was told late who reads: by splice(2).
    reader.flags |= FLOW_FOUND_OPEN;
    let look = observation(1.0, vec![flow(0, 1, 40000, true, 1 << 20), reader], &[1, 2]);
    registry.look_at(&look, &world);
    let record = &records(&registry, &look)[0];
    assert_eq!((record.ends.len(), record.found_under_way), (2, false));
}

#[test]
fn an_unknown_process_on_a_migration_port_is_no_migration() {
    let (mut registry, mut world) = (registry(), Proc::default());
    world.0.insert(
        1001,
        ProcessFacts { pid: 1001, comm: "nginx".to_owned(), ..ProcessFacts::default() },
    );
    let mut look = observation(1.0, vec![flow(0, 1, 40000, false, 1 << 30)], &[1]);
    look.processes[0].rule = 0;
    look.processes[0].comm = "nginx".to_owned();
    let actions: Actions = registry.look_at(&look, &world);
    assert!(records(&registry, &look).is_empty());
    // Open or not: its slot goes back at once, and with its last flow the process' own.
    assert_eq!((actions.release_flows, actions.release_processes), (vec![0], vec![1]));
    assert_eq!(registry.totals().rejected_flows, [(Rejection::OtherProgram, 1)].into());
}

proptest! {
    /// Whatever the order in which streams grow, close and are looked at: no byte is lost, none counts twice, totals never fall.
    #[test]
    fn bytes_are_neither_lost_nor_doubled(
        sizes in proptest::collection::vec(1u64..(1 << 24), 1..12),
        order in proptest::collection::vec((0usize..12, any::<bool>(), any::<bool>()), 1..60),
    ) {
        let (mut registry, world) = (registry(), world(&[1, 2]));
        let count = sizes.len();
        // Shares of each stream that have been sent, of ten.
        let mut shares = vec![1u64; count];
        let mut gone = vec![[false; 2]; count];
        let mut sent_before = 0;
        let mut seconds = 0.0;
        let mut steps: Vec<(usize, bool, bool)> = order.iter().map(|(at, grow, tick)| (at % count, *grow, *tick)).collect();
        steps.extend((0..count).map(|at| (at, false, true)));
        for (at, grow, tick) in steps {
            seconds += 0.25;
            if grow && !gone[at][0] {
                shares[at] = (shares[at] + 1).min(10);
            }
            let closing = !grow && !gone[at][0];
            let mut flows = Vec::new();
            for (index, size) in sizes.iter().enumerate() {
                let bytes = size * shares[index] / 10;
                for (side, source) in [(0, true), (1, false)] {
                    if gone[index][side] {
                        continue;
                    }
                    let slot = (index * 2 + side) as u32;
                    let mut reading = flow(slot, 1 + side as u32, 40000 + index as u16, source, bytes);
                    if closing && index == at {
                        reading = close(reading, START + (seconds * 1e9) as u64);
                        gone[index][side] = true;
                    }
                    flows.push(reading);
                }
            }
            let mut look = observation(seconds, flows, &[1, 2]);
            look.tick = tick;
            registry.look_at(&look, &world);
            let totals = registry.totals();
            let sent: u64 = totals.bytes.iter().filter(|((role, _), _)| *role == Role::Source).map(|(_, bytes)| bytes.transferred).sum();
            prop_assert!(sent >= sent_before);
            sent_before = sent;
        }
        let look = observation(seconds + 5.0, Vec::new(), &[1, 2]);
        registry.look_at(&look, &world);
        let expected: u64 = sizes.iter().zip(&shares).map(|(size, share)| size * share / 10).sum();
        let found = records(&registry, &look);
        prop_assert_eq!(found.iter().map(|record| bytes(record).delivered).sum::<u64>(), expected);
        prop_assert_eq!(found.iter().map(|record| bytes(record).received).sum::<u64>(), expected);
        prop_assert_eq!(sent_before, expected);
        prop_assert!(found.iter().all(|record| record.state == State::Finished));
        let by_counter: u64 = registry.totals().finished.values().sum();
        prop_assert_eq!(by_counter, found.len() as u64);
    }
}

fn bytes(record: &Migration) -> Bytes {
    record.bytes.unwrap()
}

#[test]
fn migrations_of_v1_count_for_themselves() {
    use crate::{migration::totals::Totals, model::record::Version};
    let config =
        Config::parse("[v1]\nports = [49152]\nprocess = ['qemu-*']", Path::new("t")).unwrap();
    let options = |v1| Options {
        crowd: 8,
        strangers: 4,
        max_finished: 8,
        history: 60,
        mode: config.mode,
        v1,
    };
    let look = observation(1.0, vec![flow(0, 1, 40000, true, 1 << 20)], &[1]);
    let sent = |totals: &Totals| totals.bytes.values().map(|sum| sum.transferred).sum::<u64>();

    let rule = crate::migration::v1::V1Rule::new(&config.v1);
    let mut registry = Registry::new(RuleSet::new(&config), options(rule));
    registry.look_at(&look, &world(&[1]));
    assert_eq!(records(&registry, &look)[0].version, Some(Version::V1));
    assert_eq!(sent(registry.totals()), 0);
    assert_eq!(sent(registry.totals_v1().unwrap()), 1 << 20);

    let other = Config::parse("[v1]\nprocess = ['dwcpd']", Path::new("t")).unwrap();
    let rule = crate::migration::v1::V1Rule::new(&other.v1);
    let mut registry = Registry::new(RuleSet::new(&config), options(rule));
    registry.look_at(&look, &world(&[1]));
    assert_eq!(records(&registry, &look)[0].version, Some(Version::V3));
    assert_eq!((sent(registry.totals()), sent(registry.totals_v1().unwrap())), (1 << 20, 0));

    let mut registry = Registry::new(RuleSet::new(&config), options(None));
    registry.look_at(&look, &world(&[1]));
    assert_eq!(records(&registry, &look)[0].version, None, "nothing tells them apart");
    assert!(registry.totals_v1().is_none());
}

#[test]
fn what_turns_out_to_be_received_was_not_counted_as_sent() {
    let (mut registry, world) = (registry(), world(&[1, 2]));
    // The first bytes go the other way: a handshake.
    let source = flow(0, 1, 40000, true, 2 << 10);
    let mut destination = flow(1, 2, 40000, false, 2 << 10);
    destination.payload = Payload { queued: 8 << 10, delivered: 8 << 10, received: 2 << 10 };
    registry.look_at(&observation(0.5, vec![destination.clone()], &[2]), &world);
    registry.look_at(&observation(0.6, vec![source, destination], &[1, 2]), &world);
    let flows = vec![flow(0, 1, 40000, true, 1 << 20), flow(1, 2, 40000, false, 1 << 20)];
    registry.look_at(&observation(1.0, flows, &[1, 2]), &world);
    let moved = |role| {
        let of_role = registry.totals().bytes.iter().filter(|((found, _), _)| *found == role);
        of_role.map(|(_, totals)| totals.transferred).sum::<u64>()
    };
    assert_eq!((moved(Role::Source), moved(Role::Destination)), (1 << 20, 1 << 20));
}
