//! The blackout of real migrations against the guest's own clock, and their phases against QEMU's
//! events. How exact the blackout is on a quiet machine is for `cargo xtask blackout` to say; here only what is grossly wrong fails.

use dwcp_observer_lab::blackout::{Comparison, Summary, cannot_run, cases, render, run};
use dwcp_observer_lab::observer::{Observer, binary};

/// A run says nothing of the observer if the host gave the guest no CPU just then.
const ATTEMPTS: u32 = 2;
/// Below that there is no median.
const JUDGED: usize = 3;
/// Off by more at the median is no noise of the host, seconds: the blackouts are of 5 to 200 ms.
const GROSS: f64 = 0.010;

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
        let medians = [summary.error, summary.methods_apart].map(|spread| spread.unwrap().median);
        assert!(medians.into_iter().all(|median| median.abs() <= GROSS), "{summary:#?}");
    }
    assert!(stopped.status.success(), "{stopped:?}");
}
