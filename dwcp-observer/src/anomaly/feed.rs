//! Feeds the signals of a running observer each cycle, and publishes their events.

use std::{collections::HashSet, sync::Arc};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    Event, Kind, Sample, Severity, Signals, Transition, features,
    replay::{RecordedSecond, Recorder},
};
use crate::{
    migration::{entry::Entry, totals::Totals},
    model::record::{Mode, Version},
    process::host::HostUsage,
};

/// Target of log lines that hold an event as JSON.
pub const LOG_TARGET: &str = "dwcp_observer::anomaly";

/// What is published of the signals.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct View {
    /// Events that go on.
    pub active: Vec<ExplainedEvent>,
    /// The last ones, newest first; active ones too.
    pub events: Vec<ExplainedEvent>,
    /// Events since the start by type and severity at their beginning.
    #[serde(skip)]
    pub counts: Vec<(Kind, Severity, u64)>,
    /// Samples of migrations beyond those that are watched one by one.
    pub samples_not_watched: u64,
}

/// An event and its reason in one line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExplainedEvent {
    /// The event.
    #[serde(flatten)]
    pub event: Event,
    /// [`Event::why`].
    pub why: String,
}

impl ExplainedEvent {
    fn of(event: &Event) -> Self {
        Self { event: event.clone(), why: event.why() }
    }
}

/// A running migration's last second.
#[derive(Clone, Copy, Debug)]
pub struct Transfer<'a> {
    /// Its id.
    pub migration: &'a str,
    /// Its mode, once known.
    pub mode: Option<Mode>,
    /// What was measured ([`features::of_migration`]).
    pub features: &'a [(Kind, f64)],
}

/// What a cycle knows.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Running migrations of DWCP v3.
    pub transfers: &'a [Transfer<'a>],
    /// All migrations, as published.
    pub entries: &'a [Entry],
    /// Totals since the start.
    pub totals: &'a Totals,
    /// The host's use of resources.
    pub host: Option<HostUsage>,
}

/// Feeds the signals.
#[derive(Debug, Default)]
pub struct Feed {
    signals: Signals,
    recorder: Option<Recorder>,
    /// Migrations that have ended and are still published: their blackout is known to the signals.
    ended: HashSet<String>,
    errors: u64,
    view: Arc<View>,
}

impl Feed {
    /// Without a past; each second is also written to `recorder`.
    #[must_use]
    pub fn new(recorder: Option<Recorder>) -> Self {
        let mut feed = Self { recorder, ..Self::default() };
        feed.publish();
        feed
    }

    /// Takes in the second before `now`; the events that have begun, worsened or ended with it.
    pub fn second(&mut self, now: Timestamp, inputs: &Inputs<'_>) -> Vec<Event> {
        let mut samples = Vec::new();
        for transfer in inputs.transfers {
            let Some(mode) = transfer.mode else { continue };
            samples.extend(transfer.features.iter().map(|&(kind, value)| Sample {
                migration: Some(transfer.migration),
                mode: Some(mode),
                kind,
                value,
            }));
        }
        self.of_host(inputs, &mut samples);
        let newly: Vec<&Entry> = inputs
            .entries
            .iter()
            .filter(|entry| entry.record.outcome.is_some())
            .filter(|entry| !self.ended.contains(&entry.record.id))
            .collect();
        samples.extend(newly.iter().filter_map(|entry| blackout(entry)));
        self.record(now, &samples);
        let changed = self.signals.observe(now, &samples);
        for entry in newly {
            self.signals.forget(&entry.record.id);
            self.ended.insert(entry.record.id.clone());
        }
        self.ended.retain(|id| inputs.entries.iter().any(|entry| entry.record.id == *id));
        changed.iter().for_each(log);
        if !changed.is_empty() || self.signals.not_watched() != self.view.samples_not_watched {
            self.publish();
        }
        changed
    }

    /// What is known by now.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view)
    }

    /// Errors, and how scarce CPUs and memory are while a transfer runs: a host that is idle in between is no change.
    fn of_host(&mut self, inputs: &Inputs<'_>, samples: &mut Vec<Sample<'_>>) {
        let mut host =
            |kind, value| samples.push(Sample { migration: None, mode: None, kind, value });
        let errors = inputs.totals.errors.values().sum::<u64>();
        host(Kind::ErrorBurst, errors.saturating_sub(self.errors) as f64);
        self.errors = errors;
        let transfers = inputs.transfers.iter().any(|transfer| !transfer.features.is_empty());
        if let Some(saturation) = inputs.host.and_then(features::saturation).filter(|_| transfers) {
            host(Kind::ResourceSaturation, saturation);
        }
    }

    fn record(&mut self, now: Timestamp, samples: &[Sample<'_>]) {
        let Some(recorder) = &mut self.recorder else { return };
        if let Err(error) = recorder.write(&RecordedSecond { at: now, samples: samples.to_vec() }) {
            let path = recorder.path().display();
            log::error!("cannot record further samples in {path}: {error}");
            self.recorder = None;
        }
    }

    fn publish(&mut self) {
        self.view = Arc::new(View {
            active: self.signals.active().map(ExplainedEvent::of).collect(),
            events: self.signals.events().iter().rev().map(ExplainedEvent::of).collect(),
            counts: self.signals.counts().collect(),
            samples_not_watched: self.signals.not_watched(),
        });
    }
}

/// What the guest felt of a migration that has ended.
fn blackout(entry: &Entry) -> Option<Sample<'_>> {
    let record = entry.record.as_ref();
    let value = record.blackout.as_ref()?.seconds?;
    (record.version != Some(Version::V1)).then_some(Sample {
        migration: Some(&record.id),
        mode: Some(record.mode?),
        kind: Kind::Latency,
        value,
    })
}

/// One line of JSON.
fn log(event: &Event) {
    let level = match event.phase {
        Transition::Ended => log::Level::Info,
        Transition::Began | Transition::Worsened => log::Level::Warn,
    };
    if let Ok(line) = serde_json::to_string(&ExplainedEvent::of(event)) {
        log::log!(target: LOG_TARGET, level, "{line}");
    }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
