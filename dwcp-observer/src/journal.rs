//! Adds each second to the service levels and to the history.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;

use crate::{
    config::Targets,
    history::{Batch, Event, History, HistoryError, Status, Store, minute::Minute},
    migration::{entry::Entry, totals::Totals},
    model::{
        record::{Migration, Outcome, PhaseName, State, Version},
        verdict::Health,
    },
    process::host::HostUsage,
    sla::{
        SlaType, View, Window,
        counts::{Counts, FinishedBlackout},
        decide::{Anomaly, Decision, Running, Situation, Unhealthy, decide, measured},
        judge::{Levels, judge},
        windows::{Windows, minute_of},
    },
};

/// With transfers active 5 m and 1 h are judged this often, seconds; all windows when a migration ends, and each minute.
const JUDGE_EVERY: i64 = 5;
/// A clock that is set back by more than this begins a new run of minutes, seconds.
const SET_BACK: i64 = 3600;

/// Events of others that one second takes.
const MAX_NOTED: usize = 100;

/// What one second brought.
#[derive(Clone, Copy, Debug)]
pub struct ClosedSecond<'a> {
    /// All migrations, as published.
    pub entries: &'a [Entry],
    /// Totals since the start.
    pub totals: &'a Totals,
    /// Migrations of DWCP v1 that have ended since the start: kept in the history, and no part of v3's service levels.
    pub ended_v1: u64,
    /// The host's use of resources.
    pub host: Option<HostUsage>,
    /// Cycles skipped since the start.
    pub missed_cycles: u64,
    /// Why nothing can be measured, when it cannot.
    pub blind: Option<&'a str>,
    /// Active anomalies; `None` without detectors.
    pub anomalies: Option<&'a [Anomaly]>,
    /// Components that are not healthy; `None` when none is watched.
    pub unhealthy: Option<&'a [Unhealthy]>,
}

/// Keeps the minute, the windows, and what was stored already.
#[derive(Debug)]
pub struct Journal {
    targets: Targets,
    windows: Windows,
    minute: Minute,
    before: Before,
    /// Migrations with an outcome that are still published; true: stored.
    known: HashMap<String, bool>,
    levels: Vec<Levels>,
    judged_at: i64,
    violated: [bool; SlaType::ALL.len()],
    violation_minutes: [u64; SlaType::ALL.len()],
    stored: u64,
    lost: u64,
    history: Option<History>,
    /// Waits for the next second.
    noted: Vec<Event>,
    view: Arc<View>,
}

/// Totals at the last second.
#[derive(Debug, Default)]
struct Before {
    finished: BTreeMap<Outcome, u64>,
    errors: BTreeMap<&'static str, u64>,
    verdicts: BTreeMap<&'static str, f64>,
    retransmitted: u64,
    missed: u64,
}

impl Journal {
    /// Nothing has happened yet. Without a `history` all of it is forgotten at the end.
    #[must_use]
    pub fn new(started_at: Timestamp, targets: Targets, history: Option<History>) -> Self {
        let mut journal = Self {
            targets,
            windows: Windows::default(),
            minute: Minute {
                at: minute_of(started_at.as_second()),
                run_ms: started_at.as_millisecond(),
                ..Minute::default()
            },
            before: Before::default(),
            known: HashMap::new(),
            levels: Vec::new(),
            judged_at: 0,
            violated: [false; SlaType::ALL.len()],
            violation_minutes: [0; SlaType::ALL.len()],
            stored: 0,
            lost: 0,
            history,
            noted: Vec::new(),
            view: Arc::new(View {
                at: started_at,
                decision: Decision::default(),
                targets,
                windows: Vec::new(),
                violation_minutes: [0; SlaType::ALL.len()],
                anomalies: None,
                unhealthy_components: None,
            }),
        };
        journal.judge(started_at.as_second(), Window::Month);
        journal
    }

    /// Keeps on disk what comes from now on.
    #[must_use]
    pub fn with_history(mut self, history: History) -> Self {
        self.history = Some(history);
        self
    }

    /// Takes up what earlier runs of the observer have stored.
    ///
    /// # Errors
    /// What was stored cannot be read.
    pub fn restore(&mut self, store: &Store, now: Timestamp) -> Result<(), HistoryError> {
        let begin = now.as_second() - Window::Month.seconds() - 3600;
        let from = Timestamp::from_second(begin).unwrap_or(Timestamp::MIN);
        store.minutes(from, Timestamp::MAX, |minute| {
            self.windows.add(minute.at, &minute.counts);
            for blackout in minute.blackouts {
                self.windows.add_blackout(minute.at, blackout);
            }
        })?;
        self.windows.forget(now.as_second());
        self.judge(now.as_second(), Window::Month);
        for sla in SlaType::ALL {
            // What was violated before is no news.
            self.violated[sla as usize] = self.is_violated(sla);
        }
        Ok(())
    }

    /// Keeps what others have found, as an anomaly; written with the next second. At most 100 in a second, the rest counts as dropped.
    pub fn note(&mut self, event: Event) {
        if self.noted.len() < MAX_NOTED {
            self.noted.push(event);
        } else if let Some(history) = &self.history {
            history.lost(1);
        }
    }

    /// Takes in a look between two seconds: only migrations that have ended.
    pub fn look(&mut self, now: Timestamp, entries: &[Entry]) {
        let mut batch = Batch::default();
        self.take_ended(now, entries, &mut batch);
        self.write(batch);
    }

    /// Takes in a second.
    pub fn second(&mut self, now: Timestamp, second: &ClosedSecond<'_>) {
        let at = now.as_second();
        let mut batch = Batch { events: std::mem::take(&mut self.noted), ..Batch::default() };
        let turned = self.turn(at, &mut batch);
        let counts = self.count(second);
        self.windows.add(at.max(self.minute.at), &counts);
        self.minute.counts.add(&counts);
        let ended = self.take_ended(now, second.entries, &mut batch) || counts.finished() > 0;
        self.account_for(second);

        let every = if counts.transfer_seconds > 0 { JUDGE_EVERY } else { 60 };
        if turned || ended || (at - self.judged_at).abs() >= every {
            self.windows.forget(at);
            // The long windows hold up to 20,000 blackouts, and five seconds are nothing to them.
            self.judge(at, if turned || ended { Window::Month } else { Window::Hour });
            self.changes(now, &mut batch);
        }
        if turned {
            for sla in SlaType::ALL {
                self.violation_minutes[sla as usize] += u64::from(self.is_violated(sla));
            }
        }
        if ended {
            batch.minutes.push(self.minute.clone());
        }
        self.write(batch);
        self.view = Arc::new(self.look_at(now, second));
    }

    /// What is said of service levels.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view)
    }

    /// What is kept on disk.
    #[must_use]
    pub fn history(&self) -> Status {
        self.history.as_ref().map(History::status).unwrap_or_default()
    }

    /// Ends a minute that is over.
    fn turn(&mut self, at: i64, batch: &mut Batch) -> bool {
        let set_back = at < self.minute.at - SET_BACK;
        if minute_of(at) <= self.minute.at && !set_back {
            return false;
        }
        let run_ms = if set_back { at * 1000 } else { self.minute.run_ms };
        let next = Minute { at: minute_of(at), run_ms, ..Minute::default() };
        batch.minutes.push(std::mem::replace(&mut self.minute, next));
        true
    }

    /// What the second adds to the counts, and to the rest of the minute.
    fn count(&mut self, second: &ClosedSecond<'_>) -> Counts {
        let mut counts = Counts { observed_seconds: 1, ..Counts::default() };
        let transfers: Vec<&Migration> = second
            .entries
            .iter()
            .map(|entry| entry.record.as_ref())
            .filter(|record| record.state == State::Active && moves_the_guest(record))
            .filter(|record| !is_v1(record))
            .collect();
        let health = |record: &&Migration| record.verdict.as_ref().map(|verdict| verdict.state);
        // The first look at a transfer, and what a device moves without the kernel, is neither fast nor slow.
        let rates: Vec<(&str, f64)> = transfers
            .iter()
            .filter_map(|record| {
                Some((record.transport?.as_str(), record.throughput_bytes_per_second?))
            })
            .collect();
        if !rates.is_empty() {
            let together: f64 = rates.iter().map(|(_, rate)| rate).sum();
            counts.transfer_seconds = 1;
            counts.slow_seconds = u64::from(together < self.targets.throughput_bytes_per_second);
            counts.transferred_bytes = together as u64;
            self.minute.throughput.observe(together);
            let mut by_transport: BTreeMap<&str, f64> = BTreeMap::new();
            for (transport, rate) in rates {
                *by_transport.entry(transport).or_default() += rate;
            }
            for (transport, rate) in by_transport {
                let name = transport.to_owned();
                self.minute.throughput_by_transport.entry(name).or_default().observe(rate);
            }
        }
        if !transfers.is_empty() {
            let open = |record: &&Migration| {
                record.streams.iter().filter(|stream| stream.ended_at.is_none()).count()
            };
            self.minute.streams.observe(transfers.iter().map(open).sum::<usize>() as f64);
        }
        let all_stalled = !transfers.is_empty()
            && transfers.iter().all(|record| health(record) == Some(Health::Stalled));
        let component_down = second.unhealthy.is_some_and(|unhealthy| !unhealthy.is_empty());
        counts.judged_seconds = u64::from(!transfers.is_empty() || second.unhealthy.is_some());
        counts.down_seconds = u64::from(all_stalled || component_down);
        for (outcome, total) in finished(second.totals) {
            let before = self.before.finished.insert(outcome, total).unwrap_or(0);
            for _ in before..total {
                counts.finish(outcome);
            }
        }
        counts
    }

    /// What has no place in the counts.
    fn account_for(&mut self, second: &ClosedSecond<'_>) {
        let minute = &mut self.minute;
        if let Some(host) = second.host {
            minute.cpu_percent.observe(host.cpu_percent.unwrap_or(f64::NAN));
            minute.memory_percent.observe(host.memory_percent.unwrap_or(f64::NAN));
        }
        for (error, total) in &second.totals.errors {
            let before = self.before.errors.insert(error.as_str(), *total).unwrap_or(0);
            if *total > before {
                *minute.errors.entry(error.as_str().to_owned()).or_default() += total - before;
            }
        }
        let mut verdicts: BTreeMap<&'static str, f64> = BTreeMap::new();
        for ((health, _), seconds) in &second.totals.verdicts {
            *verdicts.entry(health.as_str()).or_default() += seconds;
        }
        for (health, total) in verdicts {
            let before = self.before.verdicts.insert(health, total).unwrap_or(0.0);
            if total > before {
                *minute.verdict_seconds.entry(health.to_owned()).or_default() += total - before;
            }
        }
        let retransmitted =
            second.totals.bytes.values().map(|totals| totals.retransmitted_segments).sum::<u64>();
        minute.retransmitted_segments += retransmitted.saturating_sub(self.before.retransmitted);
        self.before.retransmitted = retransmitted;
        minute.missed_cycles += second.missed_cycles.saturating_sub(self.before.missed);
        self.before.missed = second.missed_cycles;
        // Records that came and went between two looks.
        let ended = self.before.finished.values().sum::<u64>() + second.ended_v1;
        let waiting = self.known.values().filter(|stored| !**stored).count() as u64;
        let lost = ended.saturating_sub(self.stored + waiting);
        if lost > self.lost
            && let Some(history) = &self.history
        {
            history.lost(lost - self.lost);
        }
        self.lost = self.lost.max(lost);
    }

    /// Migrations whose outcome is known count at once, and are stored when their record is final.
    fn take_ended(&mut self, now: Timestamp, entries: &[Entry], batch: &mut Batch) -> bool {
        let mut ended = false;
        let mut held: HashSet<&str> = HashSet::new();
        for entry in entries.iter().filter(|entry| entry.record.outcome.is_some()) {
            let record = entry.record.as_ref();
            held.insert(&record.id);
            if !self.known.contains_key(&record.id) {
                self.known.insert(record.id.clone(), false);
                let blackout = record.blackout.as_ref().filter(|_| !is_v1(record));
                if let Some(seconds) = blackout.and_then(|blackout| blackout.seconds) {
                    let blackout = FinishedBlackout { mode: record.mode, seconds };
                    self.windows.add_blackout(now.as_second().max(self.minute.at), blackout);
                    self.minute.blackouts.push(blackout);
                }
                ended = true;
            }
            if entry.settled
                && let Some(stored) = self.known.get_mut(&record.id).filter(|stored| !**stored)
            {
                *stored = true;
                self.stored += 1;
                batch.migrations.push((Arc::clone(&entry.record), Arc::clone(&entry.history)));
            }
        }
        self.known.retain(|id, _| held.contains(id.as_str()));
        ended
    }

    /// Judges the windows up to `longest`.
    fn judge(&mut self, at: i64, longest: Window) {
        self.judged_at = at;
        self.levels.retain(|levels| levels.window > longest);
        let shorter = Window::ALL.into_iter().filter(|window| *window <= longest);
        let shorter: Vec<Levels> = shorter
            .map(|window| judge(window, &self.windows.content(window, at), &self.targets))
            .collect();
        self.levels.splice(..0, shorter);
    }

    fn hour(&self) -> Option<&Levels> {
        self.levels.iter().find(|levels| levels.window == Window::Hour)
    }

    fn is_violated(&self, sla: SlaType) -> bool {
        self.hour().is_some_and(|hour| hour.level(sla).compliant == Some(false))
    }

    /// Events where the hour's compliance has changed.
    fn changes(&mut self, now: Timestamp, batch: &mut Batch) {
        for sla in SlaType::ALL {
            let violated = self.is_violated(sla);
            if violated == self.violated[sla as usize] {
                continue;
            }
            self.violated[sla as usize] = violated;
            let Some(level) = self.hour().map(|hour| *hour.level(sla)) else { continue };
            let (kind, severity) =
                if violated { ("sla_violated", "critical") } else { ("sla_restored", "") };
            let text = if level.compliant.is_some() {
                measured(sla, &level)
            } else {
                "no data in the last hour".to_owned()
            };
            if violated {
                log::warn!("SLA {} is violated over the last hour: {text}", sla.as_str());
            } else {
                log::info!("SLA {} is met again over the last hour: {text}", sla.as_str());
            }
            batch.events.push(Event {
                at: now,
                kind: kind.to_owned(),
                subject: sla.as_str().to_owned(),
                severity: severity.to_owned(),
                text,
            });
        }
    }

    fn look_at(&self, now: Timestamp, second: &ClosedSecond<'_>) -> View {
        let running: Vec<Running<'_>> = second
            .entries
            .iter()
            .map(|entry| entry.record.as_ref())
            .filter(|record| record.state == State::Active && !is_v1(record))
            .filter_map(|record| {
                let verdict = record.verdict.as_ref()?;
                let name = record.vm.name.as_deref().unwrap_or(&record.id);
                Some(Running { name, health: verdict.state, cause: verdict.cause })
            })
            .collect();
        let decision = decide(&Situation {
            windows: &self.levels,
            anomalies: second.anomalies.unwrap_or_default(),
            unhealthy: second.unhealthy.unwrap_or_default(),
            running: &running,
            blind: second.blind,
        });
        View {
            at: now,
            decision,
            targets: self.targets,
            windows: self.levels.clone(),
            violation_minutes: self.violation_minutes,
            anomalies: second.anomalies.map(<[_]>::to_vec),
            unhealthy_components: second.unhealthy.map(<[_]>::to_vec),
        }
    }

    fn write(&self, batch: Batch) {
        if let Some(history) = &self.history
            && !batch.is_empty()
        {
            history.write(batch);
        }
    }
}

impl Drop for Journal {
    /// The minute so far is kept; dropping the history writes it.
    fn drop(&mut self) {
        let minute = std::mem::take(&mut self.minute);
        if minute.counts.observed_seconds > 0 {
            self.write(Batch { minutes: vec![minute], ..Batch::default() });
        }
    }
}

/// Whether the migration runs DWCP v1.
fn is_v1(record: &Migration) -> bool {
    record.version == Some(Version::V1)
}

/// Whether the migration is in a phase that moves the guest.
fn moves_the_guest(record: &Migration) -> bool {
    record.phases.last().is_some_and(|phase| {
        matches!(
            phase.phase,
            PhaseName::Precopy | PhaseName::Dump | PhaseName::StopAndCopy | PhaseName::Postcopy
        )
    })
}

fn finished(totals: &Totals) -> BTreeMap<Outcome, u64> {
    let mut sums = BTreeMap::new();
    for ((outcome, _), count) in &totals.finished {
        *sums.entry(*outcome).or_default() += count;
    }
    sums
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
