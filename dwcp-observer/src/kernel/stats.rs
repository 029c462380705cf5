//! The kernel's own figures of the loaded programs.

use std::os::fd::OwnedFd;

use aya::{Ebpf, programs::ProgramError, sys::Stats};

use crate::publish::ProgramStats;

/// Figures of every loaded program.
///
/// # Errors
/// What `BPF_OBJ_GET_INFO_BY_FD` says.
pub fn programs(ebpf: &Ebpf) -> Result<Vec<ProgramStats>, ProgramError> {
    let mut stats = Vec::new();
    for (_, program) in ebpf.programs() {
        let Ok(fd) = program.fd() else { continue };
        let _ = fd;
        let info = program.info()?;
        stats.push(ProgramStats {
            name: info.name_as_str().unwrap_or_default().to_owned(),
            run_time_ns: u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX),
            run_count: info.run_count(),
            verified_instructions: info.verified_instruction_count().unwrap_or_default(),
        });
    }
    Ok(stats)
}

/// Has the kernel time every program run, at a cost of two clock reads each, until the descriptor is closed.
///
/// # Errors
/// The kernel is older than 5.8 or refuses.
pub fn enable() -> Result<OwnedFd, std::io::Error> {
    aya::sys::enable_stats(Stats::RunTime).map_err(std::io::Error::other)
}
