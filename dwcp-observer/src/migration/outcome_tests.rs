//! How migrations end, by what is known of their ends.

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
    let dump =
        |source, destination| Ending { by_exit: true, source, destination, ..Ending::default() };
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
    let said =
        |state, words: &str| Some(EndEnding { error: Some(words.to_owned()), ..end(Some(state)) });
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
        destination: said(MigratorState::Failed, "load of migration failed: Input/output error"),
        ..refused
    };
    assert_eq!(class(&cut), Some(ReasonClass::ConnectionLost));
}

#[test]
fn where_guest_cpus_ran_settles_what_no_state_tells() {
    assert_eq!(class(&ran(Some(0.9), Some(0.0))), Some(ReasonClass::RanOnAtSource));
    assert_eq!(decided(&ran(Some(0.0), Some(0.9))), Outcome::Completed);
}
