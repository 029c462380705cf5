//! The blackout of real migrations against the guest's own clock, and their phases against QEMU's
//! events; `cargo xtask blackout` runs more of them.

use dwcp_observer_lab::blackout::{
    Comparison, METHODS_APART, Summary, cannot_run, cases, render, run,
};
use dwcp_observer_lab::observer::{Observer, binary};

/// A run says nothing of the observer if the host gave the guest no CPU just then.
const ATTEMPTS: u32 = 2;
/// Below that there is no median.
const JUDGED: usize = 3;

#[test]
fn the_blackout_is_what_the_guest_felt() {
    let observer = Observer::start(&binary().unwrap(), &[]).unwrap();
    let mut runs = Vec::new();
    for case in cases().iter().filter(|case| case.short_list) {
        if let Some(reason) = cannot_run(case) {
            println!("not run: {}: {reason}", case.name);
            continue;
        }
        for attempt in 1..=ATTEMPTS {
            let comparison = Comparison::of(&run(case, &observer).unwrap());
            let disturbed = comparison.disturbed;
            runs.push(comparison);
            if !disturbed {
                break;
            }
            println!("{}: attempt {attempt} was disturbed", case.name);
        }
    }
    let stopped = observer.stop().unwrap();
    print!("{}", render(&runs));
    for run in &runs {
        assert!(run.faults.is_empty(), "{run:#?}");
    }
    let summary = Summary::of(runs.iter().filter(|run| !run.disturbed));
    if summary.runs < JUDGED {
        println!("not judged: this host is so busy that only {} runs are good", summary.runs);
    } else {
        assert!(summary.median_is_within(), "{summary:#?}");
        let apart = summary.methods_apart.unwrap();
        assert!(apart.median <= METHODS_APART, "{summary:#?}");
    }
    assert!(stopped.status.success(), "{stopped:?}");
}
