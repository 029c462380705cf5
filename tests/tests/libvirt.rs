//! Real libvirt between two hosts in namespaces: it starts each destination with `-S` and resumes it by RPC, copies disks over NBD, and
//! gives up when it is told to.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use dwcp_observer_lab::libvirt::{Figures, Lab, MODES, render};
use dwcp_observer_lab::observer::{Observer, binary};

/// A host that gave the guest no CPU at the switch-over makes its clock no truth; the rest of such a run is judged.
fn runs(names: &[&str]) -> Vec<Figures> {
    let observer = Observer::start(&binary().unwrap(), &[]).unwrap();
    let mut lab = Lab::start().unwrap();
    let modes = MODES.iter().filter(|mode| names.contains(&mode.name));
    let runs: Vec<Figures> = modes.map(|mode| lab.migrate(mode, &observer).unwrap()).collect();
    print!("{}", render(&runs));
    assert!(observer.stop().unwrap().status.success());
    assert_eq!(runs.len(), names.len());
    runs
}

#[test]
fn libvirts_migrations_are_told_right() {
    for run in runs(&["p2p", "offline", "parallel", "postcopy", "storage", "abort"]) {
        assert!(run.faults.is_empty(), "{}: {:?}\n{:#?}", run.mode, run.faults, run.record);
        if let (Some(found), Some(truth)) = (run.bytes, run.libvirt_bytes) {
            let off = found as f64 / truth as f64 - 1.0;
            assert!((0.0..0.002).contains(&off), "{}: {found} of {truth} bytes", run.mode);
        }
    }
}
