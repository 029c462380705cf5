//! What is true of a migration, by everybody but the observer.

use anyhow::Result;
use serde::Serialize;

use super::case::{Case, Resume, Turn};
use crate::clock::{Standstill, Tick};
use crate::migration::QemuFigures;
use crate::qmp::Event;

/// How a migration is to end in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The guest runs at the destination.
    Completed,
    /// It does not, and that was not wanted.
    Failed,
    /// Its manager gave it up.
    Cancelled,
}

impl Outcome {
    /// As records name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What QEMU says at the end; `None` of an end that is gone.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Facts {
    /// `query-migrate` of the source.
    pub source_status: Option<String>,
    /// `query-status` of the source.
    pub source_state: Option<String>,
    /// `query-status` of the destination.
    pub destination_state: Option<String>,
}

impl Facts {
    /// How such a migration ended, if that is how the ends are.
    #[must_use]
    pub fn outcome(&self, case: &Case) -> Outcome {
        let is = |state: &Option<String>, name: &str| state.as_deref() == Some(name);
        let completed = is(&self.source_status, "completed");
        let runs = is(&self.destination_state, "running")
            || (case.paused && is(&self.destination_state, "paused"));
        let killed = matches!(case.turn, Turn::Kill(..) | Turn::KillBoth(_));
        if completed && runs && !killed && case.resume != Resume::Never {
            Outcome::Completed
        } else if is(&self.source_status, "cancelled") && is(&self.source_state, "running") {
            Outcome::Cancelled
        } else {
            Outcome::Failed
        }
    }
}

/// How long the guest stood still; seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TrueBlackout {
    /// How long.
    pub seconds: f64,
    /// It may have been shorter by so much: the clock's period at both ends, or what the first tick
    /// waited for.
    pub shorter: f64,
    /// It may have been longer by so much: the last tick was late, as where the guest's `out` waited
    /// for QEMU's lock. Then the guest itself last ran before that wait.
    pub longer: f64,
    /// The guest has no clock, and QEMU's events `STOP` and `RESUME` stand for it.
    pub by_events: bool,
    /// When it last ran at the source, ns since 1970.
    pub stopped_at: u64,
    /// When it first ran at the destination, ns since 1970.
    pub started_at: u64,
}

impl TrueBlackout {
    /// By the guest's clock. In postcopy the first tick may wait for a page; the destination's `events`
    /// say how long at most.
    ///
    /// # Errors
    /// When that cannot be trusted.
    pub fn by_clock(ticks: &[Vec<Tick>; 2], postcopy: bool, events: &[Event]) -> Result<Self> {
        let found = Standstill::between(ticks)?;
        let late =
            if found.is_disturbed() { found.before_stop.max(found.after_start) } else { 0.0 };
        let resumed = first_event(events, "RESUME").filter(|_| postcopy);
        let waited = resumed.map_or(0, |at| found.first_on_destination.saturating_sub(at));
        Ok(Self {
            seconds: found.seconds,
            shorter: late.max(2.0 * found.period).max(waited as f64 / 1e9),
            longer: if late > 0.0 { found.before_stop } else { found.period },
            by_events: false,
            stopped_at: found.last_on_source,
            started_at: found.first_on_destination,
        })
    }

    /// The same of a guest whose CPU the migrator let sleep until it was stopped (auto-converge): its clock does not tell that sleep
    /// from the stop, the source's `STOP` does.
    #[must_use]
    pub fn held_back(self, source: &[Event]) -> Self {
        let asleep = last_event(source, "STOP").map_or(0, |at| at.saturating_sub(self.stopped_at));
        Self { shorter: self.shorter.max(asleep as f64 / 1e9), ..self }
    }

    /// How far an error is beyond what the truth leaves open; seconds.
    #[must_use]
    pub fn off_by(&self, error: f64) -> f64 {
        let open = if error < 0.0 { self.shorter } else { self.longer };
        (error.abs() - open).max(0.0)
    }

    /// By QEMU's events.
    #[must_use]
    pub fn by_events([source, destination]: &[Vec<Event>; 2]) -> Option<Self> {
        let stopped_at = last_event(source, "STOP")?;
        let started_at = first_event(destination, "RESUME")?;
        let seconds = started_at.checked_sub(stopped_at)? as f64 / 1e9;
        Some(Self { seconds, shorter: 0.0, longer: 0.0, by_events: true, stopped_at, started_at })
    }
}

/// When the first of this name happened, ns since 1970.
fn first_event(events: &[Event], name: &str) -> Option<u64> {
    events.iter().find_map(|found| stamp(found, name))
}

/// When the last of this name happened, ns since 1970.
fn last_event(events: &[Event], name: &str) -> Option<u64> {
    events.iter().rev().find_map(|found| stamp(found, name))
}

fn stamp(event: &Event, name: &str) -> Option<u64> {
    let at = u64::try_from(event.timestamp.as_nanos()).ok()?;
    (event.name == name).then_some(at)
}

/// What is true of one migration.
#[derive(Clone, Debug, Serialize)]
pub struct Truth {
    /// How it ended.
    pub outcome: Outcome,
    /// Why that.
    pub facts: Facts,
    /// `None` where there is none, or nobody knows.
    pub blackout: Option<TrueBlackout>,
    /// Why the guest's clock is not to be trusted.
    pub blackout_unknown: Option<String>,
    /// `query-migrate` of a source that completed.
    pub figures: Option<QemuFigures>,
    /// What a source that completed has sent, bytes.
    pub bytes: Option<u64>,
    /// The guest runs at both ends.
    pub split_brain: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::Role;
    use crate::zoo::version::Version;
    use std::time::Duration;

    fn case(turn: Turn, resume: Resume) -> Case {
        Case::new("x", Version::V7_2, Version::V7_2)
            .with(|case| (case.turn, case.resume) = (turn, resume))
    }

    fn facts(status: &str, source: &str, destination: Option<&str>) -> Facts {
        Facts {
            source_status: Some(status.to_owned()),
            source_state: Some(source.to_owned()),
            destination_state: destination.map(str::to_owned),
        }
    }

    #[test]
    fn completed_is_what_runs_at_the_destination() {
        let plain = case(Turn::None, Resume::Itself);
        let over = facts("completed", "postmigrate", Some("running"));
        assert_eq!(over.outcome(&plain), Outcome::Completed);
        assert_eq!(over.outcome(&case(Turn::None, Resume::Never)), Outcome::Failed);
        // The source believes so, and the destination could not load it.
        let lost = facts("completed", "postmigrate", None);
        assert_eq!(lost.outcome(&plain), Outcome::Failed);
        let paused = facts("completed", "postmigrate", Some("paused"));
        assert_eq!(paused.outcome(&plain), Outcome::Failed);
        assert_eq!(paused.outcome(&plain.with(|case| case.paused = true)), Outcome::Completed);
    }

    #[test]
    fn cancelled_is_what_runs_on_at_the_source() {
        let cancel = case(Turn::Cancel(Duration::ZERO), Resume::Itself);
        let given_up = facts("cancelled", "running", None);
        assert_eq!(given_up.outcome(&cancel), Outcome::Cancelled);
        // Too late.
        let over = facts("completed", "postmigrate", Some("running"));
        assert_eq!(over.outcome(&cancel), Outcome::Completed);
        let failed = facts("failed", "running", None);
        let killed = case(Turn::Kill(Role::Destination, Duration::ZERO), Resume::Itself);
        assert_eq!(failed.outcome(&killed), Outcome::Failed);
    }

    #[test]
    fn events_tell_of_an_idle_guest() {
        let event = |name: &str, at| Event {
            name: name.to_owned(),
            data: serde_json::Value::Null,
            timestamp: Duration::from_millis(at),
        };
        let ends = [vec![event("STOP", 100)], vec![event("RESUME", 125)]];
        let found = TrueBlackout::by_events(&ends).unwrap();
        assert!((found.seconds - 0.025).abs() < 1e-9 && found.by_events);
        assert_eq!(TrueBlackout::by_events(&[Vec::new(), Vec::new()]), None);
    }

    #[test]
    fn a_sleep_of_auto_converge_is_left_open() {
        let at = |name: &str, ms| Event {
            name: name.to_owned(),
            data: serde_json::Value::Null,
            timestamp: Duration::from_millis(ms),
        };
        let events = [vec![at("STOP", 1000)], vec![at("RESUME", 1010)]];
        let by_clock = TrueBlackout {
            seconds: 1.0,
            stopped_at: 10_000_000,
            by_events: false,
            ..TrueBlackout::by_events(&events).unwrap()
        };
        assert!((by_clock.held_back(&events[0]).shorter - 0.99).abs() < 1e-9);
        assert!((by_clock.held_back(&[]).shorter).abs() < 1e-9);
    }

    #[test]
    fn a_wait_for_a_page_is_left_open() {
        let ticks = |first: u8, at: [u64; 3]| {
            let tick = |(number, at): (u8, u64)| Tick { at: at * 1_000_000, number };
            (first..).zip(at).map(tick).collect::<Vec<_>>()
        };
        let ends = [ticks(1, [1, 2, 3]), ticks(4, [33, 34, 35])];
        let resumed = Event {
            name: "RESUME".to_owned(),
            data: serde_json::Value::Null,
            timestamp: Duration::from_millis(8),
        };
        let events = [resumed];
        let precopy = TrueBlackout::by_clock(&ends, false, &events).unwrap();
        assert!((precopy.shorter - 0.002).abs() < 1e-9, "{precopy:?}");
        let postcopy = TrueBlackout::by_clock(&ends, true, &events).unwrap();
        assert!((postcopy.shorter - 0.025).abs() < 1e-9, "{postcopy:?}");
        // A record may be that much shorter, but not longer by more than a period.
        assert!((postcopy.off_by(-0.030) - 0.005).abs() < 1e-9);
        assert!((postcopy.off_by(-0.020)).abs() < 1e-9);
        assert!((postcopy.off_by(0.020) - 0.019).abs() < 1e-9);
    }
}
