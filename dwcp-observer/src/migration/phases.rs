//! The phases that a migration passed, as spans, and its rounds over RAM.

use super::{dump, end::EndState, guest::GuestBlackout, live::LiveMigration, machine::Life};
use crate::model::record::{PhaseName, Role};
use crate::{
    model::qemu::MigratorState,
    phase::timeline::{Moment, Timeline},
};

/// A span of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Which phase.
    pub phase: PhaseName,
    /// Begin, `CLOCK_MONOTONIC` ns.
    pub from_ns: u64,
    /// End; `None` while it lasts.
    pub to_ns: Option<u64>,
}

/// One pass over RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// Begin.
    pub from: Moment,
    /// End; `None` while it lasts.
    pub to: Option<Moment>,
    /// What was left to send when it began, bytes; `None` where QEMU does not tell.
    pub left_at_begin: Option<u64>,
    /// What was left when it ended, the next one's work, bytes.
    pub left_at_end: Option<u64>,
    /// What the guest dirtied in it, bytes.
    pub dirtied: Option<u64>,
}

/// The phases, in order and without gaps from the first sign to the end.
#[must_use]
pub fn spans(live: &LiveMigration, measured: Option<&GuestBlackout>) -> Vec<Span> {
    let end_ns = match live.life {
        Life::Finished { ended_ns, .. } => Some(ended_ns),
        _ => None,
    };
    if dump::ends_by_exit(&live.migrator) {
        return join(&dump::edges(live), end_ns);
    }
    let probed = live.roles().find(|(_, end)| end.probed() && !end.timeline.states.is_empty());
    let timeline = probed.map(|(_, end)| &end.timeline);
    let source = live.end(Role::Source).map(|end| &end.timeline);
    let postcopy = source.and_then(|source| source.entered(MigratorState::PostcopyActive));
    let stopped = measured.and_then(|measured| measured.instants.stopped_ns);
    let started = measured.and_then(|measured| measured.instants.started_ns);
    let setup = timeline.and_then(|timeline| timeline.entered(MigratorState::Setup));
    let active = timeline.and_then(|timeline| timeline.entered(MigratorState::Active));
    let completed = source.and_then(|source| source.entered(MigratorState::Completed));
    let mut edges = vec![];
    if let Some(at) = setup {
        edges.push((PhaseName::Setup, at));
    }
    edges.push((PhaseName::Precopy, active.unwrap_or(live.started_ns)));
    if let Some(at) = stopped {
        edges.push((PhaseName::StopAndCopy, at));
    }
    if let Some(at) = started {
        match postcopy {
            Some(_) => {
                edges.push((PhaseName::Postcopy, at));
                edges.extend(completed.map(|at| (PhaseName::Completion, at)));
            }
            None => edges.push((PhaseName::Completion, at)),
        }
    }
    join(&edges, end_ns)
}

/// Spans between neighbouring edges; an edge that comes before its predecessor is moved to it.
fn join(edges: &[(PhaseName, u64)], end_ns: Option<u64>) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::with_capacity(edges.len());
    for (phase, at) in edges {
        let from_ns = spans.last().map_or(*at, |last| last.from_ns.max(*at));
        if let Some(last) = spans.last_mut() {
            last.to_ns = Some(from_ns);
        }
        spans.push(Span { phase: *phase, from_ns, to_ns: None });
    }
    if let Some(last) = spans.last_mut() {
        last.to_ns = end_ns.map(|end| end.max(last.from_ns));
    }
    spans
}

/// The passes over RAM of a source. The last one ends when all is written.
#[must_use]
pub fn rounds(end: &EndState, over: Option<u64>) -> Vec<Round> {
    let Timeline { rounds, sent, .. } = &end.timeline;
    // Probes that came in the middle have missed some: their number would be none.
    if end.timeline.entered(MigratorState::Setup).is_none() {
        return Vec::new();
    }
    let closing = over.zip(rounds.last()).map(|(at_ns, last)| Moment {
        at_ns: at_ns.max(last.begin.at_ns),
        sent_bytes: end.sums().0.max(last.begin.sent_bytes),
    });
    let last_end = sent.or(closing);
    rounds
        .iter()
        .enumerate()
        .map(|(index, pass)| {
            let next = rounds.get(index + 1);
            Round {
                from: pass.begin,
                to: next.map(|next| next.begin).or(last_end),
                left_at_begin: pass.left.map(|left| left.bytes),
                left_at_end: next.and_then(|next| next.left).map(|left| left.bytes),
                dirtied: next.and_then(|next| pass.dirtied(next)),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_follow_each_other_without_gaps() {
        let edges =
            [(PhaseName::Setup, 10), (PhaseName::Precopy, 12), (PhaseName::StopAndCopy, 11)];
        let spans = join(&edges, Some(20));
        let seen: Vec<(u64, Option<u64>)> =
            spans.iter().map(|span| (span.from_ns, span.to_ns)).collect();
        assert_eq!(seen, [(10, Some(12)), (12, Some(12)), (12, Some(20))]);
        assert_eq!(join(&edges[..1], None)[0].to_ns, None);
        assert!(join(&[], Some(1)).is_empty());
    }
}
