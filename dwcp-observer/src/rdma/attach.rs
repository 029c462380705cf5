//! Loads the RDMA object and attaches its programs when a module is loaded, and again when it is reloaded.

use std::{os::unix::fs::MetadataExt as _, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData},
    programs::{ProbeKind, Program, ProgramError, kprobe::KProbeLink, trace_point::TracePointLink},
};
use dwcp_observer_ebpf::rdma::Offsets;
use thiserror::Error;

use super::{
    layout,
    post::{self, Posts},
    reader::Options,
};
use crate::{
    keeper::{
        load::KERNEL_BTF,
        survey::{Outcome, Tried},
    },
    kernel::{
        btf::BtfError,
        maps::{MapError, borrow, pod},
        objects::{self, NotBuilt, RDMA},
        refusal::brief,
    },
    model::status::ProbeStatus,
};

/// Why RDMA cannot be measured.
#[derive(Debug, Error)]
pub enum RdmaError {
    /// A build for tests.
    #[error(transparent)]
    NotBuilt(#[from] NotBuilt),
    /// No BTF: offsets would be guesses.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// BTF has no verbs in it.
    #[error("{0} is missing from the BTF of this kernel and of ib_core")]
    Fields(String),
    /// The kernel's list of devices and queue pairs.
    #[error("the kernel does not support RDMA netlink: {0}")]
    Netlink(std::io::Error),
    /// The object does not load.
    #[error("the kernel rejected the RDMA object: {0:#}")]
    Object(anyhow::Error),
    /// A map is missing or has another shape than the agent expects.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// Where a program goes.
struct Probe {
    /// Function, or event of `rdma_cma`.
    name: &'static str,
    /// Program in the object.
    program: &'static str,
    /// Module that has it.
    module: &'static str,
    /// What it is for.
    purpose: &'static str,
}

macro_rules! probes {
    ($($module:literal { $($name:literal => $program:literal, $purpose:literal;)* })*) => {
        &[$($(Probe { name: $name, program: $program, module: $module, purpose: $purpose },)*)*]
    };
}

const PROBES: &[Probe] = probes! {
    "ib_core" {
        "rdma_restrack_add" => "rdma_tracked", "new queue pairs and memory regions";
        "ib_modify_qp_with_udata" => "rdma_modify", "state, peer and peer's address of queue pairs";
        "ib_modify_qp_with_udata" => "rdma_modified", "whether the state change succeeded";
        "ib_destroy_qp_user" => "rdma_destroy", "final state of the send queue";
        "ib_destroy_qp_user" => "rdma_destroyed", "end of queue pairs";
        "ib_dereg_mr_user" => "rdma_deregister", "end of memory regions";
    }
    "ib_uverbs" {
        "ib_uverbs_reg_mr" => "rdma_register", "time that registrations take";
        "ib_uverbs_comp_event_read" => "rdma_comp_event", "wake-ups by completion events";
    }
    "rdma_rxe" {
        "rxe_post_send" => "rdma_post", "doorbells of Soft-RoCE and their requests";
        "rxe_cq_post" => "rdma_rxe_cqe", "completions of Soft-RoCE: operations, bytes, errors, latency";
        "rnr_nak_timer" => "rdma_rxe_rnr", "waits for a receive that the peer has not posted";
    }
    "siw" {
        "siw_post_send" => "rdma_post", "doorbells of software iWARP";
    }
    "rdma_cm" {
        "rdma_connect_ece" => "rdma_connect", "size of private data, active side";
        "rdma_accept_ece" => "rdma_connect", "size of private data, passive side";
        "cm_send_req" => "cm_send_req", "connections: request";
        "cm_send_rep" => "cm_send_rep", "connections: reply";
        "cm_send_rtu" => "cm_send_rtu", "connections: ready";
        "cm_send_rej" => "cm_send_rej", "connections: refusal";
        "cm_event_handler" => "cm_event", "connections: events from the peer";
        "cm_disconnect" => "cm_disconnect", "connections: disconnection by this side";
        "cm_sent_dreq" => "cm_sent_dreq", "connections: request to disconnect";
        "cm_id_destroy" => "cm_id_destroy", "connections: end";
    }
};

/// Category of the connection manager's tracepoints.
const CATEGORY: &str = "rdma_cma";

/// An attached program: dropping it detaches.
enum Link {
    Function(#[expect(dead_code, reason = "held for its drop")] KProbeLink),
    Event(#[expect(dead_code, reason = "held for its drop")] TracePointLink),
}

/// The loaded object and what is attached of it.
pub(super) struct Attached {
    ebpf: Ebpf,
    /// One per probe.
    links: Vec<Option<Link>>,
    reasons: Vec<Option<String>>,
    /// Modules that were there at the last look, in the order of [`modules`]: each load has an inode of its own.
    present: Vec<Option<u64>>,
    pub(super) found: layout::Found,
    /// Why the program for providers' post functions is refused.
    post_refused: Option<String>,
    posts: Posts,
}

/// The modules of all places, once each.
fn modules() -> Vec<&'static str> {
    let mut modules: Vec<_> = PROBES.iter().map(|probe| probe.module).collect();
    modules.dedup();
    modules
}

/// Tells one load of a module from the next; `None` while it is not loaded.
fn incarnation(module: &str) -> Option<u64> {
    std::fs::metadata(Path::new("/sys/module").join(module)).ok().map(|meta| meta.ino())
}

fn is_loaded(module: &str) -> bool {
    incarnation(module).is_some()
}

/// Whether this host has anything to do with RDMA: a device, or the modules that user space needs.
pub(super) fn is_possible() -> bool {
    Path::new(super::device::CLASS).is_dir()
        && (is_loaded("ib_uverbs")
            || is_loaded("rdma_cm")
            || std::fs::read_dir(super::device::CLASS).is_ok_and(|mut all| all.next().is_some()))
}

impl Attached {
    /// Loads the object and every program, and attaches what can be.
    ///
    /// # Errors
    /// [`RdmaError`]; nothing stays in the kernel.
    pub(super) fn load<T>(
        options: &Options,
        prepare: impl FnOnce(&mut Ebpf) -> Result<T, MapError>,
    ) -> Result<(Self, T), RdmaError> {
        objects::built()?;
        let path = options.btf_path.as_deref().unwrap_or_else(|| Path::new(KERNEL_BTF));
        let found = layout::find(path)?;
        if !found.queue_pairs() {
            return Err(RdmaError::Fields(found.missing.join(", ")));
        }
        let mut loader = EbpfLoader::new();
        loader
            .map_max_entries("QPS", options.max_qps + 1)
            .map_max_entries("QP_FREE", options.max_qps)
            .map_max_entries("QP_LATENCY", options.max_qps + 1)
            .map_max_entries("QP_INDEX", options.max_qps * 2)
            .map_max_entries("QP_OWNERS", options.max_qps * 2)
            .map_max_entries("RINGS", options.max_send_queues + 1)
            .map_max_entries("RING_FREE", options.max_send_queues)
            .map_max_entries("MEMORY", options.max_processes)
            .map_max_entries("REGIONS", options.max_regions);
        let mut ebpf =
            loader.load(&RDMA.unpack()?).map_err(|error| RdmaError::Object(error.into()))?;
        write_offsets(&mut ebpf, found.offsets)?;
        let prepared = prepare(&mut ebpf)?;
        let mut refused: Vec<(String, String)> = Vec::new();
        for (name, program) in ebpf.programs_mut() {
            if let Err(error) = load_program(program) {
                refused.push((name.to_owned(), brief(&error)));
            }
        }
        let mut attached = Self {
            ebpf,
            links: PROBES.iter().map(|_| None).collect(),
            reasons: vec![None; PROBES.len()],
            present: modules().into_iter().map(incarnation).collect(),
            found,
            post_refused: refused
                .iter()
                .find(|(name, _)| name == post::PROGRAM)
                .map(|(_, reason)| reason.clone()),
            posts: Posts::new(&options.post_functions),
        };
        for (index, probe) in PROBES.iter().enumerate() {
            if let Some((_, reason)) = refused.iter().find(|(name, _)| name == probe.program) {
                attached.reasons[index] = Some(reason.clone());
            } else {
                attached.attach_at(index);
            }
        }
        attached.posts.refresh(&mut attached.ebpf);
        Ok((attached, prepared))
    }

    fn attach_at(&mut self, index: usize) {
        let probe = &PROBES[index];
        let loaded = self.ebpf.program(probe.program).is_some_and(|program| program.fd().is_ok());
        if !loaded {
            // The verifier's word stands, whichever modules come.
            return;
        }
        match attach(&mut self.ebpf, probe) {
            Ok(link) => {
                self.links[index] = Some(link);
                self.reasons[index] = None;
            }
            Err(_) if !is_loaded(probe.module) => {
                self.reasons[index] = Some(format!("{} is not loaded", probe.module));
            }
            Err(error) => self.reasons[index] = Some(brief(&error)),
        }
    }

    /// Looks which modules have come or gone. A probe on a module that is unloaded is dead, also when it comes back.
    pub(super) fn refresh(&mut self, options: &Options) {
        self.posts.refresh(&mut self.ebpf);
        let modules = modules();
        let present: Vec<_> = modules.iter().map(|module| incarnation(module)).collect();
        if present == self.present {
            return;
        }
        if present.iter().zip(&self.present).any(|(now, before)| now.is_some() && now != before) {
            let path = options.btf_path.as_deref().unwrap_or_else(|| Path::new(KERNEL_BTF));
            match layout::find(path).map(|found| {
                let written = write_offsets(&mut self.ebpf, found.offsets);
                self.found = found;
                written
            }) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => log::warn!("RDMA: {error}"),
                Err(error) => log::warn!("RDMA: {error}"),
            }
        }
        for (module, (now, before)) in modules.iter().zip(present.iter().zip(self.present.clone()))
        {
            if *now == before {
                continue;
            }
            let there = now.is_some();
            log::info!("RDMA: module {module} was {}", if there { "loaded" } else { "unloaded" });
            let of_module = PROBES.iter().enumerate().filter(|(_, probe)| probe.module == *module);
            for (index, _) in of_module {
                self.links[index] = None;
                if there {
                    self.attach_at(index);
                } else {
                    self.reasons[index] = Some(format!("{module} is not loaded"));
                }
            }
        }
        self.present = present;
    }

    /// Whether a function or event is probed.
    pub(super) fn is_attached(&self, name: &str) -> bool {
        PROBES.iter().zip(&self.links).any(|(probe, link)| probe.name == name && link.is_some())
    }

    /// One per probe.
    pub(super) fn probes(&self) -> Vec<ProbeStatus> {
        let rows = PROBES.iter().zip(&self.links).zip(&self.reasons);
        rows.map(|((probe, link), reason)| ProbeStatus {
            probe: probe.name,
            purpose: probe.purpose,
            required: false,
            rung: link.is_some().then(|| rung(&self.ebpf, probe.program)),
            attached: link.is_some(),
            reason: reason.clone(),
        })
        .chain(self.posts.probe())
        .collect()
    }

    /// What this kernel made of each program.
    pub(super) fn tried(&self) -> Vec<Tried> {
        let rows = PROBES.iter().zip(&self.links).zip(&self.reasons);
        rows.map(|((probe, link), reason)| {
            let program = self.ebpf.program(probe.program);
            let info = program
                .filter(|program| program.fd().is_ok())
                .and_then(|program| program.info().ok());
            let result = match (link, &info) {
                (Some(_), _) => Outcome::Attached,
                (None, _) if !is_loaded(probe.module) => Outcome::ModuleNotLoaded,
                (None, Some(_)) => Outcome::Absent,
                (None, None) => Outcome::Refused,
            };
            Tried {
                object: "rdma",
                program: probe.program.to_owned(),
                target: probe.name.to_owned(),
                rung: rung(&self.ebpf, probe.program),
                result,
                verified_instructions: info.and_then(|info| info.verified_instruction_count()),
                reason: reason.clone().filter(|_| result == Outcome::Refused),
            }
        })
        .chain([self.tried_post()])
        .collect()
    }

    /// What this kernel made of the program for providers' post functions, which has no probe of its own.
    fn tried_post(&self) -> Tried {
        let program = self.ebpf.program(post::PROGRAM);
        let info =
            program.filter(|program| program.fd().is_ok()).and_then(|program| program.info().ok());
        Tried {
            object: "rdma",
            program: post::PROGRAM.to_owned(),
            target: post::FUNCTION.to_owned(),
            rung: "uprobe",
            result: if info.is_some() { Outcome::Loaded } else { Outcome::Refused },
            verified_instructions: info.and_then(|info| info.verified_instruction_count()),
            reason: self.post_refused.clone(),
        }
    }

    pub(super) const fn ebpf(&self) -> &Ebpf {
        &self.ebpf
    }
}

fn rung(ebpf: &Ebpf, program: &str) -> &'static str {
    match ebpf.program(program) {
        Some(Program::KProbe(program)) if matches!(program.kind(), ProbeKind::Return) => {
            "kretprobe"
        }
        Some(Program::TracePoint(_)) => "tracepoint",
        _ => "kprobe",
    }
}

pod! {
    PodOffsets: Offsets;
}

fn write_offsets(ebpf: &mut Ebpf, offsets: Offsets) -> Result<(), MapError> {
    let mut map: Array<&mut MapData, PodOffsets> = borrow(ebpf, "OFFSETS")?;
    map.set(0, PodOffsets(offsets), 0).map_err(|error| MapError::new("OFFSETS", error))
}

fn load_program(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::KProbe(program) => program.load(),
        Program::UProbe(program) => program.load(),
        Program::TracePoint(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn attach(ebpf: &mut Ebpf, probe: &Probe) -> Result<Link, ProgramError> {
    match ebpf.program_mut(probe.program) {
        Some(Program::KProbe(program)) => {
            let id = program.attach(probe.name, 0)?;
            program.take_link(id).map(Link::Function)
        }
        Some(Program::TracePoint(program)) => {
            let id = program.attach(CATEGORY, probe.name)?;
            program.take_link(id).map(Link::Event)
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    #[cfg_attr(not(ebpf_objects), ignore = "built without eBPF objects")]
    fn every_place_has_its_program_in_the_object_under_a_name_that_the_kernel_keeps_whole() {
        use object::{Object as _, ObjectSymbol as _};
        let object = RDMA.unpack().unwrap();
        let file = object::File::parse(object.as_slice()).unwrap();
        let symbols: HashSet<&str> =
            file.symbols().filter_map(|symbol| symbol.name().ok()).collect();
        for program in PROBES.iter().map(|probe| probe.program).chain([post::PROGRAM]) {
            assert!(symbols.contains(program), "{program} is missing");
            assert!(program.len() <= 15, "{program}");
        }
    }

    #[test]
    fn places_are_grouped_by_module() {
        let modules = modules();
        assert_eq!(modules.iter().collect::<HashSet<_>>().len(), modules.len());
    }
}
