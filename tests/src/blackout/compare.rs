//! One run's figures against the truth, and all runs' in sum.

use std::time::Duration;

use dwcp_observer_model::record::{Method, MigratorStateChange, Outcome, PhaseName};
use jiff::Timestamp;
use serde::Serialize;

use super::{Run, TICK};

/// The blackout may differ from the guest's clock by this plus the clock's period; seconds.
const ALLOWED: f64 = 0.000_5;
/// The breakdown's sum may differ from the whole by this share.
const ALLOWED_SHARE: f64 = 0.01;

/// One run: figures in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Name of the case.
    pub name: &'static str,
    /// RAM, MiB.
    pub memory_mib: u32,
    /// The guest stood still for this long by its own clock.
    pub truth: f64,
    /// Median period of that clock.
    pub period: f64,
    /// Its 99th percentile.
    pub period_p99: f64,
    /// How long the guest had not ticked in its last second on the source, beyond ten periods each
    /// time: the host or QEMU gave it no CPU.
    pub late_before: f64,
    /// The largest of its last 5 gaps on the source.
    pub before_stop: f64,
    /// The largest of its first 5 gaps on the destination.
    pub after_start: f64,
    /// One of these is so large that the truth is none: [`Standstill::is_disturbed`].
    ///
    /// [`Standstill::is_disturbed`]: crate::clock::Standstill::is_disturbed
    pub disturbed: bool,
    /// The largest other gap between two ticks: on a quiet host less than the truth.
    pub largest_other: f64,
    /// The record's figure.
    pub seconds: Option<f64>,
    /// Which method gave it.
    pub method: Option<Method>,
    /// By phase functions.
    pub phase_functions: Option<f64>,
    /// By scheduling.
    pub vcpu_scheduling: Option<f64>,
    /// From the last tick to the stop that the record names.
    pub stop_after_tick: Option<f64>,
    /// From the start that the record names to the first tick.
    pub tick_after_start: Option<f64>,
    /// QEMU's own `downtime`.
    pub qemu_downtime: Option<f64>,
    /// Sum of the breakdown's parts minus the whole, as a share of it.
    pub breakdown_off: Option<f64>,
    /// Phases by name, in order.
    pub phases: Vec<PhaseName>,
    /// States of the record, in order.
    pub states: Vec<String>,
    /// States of QEMU's `MIGRATION` events on the source, in order.
    pub qemu_states: Vec<String>,
    /// The largest difference between the moments of a state and of its event; only where the
    /// states are the same.
    pub state_off: Option<f64>,
    /// Rounds of the record.
    pub rounds: usize,
    /// QEMU's `dirty-sync-count`.
    pub dirty_syncs: u64,
    /// The record's outcome.
    pub outcome: Option<Outcome>,
    /// What is wrong, of that which no busy host can excuse.
    pub faults: Vec<String>,
}

impl Comparison {
    /// Compares one run's record with the truth.
    #[must_use]
    pub fn of(run: &Run) -> Self {
        let (record, truth) = (&run.record, &run.standstill);
        let blackout = record.blackout.as_ref();
        let seconds = blackout.and_then(|blackout| blackout.seconds);
        let breakdown = blackout.and_then(|blackout| blackout.breakdown);
        let events: Vec<(&str, Duration)> = run.events[0]
            .iter()
            .filter(|event| event.name == "MIGRATION")
            .filter_map(|event| Some((event.data.get("status")?.as_str()?, event.timestamp)))
            .collect();
        let states: Vec<String> =
            record.migrator_states.iter().map(|entry| entry.state.as_str().to_owned()).collect();
        let qemu_states: Vec<String> =
            events.iter().map(|(state, _)| (*state).to_owned()).collect();
        let state_off = (states == qemu_states).then(|| {
            let pairs = record.migrator_states.iter().zip(&events);
            let off = |entry: &MigratorStateChange, at: &Duration| {
                let off = entry.at.as_nanosecond().unsigned_abs().abs_diff(at.as_nanos());
                off as f64 / 1e9
            };
            pairs.map(|(entry, (_, at))| off(entry, at)).fold(0.0, f64::max)
        });
        // In whole ns: seconds since 1970 in a float are no finer than 0.2 us.
        let apart = |from: u64, to: Option<Timestamp>| {
            to.map(|to| (to.as_nanosecond() - i128::from(from)) as f64 / 1e9)
        };
        let mut comparison = Self {
            name: run.case.name,
            memory_mib: run.case.memory_mib,
            truth: truth.seconds,
            period: truth.period,
            period_p99: truth.period_p99,
            late_before: truth.late_seconds,
            before_stop: truth.before_stop,
            after_start: truth.after_start,
            disturbed: truth.is_disturbed(),
            largest_other: truth.largest_other,
            seconds,
            method: blackout.map(|blackout| blackout.method),
            phase_functions: blackout.and_then(|blackout| blackout.by_method.phase_functions),
            vcpu_scheduling: blackout.and_then(|blackout| blackout.by_method.vcpu_scheduling),
            stop_after_tick: apart(
                truth.last_on_source,
                blackout.and_then(|blackout| blackout.stopped_at),
            ),
            tick_after_start: apart(
                truth.first_on_destination,
                blackout.and_then(|blackout| blackout.started_at),
            )
            .map(|seconds| -seconds),
            qemu_downtime: run.figures.downtime_ms.map(|ms| ms as f64 / 1e3),
            breakdown_off: breakdown
                .zip(seconds)
                .map(|(parts, seconds)| (parts.sum() - seconds) / seconds),
            phases: record.phases.iter().map(|phase| phase.phase).collect(),
            states,
            qemu_states,
            state_off,
            rounds: record.rounds.len(),
            dirty_syncs: run.figures.dirty_sync_count,
            outcome: record.outcome,
            faults: Vec::new(),
        };
        comparison.faults = comparison.find_faults(run);
        comparison
    }

    /// Migration minus truth.
    #[must_use]
    pub fn error(&self) -> Option<f64> {
        Some(self.seconds? - self.truth)
    }

    /// How far the methods are apart.
    #[must_use]
    pub fn methods_apart(&self) -> Option<f64> {
        Some((self.phase_functions? - self.vcpu_scheduling?).abs())
    }

    /// The error is at most 0.5 ms plus the clock's period.
    #[must_use]
    pub fn is_within(&self) -> bool {
        self.error().is_some_and(|error| error.abs() <= ALLOWED + self.period)
    }

    fn find_faults(&self, run: &Run) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |right: bool, text: String| {
            if !right {
                faults.push(text);
            }
        };
        let complete = run.record.blackout.as_ref().is_some_and(|blackout| blackout.complete);
        check(
            complete && self.seconds.is_some(),
            format!("no complete blackout: {:?}", run.record.blackout),
        );
        let off = self.breakdown_off;
        check(
            off.is_some_and(|off| off.abs() <= ALLOWED_SHARE),
            format!("the breakdown is off its sum by {off:?}"),
        );
        check(
            self.states == self.qemu_states,
            format!("states {:?}, QEMU's {:?}", self.states, self.qemu_states),
        );
        let mut expected = vec![PhaseName::Setup, PhaseName::Precopy, PhaseName::StopAndCopy];
        if self.qemu_states.iter().any(|state| state == "postcopy-active") {
            expected.push(PhaseName::Postcopy);
        }
        expected.push(PhaseName::Completion);
        check(self.phases == expected, format!("phases {:?}", self.phases));
        let ordered = |times: &mut dyn Iterator<Item = Timestamp>| times.is_sorted();
        check(
            ordered(&mut run.record.phases.iter().map(|phase| phase.started_at))
                && ordered(&mut run.record.rounds.iter().map(|round| round.started_at)),
            format!("out of order: {:?} {:?}", run.record.phases, run.record.rounds),
        );
        check(
            self.rounds as u64 == self.dirty_syncs,
            format!("{} rounds, dirty-sync-count {}", self.rounds, self.dirty_syncs),
        );
        check(
            self.outcome == Some(Outcome::Completed),
            format!("outcome {:?}: {:?}", self.outcome, run.record.evidence),
        );
        faults
    }
}

/// Median and worst of some figures; seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one by size.
    pub median: f64,
    /// The one farthest from 0.
    pub worst: f64,
    /// Of how many.
    pub count: usize,
}

impl Spread {
    /// `None` if there is no figure.
    #[must_use]
    pub fn of(figures: impl Iterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.collect();
        figures.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
        let count = figures.len();
        Some(Self { median: *figures.get(count / 2)?, worst: *figures.last()?, count })
    }
}

/// All runs in sum.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// How many ran.
    pub runs: usize,
    /// In how many the error is at most 0.5 ms plus the clock's period.
    pub within: usize,
    /// Migration minus truth.
    pub error: Option<Spread>,
    /// Phase functions minus truth.
    pub phase_functions: Option<Spread>,
    /// Scheduling minus truth.
    pub vcpu_scheduling: Option<Spread>,
    /// Between the methods.
    pub methods_apart: Option<Spread>,
    /// QEMU's `downtime` minus truth.
    pub qemu: Option<Spread>,
    /// Breakdown's sum against the whole, as a share.
    pub breakdown_off: Option<Spread>,
    /// Moments of states against those of QEMU's events.
    pub state_off: Option<Spread>,
    /// Runs with a fault that no busy host excuses.
    pub faulty: usize,
}

impl Summary {
    /// Sums up.
    #[must_use]
    pub fn of<'a>(runs: impl IntoIterator<Item = &'a Comparison>) -> Self {
        let runs: Vec<&Comparison> = runs.into_iter().collect();
        let spread = |figure: &dyn Fn(&Comparison) -> Option<f64>| {
            Spread::of(runs.iter().copied().filter_map(figure))
        };
        Self {
            runs: runs.len(),
            within: runs.iter().filter(|run| run.is_within()).count(),
            error: spread(&Comparison::error),
            phase_functions: spread(&|run| Some(run.phase_functions? - run.truth)),
            vcpu_scheduling: spread(&|run| Some(run.vcpu_scheduling? - run.truth)),
            methods_apart: spread(&Comparison::methods_apart),
            qemu: spread(&|run| Some(run.qemu_downtime? - run.truth)),
            breakdown_off: spread(&|run| run.breakdown_off),
            state_off: spread(&|run| run.state_off),
            faulty: runs.iter().filter(|run| !run.faults.is_empty()).count(),
        }
    }

    /// The median error is at most 0.5 ms plus the clock's period.
    #[must_use]
    pub fn median_is_within(&self) -> bool {
        self.error.is_some_and(|error| error.median.abs() <= ALLOWED + TICK.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_by_size_and_keeps_the_sign() {
        let spread = Spread::of([0.5, -3.0, 1.0, -2.0, 0.1].into_iter());
        assert_eq!(spread, Some(Spread { median: 1.0, worst: -3.0, count: 5 }));
        assert_eq!(Spread::of(std::iter::empty()), None);
    }
}
