//! Owns the kernel side: loads and attaches the programs, holds links and maps, and reads them. Higher floors see plain
//! values and need no privileges.

pub mod load;
mod records;
pub mod survey;

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
    programs::Program,
};
use dwcp_observer_ebpf::{
    Event,
    process::{CommRule, PORT_WORDS, Wanted},
};

use self::records::{Maps, PodWanted};
pub use self::{
    load::{LoadError, LoadOptions},
    records::ProcessReading,
};
use crate::{
    kernel::{
        clock_ns, host, refusal, stats,
        sys::{self, peek, poke},
    },
    model::{
        facts::{ProcessId, TICK_NS},
        histogram::Histogram,
        status::{ProbeStatus, ProgramStats},
    },
    phase::{
        FUNCTIONS,
        attach::{Attacher, Candidate, Coverage, Owner},
    },
    tcp::Clock,
};

/// The attached programs and their maps. Dropping it detaches and removes everything.
pub struct Kernel {
    ebpf: Ebpf,
    _links: Vec<load::Link>,
    on_demand: Vec<(&'static str, &'static str)>,
    /// Links of the hooks that are attached on demand; empty while nothing is watched.
    demanded: Vec<load::Link>,
    /// Slots of watched processes.
    watched: BTreeSet<u32>,
    /// Slots of processes that hold others stopped to dump them.
    freezing: BTreeSet<u32>,
    probes: Vec<ProbeStatus>,
    maps: Maps,
    jiffy_ns: u64,
    /// Whether changes of the congestion state are seen (Linux 5.17).
    congestion: bool,
    /// Whether this kernel's iterators take a process filter (6.1 and later).
    filters: bool,
    /// `None`: the configuration leaves phase functions alone.
    phases: Option<Attacher>,
}

impl Kernel {
    /// Loads the object, programs the rules, attaches, and sweeps once for what is already there.
    ///
    /// # Errors
    /// [`LoadError`]; nothing stays in the kernel.
    pub fn load(
        options: &LoadOptions,
        rules: &[CommRule],
        ports: &[u64; PORT_WORDS],
    ) -> Result<Self, LoadError> {
        let loaded = load::load(options, |ebpf| Ok(Maps::prepare(ebpf, rules, ports)?))?;
        for reason in &loaded.refused {
            log::info!("using a fallback: {reason}");
        }
        for field in &loaded.missing_fields {
            log::warn!("this kernel does not have {field}; figures that need it are missing");
        }
        let ebpf = loaded.ebpf;
        let mut probes = loaded.probes;
        let congestion =
            probes.iter().any(|probe| probe.probe == "tcp_cong_state_set" && probe.rung.is_some());
        let (programs, rows) = loaded.phases;
        probes.extend(rows);
        let phases = match programs.map(|it| Attacher::new(options.reader.clone(), it)).transpose()
        {
            Ok(phases) => phases,
            Err(error) => {
                log::warn!("cannot probe phase functions: {error}");
                None
            }
        };
        let mut kernel = Self {
            ebpf,
            _links: loaded.links,
            on_demand: loaded.on_demand,
            demanded: Vec::new(),
            watched: BTreeSet::new(),
            freezing: BTreeSet::new(),
            probes,
            maps: loaded.prepared,
            jiffy_ns: host::jiffy_ns(),
            congestion,
            filters: true,
            phases,
        };
        kernel.sweep_tasks();
        kernel.sweep_sockets(None);
        Ok(kernel)
    }

    /// One per hook.
    #[must_use]
    pub fn probes(&self) -> &[ProbeStatus] {
        &self.probes
    }

    /// The eBPF object, for its log map and its programs.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// The lifecycle ring buffer, once.
    pub fn take_events(&mut self) -> Option<RingBuf<MapData>> {
        self.ebpf.take_map("EVENTS")?.try_into().ok()
    }

    /// `CLOCK_MONOTONIC` now, and the length of a jiffy.
    #[must_use]
    pub fn clock(&self) -> Clock {
        Clock { monotonic_ns: clock_ns(libc::CLOCK_MONOTONIC), jiffy_ns: self.jiffy_ns }
    }

    /// Adopts processes by name or by [`Self::adopt`], new threads of known ones, and refreshes all thread totals.
    /// Ends those that are gone unseen.
    pub fn sweep_tasks(&mut self) {
        let expected = self.begin_sweep();
        match self.run("sweep_tasks", None) {
            Err(error) => log::warn!("task sweep failed: {error}"),
            Ok(()) => {
                if let Some(expected) = expected {
                    self.end_sweep(&expected);
                }
            }
        }
    }

    /// Whether all process slots are taken: then a sweep finds those that wait for one.
    #[must_use]
    pub fn processes_are_full(&self) -> bool {
        let (used, capacity) = self.maps.processes.usage(0..1);
        used >= capacity
    }

    /// Reads the sockets of one process, or of all, without waiting for a packet.
    pub fn sweep_sockets(&mut self, process: Option<u32>) {
        let filter = process.filter(|_| self.filters);
        match self.run("sweep_sockets", filter) {
            Err(error) if filter.is_some() && error.raw_os_error() == Some(libc::EINVAL) => {
                self.filters = false;
                self.sweep_sockets(None);
            }
            // The process is gone: its sockets are closed or closing, which events tell.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) => log::warn!("socket sweep failed: {error}"),
            Ok(()) => {}
        }
    }

    fn run(&mut self, program: &str, process: Option<u32>) -> io::Result<()> {
        let Some(Program::Iter(program)) = self.ebpf.program(program) else {
            return Err(io::Error::other("the eBPF object does not contain the iterator"));
        };
        let fd = program.fd().map_err(io::Error::other)?;
        sys::run_iterator(fd.as_fd(), process)
    }

    /// Probes the phase functions of a process' executable, if that has not been done. `None` while they are being looked for, and when
    /// the process is gone.
    pub fn probe_phases(&mut self, process: &ProcessReading) -> Option<Coverage> {
        let Some(phases) = &mut self.phases else {
            return Some(Coverage::Unprobed(
                "is not probed: disabled in the configuration".to_owned(),
            ));
        };
        let candidate = Candidate {
            slot: process.slot,
            pid: process.tgid,
            started_boottime_ns: process.start_boottime_ns,
        };
        let coverage = phases.attach(candidate, &mut owner(&mut self.maps));
        self.mark_phases();
        coverage
    }

    /// What becomes readable with news of phase functions.
    #[must_use]
    pub fn phases_fd(&self) -> Option<OwnedFd> {
        self.phases.as_ref()?.wake_fd().try_clone_to_owned().ok()
    }

    /// Takes such news in; true when there was some.
    pub fn collect_phases(&mut self) -> bool {
        let Some(phases) = &mut self.phases else { return false };
        let news = phases.collect(&mut owner(&mut self.maps));
        self.mark_phases();
        news
    }

    /// Probes a process at once that has just been adopted, before the next look.
    pub fn probe_new(&mut self, slot: u32, mut wanted: impl FnMut(&ProcessReading) -> bool) {
        let reading = self.maps.process(slot).filter(|reading| slot != 0 && wanted(reading));
        if let Some(reading) = reading {
            self.probe_phases(&reading);
        }
    }

    /// Figures of every loaded program.
    #[must_use]
    pub fn program_stats(&self) -> Vec<ProgramStats> {
        let mut all = stats::programs(&self.ebpf).unwrap_or_default();
        let shared = self.phases.iter().flat_map(Attacher::shared_programs);
        all.extend(shared.filter_map(|fd| stats::program(fd).ok()));
        all
    }

    /// Time from a process' start to its probes, seconds; `None` where phase functions are not probed.
    #[must_use]
    pub fn probe_delay(&self) -> Option<&Histogram> {
        self.phases.as_ref().map(Attacher::delay)
    }

    /// Whether the phase functions of some executable are probed.
    fn mark_phases(&mut self) {
        let attached = self.phases.as_ref().is_some_and(Attacher::is_attached);
        for function in FUNCTIONS {
            for probe in self.probes.iter_mut().filter(|probe| probe.probe == function.place) {
                probe.attached = attached && probe.rung.is_some();
            }
        }
    }

    /// Adopts a process that was recognised by other means than its name; not another one that has its id by now.
    pub fn adopt(&mut self, process: ProcessId, rule: u32) {
        let ProcessId { pid, start_ticks } = process;
        let from_boottime = start_ticks.saturating_mul(TICK_NS);
        let until_boottime = from_boottime.saturating_add(TICK_NS);
        let wanted = Wanted { from_boottime, until_boottime, rule, reserved: 0 };
        if let Err(error) = self.maps.wanted.insert(pid, PodWanted(wanted), 0) {
            log::warn!("cannot track process {pid}: {error}");
            return;
        }
        self.sweep_tasks();
        if let Err(error) = self.maps.wanted.remove(&pid) {
            log::warn!("cannot stop tracking process {pid}: {error}");
        }
    }

    /// Starts or stops measuring the threads of a process.
    pub fn watch(&mut self, slot: u32, on: bool) {
        if let Some(record) = self.maps.processes.slot(slot) {
            poke!(record, watch, u32::from(on));
        }
        if on {
            self.watched.insert(slot);
        } else {
            self.watched.remove(&slot);
        }
        self.attach_on_demand();
    }

    /// A process has stopped another to dump it: the scheduler tells when that may run again.
    pub fn freeze_began(&mut self, slot: u32) {
        self.freezing.insert(slot);
        self.attach_on_demand();
    }

    /// Takes in which processes hold others stopped.
    pub fn follow_freezes(&mut self, processes: &[ProcessReading]) {
        let freezing = processes.iter().filter(|process| {
            let lasts = process.freeze.as_ref().is_some_and(|freeze| freeze.ended.is_none());
            lasts && process.exited_ns.is_none()
        });
        self.freezing = freezing.map(|process| process.slot).collect();
        self.attach_on_demand();
    }

    /// Attaches the scheduler's hooks while a process is watched, or stopped to be dumped.
    fn attach_on_demand(&mut self) {
        let wanted = !self.watched.is_empty() || !self.freezing.is_empty();
        if wanted != self.demanded.is_empty() {
            return;
        }
        if wanted {
            for (name, hook) in &self.on_demand {
                let Some(program) = self.ebpf.program_mut(name) else { continue };
                match load::attach(program, hook) {
                    Ok(link) => self.demanded.extend(link),
                    // A module that is not loaded yet: then nothing of it runs.
                    Err(error) if refusal::is_absent(&error) => log::debug!("{hook}: {error}"),
                    Err(error) => log::warn!("cannot attach to {hook}: {error}"),
                }
            }
        } else {
            self.demanded.clear();
        }
        for probe in &mut self.probes {
            if self.on_demand.iter().any(|(_, hook)| *hook == probe.probe) {
                probe.attached = wanted;
            }
        }
    }
}

/// Tells the kernel side whose probes count for the process in a slot.
fn owner(maps: &mut Maps) -> impl FnMut(Owner) {
    |owner| {
        if let Some(record) = maps.processes.slot(owner.slot)
            && ProcessId::new(peek!(record, tgid), peek!(record, start_boottime)) == owner.process
        {
            poke!(record, pending_form, owner.pending_form);
            poke!(record, executable, owner.executable);
        }
    }
}

/// Decodes one entry of the lifecycle ring buffer; `None` when it has another size.
#[must_use]
pub fn decode_event(bytes: &[u8]) -> Option<Event> {
    let words: [u32; 4] = std::array::from_fn(|index| {
        bytes
            .get(index * 4..index * 4 + 4)
            .and_then(|word| word.try_into().ok())
            .map_or(0, u32::from_ne_bytes)
    });
    (bytes.len() == size_of::<Event>()).then_some(Event {
        kind: words[0],
        slot: words[1],
        tgid: words[2],
        reserved: words[3],
    })
}
