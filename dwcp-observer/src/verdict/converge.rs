//! Decides whether rounds (iterations over RAM) shrink.

use super::inputs::Round;

/// A round that is at least this part of the one before has not shrunk.
const NOT_SHRUNK: f64 = 0.9;
/// So many rounds in a row that have not shrunk, ...
const ROUNDS: usize = 3;
/// ... and so long.
const LONG_SECONDS: f64 = 1.0;
/// Rounds of less than this time at the usual rate fit into the time that the guest may stand still: QEMU's default. QEMU then
/// asks for the dirty pages every 50 ms until they do fit, and what it sends in between says little.
const TINY_SECONDS: f64 = 0.3;
/// How long these must go on.
const LONG_TINY_SECONDS: f64 = 10.0;
/// At less than this part of the usual rate it is not the guest alone that keeps rounds from shrinking.
const USUAL: f64 = 0.5;

/// What the rounds tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Convergence {
    /// The guest dirties as fast as it is sent.
    pub stuck: bool,
    /// Bytes that the guest dirtied per second during the last round of which that is known.
    pub dirty_rate: Option<f64>,
    /// The migrator itself counted them; otherwise they are what was sent again, which may be less.
    pub dirty_rate_reported: bool,
    /// Bytes of the last rounds, at most three, oldest first, the running one last.
    pub last_bytes: Vec<u64>,
}

/// A finished round and the one after it, which sends what was dirtied meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) before: Round,
    pub(crate) after: Round,
}

impl Pair {
    /// Size of the later round in units of the earlier one.
    pub(crate) fn ratio(&self) -> f64 {
        self.after.bytes as f64 / (self.before.bytes as f64).max(1.0)
    }

    fn shrinks(&self) -> bool {
        self.ratio() < NOT_SHRUNK
    }
}

/// Rounds that count: one without a byte is a second look at the same dirty pages.
fn counting(rounds: &[Round]) -> impl DoubleEndedIterator<Item = &Round> + Clone {
    rounds.iter().filter(|round| {
        (round.bytes > 0 || !round.finished) && round.seconds.is_finite() && round.seconds >= 0.0
    })
}

/// Neighbours among the rounds that count, oldest first.
pub(crate) fn pairs(rounds: &[Round]) -> Vec<Pair> {
    let counting = counting(rounds);
    counting
        .clone()
        .zip(counting.skip(1))
        .filter(|(before, _)| before.finished && before.seconds > 0.0)
        .map(|(before, after)| Pair { before: *before, after: *after })
        .collect()
}

/// Looks at the rounds; `usual_rate` is what the migration sends per second when nothing holds it back.
#[must_use]
pub fn convergence(rounds: &[Round], usual_rate: Option<f64>) -> Convergence {
    let all = pairs(rounds);
    let known = all.iter().rposition(|pair| pair.after.finished).map_or(0, |last| last + 1);
    let finished = &all[..known];
    // The running round tells only once it has grown to the size in question, hence both views.
    let stuck = do_not_shrink(finished)
        || usual_rate.is_some_and(|rate| outrun(finished, rate) || outrun(&all, rate));
    let reported = |pair: &Pair| Some(pair.before.dirtied? as f64 / pair.before.seconds);
    let reported = all.last().and_then(reported);
    let dirty_rate = |pair: &Pair| pair.after.bytes as f64 / pair.before.seconds;
    let running = all.last().filter(|pair| !pair.after.finished).map(dirty_rate);
    let mut last_bytes: Vec<u64> =
        counting(rounds).rev().take(3).map(|round| round.bytes).collect();
    last_bytes.reverse();
    Convergence {
        stuck,
        dirty_rate: reported.or(match (finished.last().map(dirty_rate), running) {
            // So far: a lower bound.
            (Some(finished), Some(running)) => Some(finished.max(running)),
            (finished, running) => finished.or(running),
        }),
        dirty_rate_reported: reported.is_some(),
        last_bytes,
    }
}

/// The last three finished rounds are each as large as the one before, the first pass apart.
fn do_not_shrink(finished: &[Pair]) -> bool {
    let last = &finished[finished.len().saturating_sub(ROUNDS)..];
    last.len() == ROUNDS
        && last.iter().all(|pair| pair.before.number >= 2 && !pair.shrinks())
        && last.iter().map(|pair| pair.after.seconds).sum::<f64>() >= LONG_SECONDS
}

/// Over the last rounds, it took as long to send what the guest dirtied as to dirty it, at about the usual rate.
fn outrun(pairs: &[Pair], usual_rate: f64) -> bool {
    let (mut dirtied_in, mut sent_in, mut bytes) = (0.0, 0.0, 0.0);
    for (count, pair) in (1..).zip(pairs.iter().rev()) {
        dirtied_in += pair.before.seconds;
        sent_in += pair.after.seconds;
        bytes += pair.after.bytes as f64;
        let tiny = bytes < TINY_SECONDS * usual_rate * f64::from(count);
        if dirtied_in >= if tiny { LONG_TINY_SECONDS } else { LONG_SECONDS } {
            // One round that was held up among rounds that shrink is no guest that dirties too fast.
            let newest = pairs.last().map_or(0, |newest| newest.after.bytes) as f64;
            return sent_in >= NOT_SHRUNK * dirtied_in
                && bytes >= USUAL * usual_rate * dirtied_in
                && newest >= NOT_SHRUNK * pair.before.bytes as f64;
        }
    }
    false
}
