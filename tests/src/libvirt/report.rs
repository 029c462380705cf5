//! What the record says beside what is true.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use dwcp_observer_model::record::Migration;
use serde::Serialize;

use super::modes::Mode;
use crate::clock::Standstill;

/// Off by more is wrong: seconds, and share of the blackout.
const ERROR: (f64, f64) = (0.005, 0.03);

/// What is known from outside the observer.
#[derive(Clone, Debug)]
pub(super) struct Truth {
    /// By the guest's clock; `None` where the guest did not move.
    pub(super) standstill: Option<Standstill>,
    /// `virsh domjobinfo`.
    pub(super) job: BTreeMap<String, u64>,
}

/// One migration.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// How libvirt migrated.
    pub mode: &'static str,
    /// Of the record.
    pub outcome: String,
    /// Seconds by the guest's clock.
    pub true_blackout: Option<f64>,
    /// The host gave the guest no CPU around the switch-over: the clock is no truth then.
    pub disturbed: bool,
    /// Seconds of the record.
    pub blackout: Option<f64>,
    /// Seconds that libvirt tells.
    pub libvirt_downtime: Option<f64>,
    /// Payload of RAM in the record.
    pub bytes: Option<u64>,
    /// What libvirt says was sent of RAM.
    pub libvirt_bytes: Option<u64>,
    /// Payload of disks in the record.
    pub storage_bytes: Option<u64>,
    /// What libvirt says was sent of disks.
    pub libvirt_storage_bytes: Option<u64>,
    /// Rounds of the record.
    pub rounds: usize,
    /// Those of QEMU.
    pub libvirt_rounds: Option<u64>,
    /// Streams of the record.
    pub streams: usize,
    /// What is wrong.
    pub faults: Vec<String>,
    /// The record.
    #[serde(skip)]
    pub record: Migration,
}

impl Figures {
    pub(super) fn of(mode: &Mode, record: Migration, records: usize, truth: &Truth) -> Self {
        let told = |name: &str| truth.job.get(name).copied().filter(|value| *value > 0);
        let mut figures = Self {
            mode: mode.name,
            outcome: record.outcome.map_or("", |outcome| outcome.as_str()).to_owned(),
            true_blackout: truth.standstill.as_ref().map(|found| found.seconds),
            disturbed: truth.standstill.as_ref().is_some_and(Standstill::is_disturbed),
            blackout: record.blackout_seconds(),
            libvirt_downtime: told("downtime").map(|ms| ms as f64 / 1e3),
            bytes: record.bytes.map(|bytes| bytes.delivered),
            libvirt_bytes: told("memory_processed"),
            storage_bytes: record.storage.as_ref().map(|storage| storage.bytes.delivered),
            libvirt_storage_bytes: told("disk_processed"),
            rounds: record.rounds.len(),
            libvirt_rounds: told("memory_iteration"),
            streams: record.streams.len(),
            faults: Vec::new(),
            record,
        };
        figures.faults = figures.faults_of(mode, records);
        figures
    }

    fn faults_of(&self, mode: &Mode, records: usize) -> Vec<String> {
        let mut faults = Vec::new();
        if records != 1 {
            faults.push(format!("{records} records"));
        }
        if self.outcome != mode.outcome {
            faults.push(format!("outcome {} instead of {}", self.outcome, mode.outcome));
        }
        if self.record.ends.len() != 2 {
            faults.push("not both ends".to_owned());
        }
        if mode.outcome != "completed" {
            return faults;
        }
        match (self.blackout, self.true_blackout) {
            (None, _) => faults.push("no blackout".to_owned()),
            (Some(found), Some(truth))
                if !self.disturbed && (found - truth).abs() > ERROR.0.max(truth * ERROR.1) =>
            {
                faults.push(format!("blackout {found:.4} s instead of {truth:.4}"));
            }
            _ => {}
        }
        if mode.disk && self.storage_bytes.is_none() {
            faults.push("no storage".to_owned());
        }
        faults
    }
}

/// A table for people.
#[must_use]
pub fn render(runs: &[Figures]) -> String {
    let mut out = format!(
        "{:<15} {:<10} {:>9} {:>9} {:>9} {:>12} {:>12} {:>11} {:>11} {:>7} {:>7}  faults\n",
        "mode",
        "outcome",
        "true ms",
        "found ms",
        "libvirt",
        "RAM bytes",
        "libvirt",
        "disk bytes",
        "libvirt",
        "rounds",
        "libvirt"
    );
    let ms = |value: Option<f64>| value.map_or("-".to_owned(), |s| format!("{:.2}", s * 1e3));
    let whole = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
    for run in runs {
        let mut truth = ms(run.true_blackout);
        if run.disturbed {
            truth.push('*');
        }
        // Writing into a string does not fail.
        let _ = writeln!(
            out,
            "{:<15} {:<10} {:>9} {:>9} {:>9} {:>12} {:>12} {:>11} {:>11} {:>7} {:>7}  {}",
            run.mode,
            run.outcome,
            truth,
            ms(run.blackout),
            ms(run.libvirt_downtime),
            whole(run.bytes),
            whole(run.libvirt_bytes),
            whole(run.storage_bytes),
            whole(run.libvirt_storage_bytes),
            run.rounds,
            whole(run.libvirt_rounds),
            run.faults.join("; ")
        );
    }
    out
}
