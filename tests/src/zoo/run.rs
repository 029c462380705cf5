//! One migration of the zoo, from the start of its ends to the observer's last word.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dwcp_observer_model::record::{Migration, State};
use serde_json::{Value, json};

use super::case::{Case, Resume, Turn};
use super::rig::Zoo;
use super::truth::{Facts, TrueBlackout, Truth};
use crate::blackout::wait_ticks;
use crate::clock::GuestClock;
use crate::faults::Loss;
use crate::migration::{MigrationPlan, QemuFigures};
use crate::netns::Wire;
use crate::qemu::{Qemu, Role};
use crate::qmp::Event;

/// A guest that has not filled its RAM by then hangs.
const FILL_LIMIT: Duration = Duration::from_secs(60);
const MIGRATION_LIMIT: Duration = Duration::from_secs(90);
const SECOND_RESUME_LIMIT: Duration = Duration::from_secs(3);
const RECORD_LIMIT: Duration = Duration::from_secs(15);
/// What stands still is looked at after this time, if it stands so long.
const LOOK_AFTER: Duration = Duration::from_millis(1_400);
/// What is left of a postcopy whose other end died is given so long.
const MOURNING: Duration = Duration::from_secs(2);

/// What came of one migration.
#[derive(Clone, Debug)]
pub struct Ran {
    /// What is true of it.
    pub truth: Truth,
    /// The records of it, at the end.
    pub records: Vec<Migration>,
    /// The record while the guest stood still and waited for its manager.
    pub standing: Option<Migration>,
    /// From the end of the migration to the record's, seconds.
    pub told_after: f64,
    /// What the observer has printed so far.
    pub printed: String,
}

/// Both ends, and what goes on.
struct Run<'a> {
    zoo: &'a Zoo,
    case: &'a Case,
    // Order of drop: the processes end before their network goes.
    source: Qemu,
    destination: Option<Qemu>,
    bystanders: Vec<Qemu>,
    clock: Option<GuestClock>,
    plan: MigrationPlan,
    standing: Option<Migration>,
    pids: Vec<u32>,
    loss: Option<Loss>,
    wire: Option<Wire>,
}

/// Migrates once.
///
/// # Errors
/// When an end does not start, or does not do what the case asks of it: that says nothing of the
/// observer.
pub fn run(zoo: &Zoo, case: &Case) -> Result<Ran> {
    let overhead = zoo.overhead(case)?;
    let mut run = Run::start(zoo, case)?;
    run.begin()?;
    let figures = run.course()?;
    let facts = run.facts();
    let ended = Instant::now();
    let (blackout, blackout_unknown) = run.blackout(&facts)?;
    if case.turn == Turn::BothRun {
        run.source.qmp().execute("cont", &Value::Null).context("at the source")?;
    }
    if case.resume == Resume::Never {
        run.end(Role::Destination)?;
    }
    let records = run.wait_records()?;
    let told_after = ended.elapsed().as_secs_f64();
    let completed = figures.filter(|figures| figures.status == "completed");
    let bytes = completed.as_ref().map(|figures| figures.transferred + overhead);
    let truth = Truth {
        outcome: facts.outcome(case),
        facts,
        blackout,
        blackout_unknown,
        figures: completed,
        bytes,
        split_brain: case.turn == Turn::BothRun,
    };
    let printed = zoo.observer.output();
    Ok(Ran { truth, records, standing: run.standing, told_after, printed })
}

impl<'a> Run<'a> {
    fn start(zoo: &'a Zoo, case: &'a Case) -> Result<Self> {
        let wire = if case.needs_wire() { Some(Wire::new()?) } else { None };
        let clock = if case.has_clock() { Some(GuestClock::start()?) } else { None };
        let ports = clock.as_ref().map(GuestClock::ports);
        let spec = |role| zoo.spec(case, role, ports, wire.clone());
        let bystanders = zoo.bystanders(case)?;
        let mut source = Qemu::start(&spec(Role::Source)?, Role::Source)?;
        let destination = match case.turn {
            Turn::Refused => None,
            _ => Some(Qemu::start(&spec(Role::Destination)?, Role::Destination)?),
        };
        source.wait_filled(FILL_LIMIT)?;
        if let Some(clock) = &clock {
            wait_ticks(clock, Role::Source)?;
        }
        let mut plan = case.plan(zoo.port(case.ipv6)?);
        if wire.is_some() {
            plan.host = Some(Wire::address(Role::Destination));
        }
        let pids = [Some(&source), destination.as_ref()];
        let pids = pids.into_iter().flatten().map(Qemu::pid).collect();
        let (standing, loss) = (None, None);
        Ok(Self {
            zoo,
            case,
            source,
            destination,
            bystanders,
            clock,
            plan,
            standing,
            pids,
            loss,
            wire,
        })
    }

    fn begin(&mut self) -> Result<()> {
        if self.case.paused {
            self.source.qmp().execute("stop", &Value::Null)?;
        }
        self.source.qmp().take_events();
        self.plan.prepare(&mut self.source)?;
        if let Some(destination) = &mut self.destination {
            self.plan.prepare(destination)?;
            self.plan.listen(destination)?;
        }
        if let Some(wire) = &self.wire {
            // TCP gives up after some seconds instead of minutes.
            let source = wire.end(Role::Source);
            source.set("ipv4/tcp_syn_retries", "1")?;
            source.set("ipv4/tcp_retries2", "4")?;
        }
        if let (Turn::Unanswered, Some(wire)) = (self.case.turn, &self.wire) {
            self.loss = Some(Loss::new(wire, 100)?);
        }
        self.plan.begin(&mut self.source)
    }

    /// What happens from the start on; the source's figures at its end, if it lives then.
    fn course(&mut self) -> Result<Option<QemuFigures>> {
        if let Some(after) = self.case.transfer.postcopy_after() {
            std::thread::sleep(after);
            self.move_guest()?;
        }
        match self.case.turn {
            Turn::None | Turn::BothRun => self.arrive(),
            Turn::Refused | Turn::Unanswered => self.wait_source_end().map(Some),
            Turn::LoadFails => {
                let figures = self.wait_source_end()?;
                self.wait_gone(Role::Destination)?;
                Ok(Some(figures))
            }
            Turn::Cancel(after) => {
                std::thread::sleep(after);
                // Refused if it is over by then, and then it is.
                let _ = self.source.qmp().execute("migrate_cancel", &Value::Null);
                let figures = self.wait_source_end()?;
                if figures.status == "completed" { self.arrive() } else { Ok(Some(figures)) }
            }
            Turn::Quit(after) => {
                std::thread::sleep(after);
                let _ = self.source.qmp().execute("quit", &Value::Null);
                self.wait_gone(Role::Source)?;
                self.wait_gone(Role::Destination)?;
                Ok(None)
            }
            Turn::KillBoth(after) => {
                std::thread::sleep(after);
                self.end(Role::Source)?;
                self.end(Role::Destination)?;
                Ok(None)
            }
            Turn::Kill(role, after) => self.kill(role, after),
            Turn::Broken(pause) => self.break_and_recover(pause),
            Turn::Blackhole(after) => {
                std::thread::sleep(after);
                let wire = self.wire.as_ref().context("no wire")?;
                self.loss = Some(Loss::new(wire, 100)?);
                self.wait_source_end().map(Some)
            }
        }
    }

    /// The guest moves before its memory; a migration that is already over has no more of that.
    fn move_guest(&mut self) -> Result<()> {
        let asked = self.source.qmp().execute("migrate-start-postcopy", &Value::Null);
        if asked.is_err() {
            return Ok(());
        }
        let moved =
            |figures: &QemuFigures| figures.status.starts_with("postcopy") || figures.is_final();
        QemuFigures::wait(&mut self.source, MIGRATION_LIMIT, moved)?;
        Ok(())
    }

    /// To a good end: what the manager has to say is said.
    fn arrive(&mut self) -> Result<Option<QemuFigures>> {
        if let Some(hold) = self.case.hold {
            let held = |figures: &QemuFigures| figures.status == "pre-switchover";
            QemuFigures::wait(&mut self.source, MIGRATION_LIMIT, held)?;
            self.stand(hold)?;
            self.source.qmp().execute("migrate-continue", &json!({ "state": "pre-switchover" }))?;
        }
        // In postcopy the guest moves first, and the rest follows.
        let moved = self.case.transfer.postcopy_after().is_some();
        if moved {
            self.resume()?;
        }
        let figures = self.wait_source_end()?;
        ensure!(figures.status == "completed", "QEMU says {figures:?}");
        if !moved {
            self.resume()?;
        }
        self.wait_arrived()?;
        Ok(Some(figures))
    }

    fn resume(&mut self) -> Result<()> {
        let wait = match self.case.resume {
            Resume::Itself => return Ok(()),
            Resume::Manager(wait) => wait,
            Resume::Never => MOURNING + LOOK_AFTER,
        };
        self.wait_state("paused")?;
        self.stand(wait)?;
        if self.case.resume != Resume::Never {
            self.destination()?.qmp().execute("cont", &Value::Null)?;
        }
        Ok(())
    }

    /// Waits, and looks at the record meanwhile.
    fn stand(&mut self, time: Duration) -> Result<()> {
        let start = Instant::now();
        if time > LOOK_AFTER {
            std::thread::sleep(LOOK_AFTER);
            self.standing = self.records()?.into_iter().next();
        }
        std::thread::sleep(time.saturating_sub(start.elapsed()));
        Ok(())
    }

    fn wait_arrived(&mut self) -> Result<()> {
        if self.case.resume == Resume::Never {
            return Ok(());
        }
        self.wait_state(if self.case.paused { "paused" } else { "running" })?;
        match &self.clock {
            Some(clock) if !self.case.paused => wait_ticks(clock, Role::Destination),
            _ => Ok(()),
        }
    }

    fn kill(&mut self, role: Role, after: Duration) -> Result<Option<QemuFigures>> {
        std::thread::sleep(after);
        let before = QemuFigures::of(&mut self.source)?;
        ensure!(!before.is_final(), "it was over before its end was killed: {before:?}");
        self.end(role)?;
        let postcopy = self.case.transfer.postcopy_after().is_some();
        match (role, postcopy) {
            (Role::Destination, false) => self.wait_source_end().map(Some),
            (Role::Source, false) => self.wait_gone(Role::Destination).map(|()| None),
            // Its other end waits to be recovered, for ever.
            (Role::Destination, true) => {
                std::thread::sleep(MOURNING);
                self.end(Role::Source).map(|()| None)
            }
            (Role::Source, true) => {
                std::thread::sleep(MOURNING);
                self.end(Role::Destination).map(|()| None)
            }
        }
    }

    fn break_and_recover(&mut self, pause: Duration) -> Result<Option<QemuFigures>> {
        std::thread::sleep(Duration::from_millis(300));
        let filter = format!("dport = :{0} or sport = :{0}", self.plan.port);
        let broken = std::process::Command::new("ss").args(["-K", "-t", &filter]).output()?;
        ensure!(broken.status.success(), "ss -K: {}", String::from_utf8_lossy(&broken.stderr));
        let paused = |figures: &QemuFigures| figures.status == "postcopy-paused";
        QemuFigures::wait(&mut self.source, Duration::from_secs(10), paused)?;
        QemuFigures::wait(self.destination()?, Duration::from_secs(10), paused)?;
        self.stand(pause)?;
        self.plan.port = self.zoo.port(false)?;
        let uri = self.plan.uri();
        self.destination()?.qmp().execute("migrate-recover", &json!({ "uri": uri }))?;
        self.source.qmp().execute("migrate", &json!({ "uri": uri, "resume": true }))?;
        self.arrive()
    }

    fn wait_source_end(&mut self) -> Result<QemuFigures> {
        QemuFigures::wait(&mut self.source, MIGRATION_LIMIT, QemuFigures::is_final)
    }

    /// Waits until the destination has loaded the guest and is in this run state.
    fn wait_state(&mut self, wanted: &str) -> Result<()> {
        let start = Instant::now();
        loop {
            let state = state(self.destination()?);
            let last = state.as_deref().unwrap_or("gone");
            if last == wanted {
                return Ok(());
            }
            ensure!(start.elapsed() < MIGRATION_LIMIT && last != "gone", "destination {last}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn wait_gone(&mut self, role: Role) -> Result<()> {
        let end = match role {
            Role::Source => &mut self.source,
            Role::Destination => self.destination()?,
        };
        let gone = end.wait_ended(Duration::from_secs(10))?;
        if !gone {
            // QEMU 5.2 and later leave it to their manager whether a failed destination exits.
            end.end()?;
        }
        Ok(())
    }

    fn end(&mut self, role: Role) -> Result<()> {
        match role {
            Role::Source => self.source.end(),
            Role::Destination => self.destination()?.end(),
        }
    }

    fn destination(&mut self) -> Result<&mut Qemu> {
        self.destination.as_mut().context("there is no destination")
    }

    fn facts(&mut self) -> Facts {
        let figures = QemuFigures::of(&mut self.source).ok();
        Facts {
            source_status: figures.map(|figures| figures.status),
            source_state: state(&mut self.source),
            destination_state: self.destination.as_mut().and_then(state),
        }
    }

    /// How long the guest stood, or why nobody knows.
    fn blackout(&mut self, facts: &Facts) -> Result<(Option<TrueBlackout>, Option<String>)> {
        if facts.destination_state.as_deref() != Some("running") || self.case.paused {
            return Ok((None, None));
        }
        let events = [take_events(&mut self.source), take_events(self.destination()?)];
        let Some(clock) = self.clock.take() else {
            return Ok((TrueBlackout::by_events(&events), None));
        };
        let postcopy = self.case.transfer.postcopy_after().is_some();
        Ok(match TrueBlackout::by_clock(&clock.finish()?, postcopy, &events[1]) {
            Ok(blackout) if self.case.auto_converge => (Some(blackout.held_back(&events[0])), None),
            Ok(blackout) => (Some(blackout), None),
            Err(error) => (None, Some(format!("{error:#}"))),
        })
    }

    /// The records of these ends, as they are.
    fn records(&self) -> Result<Vec<Migration>> {
        let of_ends = |record: &Migration| self.pids.iter().any(|pid| record.has_process(*pid));
        Ok(self.zoo.observer.migrations()?.into_iter().filter(of_ends).collect())
    }

    /// The same once they are over, or late.
    fn wait_records(&self) -> Result<Vec<Migration>> {
        let start = Instant::now();
        loop {
            let records = self.records()?;
            let over = !records.is_empty() && records.iter().all(is_final);
            // The second resume comes after the record was final: the next look tells of it.
            let awaits_second = self.case.turn == Turn::BothRun
                && start.elapsed() < SECOND_RESUME_LIMIT
                && !records.iter().any(|record| record.split_brain);
            // Bystanders live until here.
            if (over && !awaits_second) || start.elapsed() > RECORD_LIMIT {
                debug_assert!(self.bystanders.len() == usize::from(self.case.bystanders));
                return Ok(records);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Whether it is over, its outcome is settled and the final counters of its sockets are in.
fn is_final(record: &Migration) -> bool {
    let mut kinds = record.evidence.iter().map(|line| line.kind.as_str());
    let closed = kinds.any(|kind| matches!(kind, "close" | "outcome"));
    let ended = record.streams.iter().all(|stream| stream.ended_at.is_some());
    record.state == State::Finished && ended && (closed || record.streams.is_empty())
}

/// The events of an end so far; none of an end that is gone.
fn take_events(end: &mut Qemu) -> Vec<Event> {
    // Events come before the answers that follow them.
    let _ = state(end);
    end.qmp().take_events()
}

/// `query-status`; `None` of an end that is gone.
fn state(end: &mut Qemu) -> Option<String> {
    let answer = end.qmp().execute("query-status", &Value::Null).ok()?;
    Some(answer.get("status")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_final_when_its_sockets_are() {
        let at = "2026-01-01T00:00:00Z";
        let record = |state: &str, ended: Value| -> Migration {
            serde_json::from_value(json!({
                "id": "1-1-1", "state": state, "migrator": "qemu", "confidence": 1.0, "ends": [],
                "found_under_way": false, "started_at": at, "observed_from": at,
                "duration_seconds": 1.0,
                "evidence": [{ "kind": "close", "detail": "" }],
                "streams": [
                    { "role": "main", "local": "a", "peer": "b", "started_at": at, "ended_at": ended },
                ],
            }))
            .unwrap()
        };
        assert!(is_final(&record("finished", json!(at))));
        assert!(!is_final(&record("finished", Value::Null)));
        assert!(!is_final(&record("active", json!(at))));
        let mut none = record("finished", json!(at));
        (none.evidence, none.streams) = (Vec::new(), Vec::new());
        assert!(is_final(&none));
    }
}
