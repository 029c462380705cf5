//! Tries every program of every object on this kernel, on every rung, for `check --programs`.

use aya::{Ebpf, programs::Program};
use serde::Serialize;

use super::load::{self, LoadError, LoadOptions, System};
use crate::kernel::{
    ladder::{HOOKS, Object},
    objects, refusal,
};
use crate::phase;

/// What this kernel made of one program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tried {
    /// Object that has it.
    pub object: &'static str,
    /// Its name.
    pub program: String,
    /// Tracepoint, function or iterator target.
    pub target: String,
    /// Its rung of the ladder.
    pub rung: &'static str,
    /// How far it came.
    pub result: Outcome,
    /// Instructions that the verifier walked (`bpf_prog_info.verified_insns`, Linux 5.16).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified_instructions: Option<u32>,
    /// Why it came no further.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How far a program came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Verified, attached and detached again.
    Attached,
    /// Verified; it is attached to a file or run on its own.
    Loaded,
    /// This kernel does not have what it is attached to.
    Absent,
    /// Verified, but what it is attached to is in a module that is not loaded.
    ModuleNotLoaded,
    /// Refused by the verifier or at attaching.
    Refused,
}

/// Tries them all. What is attached is detached again.
///
/// # Errors
/// No programs in this build, no BTF, or not allowed.
pub fn survey(options: &LoadOptions) -> Result<Vec<Tried>, LoadError> {
    objects::built()?;
    let system = System::read(options.btf_path.as_deref())?;
    let mut tried = Vec::new();
    for object in Object::ALL {
        match load::open(object, &load::bytes_of(object, &system)?, options, &system) {
            Ok(mut ebpf) => tried.extend(all_of(object, &mut ebpf, &system)),
            Err(LoadError::Object(error)) => tried.push(Tried {
                object: object.as_str(),
                program: "*".to_owned(),
                target: "*".to_owned(),
                rung: "maps",
                result: Outcome::Refused,
                verified_instructions: None,
                reason: Some(format!("{error:#}")),
            }),
            Err(error) => return Err(error),
        }
    }
    Ok(tried)
}

fn all_of(object: Object, ebpf: &mut Ebpf, system: &System) -> Vec<Tried> {
    let mut tried = Vec::new();
    for hook in HOOKS {
        for way in hook.ways.iter().filter(|way| way.object == object) {
            for (program, target) in way.programs.iter().chain(way.where_present) {
                let known = system.has(way.rung, target) || hook.module.is_some();
                let mut one = match ebpf.program_mut(program).filter(|_| known) {
                    Some(found) => attempt(found, target, system),
                    None => (Outcome::Absent, None),
                };
                if one.0 == Outcome::Absent && hook.module.is_some() {
                    one.0 = Outcome::ModuleNotLoaded;
                }
                tried.push(entry(object, program, target, way.rung.as_str(), one, ebpf));
            }
        }
    }
    let shared = phase::programs::SHARED.map(|program| (program, "every function"));
    let own = phase::FUNCTIONS.iter().map(|function| (function.program, function.symbol()));
    for (program, target) in shared.into_iter().chain(own) {
        let one = match ebpf.program_mut(program) {
            Some(found) => match load::load_program(found, target, &system.btf) {
                Ok(()) => (Outcome::Loaded, None),
                Err(error) => (Outcome::Refused, Some(refusal::brief(&error))),
            },
            None => (Outcome::Refused, Some("not in the eBPF object".to_owned())),
        };
        tried.push(entry(object, program, target, "uprobe", one, ebpf));
    }
    tried
}

fn attempt(program: &mut Program, target: &str, system: &System) -> (Outcome, Option<String>) {
    let placed = load::load_program(program, target, &system.btf)
        .and_then(|()| load::attach(program, target));
    match placed {
        Ok(Some(_)) => (Outcome::Attached, None),
        Ok(None) => (Outcome::Loaded, None),
        Err(error) if refusal::is_absent(&error) => (Outcome::Absent, None),
        Err(error) => (Outcome::Refused, Some(refusal::brief(&error))),
    }
}

fn entry(
    object: Object,
    program: &str,
    target: &str,
    rung: &'static str,
    (result, reason): (Outcome, Option<String>),
    ebpf: &Ebpf,
) -> Tried {
    let verified_instructions = ebpf
        .program(program)
        .filter(|program| program.fd().is_ok())
        .and_then(|program| program.info().ok())
        .and_then(|info| info.verified_instruction_count());
    Tried {
        object: object.as_str(),
        program: program.to_owned(),
        target: target.to_owned(),
        rung,
        result,
        verified_instructions,
        reason,
    }
}
