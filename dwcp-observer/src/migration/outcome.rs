//! How a migration ended, from what its functions, guest CPUs, processes and sockets show. Never guessed: what the evidence leaves
//! open is `unknown`.

use super::record::{Evidence, Outcome, Role};
use crate::phase::states::MigratorState;

/// What is known of one end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndEnding {
    /// Last state of the migrator; `None`: its functions are not probed.
    pub state: Option<MigratorState>,
    /// The destination's guest was let run, or the source's ran on after a stop: by the migrator's functions.
    pub guest_resumed: bool,
    /// CPU time of guest CPUs after the end, seconds; `None` when none was recognised.
    pub ran_after: Option<f64>,
    /// It exited while its streams were open: name, pid and how.
    pub died: Option<String>,
}

/// What is known at the end. Counts are over all streams.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ending {
    /// Source; `None`: not on this host.
    pub source: Option<EndEnding>,
    /// Destination; `None`: not on this host.
    pub destination: Option<EndEnding>,
    /// Guest CPUs of the destination ran after those of the source had stopped, by the scheduler.
    pub handed_over: bool,
    /// Streams.
    pub streams: u32,
    /// Those of them that are queue pairs.
    pub queue_pairs: u32,
    /// Sockets closed by FIN with everything acknowledged; queue pairs disconnected without a failed completion.
    pub orderly: u32,
    /// Sockets with an RST seen on this host; queue pairs with a failed completion.
    pub reset: u32,
    /// Payload bytes that the source queued and that were never acknowledged.
    pub undelivered_bytes: u64,
    /// Errors that the kernel reported on the streams, by name.
    pub errors: Vec<String>,
}

/// Least CPU time after the end that shows a running guest: above what a halted thread uses for its own exit or wake-up.
const RUNNING_SECONDS: f64 = 0.005;

impl Ending {
    /// Whether nothing that may still come can change the outcome.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let state = |end: &Option<EndEnding>| end.as_ref().and_then(|end| end.state);
        match (state(&self.source), state(&self.destination)) {
            (Some(MigratorState::Cancelled | MigratorState::Failed), _) => true,
            (Some(MigratorState::Completed), Some(state)) => {
                matches!(state, MigratorState::Completed | MigratorState::Failed)
            }
            (Some(MigratorState::Completed), None) => self.destination.is_none(),
            (None, Some(MigratorState::Completed)) => self.source.is_none(),
            _ => false,
        }
    }
}

/// The outcome and what it rests on.
#[must_use]
pub fn outcome(ending: &Ending) -> (Outcome, Vec<Evidence>) {
    let ends = [(Role::Source, &ending.source), (Role::Destination, &ending.destination)];
    let ends = ends.into_iter().filter_map(|(role, end)| Some((role.as_str(), end.as_ref()?)));
    let mut evidence = Vec::new();
    let mut say = |kind: &str, detail: String| {
        evidence.push(Evidence { kind: kind.to_owned(), detail, weight: None });
    };
    for (role, end) in ends {
        if let Some(state) = end.state {
            say("state", format!("the {role}'s migration state is {}", state.as_str()));
        }
        if end.guest_resumed {
            say("resume", format!("the {role} let the guest run"));
        }
        if let Some(seconds) = end.ran_after {
            say(
                "vcpu",
                format!("guest CPUs of the {role} ran {seconds:.3} s after the last close"),
            );
        }
        if let Some(died) = &end.died {
            say("exit", format!("{role} {died}"));
        }
    }
    if ending.handed_over {
        say("vcpu", "guest CPUs stopped at the source and ran at the destination".to_owned());
    }
    let Ending { orderly, streams, reset, .. } = ending;
    let close = match ending.queue_pairs {
        0 => format!(
            "{orderly} of {streams} streams closed by FIN with all bytes acknowledged, {reset} reset"
        ),
        pairs if pairs == *streams => format!(
            "{orderly} of {streams} queue pairs disconnected without a failed completion, {reset} with one"
        ),
        pairs => format!(
            "{orderly} of {streams} streams ended in order, {pairs} of them queue pairs, {reset} did not"
        ),
    };
    say("close", close);
    for error in &ending.errors {
        say("error", format!("{error} was reported on a stream"));
    }
    if ending.undelivered_bytes > 0 {
        say(
            "bytes",
            format!("{} bytes were queued and never acknowledged", ending.undelivered_bytes),
        );
    }
    (decide(ending), evidence)
}

fn decide(ending: &Ending) -> Outcome {
    let source = ending.source.as_ref();
    let destination = ending.destination.as_ref();
    let state = |end: Option<&EndEnding>| end.and_then(|end| end.state);
    let died = |end: Option<&EndEnding>| end.is_some_and(|end| end.died.is_some());
    let runs = |end: Option<&EndEnding>| {
        end.and_then(|end| end.ran_after).map(|seconds| seconds >= RUNNING_SECONDS)
    };
    let destination_runs = destination
        .is_some_and(|end| end.guest_resumed || end.state == Some(MigratorState::Completed));
    match state(source) {
        Some(MigratorState::Cancelling | MigratorState::Cancelled) => return Outcome::Cancelled,
        Some(MigratorState::Failed) => return Outcome::Failed,
        // The source's word is good unless the destination is here and says otherwise.
        Some(MigratorState::Completed) if destination_runs => return Outcome::Completed,
        Some(MigratorState::Completed) if destination.is_none() => return Outcome::Completed,
        _ => {}
    }
    if destination_runs && !source.is_some_and(|end| end.guest_resumed) {
        return Outcome::Completed;
    }
    if died(source) || died(destination) {
        return Outcome::Failed;
    }
    match state(destination) {
        // The source is elsewhere or not probed: it may have been cancelled there. A broken connection is no cancel.
        Some(MigratorState::Failed) if ending.reset > 0 || !ending.errors.is_empty() => {
            return Outcome::Failed;
        }
        Some(MigratorState::Failed) if state(source) == Some(MigratorState::Completed) => {
            return Outcome::Failed;
        }
        Some(MigratorState::Failed) => return Outcome::Unknown,
        _ => {}
    }
    match (runs(destination), runs(source)) {
        _ if ending.handed_over && runs(source) != Some(true) => Outcome::Completed,
        // The guest runs where it was sent, and no longer where it came from.
        (Some(true), Some(false) | None) => Outcome::Completed,
        _ if ending.undelivered_bytes > 0 => Outcome::Failed,
        _ => Outcome::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(state: Option<MigratorState>) -> EndEnding {
        EndEnding { state, ..EndEnding::default() }
    }

    fn orderly() -> Ending {
        Ending { streams: 5, orderly: 5, ..Ending::default() }
    }

    fn ran(source: Option<f64>, destination: Option<f64>) -> Ending {
        let ran = |ran_after| Some(EndEnding { ran_after, ..EndEnding::default() });
        Ending { source: ran(source), destination: ran(destination), ..orderly() }
    }

    #[test]
    fn an_orderly_close_alone_does_not_tell() {
        assert_eq!(outcome(&orderly()).0, Outcome::Unknown);
    }

    #[test]
    fn a_guest_that_runs_at_the_destination_only_has_moved() {
        let (found, evidence) = outcome(&ran(Some(0.0), Some(0.9)));
        assert_eq!(found, Outcome::Completed);
        assert!(evidence.iter().any(|line| line.kind == "vcpu"));
    }

    #[test]
    fn a_guest_that_runs_at_both_ends_or_at_none_is_not_called_moved() {
        for (destination, source) in
            [(Some(0.9), Some(0.9)), (Some(0.0), Some(0.0)), (None, Some(0.0)), (None, None)]
        {
            assert_eq!(outcome(&ran(source, destination)).0, Outcome::Unknown);
        }
    }

    #[test]
    fn states_tell_what_sockets_cannot() {
        use MigratorState as S;
        for (source, destination, expected) in [
            (Some(S::Completed), Some(S::Completed), Outcome::Completed),
            // The destination could not load what the source had sent.
            (Some(S::Completed), Some(S::Failed), Outcome::Failed),
            (Some(S::Cancelled), Some(S::Failed), Outcome::Cancelled),
            (Some(S::Failed), Some(S::Failed), Outcome::Failed),
            (None, Some(S::Failed), Outcome::Unknown),
            (None, Some(S::Completed), Outcome::Completed),
        ] {
            let ending = Ending {
                source: Some(end(source)),
                destination: Some(end(destination)),
                ..orderly()
            };
            assert_eq!(outcome(&ending).0, expected, "{source:?} {destination:?}");
        }
        let alone = Ending { source: Some(end(Some(S::Completed))), ..orderly() };
        assert_eq!(outcome(&alone).0, Outcome::Completed);
        assert!(alone.is_settled());
        let still_loading = Ending {
            source: Some(end(Some(S::Completed))),
            destination: Some(end(Some(S::Active))),
            ..orderly()
        };
        assert_eq!(outcome(&still_loading).0, Outcome::Unknown);
        assert!(!still_loading.is_settled());
    }

    #[test]
    fn a_migrator_that_exits_after_the_hand_over_has_not_failed() {
        let died = |state, guest_resumed| {
            Some(EndEnding {
                state: Some(state),
                guest_resumed,
                died: Some("qemu (pid 7) was killed by signal 9".to_owned()),
                ..EndEnding::default()
            })
        };
        let killed = Ending {
            source: Some(end(Some(MigratorState::Active))),
            destination: died(MigratorState::Active, false),
            ..orderly()
        };
        let (found, evidence) = outcome(&killed);
        assert_eq!(found, Outcome::Failed);
        assert!(evidence.iter().any(|line| line.detail.contains("signal 9")));
        let tidied = Ending {
            source: died(MigratorState::Completed, false),
            destination: Some(EndEnding {
                state: Some(MigratorState::Completed),
                guest_resumed: true,
                ..EndEnding::default()
            }),
            ..orderly()
        };
        assert_eq!(outcome(&tidied).0, Outcome::Completed);
    }

    #[test]
    fn without_probes_lost_bytes_are_a_failure_unless_the_guest_moved() {
        let lost = Ending { undelivered_bytes: 1, ..ran(None, None) };
        assert_eq!(outcome(&lost).0, Outcome::Failed);
        let moved = Ending { handed_over: true, ..lost };
        assert_eq!(outcome(&moved).0, Outcome::Completed);
    }

    #[test]
    fn a_destination_alone_tells_a_break_from_a_possible_cancel() {
        let closed = Ending { destination: Some(end(Some(MigratorState::Failed))), ..orderly() };
        assert_eq!(outcome(&closed).0, Outcome::Unknown);
        let reset = Ending { reset: 1, ..closed };
        assert_eq!(outcome(&reset).0, Outcome::Failed);
    }
}
