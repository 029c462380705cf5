//! What the observer says of a migration against what is true, and all of them in sum.

use dwcp_observer_model::record::{Migration, Standstill, State};
use dwcp_observer_model::verdict::Verdict;
use jiff::Timestamp;
use serde::Serialize;

use super::case::{Case, Turn};
use super::run::Ran;
use super::truth::{Outcome, TrueBlackout, Truth};

/// The blackout is good within this, seconds, or this share of the truth.
const GOOD: f64 = 0.001;
const GOOD_SHARE: f64 = 0.03;
/// It is never off by more, seconds: of a guest that ticks, and of an idle one.
const WORST: f64 = 0.005;
const WORST_IDLE: f64 = 0.020;
/// So many of those that have one are to be good.
const GOOD_RUNS: f64 = 0.98;
/// Bytes may be off by this share; encryption adds to what QEMU counts.
const BYTES_SHARE: f64 = 0.002;
const BYTES_SHARE_TLS: f64 = 0.015;

/// What is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Aspect {
    /// There is one record.
    Found,
    /// It has the right outcome.
    Outcome,
    /// Unless it completed, its reason is of the right class.
    Reason,
    /// It has the blackout, and not off by more than is allowed to any.
    Blackout,
    /// It has as many rounds as QEMU.
    Rounds,
    /// It has as many bytes as QEMU.
    Bytes,
    /// It says so while the guest stands still, and what that waits for.
    Standing,
}

impl Aspect {
    /// All, in order.
    pub const ALL: [Self; 7] = [
        Self::Found,
        Self::Outcome,
        Self::Reason,
        Self::Blackout,
        Self::Rounds,
        Self::Bytes,
        Self::Standing,
    ];
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fault {
    /// What of.
    pub aspect: Aspect,
    /// In words.
    pub text: String,
}

/// One migration: figures in seconds and bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Which one.
    pub name: String,
    /// How many records.
    pub records: usize,
    /// What is true.
    pub truth: Truth,
    /// The record's outcome.
    pub outcome: Option<String>,
    /// Its class and its words.
    pub reason: Option<(String, String)>,
    /// The record's blackout.
    pub blackout: Option<f64>,
    /// Minus the truth.
    pub blackout_error: Option<f64>,
    /// The record's stop minus the true one, and the same of its start.
    pub stop_error: Option<f64>,
    /// As above.
    pub start_error: Option<f64>,
    /// Within 1 ms or 3 %; `None` where there is nothing to compare.
    pub blackout_good: Option<bool>,
    /// Which method gave it.
    pub method: Option<String>,
    /// The record's rounds.
    pub rounds: Option<u64>,
    /// The record's bytes.
    pub bytes: Option<u64>,
    /// Minus QEMU's, as a share of them.
    pub bytes_off: Option<f64>,
    /// From the end to when the record told so.
    pub told_after: f64,
    /// The record's verdict while the guest stood still.
    pub standing: Option<Standing>,
    /// What is wrong.
    pub faults: Vec<Fault>,
    /// What was judged.
    pub judged: Vec<Aspect>,
    /// The records, where something is wrong.
    pub record: Vec<Migration>,
    /// What the observer had printed at last, where it has no record.
    pub printed: Vec<String>,
}

impl Report {
    /// Compares.
    #[must_use]
    pub fn of(case: &Case, ran: &Ran) -> Self {
        let record = ran.records.first();
        let stood = record.and_then(|record| record.blackout.as_ref());
        let blackout = stood.and_then(|stood| stood.seconds);
        let error = blackout.zip(ran.truth.blackout).map(|(found, truth)| found - truth.seconds);
        let off = |found: Option<Timestamp>, truth: fn(&TrueBlackout) -> u64| {
            let (found, truth) = (found?, truth(ran.truth.blackout.as_ref()?));
            Some((found.as_nanosecond() - i128::from(truth)) as f64 / 1e9)
        };
        let bytes = record.and_then(|record| record.bytes).map(|bytes| bytes.queued);
        let rounds = record.map(|record| &record.rounds).filter(|rounds| !rounds.is_empty());
        let reason = record.and_then(|record| record.reason.as_ref());
        let mut report = Self {
            name: case.name.clone(),
            records: ran.records.len(),
            truth: ran.truth.clone(),
            outcome: record.and_then(|it| it.outcome).map(|outcome| outcome.as_str().to_owned()),
            reason: reason.map(|reason| (reason.class.as_str().to_owned(), reason.text.clone())),
            blackout,
            blackout_error: error,
            stop_error: off(stood.and_then(|stood| stood.stopped_at), |truth| truth.stopped_at),
            start_error: off(stood.and_then(|stood| stood.started_at), |truth| truth.started_at),
            blackout_good: None,
            method: stood.map(|stood| stood.method.as_str().to_owned()),
            rounds: rounds.map(|rounds| rounds.len() as u64),
            bytes,
            bytes_off: bytes.zip(ran.truth.bytes).map(|(bytes, truth)| share(bytes, truth)),
            told_after: ran.told_after,
            standing: ran.standing.as_ref().map(Standing::of),
            faults: Vec::new(),
            judged: Vec::new(),
            record: Vec::new(),
            printed: Vec::new(),
        };
        report.judge(case, ran);
        if ran.records.is_empty() {
            report.printed = ran.printed.lines().rev().take(40).map(str::to_owned).collect();
        }
        if !report.faults.is_empty() || report.blackout_good == Some(false) {
            report.record.clone_from(&ran.records);
        }
        report
    }

    fn judge(&mut self, case: &Case, ran: &Ran) {
        self.check(Aspect::Found, self.records == 1, || format!("{} records", ran.records.len()));
        if self.records == 0 {
            // The rest is not there either, and that is one fault.
            return;
        }
        let wanted = self.truth.outcome.name();
        let found = self.outcome.clone().unwrap_or_else(|| "none".to_owned());
        self.check(Aspect::Outcome, found == wanted, || format!("{found}, truly {wanted}"));
        let split = ran.records.iter().any(|record| record.split_brain);
        if split != self.truth.split_brain {
            let said = if split { "split brain said" } else { "split brain not said" };
            self.check(Aspect::Outcome, false, || said.to_owned());
        }
        if self.truth.outcome == Outcome::Completed {
            self.judge_blackout(case);
            self.judge_figures(case);
        }
        if self.truth.outcome != Outcome::Completed {
            let class = self.reason.as_ref().map_or("none", |(class, _)| class).to_owned();
            let right = case.reasons().contains(&class.as_str());
            self.check(Aspect::Reason, right, || {
                format!("reason {class}, not {:?}", case.reasons())
            });
        }
        if let Some(record) = &ran.standing {
            let active = record.state == State::Active;
            self.check(Aspect::Standing, active, || "not active while the guest stood".to_owned());
            let awaits = record.standstill.map(|still| still.standing.awaits.as_str());
            self.check(Aspect::Standing, awaits == Some(case.awaits()), || {
                format!("awaits {awaits:?}, truly {}", case.awaits())
            });
        }
    }

    fn judge_blackout(&mut self, case: &Case) {
        let Some(truth) = self.truth.blackout else {
            if case.paused {
                let none = self.blackout.is_none();
                self.check(Aspect::Blackout, none, || "a blackout of a paused guest".to_owned());
            }
            return;
        };
        let Some(error) = self.blackout_error else {
            self.blackout_good = Some(false);
            self.check(Aspect::Blackout, false, || {
                format!("no blackout, truly {:.1} ms", 1e3 * truth.seconds)
            });
            return;
        };
        let off = truth.off_by(error);
        let worst = if truth.by_events { WORST_IDLE } else { WORST };
        let good = if truth.by_events { WORST_IDLE } else { GOOD };
        let (stop_error, start_error) = (self.stop_error, self.start_error);
        self.blackout_good = Some(off <= good.max(GOOD_SHARE * truth.seconds));
        self.check(Aspect::Blackout, off <= worst, || {
            let ms = |seconds: Option<f64>| 1e3 * seconds.unwrap_or(f64::NAN);
            format!(
                "blackout off by {:+.1} ms of {:.1} (stop {:+.1}, start {:+.1})",
                1e3 * error,
                1e3 * truth.seconds,
                ms(stop_error),
                ms(start_error)
            )
        });
    }

    fn judge_figures(&mut self, case: &Case) {
        let Some(figures) = self.truth.figures.clone() else { return };
        let (rounds, syncs) = (self.rounds.unwrap_or(0), figures.dirty_sync_count);
        self.check(Aspect::Rounds, rounds == syncs, || format!("{rounds} rounds, truly {syncs}"));
        // What was sent once more after a break is in no figure of QEMU's.
        if matches!(case.turn, Turn::Broken(_)) {
            return;
        }
        let limit = if case.tls { BYTES_SHARE_TLS } else { BYTES_SHARE };
        let off = self.bytes_off;
        self.check(Aspect::Bytes, off.is_some_and(|off| off.abs() <= limit), || match off {
            Some(off) => format!("bytes off by {:+.2} %", 100.0 * off),
            None => "no bytes".to_owned(),
        });
    }

    fn check(&mut self, aspect: Aspect, right: bool, text: impl FnOnce() -> String) {
        if !self.judged.contains(&aspect) {
            self.judged.push(aspect);
        }
        if !right {
            self.faults.push(Fault { aspect, text: text() });
        }
    }

    fn has(&self, aspect: Aspect) -> bool {
        self.faults.iter().any(|fault| fault.aspect == aspect)
    }
}

fn share(found: u64, truth: u64) -> f64 {
    (found as f64 - truth as f64) / (truth as f64).max(1.0)
}

/// What a reader sees of a guest that stands still.
#[derive(Clone, Debug, Serialize)]
pub struct Standing {
    state: State,
    verdict: Option<Verdict>,
    standstill: Option<Standstill>,
}

impl Standing {
    fn of(record: &Migration) -> Self {
        let Migration { state, verdict, standstill, .. } = record;
        Self { state: *state, verdict: verdict.clone(), standstill: *standstill }
    }
}

/// How often something was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Right.
    pub right: usize,
    /// Of so many.
    pub of: usize,
}

/// All in sum.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// How many migrated.
    pub runs: usize,
    /// Of each aspect.
    pub aspects: Vec<(Aspect, Share)>,
    /// Blackouts within 1 ms or 3 %, of those that have a truth.
    pub good_blackouts: Share,
    /// The blackout's errors beyond what the truth leaves open, seconds: median and largest.
    pub blackout_median: Option<f64>,
    /// The largest.
    pub blackout_worst: Option<f64>,
    /// Whether all limits are kept.
    pub good: bool,
}

impl Summary {
    /// Sums up.
    #[must_use]
    pub fn of(reports: &[Report]) -> Self {
        let aspects: Vec<(Aspect, Share)> = Aspect::ALL
            .into_iter()
            .map(|aspect| {
                let judged = reports.iter().filter(|report| report.judged.contains(&aspect));
                let (of, right) = judged.fold((0, 0), |(of, right), report| {
                    (of + 1, right + usize::from(!report.has(aspect)))
                });
                (aspect, Share { right, of })
            })
            .collect();
        let compared: Vec<bool> =
            reports.iter().filter_map(|report| report.blackout_good).collect();
        let right = compared.iter().filter(|good| **good).count();
        let good_blackouts = Share { right, of: compared.len() };
        let mut errors: Vec<f64> =
            reports.iter().filter_map(|report| Some(report.blackout_error?.abs())).collect();
        errors.sort_by(f64::total_cmp);
        let all_right = aspects.iter().all(|(_, share)| share.right == share.of);
        let enough = right as f64 >= GOOD_RUNS * compared.len() as f64;
        Self {
            runs: reports.len(),
            aspects,
            good_blackouts,
            blackout_median: errors.get(errors.len() / 2).copied(),
            blackout_worst: errors.last().copied(),
            good: all_right && enough,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::QemuFigures;
    use crate::zoo::truth::Facts;
    use crate::zoo::version::Version;
    use serde_json::json;

    fn ran(record: Migration) -> Ran {
        let figures = QemuFigures {
            status: "completed".to_owned(),
            dirty_sync_count: 3,
            transferred: 99_000,
            ..QemuFigures::default()
        };
        let blackout = TrueBlackout {
            seconds: 0.050,
            shorter: 0.0002,
            longer: 0.0001,
            by_events: false,
            stopped_at: 1_000_000_000,
            started_at: 1_050_000_000,
        };
        let truth = Truth {
            outcome: Outcome::Completed,
            facts: Facts::default(),
            blackout: Some(blackout),
            blackout_unknown: None,
            figures: Some(figures),
            bytes: Some(100_000),
            split_brain: false,
        };
        Ran {
            truth,
            records: vec![record],
            standing: None,
            told_after: 0.1,
            printed: String::new(),
        }
    }

    fn record(
        outcome: &str,
        blackout: impl Into<Option<f64>>,
        rounds: usize,
        bytes: u64,
    ) -> Migration {
        let (at, blackout) = ("2026-11-22T12:30:00Z", blackout.into());
        let round = json!({ "round": 1, "started_at": at, "seconds": 0.5 });
        serde_json::from_value(json!({
            "id": "1-1-1", "state": "finished", "outcome": outcome, "migrator": "qemu",
            "confidence": 1.0, "ends": [], "found_under_way": false,
            "started_at": at, "observed_from": at, "duration_seconds": 1.0,
            "blackout": {
                "seconds": blackout, "method": "phase_functions", "complete": true, "by_method": {},
            },
            "rounds": vec![round; rounds],
            "bytes": { "queued": bytes, "delivered": bytes, "received": 0, "retransmitted": 0 },
        }))
        .unwrap()
    }

    fn judged(record: Migration) -> Report {
        Report::of(&Case::new("x", Version::V7_2, Version::V7_2), &ran(record))
    }

    #[test]
    fn a_right_record_has_no_fault() {
        let report = judged(record("completed", 0.0512, 3, 100_150));
        assert_eq!(report.faults, [], "{report:?}");
        assert_eq!(report.blackout_good, Some(true));
        let summary = Summary::of(&[report]);
        assert!(summary.good, "{summary:?}");
    }

    #[test]
    fn each_wrong_thing_is_a_fault() {
        let aspects = |record| {
            judged(record).faults.into_iter().map(|fault| fault.aspect).collect::<Vec<_>>()
        };
        assert_eq!(aspects(record("failed", 0.05, 3, 100_000)), [Aspect::Outcome]);
        assert_eq!(aspects(record("completed", None, 3, 100_000)), [Aspect::Blackout]);
        assert_eq!(aspects(record("completed", 0.056, 3, 100_000)), [Aspect::Blackout]);
        assert_eq!(aspects(record("completed", 0.05, 4, 100_000)), [Aspect::Rounds]);
        assert_eq!(aspects(record("completed", 0.05, 3, 100_300)), [Aspect::Bytes]);
        let mut split = record("completed", 0.05, 3, 100_000);
        split.split_brain = true;
        assert_eq!(aspects(split), [Aspect::Outcome]);
        // Not good, but not so bad as to be a fault by itself.
        let off = judged(record("completed", 0.053, 3, 100_000));
        assert_eq!((off.faults.len(), off.blackout_good), (0, Some(false)));
        assert!(!Summary::of(&[off]).good);
    }

    #[test]
    fn no_record_is_one_fault() {
        let case = Case::new("x", Version::V7_2, Version::V7_2);
        let mut ran = ran(record("completed", None, 3, 100_000));
        ran.records.clear();
        let report = Report::of(&case, &ran);
        assert_eq!(report.faults.len(), 1);
        assert!(!Summary::of(&[report]).good);
    }
}
