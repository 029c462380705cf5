//! What the registry asks of the kernel side and of `/proc`.

use std::path::{Path, PathBuf};

use dwcp_observer_ebpf::netdev::{Tap, TapKey};

use crate::{
    identify::rules::may_be_qemu,
    keeper::{Kernel, ProcessReading},
    migration::{look::World, quantiles::quantiles},
    model::{
        facts::{ProcessFacts, ProcessId, ThreadFacts, Unread},
        record::Quantiles,
    },
    netdev,
    phase::attach::Coverage,
    process::{self, CommandLines},
};

/// `/proc` and the kernel side, for the registry.
pub(super) struct Live<'a> {
    pub(super) kernel: &'a mut Kernel,
    pub(super) lines: &'a mut CommandLines,
}

impl World for Live<'_> {
    fn facts(&mut self, process: ProcessId) -> Option<ProcessFacts> {
        process::facts(process, self.lines)
    }

    fn facts_now(&mut self, pid: u32) -> Option<ProcessFacts> {
        process::facts_now(pid, self.lines)
    }

    fn cmdline(&mut self, process: ProcessId) -> Result<Vec<String>, Unread> {
        match process::open(process) {
            Some(open) => self.lines.of(process, &open),
            None => Ok(Vec::new()),
        }
    }

    fn traced_name(&mut self, pid: u32, tracer: ProcessId) -> Option<String> {
        process::traced_name(pid, tracer)
    }

    fn threads(&mut self, process: ProcessId) -> Vec<ThreadFacts> {
        process::threads(process)
    }

    fn flow_rtt(&self, slot: u32) -> Option<Quantiles> {
        quantiles(&self.kernel.flow_rtt(slot)?, 1e-6)
    }

    fn phases(&mut self, process: &ProcessReading, facts: &ProcessFacts) -> Option<Coverage> {
        if !may_be_qemu(process.rule, facts) {
            return Some(Coverage::Unprobed("is not QEMU's".to_owned()));
        }
        self.kernel.probe_phases(process)
    }

    fn watch_taps(&mut self, process: ProcessId) -> Vec<TapKey> {
        let taps = netdev::taps_of(process);
        for key in &taps {
            self.kernel.watch_tap(*key);
        }
        taps
    }

    fn tap(&self, key: TapKey) -> Option<Tap> {
        self.kernel.tap(key)
    }

    fn quota_file(&mut self, process: ProcessId) -> Option<PathBuf> {
        process::quota::file_of(process)
    }

    fn quota_throttled_ns(&mut self, file: &Path) -> Option<u64> {
        process::quota::throttled_ns(file)
    }

    fn is_stopped(&mut self, process: ProcessId) -> bool {
        process::quota::is_stopped(process)
    }

    fn thread_waits(&self, slot: u32) -> Option<Quantiles> {
        quantiles(&self.kernel.thread_waits(slot)?, 1e-9)
    }
}
