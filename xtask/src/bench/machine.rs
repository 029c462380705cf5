//! What the figures were measured on.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::shell::{ask, workspace};

/// The machine and the source; what it does not tell is `unknown`.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    cpu: String,
    cores: usize,
    memory_mib: u64,
    kernel: String,
    load: String,
    date: String,
    commit: String,
}

impl Machine {
    /// Reads it all now: the load is that before the measurements.
    pub(super) fn read() -> Self {
        let unknown = || "unknown".to_owned();
        let field = |file: &str, key: &str| {
            let text = read(file)?;
            let line = text.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = field("/proc/meminfo", "MemTotal")
            .and_then(|text| text.strip_suffix(" kB")?.parse::<u64>().ok());
        let load =
            read("/proc/loadavg").map(|text| text.split(' ').take(3).collect::<Vec<_>>().join(" "));
        Self {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory.unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_else(unknown),
            load: load.unwrap_or_else(unknown),
            date: ask(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]))
                .unwrap_or_else(unknown),
            commit: commit(workspace()).unwrap_or_else(unknown),
        }
    }

    /// For the document: name and value.
    pub(super) fn lines(&self) -> [(&'static str, String); 7] {
        [
            ("CPU", self.cpu.clone()),
            ("Cores", self.cores.to_string()),
            ("Memory", format!("{} MiB", self.memory_mib)),
            ("Kernel", self.kernel.clone()),
            ("Load before (1, 5, 15 minutes)", self.load.clone()),
            ("Date", self.date.clone()),
            ("Commit", self.commit.clone()),
        ]
    }

    /// For `--json`.
    pub(super) fn json(&self) -> Value {
        json!({
            "cpu": self.cpu,
            "cores": self.cores,
            "memory_mib": self.memory_mib,
            "kernel": self.kernel,
            "load_before": self.load,
            "date": self.date,
            "commit": self.commit,
        })
    }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The commit, and whether the source differs from it apart from what this program writes.
fn commit(directory: &Path) -> Option<String> {
    let git = |args: &[&str]| ask(Command::new("git").arg("-C").arg(directory).args(args));
    let hash = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--", ":!docs/internals/overhead.md"])?;
    Some(if changed.is_empty() { hash } else { format!("{hash}, with changes") })
}
