//! Places the phase probes: once per executable, for all processes that run it, now and later.

use std::{
    collections::HashMap,
    fs::File,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::{
    Ebpf,
    programs::{
        ProbeKind, Program, ProgramError,
        uprobe::{UProbeAttachLocation, UProbeLink, UProbeScope},
    },
};

use super::{
    FUNCTIONS,
    binary::{self, BinaryError, FileId},
    states::{Names, Version},
};
use crate::{kernel::clock_ns, publish::ProbeStatus};

/// Executables that are probed at the same time; beyond, the scheduler's method measures alone. Few, since the observer's exit waits
/// for each of their probes: see [`Attacher::evict`].
const MAX_BINARIES: usize = 8;

/// What is known of a process' phase functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// All that a blackout needs are probed.
    Probed {
        /// QEMU's version.
        version: Option<Version>,
        /// What its numbers mean.
        names: Arc<Names>,
        /// Since when, `CLOCK_MONOTONIC` ns; what happened before left no mark.
        since_ns: u64,
        /// Functions that this executable does not export.
        missing: Vec<&'static str>,
    },
    /// They are not: why.
    Unprobed(String),
}

/// Attached probes, by executable.
#[derive(Debug, Default)]
pub struct Attacher {
    binaries: HashMap<FileId, Probed>,
}

#[derive(Debug)]
struct Probed {
    coverage: Coverage,
    /// Dropping them detaches.
    links: Vec<UProbeLink>,
    /// Processes that run it.
    pids: Vec<u32>,
}

impl Attacher {
    /// Probes the executable of a process that may migrate. `None` when the process is gone.
    pub fn attach(&mut self, ebpf: &mut Ebpf, pid: u32) -> Option<Coverage> {
        // The link leads to the file that runs, in whatever mount namespace, also after an upgrade has replaced its path. Held open,
        // it stays reachable when the process ends in the middle of this.
        let file = File::open(format!("/proc/{pid}/exe")).ok()?;
        let id = binary::identify(&file).ok()?;
        if let Some(probed) = self.binaries.get_mut(&id) {
            if !probed.pids.contains(&pid) {
                probed.pids.push(pid);
            }
            return Some(probed.coverage.clone());
        }
        if self.binaries.len() >= MAX_BINARIES && !self.evict() {
            return Some(Coverage::Unprobed(format!(
                "{MAX_BINARIES} other executables are probed already"
            )));
        }
        let mut links = Vec::new();
        let coverage = place(ebpf, &file, &mut links)
            .unwrap_or_else(|error| Coverage::Unprobed(error.to_string()));
        self.binaries.insert(id, Probed { coverage: coverage.clone(), links, pids: vec![pid] });
        Some(coverage)
    }

    /// A process is gone. The probes of its executable stay, for the next process that runs it.
    pub fn detach(&mut self, pid: u32) {
        for probed in self.binaries.values_mut() {
            probed.pids.retain(|known| *known != pid);
        }
    }

    /// Makes room by an executable that nobody runs any more. True when there was one.
    ///
    /// Removing a uprobe waits for grace periods of the kernel under a lock (`perf_uprobe_destroy`, `event_mutex`): 100 ms for each
    /// on Linux 6.18, one after the other. The cycle does not wait for that.
    fn evict(&mut self) -> bool {
        let unused = self.binaries.iter().find(|(_, probed)| probed.pids.is_empty());
        let Some(id) = unused.map(|(id, _)| *id) else { return false };
        let Some(Probed { links, .. }) = self.binaries.remove(&id) else { return false };
        let detach = std::thread::Builder::new().name("detach".to_owned());
        if let Err(error) = detach.spawn(move || drop(links)) {
            log::debug!("probes are removed at once: {error}");
        }
        true
    }

    /// Whether some executable is probed.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.binaries.values().any(|probed| matches!(probed.coverage, Coverage::Probed { .. }))
    }
}

/// Loads the programs, which are attached when a migrator appears. One row per place, as for the hooks of the ladder.
pub fn load(ebpf: &mut Ebpf) -> Vec<ProbeStatus> {
    let rows = FUNCTIONS.iter().map(|function| {
        let (rung, loaded) = match ebpf.program_mut(function.program) {
            Some(Program::UProbe(program)) => {
                let rung = match program.kind() {
                    ProbeKind::Entry => "uprobe",
                    ProbeKind::Return => "uretprobe",
                };
                (rung, program.load().map_err(|error| error.to_string()))
            }
            _ => ("uprobe", Err("not in the object".to_owned())),
        };
        ProbeStatus {
            probe: function.place,
            purpose: function.purpose,
            required: false,
            rung: loaded.is_ok().then_some(rung),
            attached: false,
            reason: loaded.err(),
        }
    });
    rows.collect()
}

fn place(
    ebpf: &mut Ebpf,
    file: &File,
    links: &mut Vec<UProbeLink>,
) -> Result<Coverage, BinaryError> {
    let binary = binary::read(file)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let mut missing = Vec::new();
    for function in FUNCTIONS {
        let placed = match binary.offsets.get(function.symbol) {
            None => Err("is not exported".to_owned()),
            Some(offset) => attach(ebpf, function.program, *offset, &path)
                .map_err(|error| format!("{:#}", anyhow::Error::new(error))),
        };
        match placed {
            Ok(link) => links.push(link),
            Err(reason) if function.required => {
                links.clear();
                return Ok(Coverage::Unprobed(format!("{}: {reason}", function.symbol)));
            }
            Err(_) => missing.push(function.symbol),
        }
    }
    missing.dedup();
    let since_ns = clock_ns(libc::CLOCK_MONOTONIC);
    Ok(Coverage::Probed {
        version: binary.version,
        names: Arc::new(binary.names),
        since_ns,
        missing,
    })
}

fn attach(
    ebpf: &mut Ebpf,
    program: &str,
    offset: u64,
    path: &Path,
) -> Result<UProbeLink, ProgramError> {
    let Some(Program::UProbe(program)) = ebpf.program_mut(program) else {
        return Err(ProgramError::UnexpectedProgramType);
    };
    let location = UProbeAttachLocation::AbsoluteOffset(offset);
    let id = program.attach(location, path, UProbeScope::AllProcesses)?;
    program.take_link(id)
}
