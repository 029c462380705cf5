//! What the guest felt, and the phases that its migration passed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Role;
use crate::{
    qemu::{MigratorState, Request},
    verdict::Standing,
};

crate::named! {
    /// How an instant was found.
    pub enum Method {
        /// The migrator's own functions, by uprobe.
        PhaseFunctions = "phase_functions",
        /// Guest CPUs in the scheduler.
        VcpuScheduling = "vcpu_scheduling",
    }
}

/// Time in which the guest's CPUs ran nowhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Blackout {
    /// Length; absent while an end is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// What gave the instants; `phase_functions` when one of them rests on a function alone.
    pub method: Method,
    /// Both instants are known.
    pub complete: bool,
    /// The half that is seen from here, where the other end is on another host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half: Option<Role>,
    /// Why `seconds` is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<String>,
    /// The guest last ran, at the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<Timestamp>,
    /// The guest ran again, at the destination, or at the source when the switch-over failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// The switch-over failed: the guest ran on at the source.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ran_on_at_source: bool,
    /// What each method gives on its own.
    pub by_method: ByMethod,
    /// Where the time went; the parts sum to `seconds`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breakdown: Option<BlackoutParts>,
    /// Most that this host's clock may be off (`adjtimex(2)`, `maxerror`), for joining the halves of two hosts; absent when the
    /// clock is not synchronised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_error_seconds: Option<f64>,
}

/// Kinds of a guest's first packet at its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirstPacket {
    /// QEMU's own announcement of the guest (RFC 903).
    Rarp,
    /// The guest, or QEMU for it, asks or tells an address.
    Arp,
    /// Anything else.
    #[serde(other)]
    Other,
}

impl FirstPacket {
    /// From an EtherType.
    #[must_use]
    pub const fn of(protocol: u32) -> Self {
        match protocol {
            0x8035 => Self::Rarp,
            0x0806 => Self::Arp,
            _ => Self::Other,
        }
    }
}

/// Time between the guest's stop and its first packet at the destination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkBlackout {
    /// Length; absent when the guest's stop was not seen on this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// When the first packet came out of the destination's device.
    pub first_packet_at: Timestamp,
    /// What it was: `rarp` is QEMU's announcement.
    pub first_packet: FirstPacket,
    /// Device at the destination.
    pub destination_interface: String,
    /// Device at the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_interface: Option<String>,
    /// When the guest's last packet came out of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_packet_at: Option<Timestamp>,
}

/// A blackout's length by each method, seconds; absent where a method gave none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ByMethod {
    /// `pause_all_vcpus` of the source to `resume_all_vcpus` of the destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase_functions: Option<f64>,
    /// Last guest CPU off the source's CPUs to first one on the destination's, found without the functions' help.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu_scheduling: Option<f64>,
}

/// Parts of a blackout, seconds, in order of time; they sum to the whole. A part whose edge is not known is absent, and its time is
/// in the next one that is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BlackoutParts {
    /// Guest stopped, until the last pass over RAM: devices are quiesced, disks flushed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<f64>,
    /// Last pass over RAM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ram: Option<f64>,
    /// Device state is saved and written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<f64>,
    /// The last of it travels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<f64>,
    /// The destination loads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    /// Loaded, until the manager lets the guest run (`cont`); absent at a destination that does so by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume: Option<f64>,
    /// Until a guest CPU runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<f64>,
}

impl BlackoutParts {
    /// The parts with their names, in order of time.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, Option<f64>); 7] {
        [
            ("stop", self.stop),
            ("ram", self.ram),
            ("device", self.device),
            ("network", self.network),
            ("load", self.load),
            ("resume", self.resume),
            ("start", self.start),
        ]
    }

    /// Of the parts that are known, seconds.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.named().into_iter().filter_map(|(_, seconds)| seconds).sum()
    }
}

/// A guest that stands still at this moment, because of its migration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standstill {
    /// Since when.
    pub since: Timestamp,
    /// Where, so long, and what it waits for: as the verdict has it.
    #[serde(flatten)]
    pub standing: Standing,
}

crate::named! {
    /// What ends a standstill.
    pub enum Awaited {
        /// The migrator's own work: the last pass, the device state, loading.
        SwitchOver = "switch_over",
        /// `migrate-continue` by the manager, at the source (`pause-before-switchover`).
        MigrateContinue = "migrate_continue",
        /// `cont` by the manager, at a destination that has loaded everything (started with `-S`).
        Resume = "resume",
        /// `migrate-recover` and `migrate` with `resume`: postcopy is paused, guest CPUs stand as soon as they need a page.
        Recovery = "recovery",
    }
}

/// Something that the manager asked a migrator for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManagerRequest {
    /// When.
    pub at: Timestamp,
    /// The end that was asked.
    pub end: Role,
    /// For what, as the command is named in QMP.
    pub request: Request,
}

/// A time in which postcopy had no connection.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interruption {
    /// The connection broke.
    pub broken_at: Timestamp,
    /// Pages flow again; absent while they do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered_at: Option<Timestamp>,
    /// Length, so far if it lasts.
    pub seconds: f64,
}

crate::named! {
    /// A phase of a migration.
    pub enum PhaseName {
        /// Connections are made, dirty logging is started; what is to be dumped still runs.
        Setup = "setup",
        /// The tasks of a process that is to be dumped are stopped, one after the other.
        Freeze = "freeze",
        /// All of them stand while they are dumped.
        Dump = "dump",
        /// RAM is copied while the guest runs at the source.
        Precopy = "precopy",
        /// The guest stands still.
        StopAndCopy = "stop_and_copy",
        /// The guest runs at the destination, pages are still at the source.
        Postcopy = "postcopy",
        /// The guest runs, connections are closed; what was dumped has ended or runs on.
        Completion = "completion",
    }
}

/// A span of a migration.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Phase {
    /// Which.
    pub phase: PhaseName,
    /// Begin.
    pub started_at: Timestamp,
    /// Length, so far if it lasts.
    pub seconds: f64,
}

/// One pass over RAM.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Round {
    /// Counts from 1, as `dirty-sync-count`.
    pub round: u64,
    /// Begin: the dirty bitmap was fetched.
    pub started_at: Timestamp,
    /// Length, so far if it lasts.
    pub seconds: f64,
    /// Payload handed to the sockets; absent while it lasts, and where a device moves it without the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// What was left to send when it ended, by QEMU's own count: what the guest had dirtied in it, and what it had not sent. Absent
    /// while it lasts, for the last two rounds, and where QEMU does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_bytes: Option<u64>,
    /// What the guest dirtied in it (each page once, as QEMU counts) over its length; absent as `remaining_bytes`, and up to QEMU 7.2
    /// where its pages did not go as they are (zero pages, XBZRLE).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty_bytes_per_second: Option<f64>,
}

/// A state of the migrator and when it was entered.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct MigratorStateChange {
    /// As in QMP: `setup`, `active`, `completed`, ...
    pub state: MigratorState,
    /// When.
    pub at: Timestamp,
}

/// What became of the guest's pages after the switch-over of a postcopy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Postcopy {
    /// Pages that the destination asked for; absent where it is on another host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_requests: Option<u64>,
    /// Stays of guest CPUs off their CPU during which a page was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_waits: Option<u64>,
    /// Sum of these stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_wait_seconds: Option<f64>,
    /// Mean stay: the page-fault latency that the guest felt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_wait_mean_seconds: Option<f64>,
    /// Times without a connection, in order: no part of the blackout.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interruptions: Vec<Interruption>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_packets_have_names() {
        assert_eq!(FirstPacket::of(0x8035), FirstPacket::Rarp);
        assert_eq!(FirstPacket::of(0x0806), FirstPacket::Arp);
        assert_eq!(FirstPacket::of(0x0800), FirstPacket::Other);
    }
}
