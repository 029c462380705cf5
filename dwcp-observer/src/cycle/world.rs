//! What the registry asks of the kernel side and of `/proc`.

use std::path::{Path, PathBuf};

use dwcp_observer_ebpf::netdev::{Tap, TapKey};

use crate::{
    identify::rules::may_be_qemu,
    keeper::{Kernel, ProcessReading},
    migration::{look::World, quantiles::quantiles},
    model::{
        facts::{ProcessFacts, ThreadFacts},
        record::Quantiles,
    },
    netdev,
    phase::attach::Coverage,
    process,
};

/// `/proc` and the kernel side, for the registry.
pub(super) struct Live<'a>(pub(super) &'a mut Kernel);

impl World for Live<'_> {
    fn facts(&mut self, pid: u32) -> Option<ProcessFacts> {
        process::facts(pid)
    }

    fn tracer(&mut self, pid: u32) -> Option<u32> {
        process::tracer_of(pid)
    }

    fn threads(&mut self, pid: u32) -> Vec<ThreadFacts> {
        process::threads(pid)
    }

    fn flow_rtt(&self, slot: u32) -> Option<Quantiles> {
        quantiles(&self.0.flow_rtt(slot)?, 1e-6)
    }

    fn phases(&mut self, process: &ProcessReading, facts: &ProcessFacts) -> Option<Coverage> {
        if !may_be_qemu(process.rule, facts) {
            return Some(Coverage::Unprobed("is not QEMU's".to_owned()));
        }
        self.0.probe_phases(process)
    }

    fn watch_taps(&mut self, pid: u32) -> Vec<TapKey> {
        let taps = netdev::taps_of(pid);
        for key in &taps {
            self.0.watch_tap(*key);
        }
        taps
    }

    fn tap(&self, key: TapKey) -> Option<Tap> {
        self.0.tap(key)
    }

    fn quota_file(&mut self, pid: u32) -> Option<PathBuf> {
        process::quota::file_of(pid)
    }

    fn quota_throttled_ns(&mut self, file: &Path) -> Option<u64> {
        process::quota::throttled_ns(file)
    }

    fn is_stopped(&mut self, pid: u32) -> bool {
        process::quota::is_stopped(pid)
    }

    fn thread_waits(&self, slot: u32) -> Option<Quantiles> {
        quantiles(&self.0.thread_waits(slot)?, 1e-9)
    }
}
