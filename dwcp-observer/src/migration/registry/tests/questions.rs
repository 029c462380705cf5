//! What the registry asks, and that a look waits for the answers.

use dwcp_observer_ebpf::netdev::{Tap, TapKey};

use super::{super::MAX_STEPS, *};
use crate::model::record::Quantiles;

const TAP: TapKey = TapKey { name: [7; 2], netns: 7, reserved: 0 };

/// The steps of a look at a host; what each one asks, and what all of them want released.
fn asked(registry: &mut Registry, look: &Observation, host: &Proc) -> (Vec<Questions>, Vec<u32>) {
    let (mut steps, mut released) = (Vec::new(), Vec::new());
    registry.look(&mut look.clone(), |actions, answers| {
        host.answer(&actions.ask, answers);
        released.extend(actions.release_flows);
        steps.push(actions.ask);
    });
    (steps, released)
}

fn quantiles_of(seconds: f64) -> Quantiles {
    let bounds = [seconds; 4];
    let [mean_seconds, p50_seconds, p99_seconds, max_seconds] = bounds;
    Quantiles { count: 1, mean_seconds, p50_seconds, p99_seconds, max_seconds }
}

#[test]
fn a_step_waits_for_its_answer_and_goes_on_with_it() {
    let (mut registry, host) = (registry(), world(&[1]));
    let mut look = observation(1.0, vec![flow(0, 1, 40000, true, 1 << 20)], &[1]);
    let first = registry.step(&look);
    let asked: Vec<u32> = first.ask.facts.iter().map(|reading| reading.tgid).collect();
    assert_eq!((asked, first.watch.len()), (vec![1001], 0));
    assert!(records(&registry, &look).is_empty());
    host.answer(&first.ask, &mut look.answers);
    let second = registry.step(&look);
    assert_eq!((second.watch, second.ask.rtts), (vec![(1, true)], vec![(0, 0)]));
}

#[test]
fn a_migration_that_is_over_at_the_first_look_keeps_its_last_readings() {
    let (mut registry, host) = (registry(), world(&[1]));
    let gone = close(flow(0, 1, 40000, true, 1 << 20), START + SECOND / 50);
    let mut look = observation(0.03, vec![gone], &[1]);
    let tap = Tap { first_ns: START, last_ns: START, packets: 3, ..Tap::default() };
    let mut steps = 0;
    registry.look(&mut look, |actions, answers| {
        steps += 1;
        let is_over = actions.ask.is_empty();
        assert_eq!(actions.release_flows, if is_over { vec![0] } else { vec![] });
        host.answer(&actions.ask, answers);
        for found in answers.surroundings.values_mut() {
            found.taps = vec![TAP];
        }
        answers.taps.extend(actions.ask.taps.iter().map(|key| (*key, Some(tap))));
        answers.rtts.values_mut().for_each(|rtt| *rtt = Some(quantiles_of(0.001)));
    });
    assert!(steps < MAX_STEPS, "{steps}");
    let record = &records(&registry, &look)[0];
    let rtt = record.streams[0].tcp.as_ref().and_then(|tcp| tcp.rtt);
    assert_eq!(rtt, Some(quantiles_of(0.001)));
    let live = &registry.live[0];
    assert_eq!(live.ends[0].taps.iter().map(|reading| reading.tap).collect::<Vec<_>>(), [tap]);
}

#[test]
fn nothing_is_asked_twice_in_a_look() {
    let (mut registry, mut host) = (registry(), world(&[1, 2]));
    host.0.get_mut(&1001).unwrap().unread = Some(Unread::Awaited);
    let mut stranger = flow(2, 0, 50000, true, 2 << 20);
    (stranger.tgid, stranger.peer) = (3003, address(9876));
    let flows = vec![
        flow(0, 1, 40000, true, 1 << 20),
        flow(1, 2, 40000, false, 1 << 20),
        FlowReading { slot: 3, local: address(50001), ..stranger.clone() },
        stranger,
    ];
    for seconds in [1.0, 2.0] {
        let look = observation(seconds, flows.clone(), &[1, 2]);
        let (steps, _) = asked(&mut registry, &look, &host);
        let ids = |of: fn(&Questions) -> Vec<ProcessId>| {
            let mut all: Vec<ProcessId> = steps.iter().flat_map(of).collect();
            let count = all.len();
            all.sort_unstable();
            all.dedup();
            (count, all.len())
        };
        for (count, different) in [
            ids(|ask| ask.facts.iter().map(ProcessReading::id).collect()),
            ids(|ask| ask.coverage.iter().map(ProcessReading::id).collect()),
            ids(|ask| ask.arguments.clone()),
            ids(|ask| ask.threads.clone()),
            ids(|ask| ask.strangers.iter().map(|pid| ProcessId::new(*pid, 0)).collect()),
            ids(|ask| ask.surroundings.clone()),
            ids(|ask| ask.hindrances.iter().map(|(id, _)| *id).collect()),
        ] {
            assert_eq!(count, different, "{steps:#?}");
        }
    }
}

#[test]
fn a_look_without_answers_ends_and_the_next_one_asks_again() {
    let (mut registry, host) = (registry(), world(&[1]));
    registry.look_at(&observation(0.0, vec![], &[1]), &host);
    let closed = close(flow(0, 1, 40000, true, 1 << 20), START + SECOND / 50);
    let look = observation(0.1, vec![closed], &[1]);
    let mut steps = 0;
    registry.look(&mut look.clone(), |actions, _| {
        steps += 1;
        assert!(actions.release_flows.is_empty(), "its RTT was not read");
    });
    assert_eq!(steps, MAX_STEPS);
    assert_eq!(records(&registry, &look).len(), 1);
    let (steps, released) = asked(&mut registry, &observation(0.2, look.flows, &[1]), &host);
    assert_eq!(steps[0].surroundings, [ProcessId::new(1001, 1)]);
    assert_eq!(
        (steps[0].rtts.as_slice(), released.as_slice()),
        ([(0, 0)].as_slice(), [0].as_slice())
    );
}

#[test]
fn what_a_new_process_says_waits_for_what_is_known_of_it_and_counts_once() {
    let (mut registry, host) = (registry(), words::probed(&[1]));
    let mut look = observation(0.5, vec![flow(0, 1, 40000, true, 1 << 20)], &[1]);
    look.marks = words::begin(1);
    let (steps, _) = asked(&mut registry, &look, &host);
    assert!(steps.len() > 2, "{steps:#?}");
    let timeline = &registry.processes[&1].timeline;
    assert_eq!((timeline.states.len(), timeline.requests.len()), (1, 1));
    assert_eq!(records(&registry, &look)[0].migrator_states.len(), 1);
}
