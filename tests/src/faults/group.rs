//! Control groups with a `cpu` controller, of either version.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// A control group of this lab. On drop its processes go back to where they were, and it is removed.
#[derive(Debug)]
pub(super) struct Group {
    controller: Controller,
    path: PathBuf,
    /// Processes, and the groups they came from.
    members: Vec<(u32, PathBuf)>,
}

impl Group {
    /// Makes a new one, without limits.
    pub(super) fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let controller = Controller::find(&mounts).context("no cgroup `cpu` controller here")?;
        if let Controller::V2(mount) = &controller {
            write(&mount.join("cgroup.subtree_control"), "+cpu")?;
        }
        remove_left(controller.mount());
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = controller.mount().join(format!("dwcp-lab-{}-{number}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("group {}", path.display()))?;
        Ok(Self { controller, path, members: Vec::new() })
    }

    /// Moves all threads of a process here.
    pub(super) fn add(&mut self, pid: u32) -> Result<()> {
        let current = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let home = self.controller.group_of(&current).context("a process without group")?;
        self.write("cgroup.procs", &pid.to_string())?;
        self.members.push((pid, home));
        Ok(())
    }

    /// What all its threads together may use of each `period`.
    pub(super) fn set_quota(&self, quota: Duration, period: Duration) -> Result<()> {
        let (quota, period) = (quota.as_micros(), period.as_micros());
        match self.controller {
            Controller::V1(_) => {
                self.write("cpu.cfs_period_us", &period.to_string())?;
                self.write("cpu.cfs_quota_us", &quota.to_string())
            }
            Controller::V2(_) => self.write("cpu.max", &format!("{quota} {period}")),
        }
    }

    /// Makes it go before other groups as far as weights can.
    pub(super) fn set_highest_weight(&self) -> Result<()> {
        match self.controller {
            Controller::V1(_) => self.write("cpu.shares", "262144"),
            Controller::V2(_) => self.write("cpu.weight", "10000"),
        }
    }

    /// How often the quota was used up.
    pub(super) fn times_throttled(&self) -> Result<u64> {
        let text = fs::read_to_string(self.path.join("cpu.stat"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        Ok(line.context("no `nr_throttled`")?.parse()?)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        write(&self.path.join(file), text)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        const LIMIT: Duration = Duration::from_secs(5);
        for (pid, home) in &self.members {
            // It may have ended; then it has left the group.
            let _ = fs::write(home.join("cgroup.procs"), pid.to_string());
        }
        let start = Instant::now();
        // A thread that just ended still holds the group for a moment.
        while fs::remove_dir(&self.path).is_err() && start.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Removes the groups of labs that were killed.
fn remove_left(mount: &Path) {
    for entry in fs::read_dir(mount).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let pid = name.strip_prefix("dwcp-lab-").and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // It goes unless something still runs in it.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("`{text}` to {}", path.display()))
}

/// Where the `cpu` controller is: the mount of its hierarchy.
#[derive(Clone, Debug, PartialEq)]
enum Controller {
    V1(PathBuf),
    V2(PathBuf),
}

impl Controller {
    fn find(mounts: &str) -> Option<Self> {
        let mut unified = None;
        for line in mounts.lines() {
            let mut fields = line.split(' ').skip(1);
            let (Some(mount), Some(kind), Some(options)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            match kind {
                "cgroup" if options.split(',').any(|option| option == "cpu") => {
                    return Some(Self::V1(mount.into()));
                }
                "cgroup2" => unified = Some(Self::V2(mount.into())),
                _ => {}
            }
        }
        unified
    }

    fn mount(&self) -> &Path {
        match self {
            Self::V1(mount) | Self::V2(mount) => mount,
        }
    }

    /// The directory of a process' group; `text` is its `/proc/PID/cgroup`.
    fn group_of(&self, text: &str) -> Option<PathBuf> {
        let group = text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, group) = (fields.next()?, fields.next()?);
            let found = match self {
                Self::V1(_) => controllers.split(',').any(|controller| controller == "cpu"),
                Self::V2(_) => controllers.is_empty(),
            };
            found.then_some(group)
        })?;
        Some(self.mount().join(group.trim_start_matches('/')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controller_is_found_where_it_is() {
        let both = "cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu,cpuacct 0 0\n\
                    cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let v1 = Controller::find(both).unwrap();
        assert_eq!(v1, Controller::V1("/sys/fs/cgroup/cpu".into()));
        let text = "3:cpuset:/a\n1:cpu,cpuacct:/b/c\n0::/d\n";
        assert_eq!(v1.group_of(text).unwrap(), Path::new("/sys/fs/cgroup/cpu/b/c"));
        let v2 = Controller::find("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n").unwrap();
        assert_eq!(v2.group_of(text).unwrap(), Path::new("/sys/fs/cgroup/d"));
        assert_eq!(Controller::find("proc /proc proc rw 0 0\n"), None);
        let cpuset = "cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0\n";
        assert_eq!(Controller::find(cpuset), None);
    }
}
