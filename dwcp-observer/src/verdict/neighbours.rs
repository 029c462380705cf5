//! Finds other migrations on the same path.

use super::inputs::{Neighbour, Second};

/// One that moves less than this part of what the judged one moves does not hold it back.
const MATTERS: f64 = 0.1;
/// So many are named.
const NAMED: usize = 2;

/// Those that take a part of the path that matters, most first.
pub(super) fn sharing(second: &Second, rate: f64) -> Vec<&Neighbour> {
    let mut sharing: Vec<&Neighbour> = second
        .neighbours
        .iter()
        .filter(|other| other.bytes_per_second > 0.0 && other.bytes_per_second >= MATTERS * rate)
        .collect();
    sharing.sort_by(|left, right| right.bytes_per_second.total_cmp(&left.bytes_per_second));
    sharing
}

/// Names and rates, with the verb: `db-02 (51.0 MB/s) uses`.
pub(super) fn words(sharing: &[&Neighbour], rate: impl Fn(f64) -> String) -> String {
    let mut words: Vec<String> = sharing
        .iter()
        .take(NAMED)
        .map(|other| format!("{} ({})", other.name, rate(other.bytes_per_second)))
        .collect();
    if let Some(more) = sharing.len().checked_sub(NAMED).filter(|more| *more > 0) {
        words.push(format!("{more} more"));
    }
    format!("{} {}", words.join(", "), if words.len() > 1 { "use" } else { "uses" })
}
