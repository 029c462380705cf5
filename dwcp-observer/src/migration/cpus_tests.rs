//! Stops and starts from stays like those of real migrations (QEMU 7.2, Linux 6.18), ns or ms as they were recorded.

use dwcp_observer_ebpf::sched::{LEFT_LOCK, WOKEN_MAIN_LOOP, WOKEN_OTHER};
use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;
const RUNNABLE: u32 = LEFT_RUNNABLE;
const LOCK: u32 = LEFT_LOCK;
const HALT: u32 = LEFT_CONDITION;
const NOBODY: u32 = 0;

fn ns(ms: f64) -> u64 {
    (ms * 1e6).round() as u64
}

/// A stay: begin in ms, length in us, how it ended, who woke it.
fn stay(on: f64, us: f64, left: u32, woken_by: u32) -> Burst {
    let (on_ns, length) = (ns(on), ns(us / 1e3));
    Burst { on_ns, off_ns: on_ns + length, left, woken_by, ..Burst::default() }
}

/// The same with its last return from `KVM_RUN`.
fn kvm(on: f64, us: f64, left: u32, exit: f64) -> Burst {
    Burst { kvm_exit_ns: ns(exit), ..stay(on, us, left, NOBODY) }
}

fn cpu(bursts: &[Burst]) -> CpuTimes {
    let mut cpu = CpuTimes::default();
    for burst in bursts {
        cpu.recent[cpu.bursts as usize % BURSTS] = *burst;
        cpu.bursts += 1;
        cpu.kvm_exit_ns = cpu.kvm_exit_ns.max(burst.kvm_exit_ns);
    }
    cpu
}

fn marks(asked: f64, paused: f64) -> StopMarks {
    StopMarks { asked_ns: ns(asked), paused_ns: ns(paused) }
}

/// Activities: begin in ms, first burst of guest code or 0, end, CPU time in us.
fn active(activities: &[(f64, f64, f64, f64)]) -> CpuTimes {
    let mut cpu = CpuTimes { activities: activities.len() as u64, ..CpuTimes::default() };
    for (to, (began, guest, off, us)) in cpu.first.iter_mut().zip(activities) {
        *to = Activity {
            began_ns: ns(*began),
            guest_ns: ns(*guest),
            off_ns: ns(*off),
            cpu_ns: ns(us / 1e3),
            left: if *us < 100.0 { HALT } else { RUNNABLE },
            woken_by: WOKEN_MIGRATION,
        };
    }
    cpu
}

fn arrival(halted: Option<bool>) -> Arrival {
    Arrival { after_ns: 0, waits_for_manager: false, halted, kvm: false, now_ns: 10_000 * MS }
}

/// An idle Linux guest: it last ran 152 ms before it was asked to stop.
fn idle() -> CpuTimes {
    cpu(&[
        stay(125.033, 228.7, RUNNABLE, WOKEN_MAIN_LOOP),
        stay(125.275, 147.0, RUNNABLE, NOBODY),
        stay(125.431, 11.5, HALT, NOBODY),
        stay(276.845, 27.0, HALT, WOKEN_MIGRATION),
        stay(276.946, 29.1, HALT, WOKEN_MIGRATION),
        stay(277.361, 24.7, HALT, WOKEN_MIGRATION),
        stay(277.431, 2.6, LOCK, WOKEN_MIGRATION),
        stay(277.521, 21.5, HALT, WOKEN_MIGRATION),
        stay(277.581, 21.4, HALT, WOKEN_MIGRATION),
    ])
}

/// A busy one that lost its CPU to the migration's threads again and again.
fn busy() -> CpuTimes {
    cpu(&[
        stay(1410.630, 247.0, RUNNABLE, NOBODY),
        stay(1410.882, 247.3, RUNNABLE, NOBODY),
        stay(1411.196, 93.0, RUNNABLE, NOBODY),
        stay(1411.324, 4.6, RUNNABLE, NOBODY),
        stay(1411.396, 2.0, RUNNABLE, NOBODY),
        stay(1411.424, 1.4, LOCK, NOBODY),
        stay(1411.470, 2.1, HALT, WOKEN_MAIN_LOOP),
        stay(1411.474, 1.2, LOCK, WOKEN_MIGRATION),
        stay(1411.477, 1.6, HALT, WOKEN_MIGRATION),
    ])
}

#[test]
fn a_halted_cpu_could_run_until_it_was_asked_to_stop() {
    let marks = marks(277.330, 277.420);
    assert_eq!(stopped(&[idle()], marks), Some(marks.asked_ns));
    assert!(some_halted(&[idle()], marks.asked_ns));
    // By the scheduler alone: the migration's thread woke it for its last pass, half a ms before.
    assert_eq!(stopped_alone(&[idle()]), Some(ns(276.845)));
    assert!(some_halted_alone(&[idle()]));
}

#[test]
fn a_busy_cpu_stopped_when_it_last_ran() {
    let marks = marks(1411.43, 1411.478);
    let last = ns(1410.882) + 247_300;
    assert_eq!(stopped(&[busy()], marks), Some(last));
    assert_eq!(stopped_alone(&[busy()]), Some(last));
    assert!(!some_halted(&[busy()], marks.asked_ns));
    assert!(!some_halted_alone(&[busy()]));
}

#[test]
fn of_idle_and_busy_cpus_the_last_counts() {
    let marks = StopMarks { asked_ns: ns(277.33), paused_ns: ns(277.42) };
    let preempted = cpu(&[
        stay(260.0, 5_000.0, RUNNABLE, NOBODY),
        stay(277.350, 4.0, LOCK, NOBODY),
        stay(277.380, 3.0, HALT, WOKEN_OTHER),
    ]);
    assert_eq!(stopped(&[preempted], marks), Some(265 * MS));
    // The idle one could still run when the busy one had lost its CPU.
    assert_eq!(stopped(&[preempted, idle()], marks), Some(marks.asked_ns));
    assert!(some_halted(&[preempted, idle()], marks.asked_ns));
}

#[test]
fn a_wait_for_a_cpu_or_for_qemus_lock_is_part_of_it() {
    let told = stay(1.0, 50.0, HALT, WOKEN_MAIN_LOOP);
    for left in [RUNNABLE, LOCK] {
        let waits = cpu(&[told, stay(10.0, 900.0, left, NOBODY), stay(80.0, 9.0, HALT, NOBODY)]);
        assert_eq!(stopped(&[waits], marks(50.0, 81.0)), Some(ns(10.9)));
        assert_eq!(stopped_alone(&[waits]), Some(ns(10.9)));
    }
}

#[test]
fn a_cpu_that_ran_until_it_parked_stopped_then() {
    // A vCPU thread says that it is stopped before it leaves its CPU.
    let parks = cpu(&[stay(3.0, 5_007.0, HALT, NOBODY)]);
    assert_eq!(stopped(&[parks], marks(7.9, 8.0)), Some(8 * MS));
    assert_eq!(stopped_alone(&[parks]), Some(ns(8.007)));
    // What it does for QEMU later is not the guest.
    let later = cpu(&[stay(3.0, 5_007.0, HALT, NOBODY), stay(9.0, 400.0, HALT, WOKEN_MIGRATION)]);
    assert_eq!(stopped(&[later], marks(7.9, 8.0)), Some(8 * MS));
}

#[test]
fn where_nobody_tells_why_a_thread_sleeps_there_is_no_answer() {
    // musl waits for locks and for conditions alike; kernels without registers do not tell at all.
    for left in [LOCK, LEFT_UNKNOWN] {
        let asleep =
            cpu(&[stay(10.0, 900.0, left, NOBODY), stay(300.0, 9.0, left, WOKEN_MIGRATION)]);
        assert_eq!(stopped(&[asleep], marks(299.9, 300.1)), None);
        assert_eq!(stopped_alone(&[asleep]), None);
        // It ran until it was stopped: that is seen all the same.
        let ran = cpu(&[stay(10.0, 900.0, RUNNABLE, NOBODY), stay(11.0, 900.0, left, NOBODY)]);
        assert_eq!(stopped(&[ran], marks(11.85, 11.95)), Some(ns(11.9)));
        assert_eq!(stopped_alone(&[ran]), Some(ns(11.9)));
    }
}

#[test]
fn under_kvm_only_a_stay_in_the_guest_counts() {
    // It lost its CPU at 1498.66 ms, was kicked out at 1499.374; registers are read for long after that.
    let cpu = cpu(&[
        kvm(1498.149, 247.6, RUNNABLE, 1498.391),
        kvm(1498.406, 247.6, RUNNABLE, 1498.648),
        stay(1499.101, 4.8, RUNNABLE, NOBODY),
        kvm(1499.351, 28.3, RUNNABLE, 1499.374),
        stay(1499.382, 3.5, RUNNABLE, NOBODY),
        stay(1499.468, 415.7, RUNNABLE, NOBODY),
        stay(1503.054, 158.5, HALT, WOKEN_MIGRATION),
    ]);
    assert_eq!(stopped_alone(&[cpu]), Some(ns(1498.648)));
    assert_eq!(stopped(&[cpu], marks(1499.268, 1499.393)), Some(ns(1498.648)));
}

#[test]
fn a_short_stay_in_which_the_guest_did_something_counts() {
    // It waited 8 ms for a CPU, wrote to its serial line within 70 us, and was kicked out.
    let last = Burst { kvm_work_ns: ns(2024.82), ..kvm(2024.77, 80.0, HALT, 2024.839) };
    let cpu = cpu(&[kvm(2014.0, 2_250.0, LEFT_GUEST, 2014.3), last]);
    assert_eq!(stopped_alone(&[cpu]), Some(ns(2024.839)));
    assert_eq!(stopped(&[cpu], marks(2024.8, 2024.9)), Some(ns(2024.839)));
}

#[test]
fn a_cpu_halted_by_the_kernel_stopped_when_it_was_kicked_out() {
    let cpu = cpu(&[
        stay(100.0, 40.0, LEFT_HALTED, NOBODY),
        kvm(400.01, 20.0, LOCK, 400.015),
        stay(400.1, 9.0, HALT, WOKEN_MIGRATION),
        stay(404.0, 300.0, HALT, WOKEN_MIGRATION),
    ]);
    assert_eq!(stopped_alone(&[cpu]), Some(ns(400.015)));
    assert_eq!(stopped(&[cpu], marks(400.0, 400.2)), Some(400 * MS));
}

#[test]
fn a_guest_that_runs_has_not_stopped() {
    let mut running = busy();
    running.on_ns = 1412 * MS;
    assert_eq!(stopped_alone(&[running]), None);
    assert_eq!(stopped_alone(&[CpuTimes::default()]), None);
    assert_eq!(stopped_alone(&[]), None);
    assert_eq!(stopped(&[], marks(1.0, 2.0)), None);
}

#[test]
fn more_bursts_than_are_kept_lose_only_the_oldest() {
    let bursts: Vec<Burst> = (1..=90).map(|n| stay(f64::from(n), 200.0, HALT, NOBODY)).collect();
    assert_eq!(stopped_alone(&[cpu(&bursts)]), Some(ns(90.2)));
}

#[test]
fn a_guest_with_a_halted_cpu_runs_from_when_it_is_let_run() {
    let allowed = ns(494.269);
    let idle = [active(&[(492.797, 493.086, 493.37, 140.0), (494.176, 0.0, 494.411, 36.5)])];
    assert_eq!(started(&idle, allowed, true, 10_000 * MS), Some(allowed));
    // Its source is on another host: asleep again at once, so it had nothing to do.
    let short = [active(&[(494.176, 0.0, 494.411, 20.0), (900.0, 900.0, 903.0, 3000.0)])];
    assert_eq!(started(&short, allowed, false, 10_000 * MS), Some(allowed));
}

#[test]
fn a_thread_that_is_awake_when_the_guest_may_run_starts_then() {
    // Woken a little early, to be told to go on.
    let cpus = [active(&[(10.0, 10.0, 13.0, 3000.0), (20.0, 20.0, 23.0, 3000.0)])];
    assert_eq!(started(&cpus, ns(10.0004), false, 100 * MS), Some(ns(10.0004)));
    assert_eq!(started(&cpus, 15 * MS, false, 100 * MS), Some(20 * MS));
    // Registers were set before, and the guest's first burst came after a wait for QEMU's lock.
    let cpus = [active(&[(10.0, 10.0007, 13.0, 3000.0)])];
    assert_eq!(started(&cpus, ns(10.0004), false, 100 * MS), Some(ns(10.0007)));
}

#[test]
fn a_guest_that_faults_at_once_has_run() {
    // Postcopy: 60 us, then it waits for a page.
    let mut cpus = [active(&[(10.0, 0.0, 10.06, 60.0), (12.0, 12.0, 15.0, 3000.0)])];
    cpus[0].first[0].left = LEFT_UNKNOWN;
    assert_eq!(started(&cpus, 9 * MS, false, 100 * MS), Some(10 * MS));
    // Only woken for a lock.
    cpus[0].first[0].cpu_ns = 6_000;
    assert_eq!(started(&cpus, 9 * MS, false, 100 * MS), Some(12 * MS));
    assert_eq!(started(&cpus, 20 * MS, false, 100 * MS), None);
}

#[test]
fn a_first_burst_that_still_runs_is_the_start() {
    let mut cpus = [active(&[(14.0, 0.0, 0.0, 0.0)])];
    cpus[0].on_ns = 14 * MS;
    let arrival = Arrival { now_ns: 20 * MS, ..arrival(Some(false)) };
    assert_eq!(started_alone(&cpus, arrival), Some(14 * MS));
}

#[test]
fn loading_registers_is_not_the_start() {
    let cpus = [active(&[(10.0, 0.0, 10.06, 60.0), (14.0, 14.0, 17.0, 3000.0)])];
    assert_eq!(started_alone(&cpus, arrival(Some(false))), Some(14 * MS));
    assert_eq!(started_alone(&cpus, arrival(None)), Some(14 * MS));
    assert_eq!(started_alone(&[CpuTimes::default()], arrival(None)), None);
}

#[test]
fn an_idle_guest_starts_with_the_last_wake_up_of_its_arrival() {
    // Let run at 494.269 ms; its timer woke it at 900 ms for the first time.
    let cpus = [active(&[
        (492.797, 493.086, 493.37, 140.0),
        (494.176, 0.0, 494.411, 36.5),
        (900.0, 900.0, 903.0, 3000.0),
    ])];
    assert_eq!(started_alone(&cpus, arrival(Some(true))), Some(ns(494.176)));
    // Not while another wake-up may still be part of it.
    let now = Arrival { now_ns: 496 * MS, ..arrival(Some(true)) };
    assert_eq!(started_alone(&cpus, now), None);
}

#[test]
fn an_idle_guest_that_waits_for_its_manager_is_not_measured_by_the_scheduler_alone() {
    // Loaded at 126 ms, `cont` at 633 ms, the guest's first timer at 881 ms.
    let mut cpus = [active(&[
        (126.941, 126.941, 127.638, 207.0),
        (129.489, 0.0, 129.529, 39.2),
        (633.284, 0.0, 633.334, 14.1),
        (881.448, 881.527, 894.267, 12_469.5),
    ])];
    let waits = |halted| Arrival { waits_for_manager: true, ..arrival(halted) };
    assert_eq!(started_alone(&cpus, waits(Some(true))), None);
    assert_eq!(started_alone(&cpus, waits(None)), None);
    // A busy one runs as soon as it may.
    assert_eq!(started_alone(&cpus, waits(Some(false))), Some(ns(881.527)));
    // On a busy host the load itself takes as long as a guest's burst, and then its thread sleeps until the manager comes.
    let load = &mut cpus[0].first[0];
    (load.cpu_ns, load.left) = (ns(0.7), HALT);
    assert_eq!(started_alone(&cpus, waits(Some(false))), None);
}

#[test]
fn under_kvm_the_start_is_the_first_stay_in_the_guest() {
    let mut cpus =
        [active(&[(615.766, 615.766, 616.811, 838.0), (618.327, 618.327, 626.004, 7068.4)])];
    let kvm = Arrival { kvm: true, ..arrival(Some(true)) };
    assert_eq!(started_alone(&cpus, kvm), None);
    cpus[0].kvm_began_ns = ns(618.985);
    assert_eq!(started_alone(&cpus, kvm), Some(ns(618.985)));
    let waits = Arrival { waits_for_manager: true, ..kvm };
    assert_eq!(started_alone(&cpus, waits), Some(ns(618.985)));
}

proptest! {
    #[test]
    fn the_stop_lies_within_what_was_seen(
        bursts in proptest::collection::vec((1u64..3_000_000, 1u64..1_000_000, 0u32..6, 0u32..4), 1..80),
        asked in 0u64..100_000_000,
    ) {
        let mut at = 0;
        let stays: Vec<Burst> = bursts
            .iter()
            .map(|(gap, length, left, woken_by)| {
                let on_ns = at + gap;
                at = on_ns + length;
                Burst { on_ns, off_ns: at, left: *left, woken_by: *woken_by, ..Burst::default() }
            })
            .collect();
        let cpus = [cpu(&stays)];
        let marks = StopMarks { asked_ns: asked, paused_ns: asked + 1_000_000 };
        if let Some(found) = stopped(&cpus, marks) {
            prop_assert!(found <= marks.paused_ns);
        }
        if let Some(found) = stopped_alone(&cpus) {
            prop_assert!(stays.iter().any(|stay| stay.on_ns == found || stay.off_ns == found));
        }
        let _ = (some_halted(&cpus, asked), some_halted_alone(&cpus));
    }
}
