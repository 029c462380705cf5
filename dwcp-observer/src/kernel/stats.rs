//! The kernel's run statistics of the loaded programs.

use std::{
    ffi::c_char,
    io,
    mem::offset_of,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya::{Ebpf, sys::Stats};
use aya_obj::generated::bpf_prog_info;

use super::sys::call;
use crate::model::status::ProgramStats;

const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;

/// `union bpf_attr`, `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct GetInfo {
    fd: u32,
    length: u32,
    info: u64,
}

/// Figures of a program that is not the object's own.
///
/// # Errors
/// What `BPF_OBJ_GET_INFO_BY_FD` says.
pub fn program(fd: BorrowedFd<'_>) -> io::Result<ProgramStats> {
    // SAFETY: zero is valid for all fields of the record.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let mut attributes = GetInfo {
        fd: fd.as_raw_fd().cast_unsigned(),
        length: size_of::<bpf_prog_info>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    call(BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    let name = info.name.iter().take_while(|letter| **letter != 0);
    let name = name.map(|letter: &c_char| char::from(letter.cast_unsigned())).collect();
    Ok(ProgramStats {
        name,
        run_time_ns: info.run_time_ns,
        run_count: info.run_cnt,
        // An older kernel fills in less, and says how much.
        missed_runs: (attributes.length as usize > offset_of!(bpf_prog_info, recursion_misses))
            .then_some(info.recursion_misses),
        verified_instructions: info.verified_insns,
    })
}

/// Figures of every loaded program.
///
/// # Errors
/// What `BPF_OBJ_GET_INFO_BY_FD` says.
pub fn programs(ebpf: &Ebpf) -> io::Result<Vec<ProgramStats>> {
    let loaded = ebpf.programs().filter_map(|(_, program)| program.fd().ok());
    loaded.map(|fd| program(fd.as_fd())).collect()
}

/// Has the kernel time every program run, at a cost of two clock reads each, until the descriptor is closed.
///
/// # Errors
/// The kernel is older than 5.8 or refuses.
pub fn enable() -> io::Result<OwnedFd> {
    aya::sys::enable_stats(Stats::RunTime).map_err(io::Error::other)
}
