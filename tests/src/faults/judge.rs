//! Whether what the observer said of a fault is right.

use dwcp_observer_model::record::Migration;
use dwcp_observer_model::verdict::Fractions;
use serde::Serialize;

use super::Expectation;

/// A verdict counts if it comes within this time of the onset, seconds.
pub const LIMIT: f64 = 3.0;

/// What the observer said at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Seen {
    /// When it was asked, seconds since the start of the migration.
    pub at: f64,
    /// `healthy`, `slow`, ...; empty if there was no verdict.
    pub state: String,
    /// `network`, `receiver`, ...; empty if there was no verdict.
    pub cause: String,
    /// For the operator.
    pub sentence: String,
    /// The causes' shares of the last second, as they were shown.
    pub fractions: Option<Fractions>,
}

impl Seen {
    /// Reads the verdict of a record.
    #[must_use]
    pub fn read(at: f64, record: &Migration) -> Self {
        let verdict = record.verdict.as_ref();
        let cause = verdict.and_then(|verdict| verdict.cause);
        Self {
            at,
            state: verdict.map_or("", |verdict| verdict.state.as_str()).to_owned(),
            cause: cause.map_or("", |cause| cause.as_str()).to_owned(),
            sentence: verdict.map(|verdict| verdict.sentence.clone()).unwrap_or_default(),
            fractions: verdict.and_then(|verdict| verdict.fractions),
        }
    }

    fn is_alarm(&self) -> bool {
        matches!(self.state.as_str(), "stalled" | "not_converging")
    }

    fn is(&self, expected: &Expectation) -> bool {
        expected.states.contains(&self.state.as_str())
            && self.cause == expected.cause
            && self.sentence.contains(expected.words)
    }

    /// How bad the state is.
    fn rank(&self) -> usize {
        const STATES: [&str; 4] = ["healthy", "slow", "not_converging", "stalled"];
        STATES.iter().position(|state| *state == self.state).map_or(0, |position| position + 1)
    }
}

/// The observer's verdicts about one migration, judged.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Judgement {
    /// The state that counts: the expected one if it came in time, else the last one within the
    /// limit; of a migration without a fault the worst one. Empty if there was none.
    pub state: String,
    /// The cause told with it.
    pub cause: String,
    /// The sentence told with it.
    pub sentence: String,
    /// The shares told with it.
    pub fractions: Option<Fractions>,
    /// From the onset to the first right verdict, seconds; also beyond the limit.
    pub seconds: Option<f64>,
    /// Share of the verdicts from the first right one to the fault's end that are right.
    pub held: Option<f64>,
    /// What was wrong before the onset.
    pub before: Option<String>,
    /// All in all.
    pub right: bool,
}

impl Judgement {
    /// Judges what was seen until the fault was undone; of a migration without a fault, until its
    /// end. `onset` is in seconds since the start.
    #[must_use]
    pub fn of(expected: &Expectation, seen: &[Seen], onset: f64) -> Self {
        let (before, after): (Vec<&Seen>, Vec<&Seen>) =
            seen.iter().partition(|seen| seen.at < onset);
        let early = before.iter().find(|seen| seen.is_alarm()).copied();
        // A verdict that was there already does not tell of the fault.
        let early = early.or(before.last().copied().filter(|seen| seen.is(expected)));
        let before = early
            .map(|seen| format!("{}/{} {:.1} s after the start", seen.state, seen.cause, seen.at));
        let (told, right, seconds) = if expected.cause.is_empty() {
            let worst = seen.iter().max_by_key(|seen| seen.rank());
            (worst, !seen.iter().any(Seen::is_alarm), None)
        } else {
            let first = after.iter().find(|seen| seen.is(expected)).copied();
            let in_time = first.filter(|seen| seen.at - onset <= LIMIT);
            let last = || after.iter().rfind(|seen| seen.at - onset <= LIMIT).copied();
            (in_time.or_else(last), in_time.is_some(), first.map(|seen| seen.at - onset))
        };
        let held = seconds.map(|seconds| {
            let since = after.iter().filter(|seen| seen.at - onset >= seconds);
            let right = since.clone().filter(|seen| seen.is(expected)).count();
            right as f64 / since.count() as f64
        });
        let told = told.cloned();
        let right = right && before.is_none();
        match told {
            None => Self { seconds, held, before, right, ..Self::default() },
            Some(Seen { state, cause, sentence, fractions, .. }) => {
                Self { state, cause, sentence, fractions, seconds, held, before, right }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Fault;

    fn seen(at: f64, state: &str, cause: &str) -> Seen {
        Seen {
            at,
            state: state.to_owned(),
            cause: cause.to_owned(),
            sentence: String::new(),
            fractions: None,
        }
    }

    #[test]
    fn a_right_verdict_in_time_is_right() {
        let expected = Fault::BandwidthCut.expectation();
        let all = [
            seen(3.9, "healthy", "network"),
            seen(4.5, "healthy", "network"),
            seen(5.2, "slow", "network"),
            seen(6.0, "slow", "receiver"),
        ];
        let judgement = Judgement::of(&expected, &all, 4.0);
        assert!(judgement.right, "{judgement:?}");
        assert_eq!((judgement.state.as_str(), judgement.cause.as_str()), ("slow", "network"));
        assert!((judgement.seconds.unwrap() - 1.2).abs() < 1e-9);
        assert_eq!(judgement.held, Some(0.5));
    }

    #[test]
    fn a_late_or_a_wrong_verdict_is_wrong() {
        let expected = Fault::BandwidthCut.expectation();
        let late = [seen(6.9, "healthy", "network"), seen(7.1, "slow", "network")];
        let judgement = Judgement::of(&expected, &late, 4.0);
        assert!(!judgement.right);
        assert_eq!(judgement.state, "healthy");
        assert!(judgement.seconds.unwrap() > LIMIT);
        let wrong = [seen(5.0, "slow", "receiver"), seen(6.0, "stalled", "network")];
        let judgement = Judgement::of(&expected, &wrong, 4.0);
        assert!(!judgement.right && judgement.seconds.is_none() && judgement.held.is_none());
        assert_eq!((judgement.state.as_str(), judgement.cause.as_str()), ("stalled", "network"));
        let none = Judgement::of(&expected, &[], 4.0);
        assert!(!none.right && none.state.is_empty());
    }

    #[test]
    fn what_is_said_before_the_onset_counts() {
        let expected = Fault::BandwidthCut.expectation();
        let already = [seen(3.9, "slow", "network"), seen(4.1, "slow", "network")];
        assert!(!Judgement::of(&expected, &already, 4.0).right);
        let alarm = [
            seen(2.0, "stalled", "network"),
            seen(3.9, "healthy", "network"),
            seen(4.1, "slow", "network"),
        ];
        let judgement = Judgement::of(&expected, &alarm, 4.0);
        assert!(!judgement.right);
        let before = judgement.before.unwrap();
        assert!(before.contains("stalled/network") && before.contains("2.0 s"), "{before}");
    }

    #[test]
    fn a_migration_without_a_fault_may_be_slow_but_no_more() {
        let expected = Fault::Clean.expectation();
        let calm = [seen(1.0, "healthy", "network"), seen(2.0, "slow", "receiver")];
        let judgement = Judgement::of(&expected, &calm, f64::INFINITY);
        assert!(judgement.right);
        assert_eq!(judgement.state, "slow");
        let alarm = [seen(1.0, "stalled", "network"), seen(2.0, "healthy", "network")];
        let judgement = Judgement::of(&expected, &alarm, f64::INFINITY);
        assert!(!judgement.right);
        assert_eq!(judgement.state, "stalled");
    }
}
