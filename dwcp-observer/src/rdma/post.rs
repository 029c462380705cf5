//! The post functions of providers' libraries that the configuration names, and the probe on each.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::PathBuf,
};

use aya::{
    Ebpf,
    programs::{
        Program, ProgramError,
        uprobe::{UProbeAttachLocation, UProbeLink, UProbeScope},
    },
};

use super::provider;
use crate::{config::PostFunction, kernel::refusal::brief, model::status::ProbeStatus};

/// The program in the object.
pub(super) const PROGRAM: &str = "rdma_post_send";
/// What it is placed on, in `struct verbs_context_ops`.
pub(super) const FUNCTION: &str = "post_send";

/// One library.
struct Library {
    function: PostFunction,
    /// Device and inode of the file that was looked at last; `None` while there is none.
    file: Option<(u64, u64)>,
    link: Option<UProbeLink>,
    /// Why it is not probed.
    reason: Option<String>,
}

/// All that the configuration names.
pub(super) struct Posts(Vec<Library>);

impl Posts {
    pub(super) fn new(functions: &[PostFunction]) -> Self {
        let library = |function: &PostFunction| Library {
            function: function.clone(),
            file: None,
            link: None,
            reason: Some("not checked yet".to_owned()),
        };
        Self(functions.iter().map(library).collect())
    }

    /// Probes each library whose file is new: there at last, or replaced by an upgrade.
    pub(super) fn refresh(&mut self, ebpf: &mut Ebpf) {
        for library in &mut self.0 {
            library.refresh(ebpf);
        }
    }

    /// A row for all of them; none when there are none.
    pub(super) fn probe(&self) -> Option<ProbeStatus> {
        let reasons = self.0.iter().filter_map(|library| {
            Some(format!("{}: {}", library.function.path.display(), library.reason.as_ref()?))
        });
        let reasons: Vec<String> = reasons.collect();
        let attached = self.0.iter().any(|library| library.link.is_some());
        (!self.0.is_empty()).then(|| ProbeStatus {
            probe: FUNCTION,
            purpose: "requests passed to the provider's library, if configured",
            required: false,
            rung: attached.then_some("uprobe"),
            attached,
            reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
        })
    }
}

impl Library {
    fn refresh(&mut self, ebpf: &mut Ebpf) {
        let found = identify(&self.function);
        if found.as_ref().ok() == self.file.as_ref() && self.file.is_some() {
            return;
        }
        let before = self.reason.take();
        self.link = None;
        self.file = found.as_ref().ok().copied();
        let placed = found.map_err(|error| error.to_string()).and_then(|_| {
            let file = File::open(&self.function.path).map_err(|error| error.to_string())?;
            let offset = match self.function.offset {
                Some(offset) => offset,
                None => provider::post_function(&file).map_err(|error| error.to_string())?,
            };
            Ok((attach(ebpf, &file, offset).map_err(|error| brief(&error))?, offset))
        });
        let path = self.function.path.display();
        match placed {
            Ok((link, offset)) => {
                log::info!("RDMA: probing {FUNCTION} at {offset:#x} in {path}");
                self.link = Some(link);
            }
            Err(reason) => {
                if before.as_ref() != Some(&reason) {
                    log::warn!("RDMA: cannot probe {path}: {reason}");
                }
                self.reason = Some(reason);
            }
        }
    }
}

fn identify(function: &PostFunction) -> io::Result<(u64, u64)> {
    let meta = std::fs::metadata(&function.path)?;
    Ok((meta.dev(), meta.ino()))
}

/// For all processes that map the file, now and later.
fn attach(ebpf: &mut Ebpf, file: &File, offset: u64) -> Result<UProbeLink, ProgramError> {
    let Some(Program::UProbe(program)) = ebpf.program_mut(PROGRAM) else {
        return Err(ProgramError::UnexpectedProgramType);
    };
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let location = UProbeAttachLocation::AbsoluteOffset(offset);
    let id = program.attach(location, &path, UProbeScope::AllProcesses)?;
    program.take_link(id)
}
