//! Loads the eBPF object and climbs the attach ladder.

use std::path::{Path, PathBuf};

use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{
        Program, ProgramError, raw_trace_point::RawTracePointLink, tp_btf::BtfTracePointLink,
    },
};
use thiserror::Error;

use super::{
    btf::{BtfError, Layout},
    ladder::{Allowed, HOOKS, Hook, Rung},
    layout::Globals,
};
use crate::publish::ProbeStatus;

/// The eBPF object, built by `cargo xtask build-ebpf`.
const OBJECT: &[u8] = aya::include_bytes_aligned!(env!("DWCP_EBPF_OBJECT"));

/// Where the kernel shows its own BTF.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Sizes and choices for the kernel side.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Slots for TCP flows.
    pub max_flows: u32,
    /// Slots for threads.
    pub max_threads: u32,
    /// Slots for processes that may migrate.
    pub max_processes: u32,
    /// Rungs that may be used.
    pub rungs: Allowed,
    /// BTF of the running kernel, when it is not in the usual place.
    pub btf_path: Option<PathBuf>,
    /// Whether phase functions are probed.
    pub phase_functions: bool,
    /// Whether the kernel side writes lifecycle lines to the log.
    pub log_lifecycle: bool,
}

/// Why the kernel side could not be set up. Each message says what to do.
#[derive(Debug, Error)]
pub enum LoadError {
    /// No BTF: offsets would be guesses.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// Not allowed to use bpf(2).
    #[error(
        "not allowed to load eBPF programs: run as root (sudo dwcp-observer run), or grant CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE \
         and CAP_DAC_READ_SEARCH"
    )]
    Permission,
    /// The object does not load.
    #[error(
        "the kernel refuses the maps of the eBPF object: {0:#}; `dwcp-observer check` shows what this kernel lacks"
    )]
    Object(anyhow::Error),
    /// A required hook has no working rung.
    #[error("cannot attach to {hook}, without which migrations cannot be measured: {reason}")]
    Required {
        /// The hook.
        hook: &'static str,
        /// Why its last rung failed.
        reason: String,
    },
    /// A map is missing or has another shape than the agent expects.
    #[error("map {map}: {source}")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// What went wrong.
        source: anyhow::Error,
    },
}

/// The loaded object and what is attached.
pub struct Loaded<T> {
    /// Maps, programs and their links: dropping it detaches everything.
    pub ebpf: Ebpf,
    /// What the caller made of the maps before anything was attached.
    pub prepared: T,
    /// What is attached for good.
    pub links: Vec<Link>,
    /// Programs that are to be attached on demand, with their hooks.
    pub on_demand: Vec<(&'static str, &'static str)>,
    /// One per hook.
    pub probes: Vec<ProbeStatus>,
    /// Kernel fields that were not found.
    pub missing_fields: Vec<String>,
}

/// An attached program: dropping it detaches.
#[derive(Debug)]
pub enum Link {
    /// By BTF.
    Typed(BtfTracePointLink),
    /// By name.
    Raw(RawTracePointLink),
}

/// Attaches a loaded program; an iterator needs no link, each sweep runs it once.
///
/// # Errors
/// What the kernel says.
pub fn attach(program: &mut Program, hook: &str) -> Result<Option<Link>, ProgramError> {
    match program {
        Program::BtfTracePoint(program) => {
            let id = program.attach()?;
            program.take_link(id).map(|link| Some(Link::Typed(link)))
        }
        Program::RawTracePoint(program) => {
            let id = program.attach(hook)?;
            program.take_link(id).map(|link| Some(Link::Raw(link)))
        }
        _ => Ok(None),
    }
}

/// Whether a rung stands for one with typed pointers.
const fn typed(rung: Rung) -> bool {
    matches!(rung, Rung::TpBtf | Rung::Iter | Rung::Fentry)
}

/// Loads and attaches. First every hook on its best rung with local storage; if one that matters fails, once more with
/// tags in a hash, so that hooks on lower rungs share them.
///
/// # Errors
/// [`LoadError`], with everything detached again.
pub fn load<T>(
    options: &LoadOptions,
    prepare: impl Fn(&mut Ebpf) -> Result<T, LoadError>,
) -> Result<Loaded<T>, LoadError> {
    let path = options.btf_path.as_deref().unwrap_or_else(|| Path::new(KERNEL_BTF));
    let layout = Layout::from_file(path)?;
    let globals = Globals::resolve(&layout);
    let btf = Btf::parse_file(path, aya::Endianness::default())
        .map_err(|error| LoadError::Object(error.into()))?;
    let system = System { layout, globals, btf };
    let only_typed = !matches!(options.rungs, Allowed::Only(rung) if !typed(rung));
    if only_typed {
        let attempt = attempt(options, &system, &prepare, false)?;
        let fell_short = attempt
            .probes
            .iter()
            .any(|probe| probe.rung.is_none() && has_raw(&system.layout, probe.probe));
        if options.rungs != Allowed::Auto || !fell_short {
            return check_required(attempt);
        }
    }
    check_required(attempt(options, &system, &prepare, true)?)
}

/// Whether the kernel has the tracepoint at all: then a lower rung may work where the first did not.
fn has_raw(layout: &Layout, probe: &str) -> bool {
    layout.has(&format!("btf_trace_{probe}"))
}

fn check_required<T>(loaded: Loaded<T>) -> Result<Loaded<T>, LoadError> {
    for probe in &loaded.probes {
        if probe.required && probe.rung.is_none() {
            return Err(LoadError::Required {
                hook: probe.probe,
                reason: probe.reason.clone().unwrap_or_default(),
            });
        }
    }
    Ok(loaded)
}

/// What is known of the running kernel.
struct System {
    layout: Layout,
    globals: Globals,
    btf: Btf,
}

fn attempt<T>(
    options: &LoadOptions,
    system: &System,
    prepare: impl Fn(&mut Ebpf) -> Result<T, LoadError>,
    tags_in_hash: bool,
) -> Result<Loaded<T>, LoadError> {
    let System { layout: _, globals, btf } = system;
    let log_level = u8::from(options.log_lifecycle) * aya_log_debug_level();
    let in_hash = u32::from(tags_in_hash);
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(btf))
        .allow_unsupported_maps()
        .override_global("AYA_LOG_LEVEL", &log_level, true)
        .override_global("TAGS_IN_HASH", &in_hash, true)
        .map_max_entries("FLOWS", options.max_flows)
        .map_max_entries("FLOW_FREE", options.max_flows)
        .map_max_entries("FLOW_RTT", options.max_flows)
        .map_max_entries("THREAD_WAITS", options.max_threads)
        .map_max_entries("THREADS", options.max_threads)
        .map_max_entries("THREAD_FREE", options.max_threads)
        .map_max_entries("PROCESSES", options.max_processes)
        .map_max_entries("PROCESS_FREE", options.max_processes);
    if tags_in_hash {
        // Room for overflowing flows, and for threads of processes that are not watched.
        loader.map_max_entries("FLOW_HASH", options.max_flows.saturating_mul(4));
        loader.map_max_entries("TASK_HASH", options.max_threads.saturating_mul(4));
    }
    for (name, value) in &globals.values {
        loader.override_global(name, value, true);
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| {
        if denied(&error) { LoadError::Permission } else { LoadError::Object(error.into()) }
    })?;
    let prepared = prepare(&mut ebpf)?;
    let mut climbed = Climbed::default();
    for hook in HOOKS {
        climb(&mut ebpf, hook, options.rungs, system, tags_in_hash, &mut climbed)?;
    }
    let Climbed { probes, links, on_demand } = climbed;
    let missing_fields = globals.missing.clone();
    Ok(Loaded { ebpf, prepared, links, on_demand, probes, missing_fields })
}

/// `aya_log_common::Level::Debug`; the agent's log level decides what is printed.
const fn aya_log_debug_level() -> u8 {
    4
}

/// What climbing the ladder of every hook gives.
#[derive(Default)]
struct Climbed {
    probes: Vec<ProbeStatus>,
    links: Vec<Link>,
    on_demand: Vec<(&'static str, &'static str)>,
}

/// Tries the hook's rungs, best first, until one works.
fn climb(
    ebpf: &mut Ebpf,
    hook: &Hook,
    allowed: Allowed,
    system: &System,
    tags_in_hash: bool,
    climbed: &mut Climbed,
) -> Result<(), LoadError> {
    let System { layout, btf, .. } = system;
    let mut reasons = Vec::new();
    let mut live = None;
    for (rung, name) in hook.programs {
        // With tags in local storage, a rung without typed pointers would not find them.
        let permitted = allowed.permits(*rung) || hook.current_task_only;
        if !permitted || (!tags_in_hash && !typed(*rung) && !hook.current_task_only) {
            continue;
        }
        if *rung == Rung::TpBtf && !layout.has(&format!("btf_trace_{}", hook.name)) {
            reasons.push(format!("{}: this kernel has no such tracepoint", rung.as_str()));
            continue;
        }
        let Some(program) = ebpf.program_mut(name) else {
            reasons.push(format!("{}: not in the object", rung.as_str()));
            continue;
        };
        match load_program(program, hook.name, btf).and_then(|()| attach(program, hook.name)) {
            Ok(link) => {
                live = Some(rung.as_str());
                if hook.on_demand {
                    // It can be attached: that is enough for now.
                    climbed.on_demand.push((name, hook.name));
                } else {
                    climbed.links.extend(link);
                }
                break;
            }
            Err(error) if denied(&error) => return Err(LoadError::Permission),
            Err(error) => reasons.push(format!("{}: {}", rung.as_str(), brief(&error))),
        }
    }
    climbed.probes.push(ProbeStatus {
        probe: hook.name,
        purpose: hook.purpose,
        required: hook.required,
        rung: live,
        attached: live.is_some() && !hook.on_demand,
        reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
    });
    Ok(())
}

fn load_program(program: &mut Program, hook: &str, btf: &Btf) -> Result<(), ProgramError> {
    match program {
        Program::BtfTracePoint(program) => program.load(hook, btf),
        Program::RawTracePoint(program) => program.load(),
        Program::Iter(program) => program.load(hook, btf),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// One line of an error: its own text, and the last line of the verifier's log that is not statistics.
fn brief(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return format!("{:#}", anyhow::anyhow!("{error}"));
    };
    let log = verifier_log.to_string();
    const STATISTICS: [&str; 3] = ["processed ", "verification time", "stack depth"];
    let last = log
        .lines()
        .rev()
        .find(|line| !line.is_empty() && !STATISTICS.iter().any(|prefix| line.starts_with(prefix)));
    match last {
        Some(last) => format!("{io_error}: {last}"),
        None => io_error.to_string(),
    }
}

/// Whether the first cause is a lack of privilege.
fn denied(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.raw_os_error() == Some(libc::EPERM) && !super::privileged();
        }
        cause = error.source();
    }
    false
}
