//! Turns the samples of each second into events.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::RangeInclusive,
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    Direction, Event, Kind, Method, Severity, Transition,
    alarm::{Alarm, Edge},
    detector::{Detector, LEVEL},
    watch::{Vote, Watch, agree},
};
use crate::model::record::Mode;

/// Migrations that are watched at once; of further ones only the mode's detectors hear.
pub const MIGRATIONS: usize = 512;
/// Seconds that what must last has to last.
pub const LASTING: usize = 5;
/// Events remembered.
pub const EVENTS: usize = 256;
/// A series or a migration of which nothing is heard for so long: its event is over, the migration is forgotten.
const SILENCE: SignedDuration = SignedDuration::from_secs(60);
/// Of so many migrations it is not known how much one differs from the other. Of a single one only its own course is judged.
const NOT_YET_VARIED: RangeInclusive<u64> = 2..=3;
/// From so many robust standard deviations on it is critical (contract 1.1).
const CRITICAL_Z: f64 = 6.0;

/// The last one is the whole host.
const MODES: [Option<Mode>; 4] =
    [Some(Mode::Datacenter), Some(Mode::Internet), Some(Mode::Hybrid), None];

/// One measurement of one second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample<'a> {
    /// The migration that it is of; `None` for the whole host.
    pub migration: Option<&'a str>,
    /// Its mode: what is usual for the Internet is not for a datacenter; `None` for the whole host.
    pub mode: Option<Mode>,
    /// What it is.
    pub kind: Kind,
    /// In the unit of the kind; what is not finite is passed over.
    pub value: f64,
}

/// All detectors and what they have found.
#[derive(Debug)]
pub struct Signals {
    series: Vec<Series>,
    watches: BTreeMap<String, Watched>,
    not_watched: u64,
    /// Of the whole host.
    lasting: Lasting,
    /// Migrations met so far, by mode.
    met: [u64; MODES.len()],
    counts: [[u64; Severity::ALL.len()]; Kind::ALL.len()],
    events: VecDeque<Event>,
    last_id: u64,
}

/// One (mode, kind).
#[derive(Debug)]
struct Series {
    mode: Option<Mode>,
    kind: Kind,
    past: Past,
    alarm: Alarm,
    last_heard: Option<Timestamp>,
    /// The event that goes on.
    event: Option<Event>,
}

/// What is usual for a (mode, kind).
#[derive(Debug)]
enum Past {
    /// Nothing was heard of it yet.
    None,
    /// One sample follows the other in time.
    Course(Box<Detector>),
    /// Each sample is a migration of its own: there is no course between them.
    Migrations(Box<Watch>),
}

#[derive(Debug)]
struct Watched {
    watch: Watch,
    lasting: Lasting,
    last_heard: Timestamp,
}

impl Watched {
    fn new(now: Timestamp) -> Self {
        Self { watch: Watch::default(), lasting: Lasting::default(), last_heard: now }
    }
}

/// Of kinds that must last ([`Kind::must_last`]): the lowest value of the last [`LASTING`] seconds.
#[derive(Debug, Default)]
struct Lasting {
    last: [[f64; LASTING]; Kind::ALL.len()],
    /// Values so far.
    known: [usize; Kind::ALL.len()],
}

impl Lasting {
    /// What is to be judged; nothing as long as nothing can have lasted.
    fn take(&mut self, kind: Kind, value: f64) -> Option<f64> {
        if !kind.must_last() {
            return Some(value);
        }
        let (last, known) = (&mut self.last[kind as usize], &mut self.known[kind as usize]);
        last[*known % LASTING] = value;
        *known += 1;
        (*known >= LASTING).then(|| last.iter().copied().fold(value, f64::min))
    }
}

/// What one of the detectors says of a (mode, kind) in one second.
#[derive(Clone, Debug)]
struct Finding {
    /// 1 and more is an anomaly.
    score: f64,
    z: f64,
    expected: (f64, f64),
    direction: Direction,
    method: Method,
    value: f64,
    migration: Option<String>,
}

impl Finding {
    fn of(vote: &Vote, value: f64, migration: Option<String>) -> Self {
        Self {
            score: vote.score,
            z: vote.z,
            expected: vote.expected,
            direction: vote.direction,
            method: if vote.drift { Method::Cusum } else { Method::RobustZ },
            value,
            migration,
        }
    }

    fn nothing(value: f64) -> Self {
        Self {
            score: 0.0,
            z: 0.0,
            expected: (value, value),
            direction: Direction::Above,
            method: Method::RobustZ,
            value,
            migration: None,
        }
    }

    fn severity(&self) -> Severity {
        let critical = self.z.abs() > CRITICAL_Z || self.method == Method::Consensus;
        if critical { Severity::Critical } else { Severity::Warning }
    }
}

impl Default for Signals {
    fn default() -> Self {
        Self::new()
    }
}

impl Signals {
    /// Without a past.
    #[must_use]
    pub fn new() -> Self {
        let series = |mode| {
            Kind::ALL.map(|kind| Series {
                mode,
                kind,
                past: Past::None,
                alarm: Alarm::new(1.0, kind.calm()),
                last_heard: None,
                event: None,
            })
        };
        Self {
            series: MODES.into_iter().flat_map(series).collect(),
            watches: BTreeMap::new(),
            not_watched: 0,
            lasting: Lasting::default(),
            met: [0; MODES.len()],
            counts: [[0; Severity::ALL.len()]; Kind::ALL.len()],
            events: VecDeque::new(),
            last_id: 0,
        }
    }

    /// Takes in what was measured in the second before `now`, with at most one sample of a kind for a migration; what has begun,
    /// worsened or ended with it. Call it each second, also without samples: events and migrations end by silence.
    pub fn observe(&mut self, now: Timestamp, samples: &[Sample<'_>]) -> Vec<Event> {
        let samples = self.lasting(now, samples);
        let mut watched = self.watch(&samples);
        let mut changed = Vec::new();
        for (index, series) in self.series.iter_mut().enumerate() {
            let of_series: Vec<_> = samples
                .iter()
                .filter(|sample| (sample.mode, sample.kind) == (series.mode, series.kind))
                .collect();
            if of_series.is_empty() {
                changed.extend(series.silent(now));
                continue;
            }
            let met = self.met[row(series.mode)];
            let mut finding = series.judge(&of_series, !NOT_YET_VARIED.contains(&met));
            if let Some(other) = watched.remove(&index)
                && other.score > finding.score
            {
                finding = other;
            }
            changed.extend(series.take(now, &finding));
        }
        for event in &mut changed {
            self.note(event);
        }
        self.watches.retain(|_, watched| now.duration_since(watched.last_heard) <= SILENCE);
        changed
    }

    /// A migration is over: what was usual for it is forgotten.
    pub fn forget(&mut self, migration: &str) {
        self.watches.remove(migration);
    }

    /// Events so far by kind and severity at their beginning: every pair, also those that never occurred.
    pub fn counts(&self) -> impl Iterator<Item = (Kind, Severity, u64)> + '_ {
        Kind::ALL.into_iter().flat_map(move |kind| {
            Severity::ALL.into_iter().map(move |severity| {
                (kind, severity, self.counts[kind as usize][severity as usize])
            })
        })
    }

    /// Events that go on.
    pub fn active(&self) -> impl Iterator<Item = &Event> {
        self.series.iter().filter_map(|series| series.event.as_ref())
    }

    /// The last [`EVENTS`] events, oldest first.
    #[must_use]
    pub fn events(&self) -> &VecDeque<Event> {
        &self.events
    }

    /// Samples of migrations that were not watched because [`MIGRATIONS`] others were.
    #[must_use]
    pub fn not_watched(&self) -> u64 {
        self.not_watched
    }

    /// Watches the migrations that are new, as far as there is room.
    fn meet(&mut self, now: Timestamp, samples: &[Sample<'_>]) {
        for sample in samples {
            let Some(migration) = sample.migration else { continue };
            if self.watches.len() < MIGRATIONS && !self.watches.contains_key(migration) {
                self.watches.insert(migration.to_owned(), Watched::new(now));
                self.met[row(sample.mode)] += 1;
            }
        }
    }

    /// The samples that are numbers, as they are to be judged.
    fn lasting<'a>(&mut self, now: Timestamp, samples: &[Sample<'a>]) -> Vec<Sample<'a>> {
        self.meet(now, samples);
        let mut judged = Vec::with_capacity(samples.len());
        for sample in samples.iter().filter(|sample| sample.value.is_finite()) {
            let lasting = match sample.migration {
                None => Some(&mut self.lasting),
                Some(migration) => self.watches.get_mut(migration).map(|watched| {
                    watched.last_heard = now;
                    &mut watched.lasting
                }),
            };
            let value = match lasting {
                Some(lasting) => lasting.take(sample.kind, sample.value),
                None => {
                    self.not_watched += 1;
                    (!sample.kind.must_last()).then_some(sample.value)
                }
            };
            judged.extend(value.map(|value| Sample { value, ..*sample }));
        }
        judged
    }

    /// The findings of the migrations, the highest of each series, by its index.
    fn watch(&mut self, samples: &[Sample<'_>]) -> BTreeMap<usize, Finding> {
        let mut votes: BTreeMap<&str, Vec<(&Sample<'_>, Vote)>> = BTreeMap::new();
        for sample in samples {
            let Some(migration) = sample.migration else { continue };
            let Some(watched) = self.watches.get_mut(migration) else { continue };
            if let Some(vote) = watched.watch.observe(sample.kind, sample.value) {
                votes.entry(migration).or_default().push((sample, vote));
            }
        }
        let mut highest: BTreeMap<usize, Finding> = BTreeMap::new();
        for (migration, votes) in votes {
            for (index, finding) in findings(migration, &votes) {
                if highest.get(&index).is_none_or(|other| other.score < finding.score) {
                    highest.insert(index, finding);
                }
            }
        }
        highest
    }

    /// Numbers, counts and remembers.
    fn note(&mut self, event: &mut Event) {
        if event.phase == Transition::Began {
            self.last_id += 1;
            event.id = self.last_id;
            self.counts[event.kind as usize][event.severity as usize] += 1;
            if let Some(series) = self.series.get_mut(index(event.mode, event.kind))
                && let Some(open) = &mut series.event
            {
                open.id = event.id;
            }
            if self.events.len() == EVENTS {
                self.events.pop_front();
            }
            self.events.push_back(event.clone());
        } else if let Some(known) = self.events.iter_mut().rfind(|known| known.id == event.id) {
            known.clone_from(event);
        }
    }
}

/// What one migration's votes say of its series. When they agree, the highest one stands for all.
fn findings(migration: &str, votes: &[(&Sample<'_>, Vote)]) -> Vec<(usize, Finding)> {
    let mut found: Vec<_> = votes
        .iter()
        .map(|(sample, vote)| {
            let finding = Finding::of(vote, sample.value, Some(migration.to_owned()));
            (index(sample.mode, sample.kind), finding)
        })
        .collect();
    let alone: Vec<Vote> = votes.iter().map(|(_, vote)| *vote).collect();
    let highest = found.iter_mut().max_by(|left, right| left.1.score.total_cmp(&right.1.score));
    if let Some((_, highest)) = highest
        && highest.score < 1.0
        && agree(&alone)
    {
        highest.score = 1.0;
        highest.method = Method::Consensus;
    }
    found
}

/// Of at least one value.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    0.5 * (values[(values.len() - 1) / 2] + values[values.len() / 2])
}

fn index(mode: Option<Mode>, kind: Kind) -> usize {
    row(mode) * Kind::ALL.len() + kind as usize
}

fn row(mode: Option<Mode>) -> usize {
    MODES.iter().position(|other| *other == mode).unwrap_or(MODES.len() - 1)
}

impl Series {
    /// `samples` are those of this series, at least one. What is usual from one migration to the next counts only if `varied`.
    fn judge(&mut self, samples: &[&Sample<'_>], varied: bool) -> Finding {
        let kind = self.kind;
        if matches!(self.past, Past::None) {
            self.past = match kind {
                Kind::Latency => Past::Migrations(Box::new(Watch::of_rare())),
                _ => Past::Course(Box::new(Detector::new(kind.floor()))),
            };
        }
        let name = |sample: &Sample<'_>| sample.migration.map(str::to_owned);
        let value = median(samples.iter().map(|sample| sample.value).collect());
        let finding = match &mut self.past {
            Past::None => None,
            Past::Course(detector) => detector.observe(value).map(|reading| Finding {
                score: if varied && kind.is_off(reading.direction, reading.z) {
                    reading.surprise / LEVEL
                } else {
                    0.0
                },
                z: reading.z,
                expected: reading.expected,
                direction: reading.direction,
                method: reading.method,
                value,
                migration: if let [sample] = samples { name(sample) } else { None },
            }),
            Past::Migrations(watch) => samples
                .iter()
                .filter_map(|sample| {
                    let vote = watch.observe(kind, sample.value)?;
                    Some(Finding::of(&vote, sample.value, name(sample)))
                })
                .max_by(|left, right| left.score.total_cmp(&right.score)),
        };
        finding.unwrap_or_else(|| Finding::nothing(value))
    }

    fn take(&mut self, now: Timestamp, finding: &Finding) -> Option<Event> {
        self.last_heard = Some(now);
        match self.alarm.observe(finding.score) {
            Some(Edge::Begins) => {
                self.event = Some(self.begin(now, finding));
                self.event.clone()
            }
            Some(Edge::Ends) => self.end(now),
            None => {
                let event = self.event.as_mut()?;
                event.score = event.score.max(finding.score);
                let worse = finding.score >= 1.0 && finding.severity() > event.severity;
                worse.then(|| {
                    event.severity = finding.severity();
                    event.phase = Transition::Worsened;
                    event.clone()
                })
            }
        }
    }

    fn begin(&self, now: Timestamp, finding: &Finding) -> Event {
        Event {
            id: 0,
            phase: Transition::Began,
            kind: self.kind,
            mode: self.mode,
            migration: finding.migration.clone(),
            severity: finding.severity(),
            direction: finding.direction,
            value: finding.value,
            expected_low: finding.expected.0,
            expected_high: finding.expected.1,
            z: finding.z,
            method: finding.method,
            score: finding.score,
            began_at: now,
            ended_at: None,
        }
    }

    fn silent(&mut self, now: Timestamp) -> Option<Event> {
        let last = self.last_heard?;
        if now.duration_since(last) <= SILENCE {
            return None;
        }
        self.last_heard = None;
        if let Past::Course(detector) = &mut self.past {
            detector.settle();
        }
        self.alarm.end()?;
        self.end(now)
    }

    fn end(&mut self, now: Timestamp) -> Option<Event> {
        let mut event = self.event.take()?;
        event.phase = Transition::Ended;
        event.ended_at = Some(now);
        Some(event)
    }
}
