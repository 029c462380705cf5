//! How a migration ended and why, from what its functions, guest CPUs, processes and sockets show. Never guessed: what the evidence
//! leaves open is `unknown`.
//!
//! Judged in this order: what the evidence forbids (a death, pages that are missing, a guest that nobody let run) outweighs what
//! states say; then the migrator's final states; then what guest CPUs did; then connections.

use super::record::{Evidence, Outcome, Reason, ReasonClass, Role};
use crate::phase::states::MigratorState;

/// What is known of one end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndEnding {
    /// Last state of the migrator; `None`: its functions are not probed.
    pub state: Option<MigratorState>,
    /// The manager asked to give up before it was over; `None`: that is not probed.
    pub cancel_requested: Option<bool>,
    /// The destination's guest was let run, or the source's ran on after a stop: by the migrator's functions.
    pub guest_resumed: bool,
    /// It was heard from its first word on: a guest that it did not say to let run was not.
    pub is_whole: bool,
    /// CPU time of guest CPUs after the end, seconds; `None` when none was recognised.
    pub ran_after: Option<f64>,
    /// It exited before its part was done: name, pid and how.
    pub died: Option<String>,
    /// The same, whenever it exited.
    pub exited: Option<String>,
    /// How it exited, as `wait(2)` tells, where its exit tells how its work went.
    pub exit_code: Option<u32>,
    /// What it said first of what went wrong.
    pub error: Option<String>,
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
    /// Its programs end with their work, and their exit tells how it went.
    pub by_exit: bool,
    /// The guest was moved before its pages.
    pub postcopy: bool,
    /// The guest did not run before either: its operator had stopped it.
    pub paused_all_along: bool,
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

/// How it ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// In one word.
    pub outcome: Outcome,
    /// Why it did not complete; `None` when it did.
    pub reason: Option<Reason>,
    /// The guest was let run at both ends.
    pub split_brain: bool,
    /// What all that rests on.
    pub evidence: Vec<Evidence>,
}

/// Least CPU time after the end that shows a running guest: above what a halted thread uses for its own exit or wake-up.
const RUNNING_SECONDS: f64 = 0.005;

impl EndEnding {
    fn is(&self, state: MigratorState) -> bool {
        self.state == Some(state)
    }

    fn failed(&self) -> bool {
        matches!(self.state, Some(MigratorState::Failed | MigratorState::Failing))
    }

    /// Given up, also where QEMU noticed its own shutdown of the connection before it had noted why: it says `failed` then
    /// (migration/migration.c, `migrate_fd_cancel`, 7.2: the return path is shut down first).
    fn cancelled(&self) -> bool {
        matches!(self.state, Some(MigratorState::Cancelling | MigratorState::Cancelled))
            || (self.failed() && self.cancel_requested == Some(true))
    }

    /// Whether its guest CPUs ran after the end; `None`: not known.
    fn ran(&self) -> Option<bool> {
        self.ran_after.map(|seconds| seconds >= RUNNING_SECONDS)
    }
}

impl Ending {
    /// Whether nothing that may still come can change the outcome.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        if self.by_exit {
            let exited =
                |end: &Option<EndEnding>| end.as_ref().is_none_or(|end| end.exit_code.is_some());
            return exited(&self.source) && exited(&self.destination);
        }
        let completed = |end: &EndEnding| end.is(MigratorState::Completed);
        match (&self.source, &self.destination) {
            // A migrator that is told to quit gives up first: whether it exits is still to be seen.
            (Some(source), _) if source.cancelled() && !source.is(MigratorState::Failing) => {
                source.cancel_requested != Some(false)
            }
            (Some(source), _) if source.failed() => source.is(MigratorState::Failed),
            (Some(source), Some(destination)) if completed(source) => {
                destination.guest_resumed
                    || destination.failed()
                    || (self.paused_all_along && completed(destination))
            }
            (Some(source), None) => completed(source),
            (None, Some(destination)) => completed(destination) && destination.guest_resumed,
            _ => false,
        }
    }

    /// All pages have arrived.
    fn is_whole(&self) -> bool {
        let completed = |end: &Option<EndEnding>| {
            end.as_ref().is_some_and(|end| end.is(MigratorState::Completed))
        };
        completed(&self.source) || completed(&self.destination)
    }
}

/// The outcome, why, and what it rests on.
#[must_use]
pub fn outcome(ending: &Ending) -> Judgement {
    let resumed = |end: &Option<EndEnding>| end.as_ref().is_some_and(|end| end.guest_resumed);
    let (outcome, class) = decide(ending);
    Judgement {
        outcome,
        reason: class.map(|class| Reason { class, text: text(ending, class) }),
        split_brain: resumed(&ending.source) && resumed(&ending.destination),
        evidence: evidence(ending),
    }
}

fn evidence(ending: &Ending) -> Vec<Evidence> {
    let ends = [(Role::Source, &ending.source), (Role::Destination, &ending.destination)];
    let ends = ends.into_iter().filter_map(|(role, end)| Some((role, end.as_ref()?)));
    let mut evidence = Vec::new();
    let mut say = |kind: &str, detail: String| {
        evidence.push(Evidence { kind: kind.to_owned(), detail, weight: None });
    };
    for (role, end) in ends {
        let name = role.as_str();
        if let Some(state) = end.state {
            say("state", format!("the {name}'s migration state is {}", state.as_str()));
        }
        if let Some(error) = &end.error {
            say("error", format!("the {name} says: {error}"));
        }
        if end.guest_resumed {
            let what = match role {
                Role::Source => "the guest ran on at the source".to_owned(),
                Role::Destination => "the destination let the guest run".to_owned(),
            };
            say("resume", what);
        }
        if let Some(seconds) = end.ran_after {
            let what = format!("guest CPUs of the {name} ran {seconds:.3} s after the last close");
            say("vcpu", what);
        }
        if let Some(died) = end.died.as_ref().or(end.exited.as_ref()) {
            say("exit", format!("{name} {died}"));
        }
    }
    if ending.handed_over {
        say("vcpu", "guest CPUs stopped at the source and ran at the destination".to_owned());
    }
    if ending.paused_all_along {
        say("pause", "the guest did not run before the migration either".to_owned());
    }
    say("close", closes(ending));
    for error in &ending.errors {
        say("error", format!("{error} was reported on a stream"));
    }
    if ending.undelivered_bytes > 0 {
        let bytes = ending.undelivered_bytes;
        say("bytes", format!("{bytes} bytes were queued and never acknowledged"));
    }
    evidence
}

fn closes(ending: &Ending) -> String {
    let Ending { orderly, streams, reset, queue_pairs, .. } = ending;
    match queue_pairs {
        0 if *streams == 0 => "no connection was seen".to_owned(),
        0 => format!(
            "{orderly} of {streams} streams closed by FIN with all bytes acknowledged, {reset} reset"
        ),
        pairs if pairs == streams => format!(
            "{orderly} of {streams} queue pairs disconnected without a failed completion, {reset} with one"
        ),
        pairs => format!(
            "{orderly} of {streams} streams ended in order, {pairs} of them queue pairs, {reset} did not"
        ),
    }
}

type Decision = (Outcome, Option<ReasonClass>);

const COMPLETED: Decision = (Outcome::Completed, None);

const fn failed(class: ReasonClass) -> Decision {
    (Outcome::Failed, Some(class))
}

fn decide(ending: &Ending) -> Decision {
    if ending.by_exit {
        return by_exit(ending).unwrap_or_else(|| by_connections(ending));
    }
    forbidden(ending)
        .or_else(|| by_states(ending))
        .or_else(|| by_guest_cpus(ending))
        .unwrap_or_else(|| by_connections(ending))
}

/// How programs exited that end with their work. What takes pages in ends well, too, when the dump that sends them has failed.
fn by_exit(ending: &Ending) -> Option<Decision> {
    let code = |end: &Option<EndEnding>| end.as_ref().and_then(|end| end.exit_code);
    match (code(&ending.source), code(&ending.destination)) {
        (Some(failure), _) if failure != 0 => Some(failed(ReasonClass::SourceExited)),
        (_, Some(failure)) if failure != 0 => Some(failed(ReasonClass::DestinationExited)),
        (Some(_), _) => Some(COMPLETED),
        _ => None,
    }
}

/// What cannot have completed, whatever the states say.
fn forbidden(ending: &Ending) -> Option<Decision> {
    let (source, destination) = (ending.source.as_ref(), ending.destination.as_ref());
    let resumed = |end: Option<&EndEnding>| end.is_some_and(|end| end.guest_resumed);
    let died = |end: Option<&EndEnding>| end.is_some_and(|end| end.died.is_some());
    let has = |end: Option<&EndEnding>, state| end.is_some_and(|end| end.is(state));
    // A migrator that is told to quit gives its migration up.
    if source.is_some_and(|end| {
        end.cancelled() && end.exited.is_some() && end.cancel_requested != Some(true)
    }) {
        return Some(failed(ReasonClass::SourceExited));
    }
    if source.is_some_and(|end| end.cancelled() || end.failed()) && !ending.postcopy {
        return None;
    }
    if ending.postcopy && !ending.is_whole() && !resumed(source) {
        return Some(failed(ReasonClass::GuestLost));
    }
    if resumed(destination) {
        // It died after all had arrived: the guest had moved.
        let early = died(destination) && !ending.is_whole();
        return early.then_some(failed(ReasonClass::DestinationExited));
    }
    if resumed(source) && (has(source, MigratorState::Completed) || died(destination)) {
        return Some(failed(ReasonClass::RanOnAtSource));
    }
    if destination.is_some_and(EndEnding::failed) && has(source, MigratorState::Completed) {
        return Some(failed(ReasonClass::LoadFailed));
    }
    if died(destination) {
        return Some(failed(ReasonClass::DestinationExited));
    }
    if died(source) && !has(destination, MigratorState::Completed) {
        return Some(failed(ReasonClass::SourceExited));
    }
    let all_arrived =
        destination.is_some_and(|end| end.is_whole && end.is(MigratorState::Completed));
    (all_arrived && !ending.paused_all_along).then_some(failed(ReasonClass::NotResumed))
}

/// What the migrator's final states say.
fn by_states(ending: &Ending) -> Option<Decision> {
    let (source, destination) = (ending.source.as_ref(), ending.destination.as_ref());
    if let Some(source) = source {
        if source.cancelled() {
            let class = match source.cancel_requested {
                Some(true) => ReasonClass::CancelledByManager,
                _ => ReasonClass::Cancelled,
            };
            return Some((Outcome::Cancelled, Some(class)));
        }
        if source.failed() {
            return Some(failed(class_of_failure(ending)));
        }
        if source.is(MigratorState::Completed) {
            // The source's word is good unless the destination is here and has not loaded it yet.
            let loading = destination.is_some_and(|end| {
                end.state.is_some() && !end.guest_resumed && !end.is(MigratorState::Completed)
            });
            return (!loading).then_some(COMPLETED);
        }
    }
    let destination = destination?;
    if destination.guest_resumed || destination.is(MigratorState::Completed) {
        let ran_on = source.is_some_and(|source| source.guest_resumed);
        return (!ran_on).then_some(COMPLETED);
    }
    if destination.failed() {
        // The source is elsewhere or not probed: it may have been cancelled there. A broken connection is no cancel.
        let broken = ending.reset > 0 || !ending.errors.is_empty();
        return Some(match broken {
            true => failed(class_of_failure(ending)),
            false => (Outcome::Unknown, Some(ReasonClass::NotKnown)),
        });
    }
    None
}

/// Where the guest's CPUs ran: of migrators that say nothing.
fn by_guest_cpus(ending: &Ending) -> Option<Decision> {
    let ran = |end: &Option<EndEnding>| end.as_ref().and_then(EndEnding::ran);
    let (source, destination) = (ran(&ending.source), ran(&ending.destination));
    match (source, destination) {
        _ if ending.handed_over && source != Some(true) => Some(COMPLETED),
        // The guest runs where it was sent, and no longer where it came from.
        (Some(false) | None, Some(true)) => Some(COMPLETED),
        // It runs where it was to leave, and never ran where it was sent.
        (Some(true), Some(false) | None) => Some(failed(ReasonClass::RanOnAtSource)),
        _ => None,
    }
}

fn by_connections(ending: &Ending) -> Decision {
    match ending.undelivered_bytes {
        0 => (Outcome::Unknown, Some(ReasonClass::NotKnown)),
        _ => failed(ReasonClass::ConnectionLost),
    }
}

/// The class of a failure that the migrator itself reports: by its words, else by what happened to its connections.
fn class_of_failure(ending: &Ending) -> ReasonClass {
    let refused = ending.destination.as_ref().is_some_and(|end| end.failed() && refuses(end));
    let words = errors(ending).next();
    let heard = |signs: &[&str]| {
        words.is_some_and(|words| signs.iter().any(|sign| words.contains(sign)))
            || ending.errors.iter().any(|error| signs.contains(&error.as_str()))
    };
    if heard(&["Connection refused", "ECONNREFUSED"]) {
        ReasonClass::ConnectionRefused
    } else if heard(&["timed out", "No route to host", "ETIMEDOUT", "EHOSTUNREACH"]) {
        ReasonClass::ConnectionTimedOut
    } else if refused {
        ReasonClass::LoadFailed
    } else if ending.destination.as_ref().is_some_and(|end| end.died.is_some()) {
        ReasonClass::DestinationExited
    } else if heard(&LOST) || (words.is_none() && ending.reset > 0) {
        ReasonClass::ConnectionLost
    } else if words.is_some() {
        ReasonClass::MigratorError
    } else {
        ReasonClass::Failed
    }
}

/// Whether an end speaks of more than a connection that broke, which is what the other end's failure looks like.
fn refuses(end: &EndEnding) -> bool {
    let breaks = |words: &String| LOST.iter().any(|sign| words.contains(sign));
    end.error.as_ref().is_some_and(|words| !breaks(words))
}

/// How a broken connection shows in QEMU's words (io/channel-socket.c, io/channel.c) and in the kernel's.
const LOST: [&str; 8] = [
    "Input/output error",
    "Connection reset by peer",
    "Broken pipe",
    "end-of-file",
    "Unable to write to socket",
    "Unable to read from socket",
    "ECONNRESET",
    "EPIPE",
];

/// What the migrators said: a destination that refuses what it is sent first, since the source sees its connection break then; else
/// the source first.
fn errors(ending: &Ending) -> impl Iterator<Item = &str> {
    let (source, destination) = (ending.source.as_ref(), ending.destination.as_ref());
    let refused = destination.is_some_and(refuses) && !source.is_some_and(refuses);
    let ends = if refused { [destination, source] } else { [source, destination] };
    ends.into_iter().filter_map(|end| end?.error.as_deref())
}

/// One line: the migrator's own words where it has some, else what killed or reset it.
fn text(ending: &Ending, class: ReasonClass) -> String {
    let ended = |end: &Option<EndEnding>| {
        let end = end.as_ref()?;
        end.died.clone().or_else(|| end.exited.clone())
    };
    let fact = match class {
        ReasonClass::CancelledByManager => Some("the manager cancelled it".to_owned()),
        ReasonClass::Cancelled => Some("it was cancelled, by whom was not seen".to_owned()),
        ReasonClass::SourceExited => {
            ended(&ending.source).map(|ended| format!("at the source, {ended}"))
        }
        ReasonClass::DestinationExited => {
            ended(&ending.destination).map(|ended| format!("at the destination, {ended}"))
        }
        ReasonClass::GuestLost => {
            let why = ended(&ending.destination).or_else(|| ended(&ending.source));
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            Some(format!("postcopy ended before all pages had arrived, the guest is lost{why}"))
        }
        ReasonClass::NotResumed => {
            Some("all arrived, and the guest was not let run at the destination".to_owned())
        }
        ReasonClass::RanOnAtSource => Some("the guest ran on at the source".to_owned()),
        ReasonClass::NotKnown => Some("what is seen from this host does not tell".to_owned()),
        _ => None,
    };
    let words = errors(ending).next().map(str::to_owned);
    match (fact, words) {
        (Some(fact), Some(words)) if class != ReasonClass::CancelledByManager => {
            format!("{fact} ({words})")
        }
        (Some(fact), _) => fact,
        (None, Some(words)) => words,
        (None, None) => without_words(ending, class),
    }
}

fn without_words(ending: &Ending, class: ReasonClass) -> String {
    let errors = ending.errors.join(", ");
    match class {
        ReasonClass::LoadFailed => "the destination could not load the guest".to_owned(),
        _ if !errors.is_empty() => format!("{errors} was reported on a stream"),
        _ if ending.reset > 0 => {
            format!("{} of {} streams were reset", ending.reset, ending.streams)
        }
        _ if ending.undelivered_bytes > 0 => {
            format!("{} bytes were queued and never acknowledged", ending.undelivered_bytes)
        }
        _ => "the migrator gave up without a word".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An end by its state; a destination that has completed has let its guest run.
    fn end(state: Option<MigratorState>) -> EndEnding {
        EndEnding { state, ..EndEnding::default() }
    }

    fn arrived() -> EndEnding {
        EndEnding { guest_resumed: true, ..end(Some(MigratorState::Completed)) }
    }

    #[test]
    fn the_exit_of_a_dump_tells() {
        let end = |exit_code| Some(EndEnding { exit_code, ..EndEnding::default() });
        let dump = |source, destination| Ending {
            by_exit: true,
            source,
            destination,
            ..Ending::default()
        };
        let failed = Outcome::Failed;
        for (source, destination, expected) in [
            (end(Some(0)), None, Outcome::Completed),
            (end(Some(0)), end(Some(0)), Outcome::Completed),
            (end(Some(1 << 8)), end(Some(0)), failed),
            (end(Some(9)), None, failed),
            (end(Some(0)), end(Some(1 << 8)), failed),
            (None, end(Some(1 << 8)), failed),
            // Its page server ends well after a dump that failed.
            (None, end(Some(0)), Outcome::Unknown),
            (end(None), end(Some(0)), Outcome::Unknown),
        ] {
            let ending = dump(source, destination);
            assert_eq!(decided(&ending), expected, "{ending:?}");
        }
        assert!(!dump(end(None), None).is_settled());
    }

    fn decided(ending: &Ending) -> Outcome {
        outcome(ending).outcome
    }

    fn class(ending: &Ending) -> Option<ReasonClass> {
        outcome(ending).reason.map(|reason| reason.class)
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
        assert_eq!(decided(&orderly()), Outcome::Unknown);
    }

    #[test]
    fn a_guest_that_runs_at_the_destination_only_has_moved() {
        let found = outcome(&ran(Some(0.0), Some(0.9)));
        assert_eq!((found.outcome, found.reason), (Outcome::Completed, None));
        assert!(found.evidence.iter().any(|line| line.kind == "vcpu"));
    }

    #[test]
    fn a_guest_that_runs_at_both_ends_or_at_none_is_not_called_moved() {
        for (destination, source) in
            [(Some(0.9), Some(0.9)), (Some(0.0), Some(0.0)), (None, Some(0.0)), (None, None)]
        {
            assert_eq!(decided(&ran(source, destination)), Outcome::Unknown);
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
            let mut destination = end(destination);
            destination.guest_resumed = destination.is(S::Completed);
            let ending =
                Ending { source: Some(end(source)), destination: Some(destination), ..orderly() };
            assert_eq!(decided(&ending), expected, "{ending:?}");
        }
        let alone = Ending { source: Some(end(Some(S::Completed))), ..orderly() };
        assert_eq!(decided(&alone), Outcome::Completed);
        assert!(alone.is_settled());
        let still_loading = Ending {
            source: Some(end(Some(S::Completed))),
            destination: Some(end(Some(S::Active))),
            ..orderly()
        };
        assert_eq!(decided(&still_loading), Outcome::Unknown);
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
        let found = outcome(&killed);
        assert_eq!(found.outcome, Outcome::Failed);
        assert!(found.evidence.iter().any(|line| line.detail.contains("signal 9")));
        let reason = found.reason.unwrap();
        assert_eq!(reason.class, ReasonClass::DestinationExited);
        assert!(reason.text.contains("signal 9"), "{}", reason.text);
        let tidied = Ending {
            source: died(MigratorState::Completed, false),
            destination: Some(arrived()),
            ..orderly()
        };
        assert_eq!(decided(&tidied), Outcome::Completed);
    }

    #[test]
    fn without_probes_lost_bytes_are_a_failure_unless_the_guest_moved() {
        let lost = Ending { undelivered_bytes: 1, ..ran(None, None) };
        assert_eq!(decided(&lost), Outcome::Failed);
        let moved = Ending { handed_over: true, ..lost };
        assert_eq!(decided(&moved), Outcome::Completed);
    }

    #[test]
    fn a_destination_alone_tells_a_break_from_a_possible_cancel() {
        let closed = Ending { destination: Some(end(Some(MigratorState::Failed))), ..orderly() };
        assert_eq!(decided(&closed), Outcome::Unknown);
        let reset = Ending { reset: 1, ..closed };
        assert_eq!(decided(&reset), Outcome::Failed);
    }

    #[test]
    fn a_guest_that_nobody_let_run_has_not_completed() {
        let loaded = Ending {
            source: Some(end(Some(MigratorState::Completed))),
            destination: Some(EndEnding { is_whole: true, ..end(Some(MigratorState::Completed)) }),
            ..orderly()
        };
        assert!(!loaded.is_settled());
        assert_eq!(class(&loaded), Some(ReasonClass::NotResumed));
        let mut late = loaded.clone();
        late.destination.as_mut().unwrap().is_whole = false;
        assert_eq!(decided(&late), Outcome::Completed, "its probes may have missed it");
        let paused = Ending { paused_all_along: true, ..loaded.clone() };
        assert!(paused.is_settled());
        assert_eq!(decided(&paused), Outcome::Completed);
        let mut taken_back = loaded;
        taken_back.source.as_mut().unwrap().guest_resumed = true;
        assert_eq!(class(&taken_back), Some(ReasonClass::RanOnAtSource));
    }

    #[test]
    fn postcopy_without_all_pages_has_lost_the_guest_however_it_ended() {
        use MigratorState as S;
        for (source, destination, died) in [
            (S::PostcopyPaused, S::PostcopyActive, true),
            (S::PostcopyActive, S::PostcopyActive, true),
            (S::PostcopyRecover, S::PostcopyPaused, false),
            (S::Failed, S::Failed, true),
            (S::Cancelled, S::PostcopyPaused, false),
        ] {
            let mut destination = EndEnding { guest_resumed: true, ..end(Some(destination)) };
            destination.died = died.then(|| "qemu (pid 7) was killed by signal 9".to_owned());
            let ending = Ending {
                source: Some(end(Some(source))),
                destination: Some(destination),
                postcopy: true,
                ..orderly()
            };
            assert_eq!(class(&ending), Some(ReasonClass::GuestLost), "{ending:?}");
        }
        let whole = Ending {
            source: Some(end(Some(S::Completed))),
            destination: Some(EndEnding { guest_resumed: true, ..end(Some(S::PostcopyActive)) }),
            postcopy: true,
            ..orderly()
        };
        assert_eq!(decided(&whole), Outcome::Completed);
    }

    #[test]
    fn a_guest_that_runs_at_both_ends_is_told() {
        let mut source = end(Some(MigratorState::Completed));
        source.guest_resumed = true;
        let ending = Ending { source: Some(source), destination: Some(arrived()), ..orderly() };
        let found = outcome(&ending);
        assert_eq!((found.outcome, found.split_brain), (Outcome::Completed, true));
    }

    #[test]
    fn a_migrator_that_is_told_to_quit_has_failed_and_was_not_cancelled() {
        let mut source = end(Some(MigratorState::Cancelled));
        source.cancel_requested = Some(false);
        source.exited = Some("qemu (pid 7) exited with status 0".to_owned());
        let quit = Ending { source: Some(source.clone()), ..orderly() };
        assert!(!quit.is_settled());
        assert_eq!(class(&quit), Some(ReasonClass::SourceExited));
        source.cancel_requested = Some(true);
        let cancelled = Ending { source: Some(source.clone()), ..orderly() };
        assert!(cancelled.is_settled());
        assert_eq!(class(&cancelled), Some(ReasonClass::CancelledByManager));
        // Its own shutdown of the connection was noticed first.
        source.state = Some(MigratorState::Failed);
        source.error = Some("Unable to write to socket: Broken pipe".to_owned());
        let raced = Ending { source: Some(source), ..orderly() };
        assert_eq!(decided(&raced), Outcome::Cancelled);
    }

    #[test]
    fn the_migrators_own_words_are_the_reason() {
        for (words, errors, expected) in [
            (
                "Failed to connect to '127.0.0.1:1': Connection refused",
                vec![],
                ReasonClass::ConnectionRefused,
            ),
            ("Unable to write to socket: Broken pipe", vec![], ReasonClass::ConnectionLost),
            ("Parameter 'x' is unexpected", vec!["EPIPE"], ReasonClass::ConnectionLost),
            ("Parameter 'x' is unexpected", vec![], ReasonClass::MigratorError),
            ("", vec!["ETIMEDOUT"], ReasonClass::ConnectionTimedOut),
            ("", vec![], ReasonClass::Failed),
        ] {
            let error = Some(words.to_owned()).filter(|words| !words.is_empty());
            let source = EndEnding { error, ..end(Some(MigratorState::Failed)) };
            let errors = errors.into_iter().map(str::to_owned).collect();
            let ending = Ending { source: Some(source), errors, ..orderly() };
            let reason = outcome(&ending).reason.unwrap();
            assert_eq!(reason.class, expected, "{words}");
            assert!(reason.text.contains(words), "{}", reason.text);
        }
    }

    #[test]
    fn a_destination_that_refuses_what_it_is_sent_is_the_cause() {
        let said = |state, words: &str| {
            Some(EndEnding { error: Some(words.to_owned()), ..end(Some(state)) })
        };
        let broken = "Failed to flush QEMUFile: Unable to write to socket: Broken pipe";
        let refused = Ending {
            source: said(MigratorState::Failed, broken),
            destination: said(MigratorState::Failed, "Unknown section 'virtio-rng'"),
            ..orderly()
        };
        let reason = outcome(&refused).reason.unwrap();
        assert_eq!(reason.class, ReasonClass::LoadFailed);
        assert!(reason.text.contains("virtio-rng"), "{}", reason.text);
        let cut = Ending {
            destination: said(
                MigratorState::Failed,
                "load of migration failed: Input/output error",
            ),
            ..refused
        };
        assert_eq!(class(&cut), Some(ReasonClass::ConnectionLost));
    }

    #[test]
    fn where_guest_cpus_ran_settles_what_no_state_tells() {
        assert_eq!(class(&ran(Some(0.9), Some(0.0))), Some(ReasonClass::RanOnAtSource));
        assert_eq!(decided(&ran(Some(0.0), Some(0.9))), Outcome::Completed);
    }
}
