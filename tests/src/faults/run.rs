//! One faulty migration under the observer's eyes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dwcp_observer_model::record::{Migration, Outcome, State};
use serde::Serialize;

use super::{Fault, Injection, Judgement, Rig, Seen, Variant};
use crate::observer::Observer;

/// How a migration is observed.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// From its start to the fault. A storm begins before, and tells from the end of the first
    /// pass over the memory on.
    pub baseline: Duration,
    /// From the fault to its end.
    pub window: Duration,
    /// The fault ends as soon as the verdict is right.
    pub hurry: bool,
}

impl Default for Timing {
    /// 4 s before, 5 s with the fault.
    fn default() -> Self {
        Self { baseline: Duration::from_secs(4), window: Duration::from_secs(5), hurry: false }
    }
}

/// What came of one migration.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// What was done to it.
    #[serde(serialize_with = "name")]
    pub fault: Fault,
    /// What differs from the other runs.
    pub variant: Variant,
    /// What the observer said while the fault was in force. Of a fault of which only the outcome
    /// counts: what it said before.
    pub verdict: Judgement,
    /// How it ended, as the observer says; empty if it does not say.
    pub outcome: String,
    /// From the end of the migration to this outcome, seconds.
    pub outcome_seconds: Option<f64>,
    /// Whether that is right.
    pub outcome_right: bool,
    /// The observer's record at the end, with its history.
    pub record: Option<Migration>,
    /// The verdicts in their course: the first one of each kind in a row.
    pub course: Vec<Seen>,
    /// When the fault began, seconds since the start; 0 if the run went wrong before.
    pub onset: f64,
    /// Why the run itself went wrong, if it did; then nothing of it is right.
    pub error: Option<String>,
}

fn name<S: serde::Serializer>(fault: &Fault, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(fault.name())
}

impl RunReport {
    /// Migrates once. What goes wrong is in the report.
    #[must_use]
    pub fn of(observer: &Observer, fault: Fault, variant: Variant, timing: Timing) -> Self {
        let mut report = Self {
            fault,
            variant,
            verdict: Judgement::default(),
            outcome: String::new(),
            outcome_seconds: None,
            outcome_right: false,
            record: None,
            course: Vec::new(),
            onset: 0.0,
            error: None,
        };
        if let Err(error) = report.run(observer, timing) {
            report.error = Some(format!("{error:#}"));
            report.verdict.right = false;
            report.outcome_right = false;
        }
        report
    }

    fn run(&mut self, observer: &Observer, timing: Timing) -> Result<()> {
        let mut rig = Rig::start(self.fault, self.variant)?;
        let early = if self.fault.is_from_the_start() { rig.inject(self.fault)? } else { None };
        rig.migrate()?;
        let mut watch = Watch::start(observer, &rig);
        let done = self.observe(&mut watch, &mut rig, early, timing);
        self.course = watch.seen;
        self.course.dedup_by(|next, last| next.state == last.state && next.cause == last.cause);
        done
    }

    fn observe(
        &mut self,
        watch: &mut Watch<'_>,
        rig: &mut Rig,
        early: Option<Box<dyn Injection>>,
        timing: Timing,
    ) -> Result<()> {
        let fault = self.fault;
        let expected = fault.expectation();
        let (onset, injection) = if fault.is_from_the_start() {
            (0.0, early)
        } else {
            inject_later(watch, rig, fault, timing)?
        };
        self.onset = onset;
        if !expected.cause.is_empty() {
            watch.go_on(timing.window, |seen| {
                let judged = Judgement::of(&expected, seen, onset);
                Ok(timing.hurry && judged.right)
            })?;
            self.verdict = Judgement::of(&expected, &watch.seen, onset);
        }
        if let Some(injection) = &injection {
            ensure!(injection.has_effect()?, "the fault was without effect: {injection:?}");
        }
        let ended = match fault {
            // No answer can be had of it.
            Fault::SourceKilled => {
                rig.wait_destination_gives_up()?;
                Instant::now()
            }
            Fault::NetworkCutCancel => {
                rig.pair.cancel()?;
                // With multifd it cannot end yet: QEMU shuts the main connection down, but waits
                // for its channels, which wait for the network.
                let ends = self.variant.channels.is_none();
                let ended = if ends { Some(rig.wait_end(expected.outcome)?) } else { None };
                // What manages both ends ends the one that will never hear of it.
                rig.end_destination()?;
                rig.undo(fault, injection)?;
                match ended {
                    Some(ended) => ended,
                    None => rig.wait_end(expected.outcome)?,
                }
            }
            Fault::NetworkCutTimeout => {
                let ended = rig.wait_end(expected.outcome)?;
                rig.end_destination()?;
                rig.undo(fault, injection)?;
                ended
            }
            Fault::Clean => {
                watch.go_on(Duration::from_secs(60), |_| rig.has_ended())?;
                rig.wait_end(expected.outcome)?
            }
            Fault::Cancel => {
                let ended = rig.wait_end(expected.outcome)?;
                rig.wait_destination_gives_up()?;
                ended
            }
            Fault::DestinationKilled => rig.wait_end(expected.outcome)?,
            _ => {
                rig.undo(fault, injection)?;
                rig.wait_end(expected.outcome)?
            }
        };
        if expected.cause.is_empty() {
            let onset = if fault == Fault::Clean { f64::INFINITY } else { onset };
            self.verdict = Judgement::of(&expected, &watch.seen, onset);
        }
        let mut record = watch.wait_outcome()?;
        // The second end may be let run after the outcome is settled.
        for _ in 0..50 {
            if fault != Fault::ResumedTwice || record.split_brain {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            record = watch.record()?.context("the record is gone")?;
        }
        self.outcome = record.outcome.map_or("", |outcome| outcome.as_str()).to_owned();
        self.outcome_seconds = Some(ended.elapsed().as_secs_f64());
        // Of a guest that runs twice that is said as well, and of no other.
        let twice = record.split_brain;
        self.outcome_right =
            self.outcome == expected.outcome && twice == (fault == Fault::ResumedTwice);
        self.record = Some(record);
        Ok(())
    }

    /// The run in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { verdict, variant, .. } = self;
        let after = |seconds: Option<f64>| {
            seconds.map_or_else(String::new, |seconds| format!(" after {seconds:.1} s"))
        };
        let mut line = format!(
            "{}{}{}: {} {}/{}{}, outcome {}{}",
            self.fault.name(),
            variant.channels.map_or_else(String::new, |count| format!(", multifd {count}")),
            variant.congestion.map_or_else(String::new, |name| format!(", {name}")),
            if self.is_right() { "right:" } else { "WRONG:" },
            verdict.state,
            verdict.cause,
            after(verdict.seconds),
            self.outcome,
            after(self.outcome_seconds),
        );
        for note in verdict.before.iter().chain(&self.error) {
            line.push_str("; ");
            line.push_str(note);
        }
        line
    }

    /// Verdict and outcome.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.verdict.right && self.outcome_right && self.error.is_none()
    }
}

/// Does it after a while in which nothing is wrong; and when that was, or when it began to show.
fn inject_later(
    watch: &mut Watch<'_>,
    rig: &mut Rig,
    fault: Fault,
    timing: Timing,
) -> Result<(f64, Option<Box<dyn Injection>>)> {
    watch.go_on(timing.baseline, |_| Ok(false))?;
    ensure!(watch.id.is_some(), "no record: {}", watch.observer.output());
    let onset = watch.seconds();
    let injection = rig.inject(fault)?;
    if rig.shows(fault)? {
        return Ok((onset, injection));
    }
    watch.go_on(Duration::from_secs(30), |_| rig.shows(fault))?;
    Ok((watch.seconds(), injection))
}

/// Asks the observer for one migration, ten times a second.
struct Watch<'a> {
    observer: &'a Observer,
    pids: [u32; 2],
    started: Instant,
    id: Option<String>,
    seen: Vec<Seen>,
}

impl<'a> Watch<'a> {
    fn start(observer: &'a Observer, rig: &Rig) -> Self {
        let pids = [rig.pair.source.pid(), rig.pair.destination.pid()];
        Self { observer, pids, started: Instant::now(), id: None, seen: Vec::new() }
    }

    fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Goes on for `time`, or until `enough`, which is given what was seen so far.
    fn go_on(
        &mut self,
        time: Duration,
        mut enough: impl FnMut(&[Seen]) -> Result<bool>,
    ) -> Result<()> {
        const INTERVAL: Duration = Duration::from_millis(100);
        let start = Instant::now();
        while start.elapsed() < time {
            let next = Instant::now() + INTERVAL;
            if let Some(record) = self.record()? {
                let seen = Seen::read(self.seconds(), &record);
                // After the end there is no verdict.
                if !seen.state.is_empty() {
                    self.seen.push(seen);
                }
            }
            if enough(&self.seen)? {
                break;
            }
            let left = time.saturating_sub(start.elapsed());
            std::thread::sleep(next.saturating_duration_since(Instant::now()).min(left));
        }
        Ok(())
    }

    /// The record of the migration between these two processes, if there is one.
    fn record(&mut self) -> Result<Option<Migration>> {
        if self.id.is_none() {
            let records = self.observer.migrations()?;
            let own = |record: &&Migration| self.pids.iter().any(|pid| record.has_process(*pid));
            let mut own = records.iter().filter(own);
            let id = own.next().map(|record| record.id.clone());
            ensure!(own.next().is_none(), "two records of one migration: {records:#?}");
            self.id = id;
        }
        let Some(id) = &self.id else { return Ok(None) };
        Ok(Some(self.observer.record(id)?))
    }

    /// Waits for the outcome; `unknown` may still become another one.
    fn wait_outcome(&mut self) -> Result<Migration> {
        const LIMIT: Duration = Duration::from_secs(15);
        const SETTLE: Duration = Duration::from_secs(5);
        let start = Instant::now();
        loop {
            let record = self.record()?.context("the record is gone")?;
            match record.outcome {
                Some(Outcome::Unknown) | None => {}
                Some(_) => return Ok(record),
            }
            let over = record.state == State::Finished;
            if over && start.elapsed() > SETTLE {
                return Ok(record);
            }
            if start.elapsed() > LIMIT {
                bail!("no outcome after {LIMIT:?}: {record:#?}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
