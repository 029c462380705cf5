//! Estimates the time until a migration ends.
//!
//! First round: the remaining guest memory at the rate of the last seconds. In the best case all remaining pages are zero pages and nothing is
//! left to send; in the worst case all of it is sent, and each following round is two thirds of the one before. If the
//! migrator reports the remaining memory, the share of zero pages is assumed to stay the same.
//! Later rounds shrink by a ratio until the rest fits into the allowed downtime. Remaining and dirtied memory are the migrator's own
//! counts if it reports them; otherwise they follow from what was sent.
//! Postcopy: the remaining memory, if the migrator reports it; no page is sent twice.
//! The bounds combine the spread of the rate and of the last ratios, for about 90 %.

use super::{
    converge::pairs,
    inputs::{Phase, Round, Second},
};
use crate::model::verdict::Eta;

/// Weight of the newest second.
const WEIGHT: f64 = 0.3;
/// Half of a 90 % interval, in standard deviations.
const Z: f64 = 1.645;
/// No rate is known better than this.
const LEAST_SPREAD: f64 = 0.1;
/// The ratio of rounds that nothing is known of: likely, and at worst.
const UNKNOWN_RATIO: [f64; 2] = [0.5, 2.0 / 3.0];
/// What a migrator may stop the guest for: QEMU's default.
const DOWNTIME_LIMIT_SECONDS: f64 = 0.3;
/// Ratios from here on do not converge.
const NO_END: f64 = 0.9;

/// Exponentially weighted mean and variance of the rate, bytes per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RateEstimate {
    mean: Option<f64>,
    variance: f64,
}

impl RateEstimate {
    /// Takes in one more second.
    pub fn learn(&mut self, rate: f64) {
        let mean = *self.mean.get_or_insert(rate);
        let off = rate - mean;
        self.mean = Some(mean + WEIGHT * off);
        self.variance = (1.0 - WEIGHT) * (self.variance + WEIGHT * off * off);
    }

    /// Low, middle and high; `None` without a rate of at least 1 byte per second.
    fn spread(&self) -> Option<[f64; 3]> {
        let mean = self.mean.filter(|mean| *mean >= 1.0)?;
        let spread = (Z * self.variance.sqrt()).max(LEAST_SPREAD * mean);
        Some([(mean - spread).max(mean / 4.0), mean, mean + spread])
    }
}

/// Time to the end; `None` before and between precopy and postcopy, and where memory, rate, rounds or the migrator do not tell.
#[must_use]
pub fn eta(second: &Second, rate: &RateEstimate) -> Option<Eta> {
    let rates = rate.spread()?;
    let (at_best, likely, at_worst) = match second.rounds.last() {
        _ if second.phase == Some(Phase::Postcopy) => postcopy(second, rates)?,
        _ if !matches!(second.phase, None | Some(Phase::Precopy)) => return None,
        None => first_pass(second, second.delivered_total as f64, None, rates)?,
        Some(round) if round.number <= 1 && !round.finished => {
            first_pass(second, round.bytes as f64, Some(round), rates)?
        }
        Some(last) => later_round(second, last, rates)?,
    };
    let order = [at_best.min(likely), likely, at_worst.max(likely)];
    order.iter().all(|seconds| seconds.is_finite() && *seconds >= 0.0).then_some(Eta {
        eta_low_seconds: order[0],
        eta_seconds: order[1],
        eta_high_seconds: order[2],
    })
}

fn first_pass(
    second: &Second,
    sent: f64,
    round: Option<&Round>,
    [slow, usual, _]: [f64; 3],
) -> Option<(f64, f64, f64)> {
    let reported = second.remaining_bytes.map(|left| left as f64);
    let left = match (reported, second.guest_memory_bytes) {
        (Some(left), _) => left,
        (None, memory) => (memory? as f64 - sent).max(0.0),
    };
    // What was sent of a byte of memory so far.
    let share =
        reported.zip(round.and_then(|round| round.left_at_begin)).map_or(1.0, |(left, all)| {
            let passed = all as f64 - left;
            if passed > 0.0 { (sent / passed).min(1.0) } else { 1.0 }
        });
    let pass = round.map_or(sent / usual, |round| round.seconds) + left / slow;
    let ratio = UNKNOWN_RATIO[1];
    Some((0.0, share * left / usual, left / slow + pass * ratio / (1.0 - ratio)))
}

fn postcopy(second: &Second, [slow, usual, fast]: [f64; 3]) -> Option<(f64, f64, f64)> {
    let left = second.remaining_bytes? as f64;
    Some((left / fast, left / usual, left / slow))
}

fn later_round(
    second: &Second,
    last: &Round,
    [slow, usual, fast]: [f64; 3],
) -> Option<(f64, f64, f64)> {
    let pairs = pairs(&second.rounds);
    let before = if last.finished { last } else { &pairs.last()?.before };
    // The first pass skips zero pages quickly: not its bytes tell what could have been sent meanwhile, but its time.
    let sent_meanwhile = |round: &Round| {
        if round.number <= 1 { round.seconds * usual } else { round.bytes as f64 }
    };
    let mut ratios: Vec<f64> = pairs
        .iter()
        .rev()
        .filter(|pair| pair.after.finished || pair.before.dirtied.is_some())
        .take(3)
        .map(|pair| {
            let again = pair.before.dirtied.unwrap_or(pair.after.bytes);
            again as f64 / sent_meanwhile(&pair.before).max(1.0)
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    // Three ratios at most do not show all of their spread.
    let [low, middle, high] = match *ratios {
        [] => [0.0, UNKNOWN_RATIO[0], NO_END],
        [only] => [only / 2.0, only, (only + 1.0) / 2.0],
        [low, .., high] => [low * 0.9, ratios[ratios.len() / 2], high * 1.1],
    };
    if middle >= NO_END {
        return None;
    }
    let sent = if last.finished { 0.0 } else { last.bytes as f64 };
    let reported = second.remaining_bytes.zip(last.left_at_begin).filter(|_| !last.finished);
    let seconds = |ratio: f64, rate: f64| {
        let (mut size, mut left) = reported.map_or_else(
            || {
                let size = (ratio * sent_meanwhile(before)).max(sent);
                (size, size - sent)
            },
            |(left, all)| (all.max(left) as f64, left as f64),
        );
        while size > DOWNTIME_LIMIT_SECONDS * rate && left.is_finite() {
            size *= ratio;
            left += size;
        }
        left / rate
    };
    Some((seconds(low, fast), seconds(middle, usual), seconds(high.min(0.95), slow)))
}
