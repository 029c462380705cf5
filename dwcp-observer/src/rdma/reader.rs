//! Loads the kernel side if the host has RDMA, and joins its data with the kernel's own lists.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::Arc,
};

use aya::Ebpf;
use dwcp_observer_ebpf::{SLOT_CLOSED, SLOT_LIVE, rdma::ProcessKey};

use super::{
    attach::{self, Attached, RdmaError},
    connection::Connections,
    device, join,
    kernel::{self, Maps},
    netlink::Netlink,
    reading::{Device, MemoryReading, Snapshot, Status},
    verbs,
};
use crate::{
    config::PostFunction,
    keeper::survey::Tried,
    kernel::sys::peek,
    model::{
        facts::{ProcessId, TICK_NS},
        queue_pair::QpReading,
    },
    process,
};

/// Sizes of the kernel side; all of it is allocated only where there is RDMA.
#[derive(Clone, Debug)]
pub struct Options {
    /// Queue pairs with a record of their own; further ones add to one sum.
    pub max_qps: u32,
    /// Soft-RoCE queue pairs whose send queue is followed; 24 KiB each.
    pub max_send_queues: u32,
    /// Processes with registered memory.
    pub max_processes: u32,
    /// Memory regions at a time.
    pub max_regions: u32,
    /// Providers' libraries whose post function is probed: none unless asked for.
    pub post_functions: Vec<PostFunction>,
    /// BTF of the running kernel, when it is not in the usual place; modules' BTF is looked for beside it.
    pub btf_path: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_qps: 1024,
            max_send_queues: 64,
            max_processes: 256,
            max_regions: 16_384,
            post_functions: Vec::new(),
            btf_path: None,
        }
    }
}

/// Time between two looks at the kernel's own list of queue pairs: on hardware it takes a command for each.
const RECONCILE_NS: u64 = 30_000_000_000;
/// Time between two readings of the devices' counters while a queue pair is open, and without one. Somewhat less than the cycle,
/// so that looks between two cycles do not take more.
const COUNTERS_NS: u64 = 900_000_000;
const IDLE_COUNTERS_NS: u64 = 10_000_000_000;
/// A queue pair without addresses that is older gets none, as a rule: its owner does without the connection manager.
const ADDRESS_NS: u64 = 10_000_000_000;

/// Names of devices that are remembered: each device that is made anew has an index of its own.
const MAX_NAMES: usize = 1024;

/// What is loaded and attached.
struct Active {
    attached: Attached,
    maps: Maps,
    netlink: Netlink,
    connections: Connections,
    joined: join::Joined,
    /// Slots of queue pairs that were shown closed: freed at the next poll.
    shown: Vec<u32>,
    /// Queue pairs that the kernel's list did not have at the last look.
    missing: BTreeSet<(u32, u32)>,
    /// Highest `VmPin` seen, by process, and whether it was gone at the last poll.
    pinned: BTreeMap<ProcessKey, (u64, bool)>,
    devices: Vec<Device>,
    /// Names of devices, also of those that are gone: their queue pairs may still end.
    names: BTreeMap<u32, String>,
    /// When the counters were last read; `None` when they are wanted now.
    counted_ns: Option<u64>,
    /// When the kernel's list was last looked at.
    reconciled_ns: Option<u64>,
}

/// The reader of everything about RDMA.
pub struct Rdma {
    options: Options,
    state: State,
}

enum State {
    /// No RDMA on this host, so far.
    Absent,
    Active(Box<Active>),
    /// Loading failed; it is not tried again, since nothing changes by itself.
    Failed(String),
}

/// What this kernel makes of each program of the RDMA object; nothing on a host without RDMA.
///
/// # Errors
/// [`RdmaError`]; nothing stays in the kernel.
pub fn survey(options: &Options) -> Result<Vec<Tried>, RdmaError> {
    if !attach::is_possible() {
        return Ok(Vec::new());
    }
    Attached::load(options, |_| Ok(())).map(|(attached, ())| attached.tried())
}

impl Rdma {
    /// Loads the kernel side if there is RDMA on this host; otherwise [`Self::poll`] does so as soon as there is.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let mut rdma = Self { options, state: State::Absent };
        rdma.load_if_possible();
        rdma
    }

    fn load_if_possible(&mut self) {
        if !matches!(self.state, State::Absent) || !attach::is_possible() {
            return;
        }
        self.state = match Active::load(&self.options) {
            Ok(active) => State::Active(Box::new(active)),
            Err(error) => {
                log::warn!("cannot measure RDMA: {error}");
                State::Failed(error.to_string())
            }
        };
    }

    /// What `check` says.
    #[must_use]
    pub fn status(&self) -> Status {
        match &self.state {
            State::Absent => Status::Absent,
            State::Failed(reason) => Status::Failed(reason.clone()),
            State::Active(active) => {
                let probes = active.attached.probes();
                Status::Active {
                    devices: active.devices.len(),
                    attached: probes.iter().filter(|probe| probe.attached).count(),
                    hooks: probes.len(),
                }
            }
        }
    }

    /// Becomes readable when a connection takes a step: a reader need not wait for its next cycle.
    #[must_use]
    pub fn wake_fd(&self) -> Option<OwnedFd> {
        match &self.state {
            State::Active(active) => active.maps.events().as_fd().try_clone_to_owned().ok(),
            _ => None,
        }
    }

    /// The loaded object, for its programs' figures.
    #[must_use]
    pub fn ebpf(&self) -> Option<&Ebpf> {
        match &self.state {
            State::Active(active) => Some(active.attached.ebpf()),
            _ => None,
        }
    }

    /// Looks at everything; `None` while there is no RDMA or it cannot be measured. A closed queue pair and an ended connection are
    /// in exactly one snapshot with their final values.
    ///
    /// `now_ns` is `CLOCK_MONOTONIC`.
    pub fn poll(&mut self, now_ns: u64) -> Option<Snapshot> {
        self.load_if_possible();
        match &mut self.state {
            State::Active(active) => Some(active.poll(&self.options, now_ns)),
            _ => None,
        }
    }
}

impl Active {
    fn load(options: &Options) -> Result<Self, RdmaError> {
        let mut netlink = Netlink::open().map_err(RdmaError::Netlink)?;
        let (attached, maps) = Attached::load(options, |ebpf| {
            Maps::prepare(ebpf, options.max_qps, options.max_send_queues)
        })?;
        log::debug!("RDMA: missing in BTF and tracefs: {}", attached.found.missing.join(", "));
        let devices = device::list(&mut netlink, false).unwrap_or_default();
        Ok(Self {
            attached,
            maps,
            netlink,
            connections: Connections::default(),
            joined: join::Joined::new(),
            shown: Vec::new(),
            missing: BTreeSet::new(),
            pinned: BTreeMap::new(),
            devices,
            names: BTreeMap::new(),
            counted_ns: None,
            reconciled_ns: None,
        })
    }

    fn poll(&mut self, options: &Options, now_ns: u64) -> Snapshot {
        self.attached.refresh(options);
        for slot in std::mem::take(&mut self.shown) {
            self.maps.release(slot);
        }
        let before = self.devices.iter().map(|device| device.index).collect::<Vec<_>>();
        let mut live = false;
        self.maps.visit(|_, record| live |= peek!(record, state) == SLOT_LIVE);
        let pace = if live { COUNTERS_NS } else { IDLE_COUNTERS_NS };
        let counters = is_due(self.counted_ns, pace, now_ns);
        match device::list(&mut self.netlink, counters) {
            Ok(devices) => {
                if counters {
                    self.counted_ns = Some(now_ns);
                }
                let before = std::mem::replace(&mut self.devices, devices);
                device::keep_counters(&mut self.devices, &before);
                if self.names.len() >= MAX_NAMES {
                    self.names.clear();
                }
                for device in &self.devices {
                    self.names.insert(device.index, device.name.clone());
                }
            }
            Err(error) => log::debug!("RDMA: devices: {error}"),
        }
        let changed = !self.devices.iter().map(|device| device.index).eq(before);
        let Self { maps, connections, .. } = self;
        maps.steps(|step| connections.step(step));
        if changed {
            self.counted_ns = None;
        }
        let reconciles = changed || is_due(self.reconciled_ns, RECONCILE_NS, now_ns);
        if reconciles {
            self.reconcile(now_ns);
            self.reconciled_ns = Some(now_ns);
        }
        let mut qps = self.queue_pairs();
        let connections = self.connections.take();
        join::connections(&mut qps, &connections, &mut self.joined);
        let wanting = |qp: &QpReading| {
            qp.local.is_none()
                && qp.closed_ns.is_none()
                && (reconciles || now_ns.saturating_sub(qp.opened_ns) < ADDRESS_NS)
        };
        if qps.iter().any(wanting) {
            self.list_connections(now_ns);
        }
        let mut losses = self.maps.losses();
        losses.push(("rdma_connections:full", self.connections.dropped()));
        Snapshot {
            devices: self.devices.clone(),
            qps: qps.into_iter().map(Arc::new).collect(),
            overflow: self.maps.overflow(),
            connections,
            memory: self.memory(),
            probes: self.attached.probes(),
            losses,
        }
    }

    fn queue_pairs(&mut self) -> Vec<QpReading> {
        let Self { attached, maps, devices, names, shown, .. } = self;
        let device = |index: u32| names.get(&index).cloned();
        let counters = |index: u32| {
            devices.iter().find(|device| device.index == index).is_some_and(|device| {
                device
                    .ports
                    .iter()
                    .any(|port| port.sent_bytes.is_some() || !port.hardware.is_empty())
            })
        };
        let (rxe, siw) =
            (attached.is_attached("rxe_post_send"), attached.is_attached("siw_post_send"));
        let doorbells = |driver: u32| match driver {
            verbs::DRIVER_RXE => rxe,
            verbs::DRIVER_SIW => siw,
            _ => false,
        };
        let context = kernel::Context {
            device: &device,
            counters: &counters,
            completions: attached.is_attached("rxe_cq_post"),
            rnr: attached.is_attached("rnr_nak_timer") && attached.found.send_queues(),
            doorbells: &doorbells,
        };
        let mut readings = Vec::new();
        maps.visit(|slot, record| {
            // SAFETY: the slot lies in a live mapping and all its bit patterns are valid.
            let qp = unsafe { record.as_ptr().read_volatile() };
            readings.push(kernel::read(slot, &qp, maps.latency(slot), &context));
            if qp.state == SLOT_CLOSED {
                shown.push(slot);
            }
        });
        readings
    }

    /// Compares with the kernel's own list: finds what was open before the observer, and what ended unseen.
    fn reconcile(&mut self, now_ns: u64) {
        let mut known = BTreeMap::new();
        self.maps.visit(|slot, record| {
            if peek!(record, state) == SLOT_LIVE {
                known.insert((peek!(record, device), peek!(record, qpn)), slot);
            }
        });
        let mut gone: BTreeMap<(u32, u32), u32> = known.clone();
        for device in &self.devices {
            let listed = match self.netlink.queue_pairs(device.index) {
                Ok(listed) => listed,
                Err(error) => {
                    log::debug!("RDMA: queue pairs of {}: {error}", device.name);
                    gone.retain(|(index, _), _| *index != device.index);
                    continue;
                }
            };
            let driver = self.netlink.driver(device.index).ok().flatten().unwrap_or_default();
            for qp in listed {
                let key = (device.index, qp.qpn);
                gone.remove(&key);
                if !known.contains_key(&key) {
                    let process = listed_process(qp.pid);
                    self.maps.adopt(device.index, &qp, driver, process, now_ns);
                }
            }
        }
        // Missing once may be a race with the list; missing twice is not.
        let missing = std::mem::take(&mut self.missing);
        for (key, slot) in gone {
            if missing.contains(&key) {
                self.maps.forget(slot, now_ns);
            } else {
                self.missing.insert(key);
            }
        }
    }

    /// Takes over what the kernel lists and no event told: connections from before the observer, and those of iWARP, whose
    /// requests pass no tracepoint. Seen in the next snapshot.
    fn list_connections(&mut self, now_ns: u64) {
        for device in &self.devices {
            // Without the connection manager's module there is nothing to list.
            let listed = self.netlink.connections(device.index).unwrap_or_default();
            listed.iter().for_each(|connection| self.connections.adopt(connection, now_ns));
        }
    }

    fn memory(&mut self) -> Vec<Arc<MemoryReading>> {
        let all = self.maps.memory();
        let mut readings = Vec::with_capacity(all.len());
        for (key, memory) in all {
            let process = process::open(ProcessId::new(key.tgid, key.start_boottime));
            let gone = process.is_none();
            let pinned_now = process.as_ref().and_then(|process| process.status().ok()?.vmpin);
            let pinned_now = pinned_now.map(|kib| kib * 1024);
            let (peak, gone_before) = self.pinned.entry(key).or_default();
            *peak = (*peak).max(pinned_now.unwrap_or_default());
            // What it had registered goes a moment after it, when its descriptors are closed.
            let ended = gone && (memory.bytes_now == 0 || *gone_before);
            *gone_before = gone;
            let reading = join::memory(key, &memory, *peak, ended);
            if ended {
                self.maps.forget_process(key);
                self.pinned.remove(&key);
            }
            readings.push(Arc::new(reading));
        }
        readings
    }
}

/// Whether what was last done at `last` is to be done again.
const fn is_due(last: Option<u64>, every: u64, now_ns: u64) -> bool {
    match last {
        Some(last) => now_ns.saturating_sub(last) >= every,
        None => true,
    }
}

/// Start (`CLOCK_BOOTTIME` ns, in whole clock ticks) and name of the process that the kernel has just listed; zero when it is gone.
fn listed_process(pid: u32) -> (u64, [u8; 16]) {
    let mut name = [0; 16];
    let Some(stat) = process::open_now(pid).and_then(|process| process.stat().ok()) else {
        return (0, name);
    };
    for (to, from) in name[..15].iter_mut().zip(stat.comm.bytes()) {
        *to = from;
    }
    (stat.starttime.saturating_mul(TICK_NS), name)
}
