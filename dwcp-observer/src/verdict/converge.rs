//! Whether the rounds shrink.

use super::inputs::Round;

/// A round that is at least this part of the one before has not shrunk.
const NOT_SHRUNK: f64 = 0.9;
/// So many rounds in a row that have not shrunk, ...
const ROUNDS: usize = 3;
/// ... and so long: rounds at the end of a healthy migration are short and of any size.
const LONG_SECONDS: f64 = 1.0;
/// At less than this part of the usual rate it is not the guest alone that keeps rounds from shrinking.
const USUAL: f64 = 0.5;

/// What the rounds tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Convergence {
    /// The guest dirties as fast as it is sent.
    pub stuck: bool,
    /// Bytes that the guest dirtied per second during the last round of which that is known.
    pub dirty_rate: Option<f64>,
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

/// Neighbours among the rounds, oldest first. Rounds without a length are left out.
pub(crate) fn pairs(rounds: &[Round]) -> Vec<Pair> {
    rounds
        .iter()
        .zip(rounds.iter().skip(1))
        .filter(|(before, after)| {
            before.finished
                && before.number.checked_add(1) == Some(after.number)
                && before.seconds.is_finite()
                && before.seconds > 0.0
                && after.seconds.is_finite()
                && after.seconds >= 0.0
        })
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
    let dirty_rate = |pair: &Pair| pair.after.bytes as f64 / pair.before.seconds;
    let running = all.last().filter(|pair| !pair.after.finished).map(dirty_rate);
    let mut last_bytes: Vec<u64> = rounds.iter().rev().take(3).map(|round| round.bytes).collect();
    last_bytes.reverse();
    Convergence {
        stuck,
        dirty_rate: match (finished.last().map(dirty_rate), running) {
            // So far: a lower bound.
            (Some(finished), Some(running)) => Some(finished.max(running)),
            (finished, running) => finished.or(running),
        },
        last_bytes,
    }
}

/// The last three finished rounds or more are each as large as the one before, the first pass apart.
fn do_not_shrink(finished: &[Pair]) -> bool {
    let row =
        || finished.iter().rev().take_while(|pair| pair.before.number >= 2 && !pair.shrinks());
    row().count() >= ROUNDS && row().map(|pair| pair.after.seconds).sum::<f64>() >= LONG_SECONDS
}

/// Over the last rounds, it took as long to send what the guest dirtied as to dirty it, at about the usual rate.
fn outrun(pairs: &[Pair], usual_rate: f64) -> bool {
    let (mut dirtied_in, mut sent_in, mut bytes) = (0.0, 0.0, 0.0);
    for pair in pairs.iter().rev() {
        dirtied_in += pair.before.seconds;
        sent_in += pair.after.seconds;
        bytes += pair.after.bytes as f64;
        if dirtied_in >= LONG_SECONDS {
            // One round that was held up among rounds that shrink is no guest that dirties too fast.
            let newest = pairs.last().map_or(0, |newest| newest.after.bytes) as f64;
            return sent_in >= NOT_SHRUNK * dirtied_in
                && bytes >= USUAL * usual_rate * dirtied_in
                && newest >= NOT_SHRUNK * pair.before.bytes as f64;
        }
    }
    false
}
