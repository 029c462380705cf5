//! The published state of the components.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{health::Status, rollout::Progress};
use crate::{
    config::{Component, ComponentMode},
    model::record::Name,
    sla::decide::Unhealthy,
};

/// All components at one moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct View {
    /// When; null before the first look.
    pub at: Option<Timestamp>,
    /// Those that are not off.
    pub components: Vec<ComponentView>,
    /// How far the rollout is; null where nothing tells v1 from v3, or without migrations.
    pub rollout: Option<Progress>,
    /// What components gave of themselves, as text, each family once.
    #[serde(skip)]
    pub carried: String,
}

impl View {
    /// One component; `None` when it is off.
    #[must_use]
    pub fn get(&self, component: Component) -> Option<&ComponentView> {
        self.components.iter().find(|view| view.component == component)
    }

    /// Components that a rule or an endpoint has shown and that are unhealthy; `None` when there are none such. Stalled migrations
    /// are not held against amst here: they are judged by themselves.
    #[must_use]
    pub fn unhealthy(&self) -> Option<Vec<Unhealthy>> {
        let known = || {
            let watched = self.components.iter().filter(|view| view.watched);
            watched.filter(|view| view.status != Status::Unknown)
        };
        known().next()?;
        let unhealthy =
            known().filter(|it| it.status == Status::Unhealthy && !it.by_migrations_alone);
        Some(
            unhealthy
                .map(|view| Unhealthy {
                    component: view.component.as_str().to_owned(),
                    why: view.reasons.join("; "),
                })
                .collect(),
        )
    }
}

/// One component.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ComponentView {
    /// Which.
    pub component: Component,
    /// By configuration.
    pub version: String,
    /// Who serves its port.
    pub mode: ComponentMode,
    /// How it fares.
    pub status: Status,
    /// Why it is not better.
    pub reasons: Vec<String>,
    /// Its processes; null as long as none was ever seen.
    pub processes: Option<ProcessView>,
    /// Its sockets; null as long as none was ever seen.
    pub connections: Option<ConnectionView>,
    /// Its own endpoint; null when it is not scraped.
    pub scrape: Option<ScrapeView>,
    /// What it gave of itself, as text.
    #[serde(skip)]
    pub carried: String,
    /// A rule or an endpoint has shown it, or it is required: not migrations alone.
    #[serde(skip)]
    pub watched: bool,
    /// Nothing but stalled migrations makes it unhealthy.
    #[serde(skip)]
    pub by_migrations_alone: bool,
}

/// Processes and threads of a component.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessView {
    /// Ids of live processes.
    pub pids: Vec<u32>,
    /// Matching processes over the limit.
    pub left_out: u64,
    /// Threads that count.
    pub threads: u64,
    /// CPU time since each was first seen, seconds.
    pub cpu_seconds: f64,
    /// Resident memory of the processes, bytes.
    pub resident_bytes: u64,
}

/// TCP sockets of a component in the observer's network namespace.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConnectionView {
    /// Established.
    pub established: usize,
    /// Of these, without an acknowledgement for what was sent, for more than 3 s.
    pub stalled: usize,
    /// Of these, with data that nobody has read for more than 3 s.
    pub unread: usize,
    /// Ports that are listened on.
    pub listening: Vec<u16>,
    /// Acknowledged by peers, bytes. What a connection moves after the last look at it is not in it.
    pub sent_bytes: u64,
    /// Received in order, bytes, likewise.
    pub received_bytes: u64,
    /// Segments sent again, likewise.
    pub retransmitted_segments: u64,
}

/// How the scrapes of a component go.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ScrapeView {
    /// Where.
    pub endpoint: String,
    /// Scrapes since the start.
    pub scrapes: u64,
    /// Of these, failed, by reason.
    pub errors: BTreeMap<Name, u64>,
    /// The last failure; null while it answers.
    pub failure: Option<String>,
    /// How long the last one took, seconds.
    pub seconds: f64,
    /// Series carried on from the last one.
    pub series: u64,
    /// Series left out since the start, by reason.
    pub dropped: BTreeMap<Name, u64>,
}
