//! What a report is made from.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    component::View as Components,
    config::Targets,
    history::{
        Event, HistoryError, Store,
        minute::{Minute, Spread},
    },
    model::record::Migration,
    sla::{
        View, Window,
        counts::FinishedBlackout,
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
    /// Migrations that ended in the period, oldest first, without detail: there may be many.
    pub finished: Vec<Migration>,
    /// Its minutes, oldest first, one each.
    pub minutes: Vec<Minute>,
    /// What happened, oldest first.
    pub events: Vec<Event>,
    /// What the running observer says.
    pub live: LiveData,
}

/// What a running observer says at the end of the period; each part is absent when none answers.
#[derive(Clone, Debug, Default)]
pub struct LiveData {
    /// Service levels.
    pub sla: Option<View>,
    /// The body of `/health`.
    pub health: Option<Value>,
    /// Running migrations.
    pub active: Option<Vec<Arc<Migration>>>,
    /// Components and the rollout.
    pub components: Option<Arc<Components>>,
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
        live: LiveData,
    ) -> Result<Self, HistoryError> {
        let mut finished = Vec::new();
        store.migrations(from, to, |migration| finished.push(migration.without_detail()))?;
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
    pub fn v3(&self) -> impl Iterator<Item = &Migration> + Clone {
        self.finished.iter().filter(|one| !one.is_v1())
    }

    /// Blackouts of the migrations of v3 that ended in the period.
    #[must_use]
    pub fn blackouts(&self) -> Vec<FinishedBlackout> {
        self.v3()
            .filter_map(|one| {
                Some(FinishedBlackout { mode: one.mode, seconds: one.blackout_seconds()? })
            })
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
