//! QEMU's own count of the remaining memory: in each turn of its migration thread, and at the start of each round.

use dwcp_observer_ebpf::phase::{NOT_TOLD, PENDING_OF_THREE};

use super::timeline::Moment;

/// What is left now, as a migrator last told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// Bytes of pages that are dirty, and of what else it sends in rounds.
    pub bytes: u64,
    /// When it told, `CLOCK_MONOTONIC` ns.
    pub at_ns: u64,
}

/// Begin of a pass over RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The dirty bitmap was fetched.
    pub begin: Moment,
    /// What was left then; `None`: QEMU did not tell, or has not yet.
    pub left: Option<Left>,
}

/// What was left at the begin of a pass, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// All of it.
    pub bytes: u64,
    /// Of that, what was left of the pass before; the rest was dirtied in it.
    pub unsent: Option<Unsent>,
}

/// What a pass had not sent when the next one began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsent {
    /// Bytes of pages.
    pub bytes: u64,
    /// QEMU told it right before the fetch. Otherwise what was handed to the sockets since the last look is taken off, which is
    /// right where pages go as they are.
    pub reported: bool,
}

impl Left {
    /// Of a mark: bytes left, left at the look before the fetch, and payload sent from there to the fetch, by an executable that
    /// tells in this form (`PENDING_*`).
    #[must_use]
    pub const fn of([bytes, before, sent]: [u64; 3], form: u32) -> Self {
        let unsent = match (before, sent) {
            (NOT_TOLD, _) => None,
            // `ram_save_pending` (migration/ram.c, QEMU 5.2 to 7.2) fetches before it tells.
            (_, NOT_TOLD) if form == PENDING_OF_THREE => None,
            _ if form == PENDING_OF_THREE => {
                Some(Unsent { bytes: before.saturating_sub(sent), reported: false })
            }
            // `migration_iteration_run` asks for an estimate in the same turn (8.0 to 11.1).
            _ => Some(Unsent { bytes: before, reported: true }),
        };
        Self { bytes, unsent }
    }
}

impl Pass {
    /// What the guest dirtied from this pass to the next, bytes of pages, as QEMU counts them: a page once. `None` where QEMU told
    /// too little.
    #[must_use]
    pub fn dirtied(&self, next: &Self) -> Option<u64> {
        let left = next.left?;
        let unsent = left.unsent?;
        (unsent.reported || self.sent_as_it_is(next, unsent.bytes))
            .then(|| left.bytes.saturating_sub(unsent.bytes))
    }

    /// Whether the pages of this pass went as they are, and not as a note that they are zero, or as what has changed in them.
    fn sent_as_it_is(&self, next: &Self, unsent: u64) -> bool {
        let Some(left) = self.left else { return false };
        let pages = left.bytes.saturating_sub(unsent);
        let payload = next.begin.sent_bytes.saturating_sub(self.begin.sent_bytes);
        payload >= pages - pages / 50
    }
}

#[cfg(test)]
mod tests {
    use dwcp_observer_ebpf::phase::{PENDING_OF_TWO, PENDING_STRUCT};

    use super::*;

    const MB: u64 = 1_000_000;

    fn pass(sent: u64, left: Option<Left>) -> Pass {
        Pass { begin: Moment { at_ns: 0, sent_bytes: sent * MB }, left }
    }

    /// 100 MB to send in a round; the next one finds 60 MB, 10 MB of which were in the first as well.
    fn dirtied(before: u64, sent_since: u64, payload: u64, form: u32) -> Option<u64> {
        let first = pass(500, Some(Left::of([100 * MB, NOT_TOLD, 0], form)));
        let second = Left::of([60 * MB, before, sent_since], form);
        first.dirtied(&pass(500 + payload, Some(second)))
    }

    #[test]
    fn what_was_not_sent_was_not_dirtied() {
        assert_eq!(dirtied(10 * MB, 0, 90, PENDING_OF_TWO), Some(50 * MB));
        assert_eq!(dirtied(10 * MB, NOT_TOLD, 0, PENDING_STRUCT), Some(50 * MB));
        // Told one turn before: what was sent in that turn is taken off.
        assert_eq!(dirtied(25 * MB, 15 * MB, 90, PENDING_OF_THREE), Some(50 * MB));
    }

    #[test]
    fn what_is_not_told_is_no_zero() {
        assert_eq!(dirtied(NOT_TOLD, 0, 90, PENDING_OF_TWO), None);
        assert_eq!(dirtied(25 * MB, NOT_TOLD, 90, PENDING_OF_THREE), None);
        // Zero pages, or XBZRLE: the payload says nothing of how many pages were sent since the look.
        assert_eq!(dirtied(25 * MB, 15 * MB, 60, PENDING_OF_THREE), None);
        assert_eq!(dirtied(10 * MB, 0, 60, PENDING_OF_TWO), Some(50 * MB));
        let untold = pass(590, None);
        assert_eq!(pass(500, None).dirtied(&untold), None);
        let reported = pass(590, Some(Left::of([60 * MB, 25 * MB, 15 * MB], PENDING_OF_THREE)));
        assert_eq!(untold.dirtied(&reported), None);
    }
}
