//! The kernel laboratory itself: what goes wrong in a VM is seen, named, and not taken for success.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::path::Path;

use dwcp_observer_lab::vm::kernels::{Kernels, Series};
use dwcp_observer_lab::vm::laboratory::{Run, Subject, run};
use dwcp_observer_lab::vm::protocol::Test;
use dwcp_observer_lab::vm::report::{Counts, TestReport};
use dwcp_observer_lab::vm::rootfs::Rootfs;

const SERIES: Series = Series::Number(6, 1);

/// Boots a VM that runs these shell commands, each at most 5 s.
fn boot(commands: &[(&str, &str)]) -> Run {
    let search = std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect();
    let mut root = Rootfs::new(search).unwrap();
    root.project(Path::new(env!("CARGO_BIN_EXE_lab-init")), Path::new("/init")).unwrap();
    let kernel = Kernels::of_workspace().get(&[SERIES]).unwrap().remove(0);
    let test = |(name, command): &(&str, &str)| Test {
        name: (*name).to_owned(),
        program: "/usr/bin/sh".to_owned(),
        args: vec!["-c".to_owned(), (*command).to_owned()],
        environment: [("PATH".to_owned(), "/usr/bin".to_owned())].into(),
        limit_seconds: 5,
    };
    let tests: Vec<Test> = commands.iter().map(test).collect();
    let subject = Subject { series: SERIES, kernel, tests };
    run(&[subject], &root.into_archive(), 1).unwrap().remove(0)
}

fn test<'a>(run: &'a Run, name: &str) -> &'a TestReport {
    run.report.tests.iter().find(|test| test.name == name).unwrap()
}

#[test]
fn each_way_to_fail_is_told_apart() {
    let result = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured'";
    let run = boot(&[
        ("good", &format!("uname -r; {result}; printf unfinished")),
        ("code", "exit 3"),
        ("signal", "kill -9 $$"),
        ("slow", "sleep 60"),
        ("left", "sleep 60 & exit 0"),
        // A child that ends by itself right after is none that is left.
        ("orphan", "(sleep 1) & exit 0"),
        ("warning", "echo 'WARNING: made by a test' > /dev/kmsg"),
        ("last", "true"),
    ]);
    assert!(run.report.problems.is_empty(), "{:?}\n{}", run.report.problems, run.tail);
    assert!(!run.report.is_good());
    assert_eq!(run.report.release, run.release);
    assert!(run.release.starts_with("6.1."), "{}", run.release);

    let good = test(&run, "good");
    assert!(good.is_good(), "{good:?}");
    assert_eq!(good.output.first(), Some(&run.release));
    assert_eq!(good.output.last().map(String::as_str), Some("unfinished"));
    assert_eq!(good.counts(), Counts { passed: 2, failed: 0, ignored: 0 });
    for name in ["orphan", "last"] {
        assert!(test(&run, name).is_good(), "{:?}", test(&run, name));
    }
    let problem = |name| {
        let test = test(&run, name);
        assert!(!test.is_good(), "{test:?}");
        (test.exit, test.problems.join("; "))
    };
    assert_eq!(problem("code"), (Some(3), String::new()));
    assert_eq!(problem("signal"), (None, "ended by signal 9".to_owned()));
    assert_eq!(problem("slow"), (None, "killed after 5s".to_owned()));
    let (exit, left) = problem("left");
    assert_eq!(exit, Some(0));
    assert!(left.starts_with("left running: ") && left.contains("busybox"), "{left}");
    assert_eq!(problem("warning"), (Some(0), "kernel: WARNING: made by a test".to_owned()));
}

#[test]
fn a_panic_ends_the_vm_and_is_shown() {
    let run = boot(&[("panic", "echo c > /proc/sysrq-trigger"), ("next", "true")]);
    let [problem] = &run.report.problems[..] else { panic!("{:?}", run.report.problems) };
    assert!(problem.contains("sysrq triggered crash"), "{problem}");
    assert!(run.tail.contains("Call Trace"), "{}", run.tail);
    assert_eq!(test(&run, "panic").problems.len(), 1);
    assert_eq!(test(&run, "next").problems.len(), 1);
}
