//! Faults injected into real migrations: what the observer says of each. One migration a fault;
//! `cargo xtask faults` makes many and prints confusion tables.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::time::Duration;

use dwcp_observer_lab::faults::{Fault, RunReport, Timing, Variant};
use dwcp_observer_lab::observer::{Observer, binary};

const TIMING: Timing =
    Timing { baseline: Duration::from_millis(3500), window: Duration::from_secs(5), hurry: true };

/// A machine that does something else at the wrong moment may spoil one migration, not two.
fn check(fault: Fault) {
    let observer = Observer::start(&binary().unwrap(), &[]).unwrap();
    let first = migrate(&observer, fault, fault as usize);
    if !first.is_right() {
        let second = migrate(&observer, fault, fault as usize + 1);
        assert!(second.is_right(), "twice: {first:#?}\n{second:#?}\n{}", observer.output());
    }
    let stopped = observer.stop().unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
}

fn migrate(observer: &Observer, fault: Fault, run: usize) -> RunReport {
    let report = RunReport::of(observer, fault, Variant::of_run(run), TIMING);
    println!("{}", report.line());
    println!("  {}", report.verdict.sentence);
    report
}

#[test]
fn a_clean_migration_never_stalls() {
    check(Fault::Clean);
}

#[test]
fn a_slow_network_is_told() {
    check(Fault::BandwidthCut);
}

#[test]
fn a_lossy_network_is_told() {
    check(Fault::RandomDrop);
}

#[test]
fn a_cut_network_is_told_and_the_cancel_after_it() {
    check(Fault::NetworkCutCancel);
}

#[test]
fn a_cut_network_is_told_and_the_failure_after_it() {
    check(Fault::NetworkCutTimeout);
}

#[test]
fn a_stopped_receiver_is_told() {
    check(Fault::ReceiverStopped);
}

#[test]
fn a_source_without_cpu_time_is_told() {
    check(Fault::SourceCpuQuota);
}

#[test]
fn a_source_that_waits_for_its_cpu_is_told() {
    check(Fault::SourceCpuContended);
}

#[test]
fn a_guest_that_dirties_too_fast_is_told() {
    check(Fault::DirtyStorm);
}

#[test]
fn a_limit_is_told() {
    check(Fault::MaxBandwidth);
}

#[test]
fn a_steady_limit_is_no_fault() {
    check(Fault::SteadyAtLimit);
}

#[test]
fn a_path_that_swallows_large_packets_is_told() {
    check(Fault::LargePacketsDropped);
}

#[test]
fn a_receiver_without_cpu_time_from_the_start_is_told() {
    check(Fault::ReceiverCpuQuota);
}

#[test]
fn a_migration_that_shares_the_network_is_named() {
    check(Fault::SharedLink);
}

#[test]
fn a_guest_that_outruns_auto_converge_is_told() {
    check(Fault::AutoConverge);
}

#[test]
fn a_guest_that_is_held_before_the_switch_over_is_told() {
    check(Fault::HeldBeforeSwitchOver);
}

#[test]
fn a_guest_that_nobody_resumes_is_told() {
    check(Fault::NotResumed);
}

#[test]
fn a_guest_that_runs_twice_is_told() {
    check(Fault::ResumedTwice);
}

#[test]
fn a_paused_postcopy_is_told() {
    check(Fault::PostcopyPaused);
}

#[test]
fn a_killed_destination_is_a_failure() {
    check(Fault::DestinationKilled);
}

#[test]
fn a_killed_source_is_a_failure() {
    check(Fault::SourceKilled);
}

#[test]
fn a_cancel_is_a_cancel() {
    check(Fault::Cancel);
}
