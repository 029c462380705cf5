//! Loads the programs of phase functions, with the best attach method of this kernel. They are attached when a migrator appears.

use std::os::fd::{AsFd as _, OwnedFd};

use aya::{
    Ebpf,
    programs::{Program, ProgramError},
};

use super::{FUNCTIONS, Function, prober::Programs, reader::Rung};
use crate::{
    kernel::{
        refusal,
        uprobe::{MultiError, load_multi},
    },
    model::status::ProbeStatus,
};

/// The programs that serve all places.
pub const SHARED: [&str; 2] = ["qemu_entry", "qemu_return"];

/// Loads them; `bytes` is the object that `ebpf` was made of, with all of its maps. One row per place, as for the hooks of the ladder.
pub fn load(ebpf: &mut Ebpf, bytes: &[u8], rungs: &[Rung]) -> (Option<Programs>, Vec<ProbeStatus>) {
    let mut reasons = Vec::new();
    let mut programs = None;
    for &rung in rungs {
        match load_on(rung, ebpf, bytes) {
            Ok(fds) => {
                programs = Some(Programs { rung, fds });
                break;
            }
            Err(reason) => reasons.push(format!("{}: {reason}", name(rung, false))),
        }
    }
    let rung = programs.as_ref().map(|programs| programs.rung);
    let reason = (!reasons.is_empty()).then(|| reasons.join("; "));
    (programs, FUNCTIONS.iter().map(|function| row(function, rung, reason.clone())).collect())
}

/// The name of a rung in metrics and in `check`.
#[must_use]
pub const fn name(rung: Rung, at_return: bool) -> &'static str {
    match (rung, at_return) {
        (Rung::Multi, _) => "uprobe_multi",
        (Rung::Cookie | Rung::Event, false) => "uprobe",
        (Rung::Cookie | Rung::Event, true) => "uretprobe",
    }
}

fn row(function: &Function, rung: Option<Rung>, reason: Option<String>) -> ProbeStatus {
    ProbeStatus {
        probe: function.place,
        purpose: function.purpose,
        required: false,
        rung: rung.map(|rung| name(rung, function.at_return)),
        attached: false,
        reason,
    }
}

fn load_on(rung: Rung, ebpf: &mut Ebpf, bytes: &[u8]) -> Result<Vec<OwnedFd>, String> {
    let of_all = |ebpf: &mut Ebpf, names: &[&str]| {
        names.iter().map(|name| load_one(ebpf, name)).collect::<Result<Vec<_>, _>>()
    };
    match rung {
        Rung::Multi => {
            load_multi(bytes, ebpf, SHARED).map(Vec::from).map_err(|error| match error {
                MultiError::Kernel(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    "needs uprobe_multi links (Linux 6.6)".to_owned()
                }
                error => error.to_string(),
            })
        }
        Rung::Cookie => of_all(ebpf, &SHARED).map_err(|error| refusal::brief(&error)),
        Rung::Event => {
            let names: Vec<_> = FUNCTIONS.iter().map(|function| function.program).collect();
            of_all(ebpf, &names).map_err(|error| refusal::brief(&error))
        }
    }
}

fn load_one(ebpf: &mut Ebpf, name: &str) -> Result<OwnedFd, ProgramError> {
    let Some(Program::UProbe(program)) = ebpf.program_mut(name) else {
        return Err(ProgramError::UnexpectedProgramType);
    };
    program.load()?;
    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
}
