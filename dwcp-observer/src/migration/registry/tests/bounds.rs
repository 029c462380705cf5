//! What is no migration, or whose process is gone, holds nothing for long; what is one gets what it needs.

use super::*;

/// A flow on a migration port whose process the kernel side does not know; `pid` moved its data.
fn stranger(slot: u32, pid: u32, port: u16, bytes: u64) -> FlowReading {
    let mut flow = flow(slot, 0, port, true, bytes);
    (flow.tgid, flow.send_tid) = (pid, pid);
    flow
}

fn facts(pid: u32, comm: &str) -> ProcessFacts {
    ProcessFacts { pid, comm: comm.to_owned(), ..ProcessFacts::default() }
}

#[test]
fn a_stranger_on_a_migration_port_costs_its_slot_for_one_look() {
    let (mut registry, mut world) = (registry(), Proc::default());
    world.0.insert(77, facts(77, "nginx"));
    let flows = (0..100).map(|n| stranger(n, 77, 40000 + n as u16, 1 << 20)).collect();
    let look = observation(1.0, flows, &[]);
    let actions = registry.look_at(&look, &world);
    assert_eq!(actions.release_flows.len(), 100);
    assert!(actions.adopt.is_empty());
    assert!(records(&registry, &look).is_empty());
}

#[test]
fn a_stranger_that_migrates_is_given_a_process_and_found_even_if_its_flow_has_closed() {
    let (mut registry, mut world) = (registry(), Proc::default());
    world.0.insert(1001, facts(1001, "mover"));
    let mut moved = stranger(0, 1001, 40000, 2 << 20);
    moved.peer = address(9876);
    let closed = close(moved, START + SECOND / 2);
    let look = observation(1.0, vec![closed.clone()], &[]);
    let actions = registry.look_at(&look, &world);
    assert_eq!((actions.adopt, actions.release_flows), (vec![ProcessId::new(1001, 1)], vec![]));
    let mut look = observation(1.0, vec![closed], &[1]);
    look.processes[0].rule = 0;
    super::super::find_owners(&mut look.flows, &look.processes, 0);
    let actions = registry.look_at(&look, &world);
    let found = records(&registry, &look);
    assert_eq!((found.len(), found[0].migrator.as_str()), (1, "dwcp"));
    assert_eq!(actions.release_flows, [0]);
    // Its process was adopted for the flow alone, and is let go when the migration is over.
    let mut over = observation(9.0, vec![], &[1]);
    over.processes[0].rule = 0;
    registry.look_at(&over, &world);
    assert_eq!(registry.look_at(&over, &world).release_processes, [1]);
}

#[test]
fn a_stranger_that_migrates_is_given_a_process_before_its_arguments_are_read() {
    let (mut registry, mut world) = (registry(), Proc::default());
    for (pid, comm) in [(1001, "mover"), (77, "nginx")] {
        let unread = Some(Unread::Awaited);
        world.0.insert(pid, ProcessFacts { unread, ..facts(pid, comm) });
    }
    let mut moved = stranger(0, 1001, 40000, 2 << 20);
    moved.peer = address(9876);
    let look = observation(1.0, vec![moved, stranger(1, 77, 40001, 2 << 20)], &[]);
    let actions = registry.look_at(&look, &world);
    // It may be gone by then. The other one is not judged without them.
    assert_eq!((actions.adopt, actions.release_flows), (vec![ProcessId::new(1001, 1)], vec![]));
}

#[test]
fn a_flow_is_no_later_process_of_the_same_id() {
    let mut flows = vec![stranger(0, 1001, 40000, 1)];
    let mut later = process(1);
    later.start_boottime_ns = START + SECOND;
    super::super::find_owners(&mut flows, std::slice::from_ref(&later), 0);
    assert_eq!(flows[0].process, 0);
    later.start_boottime_ns = START - SECOND;
    super::super::find_owners(&mut flows, &[later], 0);
    assert_eq!(flows[0].process, 1);
}

#[test]
fn facts_of_a_later_process_with_the_same_id_are_not_taken() {
    let (mut registry, mut world) = (registry(), world(&[1]));
    world.0.get_mut(&1001).unwrap().started_boottime_ns = 90 * SECOND;
    let look = observation(1.0, vec![flow(0, 1, 40000, true, 1 << 20)], &[1]);
    registry.look_at(&look, &world);
    assert!(records(&registry, &look).iter().all(|record| record.vm.name.is_none()));
}

#[test]
fn a_flow_waits_for_the_arguments_of_its_process_and_its_close_is_not_lost_meanwhile() {
    let (mut registry, mut world) = (registry(), world(&[1]));
    let moved = close(flow(0, 1, 40000, true, 1 << 20), START + SECOND / 2);
    world.0.get_mut(&1001).unwrap().unread = Some(Unread::Awaited);
    let look = observation(1.0, vec![moved.clone()], &[1]);
    let actions = registry.look_at(&look, &world);
    assert_eq!((records(&registry, &look).len(), actions.release_flows.len()), (0, 0));
    world.0.get_mut(&1001).unwrap().unread = None;
    let look = observation(1.1, vec![moved], &[1]);
    assert_eq!(registry.look_at(&look, &world).release_flows, [0]);
    let found = records(&registry, &look);
    assert_eq!((found.len(), found[0].vm.name.as_deref()), (1, Some("vm-1")));
}

#[test]
fn what_a_process_does_not_tell_of_its_arguments_is_absent_and_taken_in_when_it_comes() {
    let (mut registry, mut world) = (registry(), world(&[1, 2]));
    let silent = world.0.get_mut(&1001).unwrap();
    (silent.cmdline, silent.unread) = (Vec::new(), Some(Unread::Silent));
    let flows = || {
        let mut other = flow(1, 2, 50000, true, 1 << 20);
        other.peer = address(49153);
        vec![flow(0, 1, 40000, true, 1 << 20), other]
    };
    let look = observation(1.0, flows(), &[1, 2]);
    registry.look_at(&look, &world);
    let of = |registry: &Registry, pid| {
        let mut found = records(registry, &look).into_iter();
        found.find(|record| record.ends[0].pid == pid).unwrap()
    };
    let silent = of(&registry, 1001);
    assert_eq!(silent.vm.name, None);
    assert!(silent.evidence.iter().any(|line| line.kind == "cmdline"), "says why");
    assert_eq!(of(&registry, 1002).vm.name.as_deref(), Some("vm-1"), "held up by nobody");
    world.0.extend(super::world(&[1]).0);
    registry.look_at(&observation(2.0, flows(), &[1, 2]), &world);
    let told = of(&registry, 1001);
    assert_eq!(told.vm.name.as_deref(), Some("vm-1"));
    assert!(told.evidence.iter().all(|line| line.kind != "cmdline"));
}

#[test]
fn a_migration_ends_with_its_process_whatever_becomes_of_its_socket() {
    let (mut registry, world) = (registry(), world(&[1]));
    let open = flow(0, 1, 40000, true, 1 << 20);
    registry.look_at(&observation(1.0, vec![open.clone()], &[1]), &world);
    let gone = |seconds: f64| {
        let mut look = observation(seconds, vec![open.clone()], &[1]);
        look.processes[0].exited_ns = Some(START + 2 * SECOND);
        look
    };
    let look = gone(5.0);
    registry.look_at(&look, &world);
    assert_eq!(records(&registry, &look)[0].state, State::Active);
    let look = gone(13.0);
    let mut actions = registry.look_at(&look, &world);
    assert_eq!(actions.release_flows, [0]);
    let mut after = gone(15.0);
    after.flows.clear();
    actions.watch.extend(registry.look_at(&after, &world).watch);
    let found = records(&registry, &after);
    assert_eq!(found[0].state, State::Finished);
    assert!((found[0].duration_seconds - 2.0).abs() < 1e-9, "{}", found[0].duration_seconds);
    assert!(actions.watch.contains(&(1, false)), "{:?}", actions.watch);
}

#[test]
fn flows_of_which_nothing_is_known_do_not_fill_the_table() {
    let (mut registry, world) = (registry(), world(&[1]));
    let idle = |slot: u32, process: u32| {
        let mut flow = flow(slot, process, 41000 + slot as u16, true, 0);
        (flow.tgid, flow.send_tid, flow.peer) = (0, 0, address(80));
        flow.tagged_ns = START + u64::from(slot);
        flow
    };
    // Ten of a recognised process, of which eight may wait; six of nobody, of which four may.
    let flows: Vec<FlowReading> =
        (0..10).map(|n| idle(n, 1)).chain((10..16).map(|n| idle(n, 0))).collect();
    let young = observation(9.0, flows.clone(), &[1]);
    assert!(registry.look_at(&young, &world).release_flows.is_empty());
    let older = observation(11.0, flows.clone(), &[1]);
    assert_eq!(registry.look_at(&older, &world).release_flows, [10, 11]);
    let oldest = observation(61.0, flows[..10].to_vec(), &[1]);
    assert_eq!(registry.look_at(&oldest, &world).release_flows, [0, 1]);
}

#[test]
fn what_an_unknown_program_is_called_does_not_become_a_label() {
    let (mut registry, mut world) = (registry(), Proc::default());
    for n in 0..50 {
        world.0.insert(100 + n, facts(100 + n, &format!("a b {n} {}", "word ".repeat(n as usize))));
        let one = stranger(n, 100 + n, 40000 + n as u16, 1 << 20);
        registry.look_at(&observation(1.0 + f64::from(n), vec![one], &[]), &world);
    }
    assert_eq!(registry.totals().rejected_flows, [(Rejection::UnknownProgram, 50)].into());
}
