//! What the kernel tells about BPF programs, and empty programs to compare with.

use std::collections::BTreeMap;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell::{ask, find};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const BPF_ENABLE_STATS: libc::c_int = 32;
const BPF_PROG_TYPE_RAW_TRACEPOINT: u32 = 17;

/// Runs of a program while the kernel timed them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Runs {
    /// Time in the program, ns, with the clock read that ends it.
    pub(super) time_ns: u64,
    /// How often it ran.
    pub(super) count: u64,
}

impl Runs {
    /// What was added since `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            time_ns: self.time_ns.saturating_sub(earlier.time_ns),
            count: self.count.saturating_sub(earlier.count),
        }
    }

    /// Mean time of a run, ns; `None` below `least` runs.
    pub(super) fn mean_ns(self, least: u64) -> Option<f64> {
        (self.count >= least.max(1)).then(|| self.time_ns as f64 / self.count as f64)
    }
}

/// Has the kernel time all BPF programs as long as the value lives. Unlike the sysctl
/// `kernel.bpf_stats_enabled` this ends with the process, however that ends.
///
/// # Errors
/// The kernel is older than 5.8, or this is not root.
pub(super) fn time_programs() -> Result<OwnedFd> {
    // `BPF_STATS_RUN_TIME` is 0.
    bpf(BPF_ENABLE_STATS, &mut 0_u32).context("run-time statistics of BPF programs")
}

/// A program that does nothing, at a tracepoint: what it costs is the cost of timing it.
#[derive(Debug)]
pub(super) struct EmptyProgram {
    program: OwnedFd,
    /// Keeps it attached.
    _link: OwnedFd,
}

impl EmptyProgram {
    /// Loads one and attaches it as a raw tracepoint, which runs like `tp_btf`.
    ///
    /// # Errors
    /// When there is no such tracepoint, or this is not root.
    pub(super) fn attach(tracepoint: &str) -> Result<Self> {
        #[repr(C)]
        struct Load {
            program_type: u32,
            instruction_count: u32,
            instructions: u64,
            license: u64,
        }
        #[repr(C)]
        struct Open {
            name: u64,
            program: u32,
            /// The size of the struct without hidden bytes.
            padding: u32,
        }
        // r0 = 0; exit
        const INSTRUCTIONS: [[u8; 8]; 2] =
            [[0xb7, 0, 0, 0, 0, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
        const LICENSE: &std::ffi::CStr = c"GPL";
        let mut load = Load {
            program_type: BPF_PROG_TYPE_RAW_TRACEPOINT,
            instruction_count: 2,
            instructions: INSTRUCTIONS.as_ptr().addr() as u64,
            license: LICENSE.as_ptr().addr() as u64,
        };
        let program = bpf(BPF_PROG_LOAD, &mut load).context("an empty BPF program")?;
        let name = std::ffi::CString::new(tracepoint)?;
        let mut open = Open {
            name: name.as_ptr().addr() as u64,
            program: u32::try_from(program.as_raw_fd())?,
            padding: 0,
        };
        let link = bpf(BPF_RAW_TRACEPOINT_OPEN, &mut open)
            .with_context(|| format!("tracepoint {tracepoint}"))?;
        Ok(Self { program, _link: link })
    }

    /// Its runs so far.
    ///
    /// # Errors
    /// When /proc does not tell.
    pub(super) fn runs(&self) -> Result<Runs> {
        let path = format!("/proc/self/fdinfo/{}", self.program.as_raw_fd());
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let (_, runs) = parse_fdinfo(&text).with_context(|| format!("{path}: {text:?}"))?;
        Ok(runs)
    }
}

/// One `bpf(2)` call that gives a descriptor.
fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: pointer and size describe `attributes`; what these point to outlives the call.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>())
    };
    match i32::try_from(fd) {
        Ok(fd) if fd >= 0 => {
            // SAFETY: the descriptor is open and nobody else owns it.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// The programs of one process.
#[derive(Debug)]
pub(super) struct ProgramsOf {
    pid: u32,
    names: BTreeMap<u32, String>,
}

impl ProgramsOf {
    /// Asks `bpftool` for their names.
    ///
    /// # Errors
    /// When there is no bpftool, or the process has no program.
    pub(super) fn new(pid: u32) -> Result<Self> {
        let bpftool = find("bpftool").context("bpftool is missing: run `cargo xtask setup`")?;
        let text = ask(Command::new(bpftool).args(["prog", "show", "-j"]))
            .context("`bpftool prog show -j` fails")?;
        let all: Vec<Value> = serde_json::from_str(&text).context("`bpftool prog show -j`")?;
        let ids = runs_by_id(pid)?;
        let names: BTreeMap<u32, String> = all
            .iter()
            .filter_map(|program| {
                let id = u32::try_from(program["id"].as_u64()?).ok()?;
                ids.contains_key(&id).then_some((id, program["name"].as_str()?.to_owned()))
            })
            .collect();
        if names.is_empty() {
            bail!("process {pid} holds no BPF program");
        }
        Ok(Self { pid, names })
    }

    /// Their runs so far, by name.
    ///
    /// # Errors
    /// When the process is gone.
    pub(super) fn runs(&self) -> Result<BTreeMap<String, Runs>> {
        let by_id = runs_by_id(self.pid)?;
        let named = |(id, runs)| Some((self.names.get(&id)?.clone(), runs));
        Ok(by_id.into_iter().filter_map(named).collect())
    }
}

/// The programs that a process holds open: id and runs.
fn runs_by_id(pid: u32) -> Result<BTreeMap<u32, Runs>> {
    let directory = format!("/proc/{pid}/fdinfo");
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(&directory).with_context(|| directory.clone())? {
        // Descriptors come and go: one that is gone was no program.
        let Ok(text) = std::fs::read_to_string(entry?.path()) else { continue };
        all.extend(parse_fdinfo(&text));
    }
    Ok(all)
}

/// Id and runs, if this is a program; a link has an id of its program and no runs.
fn parse_fdinfo(text: &str) -> Option<(u32, Runs)> {
    let value = |key: &str| {
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')?.trim().parse().ok())
    };
    let runs = Runs { time_ns: value("run_time_ns")?, count: value("run_cnt")? };
    Some((u32::try_from(value("prog_id")?).ok()?, runs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_and_links_are_told_apart() {
        let program = "pos:\t0\nprog_type:\t26\nprog_id:\t368\nrun_time_ns:\t3134\nrun_cnt:\t9\n";
        assert_eq!(parse_fdinfo(program), Some((368, Runs { time_ns: 3134, count: 9 })));
        assert_eq!(parse_fdinfo("link_type:\ttracing\nlink_id:\t5\nprog_id:\t368\n"), None);
        assert_eq!(parse_fdinfo("pos:\t0\nflags:\t02\n"), None);
    }

    #[test]
    fn a_mean_needs_enough_runs() {
        let runs = Runs { time_ns: 900, count: 9 };
        assert_eq!(runs.mean_ns(9), Some(100.0));
        assert_eq!(runs.mean_ns(10), None);
        assert_eq!(Runs::default().mean_ns(0), None);
        assert_eq!(runs.since(Runs { time_ns: 400, count: 4 }), Runs { time_ns: 500, count: 5 });
    }
}
