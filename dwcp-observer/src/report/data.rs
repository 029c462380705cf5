//! What a report is made from.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    config::Targets,
    history::{
        Event, HistoryError, Store,
        finished::Finished,
        minute::{Minute, Spread},
    },
    sla::{
        View, Window,
        counts::Felt,
        judge::{Levels, judge},
        windows::Content,
    },
};

/// A period of the history, and what the running observer says now.
#[derive(Debug)]
pub struct Data {
    /// Begin.
    pub from: Timestamp,
    /// End.
    pub to: Timestamp,
    /// The host.
    pub node: String,
    /// Migrations that ended in the period, oldest first.
    pub finished: Vec<Finished>,
    /// Its minutes, oldest first, one each.
    pub minutes: Vec<Minute>,
    /// What happened, oldest first.
    pub events: Vec<Event>,
    /// What the running observer says.
    pub live: Live,
}

/// What a running observer says at the end of the period; each part is absent when none answers.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// Service levels.
    pub sla: Option<View>,
    /// The body of `/health`.
    pub health: Option<Value>,
    /// Running migrations.
    pub active: Option<Vec<Active>>,
    /// Components and the rollout: the body of `/api/v1/components`.
    pub parts: Option<Parts>,
}

/// Of the components.
#[derive(Clone, Debug, Deserialize)]
pub struct Parts {
    /// Those that are not off.
    pub components: Vec<Part>,
    /// How far the rollout is; absent where nothing tells v1 from v3, or without migrations.
    pub rollout: Option<Progress>,
}

/// A component.
#[derive(Clone, Debug, Deserialize)]
pub struct Part {
    /// Its name.
    pub component: String,
    /// `unknown`, `healthy`, `degraded`, `unhealthy`.
    pub status: String,
    /// Why it is not better.
    pub reasons: Vec<String>,
    /// Absent as long as none was ever seen.
    pub processes: Option<Processes>,
    /// Absent as long as none was ever seen.
    pub connections: Option<Connections>,
    /// Absent when its endpoint is not scraped.
    pub scrape: Option<Scrape>,
}

/// Processes of a component.
#[derive(Clone, Debug, Deserialize)]
pub struct Processes {
    /// Ids of live ones.
    pub pids: Vec<u32>,
    /// CPU time since each was first seen, seconds.
    pub cpu_seconds: f64,
    /// Resident memory, bytes.
    pub resident_bytes: u64,
}

/// Sockets of a component.
#[derive(Clone, Debug, Deserialize)]
pub struct Connections {
    /// Established.
    pub established: u64,
    /// Of these, stalled.
    pub stalled: u64,
    /// Segments sent again.
    pub retransmitted_segments: u64,
}

/// Scrapes of a component's endpoint.
#[derive(Clone, Debug, Deserialize)]
pub struct Scrape {
    /// Since the start.
    pub scrapes: u64,
    /// Of these, failed, by reason.
    pub errors: BTreeMap<String, u64>,
    /// Series carried on from the last one.
    pub series: u64,
}

/// How far the rollout is.
#[derive(Clone, Debug, Deserialize)]
pub struct Progress {
    /// Share of v3, 0 to 100.
    pub percent: f64,
    /// Migrations of v3: running, or ended within the last hour.
    pub v3: u64,
    /// The same of v1.
    pub v1: u64,
    /// As `canary`.
    pub stage: Option<String>,
    /// As `eu-west-1`.
    pub region: Option<String>,
}

/// A running migration.
#[derive(Clone, Debug, Deserialize)]
pub struct Active {
    /// As in its record.
    pub id: String,
    /// `active` or `finished`.
    pub state: String,
    /// First connection.
    pub started_at: Timestamp,
    /// How it goes.
    pub verdict: Option<Said>,
}

/// Of a verdict.
#[derive(Clone, Debug, Deserialize)]
pub struct Said {
    /// One word.
    pub state: String,
    /// One line.
    pub sentence: String,
}

impl Data {
    /// Reads a period from the history.
    ///
    /// # Errors
    /// What the database refuses.
    pub fn read(
        store: &Store,
        from: Timestamp,
        to: Timestamp,
        node: String,
        live: Live,
    ) -> Result<Self, HistoryError> {
        let mut finished = Vec::new();
        store.migrations(from, to, |migration| finished.push(migration))?;
        let mut minutes: Vec<Minute> = Vec::new();
        store.minutes(from, to, |minute| match minutes.last_mut() {
            // Two runs of the observer within a minute.
            Some(last) if last.at == minute.at => merge(last, minute),
            _ => minutes.push(minute),
        })?;
        let events = store.events(from, to)?;
        Ok(Self { from, to, node, finished, minutes, events, live })
    }

    /// The period as a whole.
    #[must_use]
    pub fn sum(&self) -> Minute {
        let mut sum = Minute::default();
        for minute in &self.minutes {
            merge(&mut sum, minute.clone());
        }
        sum
    }

    /// Targets of the running observer, else the defaults.
    #[must_use]
    pub fn targets(&self) -> Targets {
        self.live.sla.as_ref().map_or_else(Targets::default, |view| view.targets)
    }

    /// Service levels over the period; which window they are filed under means nothing.
    #[must_use]
    pub fn levels(&self) -> Levels {
        let sum = self.sum();
        let content = Content { counts: sum.counts, blackouts: self.blackouts() };
        judge(Window::Hour, &content, &self.targets())
    }

    /// Those of the migrations that the figures of v3 are made of: not v1's.
    pub fn v3(&self) -> impl Iterator<Item = &Finished> + Clone {
        self.finished.iter().filter(|one| !one.is_v1())
    }

    /// Blackouts of the migrations of v3 that ended in the period.
    #[must_use]
    pub fn blackouts(&self) -> Vec<Felt> {
        self.v3()
            .filter_map(|one| Some(Felt { mode: one.mode, seconds: one.blackout_seconds()? }))
            .collect()
    }

    /// Length of the period, seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.to.duration_since(self.from).as_secs_f64()
    }
}

/// Adds what another minute holds.
fn merge(into: &mut Minute, other: Minute) {
    into.counts.add(&other.counts);
    into.blackouts.extend(other.blackouts);
    for (mine, its) in [
        (&mut into.throughput, &other.throughput),
        (&mut into.streams, &other.streams),
        (&mut into.cpu_percent, &other.cpu_percent),
        (&mut into.memory_percent, &other.memory_percent),
    ] {
        Spread::add(mine, its);
    }
    for (transport, spread) in other.throughput_by_transport {
        into.throughput_by_transport.entry(transport).or_default().add(&spread);
    }
    for (error, count) in other.errors {
        *into.errors.entry(error).or_default() += count;
    }
    for (verdict, seconds) in other.verdict_seconds {
        *into.verdict_seconds.entry(verdict).or_default() += seconds;
    }
    into.retransmitted_segments += other.retransmitted_segments;
    into.missed_cycles += other.missed_cycles;
}
