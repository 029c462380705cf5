//! Reads the CPU quota of a process' cgroup, and whether the process is stopped.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use procfs::process::{ProcState, Process};

use super::{MAX_FILE, open, read};
use crate::model::facts::ProcessId;

/// Bytes of the list of mounts that are read.
const MAX_MOUNTS: u64 = 1 << 20;

/// Where the CPU controller of the process' cgroup tells what its quota did; `None` when that cannot be found from here.
#[must_use]
pub fn file_of(id: ProcessId) -> Option<PathBuf> {
    let process = open(id)?;
    let cgroups = read(process.open_relative("cgroup").ok()?, MAX_FILE)?;
    let mounts = read(File::open("/proc/self/mountinfo").ok()?, MAX_MOUNTS)?;
    let found = files(&String::from_utf8_lossy(&cgroups), &String::from_utf8_lossy(&mounts));
    found.into_iter().find(|path| path.exists())
}

/// How long the quota has held the cgroup back so far, ns; over several CPUs the times add up (cgroup v1). `None` without a quota.
#[must_use]
pub fn throttled_ns(file: &Path) -> Option<u64> {
    let content = read(File::open(file).ok()?, MAX_FILE)?;
    parse(&String::from_utf8_lossy(&content))
}

/// Whether the process is stopped by a signal (state `T`).
#[must_use]
pub fn is_stopped(id: ProcessId) -> bool {
    let state = |process: Process| process.stat().ok()?.state().ok();
    open(id).and_then(state) == Some(ProcState::Stopped)
}

/// Where the `cpu.stat` of a process may be: of the v1 `cpu` controller and of v2.
fn files(cgroups: &str, mounts: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(hierarchy), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let v2 = hierarchy == "0" && controllers.is_empty();
        if !v2 && !controllers.split(',').any(|controller| controller == "cpu") {
            continue;
        }
        for mount in mounts.lines() {
            let Some((point, kind, options)) = mount_of(mount) else { continue };
            let fits = if v2 {
                kind == "cgroup2"
            } else {
                kind == "cgroup" && options.split(',').any(|option| option == "cpu")
            };
            if fits {
                let inside = path.trim_start_matches('/');
                found.push(PathBuf::from(point).join(inside).join("cpu.stat"));
            }
        }
    }
    found
}

/// Mount point, file system type and its options, of one line of `mountinfo` (proc_pid_mountinfo(5)).
fn mount_of(line: &str) -> Option<(&str, &str, &str)> {
    let (left, right) = line.split_once(" - ")?;
    let point = left.split(' ').nth(4)?;
    let mut right = right.split(' ');
    Some((point, right.next()?, right.nth(1)?))
}

/// `throttled_usec` (v2) or `throttled_time` (v1, ns); `None` without a quota, when the count of periods is 0 or missing.
fn parse(text: &str) -> Option<u64> {
    let value = |name: &str| {
        text.lines().find_map(|line| {
            let (key, value) = line.split_once(' ')?;
            (key == name).then(|| value.trim().parse::<u64>().ok()).flatten()
        })
    };
    value("nr_periods").filter(|periods| *periods > 0)?;
    value("throttled_usec").map(|us| us.saturating_mul(1000)).or_else(|| value("throttled_time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n\
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n\
33 30 0:29 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n";

    #[test]
    fn the_file_is_found_in_either_hierarchy() {
        let v1 = files("4:cpu,cpuacct:/vm/a\n3:cpuset:/\n0::/\n", MOUNTS);
        assert_eq!(v1[0], PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/vm/a/cpu.stat"));
        let v2 = files("0::/machine.slice/vm.scope\n", MOUNTS);
        assert_eq!(v2, [PathBuf::from("/sys/fs/cgroup/unified/machine.slice/vm.scope/cpu.stat")]);
        assert_eq!(files("nonsense\n::\n0::\n", "nonsense\n").len(), 0);
    }

    #[test]
    fn both_units_are_ns() {
        assert_eq!(parse("nr_periods 3\nnr_throttled 1\nthrottled_usec 42\n"), Some(42_000));
        assert_eq!(parse("nr_periods 3\nnr_throttled 1\nthrottled_time 42\n"), Some(42));
        assert_eq!(parse("nr_periods 0\nthrottled_time 0\n"), None);
        assert_eq!(parse("usage_usec 7\n"), None);
    }

    #[test]
    fn this_process_is_not_stopped() {
        let this = super::super::open_now(std::process::id()).unwrap();
        assert!(!is_stopped(super::super::id_of(&this).unwrap()));
    }
}
