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

/// Cgroups around a process that are looked at, the innermost first.
const MAX_GROUPS: usize = 16;

/// Where the CPU controller tells what the quotas of the process' cgroup and of those around it did: a container's and a pod's hold back
/// what runs in a cgroup inside of them, whose own file says nothing of it. None when they cannot be found from here.
#[must_use]
pub fn files_of(id: ProcessId) -> Vec<PathBuf> {
    let found = || {
        let cgroups = read(open(id)?.open_relative("cgroup").ok()?, MAX_FILE)?;
        let mounts = read(File::open("/proc/self/mountinfo").ok()?, MAX_MOUNTS)?;
        Some(files(&String::from_utf8_lossy(&cgroups), &String::from_utf8_lossy(&mounts)))
    };
    let groups = found().unwrap_or_default();
    groups.into_iter().filter(|path| path.exists()).take(MAX_GROUPS).collect()
}

/// How long the quotas have held the process back so far, ns: those of several groups add up, and in each those of several CPUs. `None` without one.
#[must_use]
pub fn throttled_ns(files: &[PathBuf]) -> Option<u64> {
    let of =
        |file: &PathBuf| parse(&String::from_utf8_lossy(&read(File::open(file).ok()?, MAX_FILE)?));
    files.iter().filter_map(of).reduce(u64::saturating_add)
}

/// Whether the process is stopped by a signal (state `T`).
#[must_use]
pub fn is_stopped(id: ProcessId) -> bool {
    let state = |process: Process| process.stat().ok()?.state().ok();
    open(id).and_then(state) == Some(ProcState::Stopped)
}

/// Where the `cpu.stat` of a process may be: of the v1 `cpu` controller and of v2, and of the groups around its own.
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
                let inside = Path::new(path.trim_start_matches('/'));
                let groups = inside.ancestors().map(|group| Path::new(point).join(group));
                found.extend(groups.map(|group| group.join("cpu.stat")));
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
        let around = ["machine.slice/vm.scope/", "machine.slice/", ""]
            .map(|group| PathBuf::from(format!("/sys/fs/cgroup/unified/{group}cpu.stat")));
        assert_eq!(v2, around);
        assert_eq!(files("nonsense\n::\n0::\n", "nonsense\n").len(), 0);
    }

    #[test]
    fn a_quota_around_the_group_counts() {
        let directory = std::env::temp_dir().join(format!("dwcp-quota-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let files = [
            "nr_periods 0\n",
            "nr_periods 9\nthrottled_usec 4\n",
            "nr_periods 9\nthrottled_usec 3\n",
        ];
        let files: Vec<PathBuf> = (0..)
            .zip(files)
            .map(|(level, text): (u32, _)| {
                let path = directory.join(level.to_string());
                std::fs::write(&path, text).unwrap();
                path
            })
            .collect();
        assert_eq!(throttled_ns(&files), Some(7_000));
        assert_eq!(throttled_ns(&files[..1]), None);
        std::fs::remove_dir_all(&directory).unwrap();
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
