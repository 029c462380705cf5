//! How a migration ended, from what the sockets and processes show.

use super::record::{Evidence, Outcome};

/// What is known at the end. Counts are over all streams.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ending {
    /// Streams.
    pub streams: u32,
    /// Streams closed by FIN with everything acknowledged.
    pub orderly: u32,
    /// Streams with an RST seen on this host.
    pub reset: u32,
    /// Streams that never carried payload.
    pub empty: u32,
    /// Payload bytes that the source queued and that were never acknowledged.
    pub undelivered_bytes: u64,
    /// Migrator processes that exited while their streams were open.
    pub died: Vec<String>,
    /// Errors that the kernel reported on the streams, by name.
    pub errors: Vec<String>,
    /// CPU time of the destination's guest CPUs after the end, seconds; `None`: not on this host or not recognised.
    pub destination_ran: Option<f64>,
    /// CPU time of the source's guest CPUs after the end, seconds; `None`: not on this host or not recognised.
    pub source_ran: Option<f64>,
}

/// Least CPU time after the end that shows a running guest: above what a halted thread uses for its own exit or wake-up.
const RUNNING_SECONDS: f64 = 0.005;

/// The outcome and what it rests on.
#[must_use]
pub fn outcome(ending: &Ending) -> (Outcome, Vec<Evidence>) {
    let mut evidence = Vec::new();
    let mut say = |kind: &str, detail: String| {
        evidence.push(Evidence { kind: kind.to_owned(), detail, weight: None });
    };
    say(
        "close",
        format!(
            "{} of {} streams closed by FIN with all bytes acknowledged, {} reset",
            ending.orderly, ending.streams, ending.reset
        ),
    );
    for process in &ending.died {
        say("exit", format!("{process} exited with streams open"));
    }
    for error in &ending.errors {
        say("error", format!("the kernel reported {error} on a stream"));
    }
    if ending.undelivered_bytes > 0 {
        say(
            "bytes",
            format!("{} bytes were queued and never acknowledged", ending.undelivered_bytes),
        );
    }
    for (end, ran) in [("destination", ending.destination_ran), ("source", ending.source_ran)] {
        if let Some(seconds) = ran {
            say("vcpu", format!("guest CPUs of the {end} ran {seconds:.3} s after the last close"));
        }
    }
    let runs = |ran: Option<f64>| ran.map(|seconds| seconds >= RUNNING_SECONDS);
    let outcome = match (runs(ending.destination_ran), runs(ending.source_ran)) {
        _ if !ending.died.is_empty() || ending.undelivered_bytes > 0 => Outcome::Failed,
        // The guest runs where it was sent, and no longer where it came from.
        (Some(true), Some(false) | None) => Outcome::Completed,
        _ => Outcome::Unknown,
    };
    (outcome, evidence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orderly() -> Ending {
        Ending { streams: 5, orderly: 5, ..Ending::default() }
    }

    #[test]
    fn an_orderly_close_alone_does_not_tell() {
        assert_eq!(outcome(&orderly()).0, Outcome::Unknown);
    }

    #[test]
    fn a_guest_that_runs_at_the_destination_only_has_moved() {
        let ending = Ending { destination_ran: Some(0.9), source_ran: Some(0.0), ..orderly() };
        let (found, evidence) = outcome(&ending);
        assert_eq!(found, Outcome::Completed);
        assert!(evidence.iter().any(|line| line.kind == "vcpu"));
    }

    #[test]
    fn a_guest_that_runs_at_both_ends_or_at_none_is_not_called_moved() {
        for (destination, source) in
            [(Some(0.9), Some(0.9)), (Some(0.0), Some(0.0)), (None, Some(0.0)), (None, None)]
        {
            let ending = Ending { destination_ran: destination, source_ran: source, ..orderly() };
            assert_eq!(outcome(&ending).0, Outcome::Unknown);
        }
    }

    #[test]
    fn lost_bytes_and_dead_migrators_are_failures() {
        let lost = Ending { undelivered_bytes: 1, destination_ran: Some(1.0), ..orderly() };
        assert_eq!(outcome(&lost).0, Outcome::Failed);
        let died = Ending { died: vec!["qemu (pid 7)".to_owned()], ..orderly() };
        let (found, evidence) = outcome(&died);
        assert_eq!(found, Outcome::Failed);
        assert!(evidence.iter().any(|line| line.detail.contains("pid 7")));
    }
}
