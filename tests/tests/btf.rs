//! A host on which `/sys/kernel/btf` is not there: the agent says what to do, and with the same BTF from a file it measures.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use dwcp_observer_lab::flows::{FlowHelper, FlowReport};
use dwcp_observer_lab::observer::{Observer, binary};
use dwcp_observer_lab::record::RecordExt as _;
use dwcp_observer_lab::temp::TempDir;
use dwcp_observer_model::record::Bytes;

const BTF: &str = "/sys/kernel/btf";
const FLOWS: usize = 40;

/// The agent in a mount namespace of its own, in which nothing is in `/sys/kernel/btf`.
fn blind(directory: &TempDir) -> PathBuf {
    let path = directory.join("blind");
    let agent = binary().unwrap().canonicalize().unwrap();
    let text = format!(
        "#!/bin/sh\nexec unshare -m sh -c 'mount -t tmpfs none {BTF} && exec {} \"$@\"' sh \"$@\"\n",
        agent.display()
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn run(program: &Path, args: &[&str]) -> (Output, String) {
    let output = Command::new(program).args(args).output().unwrap();
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8(all).unwrap();
    // A table of probes follows.
    let said: Vec<&str> = text.lines().take(6).collect();
    println!("{args:?}: {}\n{}", output.status, said.join("\n"));
    (output, text)
}

#[test]
fn without_btf_it_says_what_to_do() {
    let directory = TempDir::new().unwrap();
    let blind = blind(&directory);
    // `run` in one line, `check` with an advice; neither tries to load anything.
    let (output, text) = run(&blind, &["run", "--listen", "127.0.0.1:0"]);
    assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1));
    for said in ["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF=y", "--btf-path"] {
        assert!(text.contains(said), "{said}");
    }
    let (output, text) = run(&blind, &["check", "--listen", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("CONFIG_DEBUG_INFO_BTF=y") && text.contains("--btf-path FILE"));
    assert!(text.contains("CANNOT be measured"));
    // What is no BTF is told from what is not there.
    let (output, text) =
        run(&blind, &["run", "--listen", "127.0.0.1:0", "--btf-path", "/proc/version"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("/proc/version is not"));
}

#[test]
fn with_btf_from_a_file_it_measures_as_ever() {
    let directory = TempDir::new().unwrap();
    // With that of the modules, which is looked for beside it.
    for entry in std::fs::read_dir(BTF).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), directory.path().join(entry.file_name())).unwrap();
    }
    let file = directory.join("vmlinux").to_str().unwrap().to_owned();
    let rungs = std::env::var("DWCP_RUNGS").unwrap_or_else(|_| "tp_btf,raw_tp".to_owned());
    for rung in rungs.split(',') {
        let observer =
            Observer::start(&blind(&directory), &["--btf-path", &file, "--rung", rung]).unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_lab-flows"));
        let flows = FLOWS.to_string();
        let args = ["exchange", "--flows", &flows, "--seed", "3", "--max-bytes", "1000000"];
        let helper = FlowHelper::start(program, "criu", &args).unwrap();
        let reports: Vec<FlowReport> = helper.finish().unwrap();
        let written: u64 = reports.iter().map(|report| report.bytes_written).sum();
        let read: u64 = reports.iter().map(|report| report.bytes_read).sum();
        // One record for ::1 and one for 127.0.0.1.
        let records = observer.wait_finished(2).unwrap();
        let sum =
            |of: fn(&Bytes) -> u64| records.iter().map(|record| of(&record.totals())).sum::<u64>();
        let sums = (sum(|b| b.queued), sum(|b| b.delivered), sum(|b| b.received));
        println!("{rung}: {sums:?}");
        assert!(written > 0);
        assert_eq!(sums, (written, written, read), "{rung}: {records:#?}");
        assert!(observer.stop().unwrap().status.success());
    }
    // Hooks of modules too, where there is RDMA.
    let (output, text) =
        run(&blind(&directory), &["check", "--listen", "127.0.0.1:0", "--btf-path", &file]);
    assert_eq!(output.status.code(), Some(0));
    let there = Path::new("/sys/module/rdma_cm").exists();
    assert_eq!(text.contains("RDMA: none"), !there, "RDMA here: {there}");
    assert!(!text.contains("RDMA: not measured"), "{text}");
}
