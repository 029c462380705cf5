//! The life of a migration as a state machine over plain values.

/// Time that streams have to close after the migrator said that it is over, ns.
const CLOSING_NS: u64 = 2_000_000_000;

/// What is seen of a migration's streams and of its migrator at one moment. Times are `CLOCK_MONOTONIC` ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// Streams whose socket exists and that no end has closed.
    pub open: u32,
    /// Streams that an application has closed but whose last bytes the kernel still has to deliver.
    pub draining: u32,
    /// Latest close by an application or by the peer, over all streams, or what settled the guest's fate later; 0 when nothing did.
    pub last_close_ns: u64,
    /// The migrator still has to do something, whether or not a stream is open: it connects, waits for its manager, or to be recovered.
    pub held: bool,
    /// When the migrator said that it is over, though a stream may stay open for ever (a destination that is never told); 0 not yet.
    pub over_ns: u64,
}

impl Streams {
    /// Streams are open that the migrator has left behind.
    fn is_given_up(self, now_ns: u64) -> bool {
        self.over_ns != 0
            && self.open > 0
            && !self.held
            && now_ns.saturating_sub(self.over_ns) >= CLOSING_NS
    }
}

/// Where a migration is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Streams are open.
    Active,
    /// No stream is open, but one may still follow, or bytes are still being delivered.
    Closing,
    /// Over; `drained` once every socket is gone and the totals are final.
    Finished {
        /// Last close, ns.
        ended_ns: u64,
        /// Totals are final.
        drained: bool,
    },
}

/// How long a migration waits for a further stream, and for the kernel to deliver what an application left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Time between the last close and the end, for migrators that open one connection after another, ns.
    pub next_stream_ns: u64,
    /// Time that a closed but undelivered stream holds up the end, ns.
    pub drain_ns: u64,
    /// Time after which the totals count as final although a socket still exists, ns.
    pub give_up_ns: u64,
}

impl Life {
    /// The next state. A finished migration stays finished: a new stream begins a new migration.
    #[must_use]
    pub fn next(self, streams: Streams, now_ns: u64, patience: Patience) -> Self {
        let since_close = now_ns.saturating_sub(streams.last_close_ns);
        match self {
            Self::Finished { ended_ns, drained } => {
                let sockets = streams.open + streams.draining;
                Self::Finished {
                    ended_ns,
                    drained: drained || sockets == 0 || since_close >= patience.give_up_ns,
                }
            }
            _ if streams.is_given_up(now_ns) => Self::Finished {
                ended_ns: streams.over_ns,
                drained: streams.open + streams.draining == 0,
            },
            _ if streams.open > 0 || streams.held => Self::Active,
            _ if streams.draining > 0 && since_close < patience.drain_ns => Self::Closing,
            _ if streams.draining == 0 && since_close < patience.next_stream_ns => Self::Closing,
            _ => Self::Finished { ended_ns: streams.last_close_ns, drained: streams.draining == 0 },
        }
    }

    /// Whether the migration is over.
    #[must_use]
    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Finished { .. })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Patience =
        Patience { next_stream_ns: 1_000, drain_ns: 5_000, give_up_ns: 100_000 };

    fn streams(open: u32, draining: u32, last_close_ns: u64) -> Streams {
        Streams { open, draining, last_close_ns, ..Streams::default() }
    }

    #[test]
    fn ends_when_the_last_stream_has_closed_and_none_followed() {
        let life = Life::Active.next(streams(0, 0, 10), 500, PATIENCE);
        assert_eq!(life, Life::Closing);
        assert_eq!(life.next(streams(1, 0, 10), 600, PATIENCE), Life::Active);
        assert_eq!(
            life.next(streams(0, 0, 10), 1_010, PATIENCE),
            Life::Finished { ended_ns: 10, drained: true }
        );
    }

    #[test]
    fn a_stream_that_cannot_be_delivered_holds_up_the_end_for_a_bounded_time() {
        let life = Life::Active.next(streams(0, 1, 10), 4_000, PATIENCE);
        assert_eq!(life, Life::Closing);
        let life = life.next(streams(0, 1, 10), 5_010, PATIENCE);
        assert_eq!(life, Life::Finished { ended_ns: 10, drained: false });
        assert_eq!(life.next(streams(0, 1, 10), 90_000, PATIENCE), life);
        assert_eq!(
            life.next(streams(0, 1, 10), 100_010, PATIENCE),
            Life::Finished { ended_ns: 10, drained: true }
        );
    }

    #[test]
    fn what_the_migrator_still_has_to_do_holds_up_the_end() {
        let held = Streams { held: true, ..streams(0, 0, 10) };
        assert_eq!(Life::Active.next(held, 900_000, PATIENCE), Life::Active);
        let over = Streams { held: false, last_close_ns: 900_000, ..held };
        let finished = Life::Finished { ended_ns: 900_000, drained: true };
        assert_eq!(Life::Active.next(over, 999_000, PATIENCE), finished);
    }

    #[test]
    fn a_stream_that_is_left_behind_does_not() {
        let left = Streams { over_ns: 100, ..streams(1, 0, 50) };
        assert_eq!(Life::Active.next(left, 200, PATIENCE), Life::Active);
        let life = Life::Active.next(left, 100 + CLOSING_NS, PATIENCE);
        assert_eq!(life, Life::Finished { ended_ns: 100, drained: false });
    }

    proptest! {
        #[test]
        fn finished_is_for_ever_and_the_end_never_moves(
            steps in proptest::collection::vec((0u32..3, 0u32..3, 0u64..10_000, 1u64..5_000), 1..60),
        ) {
            let mut life = Life::Active;
            let mut now = 0;
            let mut ended = None;
            for (open, draining, close, advance) in steps {
                now += advance;
                let seen = streams(open, draining, close.min(now));
                life = life.next(seen, now, PATIENCE);
                match (life, ended) {
                    (Life::Finished { ended_ns, .. }, None) => {
                        prop_assert_eq!(open, 0);
                        prop_assert_eq!(ended_ns, seen.last_close_ns);
                        ended = Some(ended_ns);
                    }
                    (Life::Finished { ended_ns, .. }, Some(first)) => prop_assert_eq!(ended_ns, first),
                    (_, None) => prop_assert!(open == 0 || life == Life::Active),
                    (_, Some(_)) => prop_assert!(false, "came back to life"),
                }
            }
        }

        #[test]
        fn no_open_stream_ends_the_migration_at_last(draining in 0u32..4, close in 0u64..1_000) {
            let life = Life::Active.next(streams(0, draining, close), close + PATIENCE.give_up_ns, PATIENCE);
            prop_assert!(life.is_finished());
        }
    }
}
