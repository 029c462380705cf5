//! The verdict: each second, whether a migration goes well, and if not, what holds it back.
//!
//! A [`Judge`] is fed one [`inputs::Second`] after the other and answers with a [`Verdict`]. Four questions, one file each:
//! where does the sending side's time go ([`split`]), is that good or bad ([`state`], which needs the migration's own past,
//! `slow`, which knows the faults, `standstill`, which knows the guest that is waited for, and [`converge`], which looks at the
//! rounds), when will it be done ([`eta`]), are the streams even ([`streams`]). [`sentence`] puts the answer into words.
//!
//! All of it works on plain values: no kernel, no `/proc`, no clock.

mod black_hole;
pub mod converge;
pub mod eta;
pub mod inputs;
mod neighbours;
mod reference;
pub mod sentence;
mod slow;
pub mod split;
mod standstill;
pub mod state;
pub mod streams;

#[cfg(test)]
mod tests;

use std::ops::{Index, IndexMut};

use serde::{Serialize, Serializer};

pub use state::Judge;

/// What is said of one second of a migration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// One word.
    pub state: Health,
    /// What explains it; absent when the sending end is on another host and the receiving end is not the cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// One line to act on, with figures.
    pub sentence: String,
    /// Wall time of the sending side by cause, sums to 1; absent when the sending end is on another host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fractions: Option<Fractions>,
    /// Time to the end; absent when unknown or not converging.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub eta: Option<eta::Eta>,
    /// How even the streams are; absent with fewer than two, or when nothing was delivered.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub balance: Option<streams::Balance>,
    /// Run-queue wait of guest CPUs that ended when a migration thread left the CPU, seconds of this second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_cpu_stolen_seconds: Option<f64>,
    /// The guest stands still: where, since when, for what; absent when it runs or nothing tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standing: Option<inputs::Standing>,
    /// The migrator holds the guest's CPUs back by so much of their time (auto-converge); absent when it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_throttle_percent: Option<u32>,
}

/// How a migration goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// As fast as it can, and it will end.
    Healthy,
    /// Held back, or far below its usual rate.
    Slow,
    /// Nothing arrives.
    Stalled,
    /// The guest dirties as fast as it is sent: it will not end by itself.
    NotConverging,
}

impl Health {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Healthy, Self::Slow, Self::Stalled, Self::NotConverging];

    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Slow => "slow",
            Self::Stalled => "stalled",
            Self::NotConverging => "not_converging",
        }
    }
}

/// Where the sending side's time goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Its threads work.
    Sending,
    /// Data are on their way: congestion window, loss recovery, RTT, send buffer.
    Network,
    /// The receiver's window is closed, or its process does not run.
    Receiver,
    /// The threads want a CPU and have none.
    SourceCpu,
    /// Memory is registered with an RDMA device, at either end.
    Registration,
    /// The migrator's own bandwidth limit.
    Throttled,
    /// The migrator has nothing to send.
    Application,
    /// Pages that were sent before and that the guest has changed since.
    GuestDirtying,
    /// The manager (libvirt, KubeVirt, ...) has yet to let the migration or the guest go on.
    Manager,
}

impl Cause {
    /// All causes, in the order of [`Fractions`].
    pub const ALL: [Self; 9] = [
        Self::Sending,
        Self::Network,
        Self::Receiver,
        Self::SourceCpu,
        Self::Registration,
        Self::Throttled,
        Self::Application,
        Self::GuestDirtying,
        Self::Manager,
    ];

    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sending => "sending",
            Self::Network => "network",
            Self::Receiver => "receiver",
            Self::SourceCpu => "source_cpu",
            Self::Registration => "registration",
            Self::Throttled => "throttled",
            Self::Application => "application",
            Self::GuestDirtying => "guest_dirtying",
            Self::Manager => "manager",
        }
    }
}

/// Shares of wall time by cause, each 0 to 1, together 1. In JSON an object with the causes' names.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fractions([f64; Cause::ALL.len()]);

impl Index<Cause> for Fractions {
    type Output = f64;

    fn index(&self, cause: Cause) -> &f64 {
        &self.0[cause as usize]
    }
}

impl IndexMut<Cause> for Fractions {
    fn index_mut(&mut self, cause: Cause) -> &mut f64 {
        &mut self.0[cause as usize]
    }
}

impl Serialize for Fractions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(cause, share)| (cause.as_str(), share)))
    }
}

impl Fractions {
    /// Each cause and its share.
    pub fn iter(&self) -> impl Iterator<Item = (Cause, f64)> {
        Cause::ALL.into_iter().zip(self.0)
    }

    /// Together.
    pub(crate) fn sum(&self) -> f64 {
        self.0.iter().sum()
    }

    /// The cause with the largest share; the first in the order of [`Cause::ALL`] among equals.
    #[must_use]
    pub fn dominant(&self) -> Cause {
        self.dominant_of(&Cause::ALL)
    }

    /// The largest among some causes.
    pub(crate) fn dominant_of(&self, causes: &[Cause]) -> Cause {
        let first = causes.first().copied().unwrap_or(Cause::Application);
        causes
            .iter()
            .fold(first, |best, cause| if self[*cause] > self[best] { *cause } else { best })
    }
}
