//! Loads the eBPF object and attaches each hook with the best method that works.

use std::path::{Path, PathBuf};

use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{
        Program, ProgramError, fentry::FEntryLink, fexit::FExitLink, kprobe::KProbeLink,
        raw_trace_point::RawTracePointLink, tp_btf::BtfTracePointLink,
    },
};
use thiserror::Error;

use crate::kernel::{
    btf::{BtfError, Layout},
    ladder::{Allowed, HOOKS, Hook, Object, Rung, Way},
    layout::Globals,
    maps::MapError,
    objects::{self, NotBuilt, PROBED, TYPED},
    prealloc,
    refusal::{self, brief, is_absent},
    slots::{flow_pools, flow_slots},
};
use crate::{
    model::status::ProbeStatus,
    phase::{self, prober::Programs, reader},
};

/// Hashes of the object with probe reads.
pub(crate) const HASHES: [&str; 2] = ["FLOW_HASH", "TASK_HASH"];

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
    /// How they may be placed, best first.
    pub phase_rungs: &'static [reader::Rung],
    /// What is started to read an executable (`phase::reader`): the observer itself.
    pub reader: PathBuf,
    /// Whether the kernel side writes lifecycle lines to the log.
    pub log_lifecycle: bool,
}

/// Why the kernel side could not be set up. Each message says what to do.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A build for tests.
    #[error(transparent)]
    NotBuilt(#[from] NotBuilt),
    /// No BTF: offsets would be guesses.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// Not allowed to use bpf(2).
    #[error(
        "no permission to load eBPF programs: run as root (sudo dwcp-observer run), or grant CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE \
         and CAP_DAC_READ_SEARCH"
    )]
    Permission,
    /// The object does not load.
    #[error(
        "the kernel rejected the maps of the eBPF object: {0:#}; run `dwcp-observer check` to see what this kernel does not support"
    )]
    Object(anyhow::Error),
    /// A required hook has no working rung.
    #[error("cannot attach to {hook}, which is required to measure migrations: {reason}")]
    Required {
        /// The hook.
        hook: &'static str,
        /// Why its last rung failed.
        reason: String,
    },
    /// A map is missing or has another shape than the agent expects.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// The loaded object and what is attached.
pub struct Loaded<T> {
    /// Maps, programs and their links: dropping it detaches everything.
    pub ebpf: Ebpf,
    /// Programs of phase functions, and one row per place.
    pub phases: (Option<Programs>, Vec<ProbeStatus>),
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
    /// Why a better object was not used.
    pub refused: Vec<String>,
}

/// An attached program: dropping it detaches.
#[derive(Debug)]
pub enum Link {
    /// By BTF.
    Typed(BtfTracePointLink),
    /// By name.
    Raw(RawTracePointLink),
    /// At a function's entry, by trampoline.
    Entry(FEntryLink),
    /// At a function's return, by trampoline.
    Exit(FExitLink),
    /// At a function's entry, by breakpoint.
    Kprobe(KProbeLink),
}

/// Loads a program for what it is to be attached to.
///
/// # Errors
/// What the verifier says.
pub fn load_program(program: &mut Program, target: &str, btf: &Btf) -> Result<(), ProgramError> {
    match program {
        Program::BtfTracePoint(program) => program.load(target, btf),
        Program::RawTracePoint(program) => program.load(),
        Program::FEntry(program) => program.load(target, btf),
        Program::FExit(program) => program.load(target, btf),
        Program::KProbe(program) if program.fd().is_ok() => Ok(()),
        Program::KProbe(program) => program.load(),
        Program::Iter(program) => program.load(target, btf),
        Program::UProbe(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Attaches a loaded program; an iterator needs no link, each sweep runs it once.
///
/// # Errors
/// What the kernel says.
pub fn attach(program: &mut Program, target: &str) -> Result<Option<Link>, ProgramError> {
    match program {
        Program::BtfTracePoint(program) => {
            let id = program.attach()?;
            program.take_link(id).map(|link| Some(Link::Typed(link)))
        }
        Program::RawTracePoint(program) => {
            let id = program.attach(target)?;
            program.take_link(id).map(|link| Some(Link::Raw(link)))
        }
        Program::FEntry(program) => {
            let id = program.attach()?;
            program.take_link(id).map(|link| Some(Link::Entry(link)))
        }
        Program::FExit(program) => {
            let id = program.attach()?;
            program.take_link(id).map(|link| Some(Link::Exit(link)))
        }
        Program::KProbe(program) => {
            let id = program.attach(target, 0)?;
            program.take_link(id).map(|link| Some(Link::Kprobe(link)))
        }
        _ => Ok(None),
    }
}

/// Loads and attaches: the object with typed pointers first, and if that does not load or a hook that this kernel has fails, the one
/// with probe reads, since an object shares its tags on sockets and tasks among all of its programs.
///
/// # Errors
/// [`LoadError`], with everything detached again.
pub fn load<T>(
    options: &LoadOptions,
    prepare: impl Fn(&mut Ebpf) -> Result<T, LoadError>,
) -> Result<Loaded<T>, LoadError> {
    objects::built()?;
    let system = System::read(options.btf_path.as_deref())?;
    let mut objects = options.rungs.objects().iter().peekable();
    let mut refused = Vec::new();
    while let Some(object) = objects.next() {
        let last = objects.peek().is_none();
        match attempt(options, &system, &prepare, *object) {
            Ok(mut loaded) if last || !system.fell_short(&loaded.probes) => {
                loaded.refused = refused;
                return check_required(loaded);
            }
            Ok(loaded) => refused.extend(missing(*object, &loaded.probes)),
            Err(LoadError::Object(error)) if !last => {
                refused.push(format!("{}: {error:#}", object.as_str()));
            }
            Err(error) => return Err(error),
        }
    }
    Err(LoadError::Object(anyhow::anyhow!("the configuration allows no eBPF object")))
}

fn missing(object: Object, probes: &[ProbeStatus]) -> Vec<String> {
    let lacking = probes.iter().filter(|probe| probe.rung.is_none());
    lacking
        .map(|probe| {
            let why = probe.reason.as_deref().unwrap_or_default();
            format!("{}: {} ({why})", object.as_str(), probe.probe)
        })
        .collect()
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
pub struct System {
    layout: Layout,
    globals: Globals,
    /// For aya.
    pub btf: Btf,
}

impl System {
    /// Reads its BTF.
    ///
    /// # Errors
    /// There is none, or it is broken.
    pub fn read(btf_path: Option<&Path>) -> Result<Self, LoadError> {
        let path = btf_path.unwrap_or_else(|| Path::new(KERNEL_BTF));
        let layout = Layout::from_file(path)?;
        let globals = Globals::resolve(&layout);
        let btf = Btf::parse_file(path, aya::Endianness::default())
            .map_err(|error| LoadError::Object(error.into()))?;
        Ok(Self { layout, globals, btf })
    }

    /// Whether this kernel has what a program is attached to.
    #[must_use]
    pub fn has(&self, rung: Rung, target: &str) -> bool {
        match rung {
            Rung::TpBtf | Rung::RawTp => self.layout.has(&format!("btf_trace_{target}")),
            Rung::Fentry | Rung::Kprobe => self.layout.has_function(target),
            Rung::Iter => true,
        }
    }

    /// Whether a hook has no rung though this kernel has its tracepoint: another object may do better. One that is required may be
    /// found by a function instead.
    fn fell_short(&self, probes: &[ProbeStatus]) -> bool {
        probes.iter().any(|probe| {
            probe.rung.is_none() && (probe.required || self.has(Rung::RawTp, probe.probe))
        })
    }
}

/// Loads an object's maps with this kernel's offsets; its programs are not loaded yet.
///
/// # Errors
/// The kernel refuses, or the caller may not.
pub fn open(
    object: Object,
    bytes: &[u8],
    options: &LoadOptions,
    system: &System,
) -> Result<Ebpf, LoadError> {
    let log_level = u8::from(options.log_lifecycle) * aya_log_debug_level();
    let mut loader = EbpfLoader::new();
    let flows = flow_slots(options.max_flows);
    loader
        .btf(Some(&system.btf))
        .allow_unsupported_maps()
        .override_global("AYA_LOG_LEVEL", &log_level, true)
        .map_max_entries("FLOWS", flows)
        .map_max_entries("FLOW_RTT", flows);
    for (stack, slots) in flow_pools(flows) {
        loader.map_max_entries(stack, slots.len() as u32);
    }
    loader
        .map_max_entries("THREAD_WAITS", options.max_threads)
        .map_max_entries("THREADS", options.max_threads)
        .map_max_entries("THREAD_FREE", options.max_threads)
        .map_max_entries("PROCESSES", options.max_processes)
        .map_max_entries("PROCESS_FREE", options.max_processes);
    if object == Object::Probed {
        // Room for flows that overflow or were given up, and for threads of processes that are not watched.
        loader.map_max_entries("FLOW_HASH", flows.saturating_mul(4));
        loader.map_max_entries("TASK_HASH", options.max_threads.saturating_mul(4));
    }
    for (name, value) in system.globals.of(object) {
        loader.override_global(name, value, true);
    }
    loader.load(bytes).map_err(|error| {
        if refusal::denied(&error) {
            LoadError::Permission
        } else {
            LoadError::Object(refusal::of_maps(error))
        }
    })
}

/// The object as this kernel takes it.
///
/// # Errors
/// This executable is damaged.
pub fn bytes_of(object: Object, system: &System) -> Result<Vec<u8>, NotBuilt> {
    if object == Object::Typed {
        return TYPED.unpack();
    }
    let bytes = PROBED.unpack()?;
    if system.layout.has("bpf_mem_alloc") {
        return Ok(bytes);
    }
    Ok(prealloc::preallocated(&bytes, &HASHES).unwrap_or(bytes))
}

fn attempt<T>(
    options: &LoadOptions,
    system: &System,
    prepare: impl Fn(&mut Ebpf) -> Result<T, LoadError>,
    object: Object,
) -> Result<Loaded<T>, LoadError> {
    let bytes = bytes_of(object, system)?;
    let mut ebpf = open(object, &bytes, options, system)?;
    // While the object still has all of its maps.
    let phases = if options.phase_functions {
        phase::programs::load(&mut ebpf, &bytes, options.phase_rungs)
    } else {
        (None, Vec::new())
    };
    drop(bytes);
    let prepared = prepare(&mut ebpf)?;
    let mut climbed = Climbed::default();
    for hook in HOOKS {
        climb(&mut ebpf, hook, object, options.rungs, system, &mut climbed)?;
    }
    let Climbed { probes, links, on_demand } = climbed;
    let missing_fields = system.globals.missing(object);
    Ok(Loaded {
        ebpf,
        phases,
        prepared,
        links,
        on_demand,
        probes,
        missing_fields,
        refused: Vec::new(),
    })
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

/// Tries the hook's ways, best first, until one works.
fn climb(
    ebpf: &mut Ebpf,
    hook: &'static Hook,
    object: Object,
    allowed: Allowed,
    system: &System,
    climbed: &mut Climbed,
) -> Result<(), LoadError> {
    let present = |way: &Way| way.programs.iter().all(|(_, target)| system.has(way.rung, target));
    let mut reasons = Vec::new();
    let mut live = None;
    for way in allowed.ways(hook, object, present) {
        match attach_way(ebpf, way, system) {
            Ok(links) => {
                live = Some(way);
                if !hook.on_demand {
                    climbed.links.extend(links);
                }
                break;
            }
            Err(error) if refusal::denied(&error) => return Err(LoadError::Permission),
            // It is attached when it is needed: its module is there by then.
            Err(error) if hook.on_demand && hook.module.is_some() && error.is_absent() => {
                reasons.push(format!("{}: {}", way.rung.as_str(), error.brief()));
                live = Some(way);
                break;
            }
            Err(error) => reasons.push(format!("{}: {}", way.rung.as_str(), error.brief())),
        }
    }
    if let Some(way) = live
        && hook.on_demand
    {
        climbed.on_demand.extend(way.programs);
    }
    climbed.probes.push(ProbeStatus {
        probe: hook.name,
        purpose: hook.purpose,
        required: hook.required,
        rung: live.map(|way| way.rung.as_str()),
        attached: live.is_some() && !hook.on_demand,
        reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
    });
    Ok(())
}

/// Loads and attaches all programs of a way, or none.
fn attach_way(ebpf: &mut Ebpf, way: &Way, system: &System) -> Result<Vec<Link>, WayError> {
    let mut links = Vec::new();
    let here = way.where_present.iter().filter(|(_, target)| system.has(way.rung, target));
    for (name, target) in way.programs.iter().chain(here) {
        // A module's tracepoint is not in the kernel's own BTF: only trying tells.
        if !matches!(way.rung, Rung::RawTp) && !system.has(way.rung, target) {
            return Err(WayError::Absent(target));
        }
        let program = ebpf.program_mut(name).ok_or(WayError::NotInObject(name))?;
        load_program(program, target, &system.btf).map_err(WayError::Program)?;
        links.extend(attach(program, target).map_err(WayError::Program)?);
    }
    Ok(links)
}

/// Why a way does not work.
#[derive(Debug, Error)]
enum WayError {
    #[error("this kernel does not have {0}")]
    Absent(&'static str),
    #[error("the eBPF object does not contain {0}")]
    NotInObject(&'static str),
    #[error(transparent)]
    Program(ProgramError),
}

impl WayError {
    fn brief(&self) -> String {
        match self {
            Self::Program(error) if is_absent(error) => {
                "this kernel does not have this tracepoint or function".to_owned()
            }
            Self::Program(error) => brief(error),
            Self::Absent(_) | Self::NotInObject(_) => self.to_string(),
        }
    }

    fn is_absent(&self) -> bool {
        match self {
            Self::Absent(_) => true,
            Self::NotInObject(_) => false,
            Self::Program(error) => is_absent(error),
        }
    }
}
