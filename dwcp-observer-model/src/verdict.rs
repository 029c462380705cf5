//! The verdict on one second of a migration.

use std::{
    collections::BTreeMap,
    ops::{Index, IndexMut},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::record::{Awaited, Role};

/// What is said of one second of a migration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    pub eta: Option<Eta>,
    /// How even the streams are; absent with fewer than two, or when nothing was delivered.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub balance: Option<Balance>,
    /// Run-queue wait of guest CPUs that ended when a migration thread left the CPU, seconds of this second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_cpu_stolen_seconds: Option<f64>,
    /// The guest stands still: where, since when, for what; absent when it runs or nothing tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
    /// The migrator holds the guest's CPUs back by so much of their time (auto-converge); absent when it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_throttle_percent: Option<u32>,
}

crate::named! {
    /// How a migration goes.
    pub enum Health {
        /// As fast as it can, and it will end.
        Healthy = "healthy",
        /// Held back, or far below its usual rate.
        Slow = "slow",
        /// Nothing arrives.
        Stalled = "stalled",
        /// The guest dirties as fast as it is sent: it will not end by itself.
        NotConverging = "not_converging",
    }
}

crate::named! {
    /// Where the sending side's time goes.
    pub enum Cause {
        /// Its threads work.
        Sending = "sending",
        /// Data are on their way: congestion window, loss recovery, RTT, send buffer.
        Network = "network",
        /// The receiver's window is closed, or its process does not run.
        Receiver = "receiver",
        /// The threads want a CPU and have none.
        SourceCpu = "source_cpu",
        /// Memory is registered with an RDMA device, at either end.
        Registration = "registration",
        /// The migrator's own bandwidth limit.
        Throttled = "throttled",
        /// The migrator has nothing to send.
        Application = "application",
        /// Pages that were sent before and that the guest has changed since.
        GuestDirtying = "guest_dirtying",
        /// The manager (libvirt, KubeVirt, ...) has yet to let the migration or the guest go on.
        Manager = "manager",
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

impl<'de> Deserialize<'de> for Fractions {
    /// A cause that is missing has no share; one that is not known here is passed over.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let shares = BTreeMap::<String, f64>::deserialize(deserializer)?;
        let share = |cause: Cause| shares.get(cause.as_str()).copied().unwrap_or_default();
        Ok(Self(Cause::ALL.map(share)))
    }
}

impl Fractions {
    /// Each cause and its share.
    pub fn iter(&self) -> impl Iterator<Item = (Cause, f64)> {
        Cause::ALL.into_iter().zip(self.0)
    }

    /// Together.
    pub fn sum(&self) -> f64 {
        self.0.iter().sum()
    }

    /// The cause with the largest share; the first in the order of [`Cause::ALL`] among equals.
    #[must_use]
    pub fn dominant(&self) -> Cause {
        self.dominant_of(&Cause::ALL)
    }

    /// The largest among some causes.
    pub fn dominant_of(&self, causes: &[Cause]) -> Cause {
        let first = causes.first().copied().unwrap_or(Cause::Application);
        causes
            .iter()
            .fold(first, |best, cause| if self[*cause] > self[best] { *cause } else { best })
    }
}

/// Seconds to the end of the migration, with an interval of about 90 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Eta {
    /// Most likely.
    pub eta_seconds: f64,
    /// It will hardly be sooner.
    pub eta_low_seconds: f64,
    /// It will hardly be later.
    pub eta_high_seconds: f64,
}

/// Evenness of the streams' delivered bytes in one second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Balance {
    /// Fastest stream over the mean: 1 is even, the number of streams is all on one.
    pub stream_max_over_mean: f64,
    /// Jain's index (Jain, Chiu, Hawe 1984), `(sum x)^2 / (n sum x^2)`: 1 is even, `1/n` is all on one.
    pub stream_jain_index: f64,
    /// Streams sorted by rate, fastest first: the k-th stream's rate over the fastest one's, that is what the k-th stream adds
    /// in units of the best. The first is 1.
    pub stream_marginal_gain: Vec<f64>,
    /// Mean of the marginal gains: 1 when n streams carry n times the fastest.
    pub stream_scaling_efficiency: f64,
}

/// A guest that stands still.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// The end that would have to go on.
    pub at: Role,
    /// Its process; `None` on another host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// So long, seconds.
    pub seconds: f64,
    /// What it waits for.
    pub awaits: Awaited,
}
