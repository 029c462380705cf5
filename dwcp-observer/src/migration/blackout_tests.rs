//! Blackouts from stamps like those of real migrations.

use dwcp_observer_ebpf::sched::{Activity, Burst};
use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;

fn cpu(bursts: &[(u64, u64)]) -> CpuTimes {
    let mut cpu = CpuTimes::default();
    for (on_ns, off_ns) in bursts {
        cpu.recent[cpu.bursts as usize % BURSTS] = Burst { on_ns: *on_ns, off_ns: *off_ns };
        cpu.bursts += 1;
    }
    cpu
}

/// Activities of one burst each: begin and length.
fn started(activities: &[(u64, u64)], on_ns: u64) -> CpuTimes {
    let mut cpu = CpuTimes { on_ns, activities: activities.len() as u64, ..CpuTimes::default() };
    for (to, (began_ns, cpu_ns)) in cpu.first.iter_mut().zip(activities) {
        *to = Activity {
            began_ns: *began_ns,
            guest_ns: if *cpu_ns >= GUEST_BURST_NS { *began_ns } else { 0 },
            off_ns: if *cpu_ns == 0 { 0 } else { began_ns + cpu_ns },
            cpu_ns: *cpu_ns,
        };
    }
    cpu
}

#[test]
fn the_last_guest_cpu_to_stop_counts() {
    let cpus = [cpu(&[(0, 5 * MS)]), cpu(&[(0, 7 * MS)])];
    assert_eq!(last_ran(&cpus, None), Some(7 * MS));
}

#[test]
fn a_preempted_guest_stopped_when_it_lost_its_cpu() {
    // Preempted at 5 ms; at 8 ms its thread only handles the request to stop.
    let cpus = [cpu(&[(0, 5 * MS), (8 * MS, 8 * MS + 20_000)])];
    assert_eq!(last_ran(&cpus, None), Some(5 * MS));
}

#[test]
fn reading_registers_after_the_stop_is_no_guest_code() {
    let cpus = [cpu(&[(0, 5 * MS), (6 * MS, 6 * MS + 50_000), (9 * MS, 9 * MS + 400_000)])];
    // The long one comes after all vCPU threads have parked, as the phase functions tell.
    assert_eq!(last_ran(&cpus, Some(5 * MS + 1)), Some(5 * MS));
}

#[test]
fn a_vcpu_thread_parks_a_little_after_it_has_said_so() {
    let cpus = [cpu(&[(0, 3 * MS), (4 * MS, 5 * MS + 7_000)])];
    assert_eq!(last_ran(&cpus, Some(5 * MS)), Some(5 * MS));
}

#[test]
fn an_idle_guest_stopped_at_its_last_burst() {
    assert_eq!(
        last_ran(&[cpu(&[(MS, MS + 9_000), (5 * MS, 5 * MS + 9_000)])], None),
        Some(5 * MS + 9_000)
    );
}

#[test]
fn a_guest_that_runs_has_not_stopped() {
    let mut running = cpu(&[(0, 5 * MS)]);
    running.on_ns = 6 * MS;
    assert_eq!(last_ran(&[running], None), None);
    assert_eq!(last_ran(&[CpuTimes::default()], None), None);
    assert_eq!(last_ran(&[], None), None);
}

#[test]
fn more_bursts_than_are_kept_lose_only_the_oldest() {
    let bursts: Vec<(u64, u64)> = (1..=40).map(|n| (n * MS, n * MS + 200_000)).collect();
    assert_eq!(last_ran(&[cpu(&bursts)], None), Some(40 * MS + 200_000));
}

#[test]
fn loading_registers_is_not_the_start() {
    let cpus = [started(&[(10 * MS, 60_000), (14 * MS, 3 * MS)], 0)];
    assert_eq!(first_ran(&cpus, Some(5 * MS), 100 * MS), Some(14 * MS));
}

#[test]
fn a_thread_that_is_awake_when_the_guest_may_run_starts_then() {
    // Woken a little early, to be told to go on.
    let cpus = [started(&[(10 * MS, 3 * MS), (20 * MS, 3 * MS)], 0)];
    assert_eq!(ran_once_allowed(&cpus, 10 * MS + 400, 100 * MS), Some(10 * MS + 400));
    assert_eq!(ran_once_allowed(&cpus, 15 * MS, 100 * MS), Some(20 * MS));
    // Registers were set before, and the guest's first burst came after a wait for QEMU's lock.
    let mut cpus = [started(&[(10 * MS, 3 * MS)], 0)];
    cpus[0].first[0].guest_ns = 10 * MS + 700;
    assert_eq!(ran_once_allowed(&cpus, 10 * MS + 400, 100 * MS), Some(10 * MS + 700));
    assert_eq!(first_ran(&cpus, Some(9 * MS), 100 * MS), Some(10 * MS + 700));
}

#[test]
fn a_guest_that_faults_at_once_has_run() {
    // Postcopy: 60 us, then it waits for a page.
    let cpus = [started(&[(10 * MS, 60_000), (12 * MS, 3 * MS)], 0)];
    assert_eq!(ran_once_allowed(&cpus, 9 * MS, 100 * MS), Some(10 * MS));
    // Only woken for a lock.
    let cpus = [started(&[(10 * MS, 6_000), (12 * MS, 3 * MS)], 0)];
    assert_eq!(ran_once_allowed(&cpus, 9 * MS, 100 * MS), Some(12 * MS));
    assert_eq!(ran_once_allowed(&cpus, 20 * MS, 100 * MS), None);
}

#[test]
fn a_first_burst_that_still_runs_is_the_start() {
    let cpus = [started(&[(14 * MS, 0)], 14 * MS)];
    assert_eq!(first_ran(&cpus, None, 20 * MS), Some(14 * MS));
}

#[test]
fn an_idle_guest_starts_with_its_first_burst_after_the_stop() {
    let cpus = [started(&[(2 * MS, 9_000), (14 * MS, 9_000), (18 * MS, 9_000)], 0)];
    assert_eq!(first_ran(&cpus, Some(5 * MS), 100 * MS), Some(14 * MS));
    assert_eq!(first_ran(&[CpuTimes::default()], None, 100 * MS), None);
}

#[test]
fn parts_are_split_at_their_edges() {
    let edges = Edges {
        last_pass: Some(110),
        device: Some(150),
        sent: Some(170),
        received: Some(175),
        loaded: Some(190),
        resumed: None,
    };
    let parts = Breakdown::split(100, 200, edges);
    let expected = Breakdown {
        stop: Some(10),
        ram: Some(40),
        device: Some(20),
        network: Some(5),
        load: Some(15),
        resume: None,
        start: Some(10),
    };
    assert_eq!(parts, expected);
    // The manager let it run 6 ns after it was loaded.
    let parts = Breakdown::split(100, 200, Edges { resumed: Some(196), ..edges });
    assert_eq!((parts.load, parts.resume, parts.start), (Some(15), Some(6), Some(4)));
    // Received before all was written: the writer returned later than the reader read.
    let parts = Breakdown::split(100, 200, Edges { received: Some(160), ..edges });
    assert_eq!((parts.device, parts.network, parts.load), (Some(20), Some(0), Some(20)));
    let unknown = Breakdown { start: Some(100), ..Breakdown::default() };
    assert_eq!(Breakdown::split(100, 200, Edges::default()), unknown);
}

proptest! {
    #[test]
    fn the_parts_sum_to_the_whole(
        stopped in 0u64..1000,
        length in 0u64..1000,
        edges in proptest::array::uniform6(proptest::option::of(0u64..3000)),
    ) {
        let [last_pass, device, sent, received, loaded, resumed] = edges;
        let edges = Edges { last_pass, device, sent, received, loaded, resumed };
        let parts = Breakdown::split(stopped, stopped + length, edges);
        prop_assert_eq!(parts.sum(), length);
    }

    #[test]
    fn the_stop_is_the_end_of_some_burst(
        bursts in proptest::collection::vec((1u64..1_000_000, 1u64..1_000_000), 1..60),
    ) {
        let mut at = 0;
        let stamps: Vec<(u64, u64)> = bursts
            .iter()
            .map(|(gap, length)| {
                let on = at + gap;
                at = on + length;
                (on, at)
            })
            .collect();
        let found = last_ran(&[cpu(&stamps)], None);
        prop_assert!(stamps.iter().any(|(_, off)| Some(*off) == found));
    }
}
