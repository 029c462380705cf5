//! Measures how balanced the streams are.

use super::inputs::Stream;
use crate::model::{record::StreamRole, verdict::Balance};

/// The streams that carry the guest's memory; a preempt channel does not. QEMU's main channel is idle beside its multifd streams
/// and then does not count; another migrator's first connection carries as much as the rest and does.
pub(crate) fn carriers(streams: &[Stream]) -> Vec<&Stream> {
    let of = |role| streams.iter().filter(move |stream| stream.role == role);
    let count = of(StreamRole::Multifd).count();
    let queued: f64 = of(StreamRole::Multifd).map(|stream| stream.queued_bytes as f64).sum();
    let carries = |stream: &&Stream| {
        let own = stream.queued_bytes as f64;
        count == 0 || (own > 0.0 && own * count as f64 >= queued / 2.0)
    };
    of(StreamRole::Main).filter(carries).chain(of(StreamRole::Multifd)).collect()
}

/// Evenness over the carrying streams; `None` with fewer than two, or when nothing was delivered.
#[must_use]
pub fn balance(streams: &[Stream]) -> Option<Balance> {
    let mut rates: Vec<f64> =
        carriers(streams).iter().map(|stream| stream.delivered_bytes as f64).collect();
    rates.sort_by(|left, right| right.total_cmp(left));
    let fastest = *rates.first()?;
    if rates.len() < 2 || fastest <= 0.0 {
        return None;
    }
    // In units of the fastest: no sum of squares can overflow.
    let gains: Vec<f64> = rates.iter().map(|rate| rate / fastest).collect();
    let count = gains.len() as f64;
    let sum: f64 = gains.iter().sum();
    let squares: f64 = gains.iter().map(|gain| gain * gain).sum();
    Some(Balance {
        stream_max_over_mean: count / sum,
        stream_jain_index: sum * sum / (count * squares),
        stream_marginal_gain: gains,
        stream_scaling_efficiency: sum / count,
    })
}
