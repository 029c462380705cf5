//! How a migration ended and why, from what its functions, guest CPUs, processes and sockets show. Never guessed: what the evidence
//! leaves open is `unknown`.
//!
//! Judged in this order: what the evidence forbids (a death, pages that are missing, a guest that nobody let run) outweighs what
//! states say; then the migrator's final states; then what guest CPUs did; then connections.

use crate::model::qemu::MigratorState;
use crate::model::record::{Evidence, Outcome, Reason, ReasonClass, Role};

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
    /// The guest was paused when its state was sent, and still is.
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
            (None, Some(destination)) => {
                completed(destination) && (destination.guest_resumed || self.paused_all_along)
            }
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
            say("error", format!("QEMU's error at the {name}: {error}"));
        }
        if end.guest_resumed {
            let what = match role {
                Role::Source => "the guest continued at the source".to_owned(),
                Role::Destination => "the destination resumed the guest".to_owned(),
            };
            say("resume", what);
        }
        if let Some(seconds) = end.ran_after {
            let what = format!("vCPUs of the {name} ran {seconds:.3} s after the last close");
            say("vcpu", what);
        }
        if let Some(died) = end.died.as_ref().or(end.exited.as_ref()) {
            say("exit", format!("{name} {died}"));
        }
    }
    if ending.handed_over {
        say("vcpu", "vCPUs stopped at the source and ran at the destination".to_owned());
    }
    if ending.paused_all_along {
        say("pause", "the guest was paused when its state was sent".to_owned());
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
        ReasonClass::Cancelled => {
            Some("it was cancelled; the observer did not see by whom".to_owned())
        }
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
            Some("everything arrived, but nobody resumed the guest at the destination".to_owned())
        }
        ReasonClass::RanOnAtSource => Some("the guest continued at the source".to_owned()),
        ReasonClass::NotKnown => Some("the evidence on this host is not sufficient".to_owned()),
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
        _ => "the migrator gave up without an error text".to_owned(),
    }
}

#[cfg(test)]
#[path = "outcome_tests.rs"]
mod tests;
