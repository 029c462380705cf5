//! Quantiles and Prometheus buckets from the kernel's log-linear histograms.

use std::sync::Arc;

use dwcp_observer_ebpf::hist::{Hist, HostHist, bucket_bounds};

use crate::histogram::Histogram;
use crate::record::Quantiles;

/// Quantiles by nearest rank, as upper bounds of their buckets; `None` without samples. `unit` is the unit's length in seconds.
#[must_use]
pub fn quantiles<const N: usize>(hist: &Hist<N>, unit: f64) -> Option<Quantiles> {
    let total: u64 = hist.buckets.iter().map(|count| u64::from(*count)).sum();
    if total == 0 || hist.count == 0 {
        return None;
    }
    let at_rank = |rank: u64| {
        let mut seen = 0;
        let index = hist.buckets.iter().position(|count| {
            seen += u64::from(*count);
            seen >= rank
        });
        bucket_bounds(index.unwrap_or(N - 1)).1 as f64 * unit
    };
    Some(Quantiles {
        count: total,
        mean_seconds: hist.sum as f64 / hist.count as f64 * unit,
        p50_seconds: at_rank(total.div_ceil(2)),
        p99_seconds: at_rank((total * 99).div_ceil(100)),
        max_seconds: at_rank(total),
    })
}

/// A host-wide histogram with one bound per power of two.
#[must_use]
pub fn exposition(hist: &HostHist, unit: f64, powers: std::ops::RangeInclusive<u32>) -> Histogram {
    by_powers(hist.buckets.iter().copied(), hist.sum, unit, powers)
}

/// The same of a histogram with one writer.
#[must_use]
pub fn spread<const N: usize>(
    hist: &Hist<N>,
    unit: f64,
    powers: std::ops::RangeInclusive<u32>,
) -> Histogram {
    by_powers(hist.buckets.iter().copied().map(u64::from), hist.sum, unit, powers)
}

/// Bounds that are exact bucket edges, so no sample is misplaced.
fn by_powers(
    buckets: impl Iterator<Item = u64>,
    sum: u64,
    unit: f64,
    powers: std::ops::RangeInclusive<u32>,
) -> Histogram {
    let bounds: Arc<[f64]> = powers.clone().map(|power| (1u64 << power) as f64 * unit).collect();
    let mut exposed = Histogram::new(bounds);
    exposed.sum = sum as f64 * unit;
    for (index, count) in buckets.enumerate().filter(|(_, count)| *count != 0) {
        // The bucket below 2^power holds values up to 2^power - 1: `le` is an upper bound.
        let (_, high) = bucket_bounds(index);
        let place =
            powers.clone().position(|power| high < 1u64 << power).unwrap_or(powers.clone().count());
        if let Some(to) = exposed.counts.get_mut(place) {
            *to += count;
        }
    }
    exposed
}

#[cfg(test)]
mod tests {
    use dwcp_observer_ebpf::hist::{RTT_BUCKETS, RUNQ_BUCKETS, bucket_of};
    use proptest::prelude::*;

    use super::*;

    fn hist(samples: &[u64]) -> Hist<RTT_BUCKETS> {
        let mut hist = Hist { sum: 0, count: 0, buckets: [0; RTT_BUCKETS] };
        for sample in samples {
            hist.sum += sample;
            hist.count += 1;
            hist.buckets[bucket_of(*sample)] += 1;
        }
        hist
    }

    #[test]
    fn nothing_gives_nothing() {
        assert_eq!(quantiles(&hist(&[]), 1e-6), None);
    }

    #[test]
    fn exposed_buckets_are_upper_bounds() {
        let mut host = HostHist { sum: 0, buckets: [0; RUNQ_BUCKETS] };
        for value in [0u64, 7, 8, 15, 16, 1 << 30] {
            host.buckets[bucket_of(value)] += 1;
            host.sum += value;
        }
        let exposed = exposition(&host, 1.0, 3..=5);
        assert_eq!(exposed.bounds.as_ref(), [8.0, 16.0, 32.0]);
        assert_eq!(exposed.counts, [2, 2, 1, 1]);
    }

    proptest! {
        #[test]
        fn a_bucket_holds_its_value_within_the_stated_error(value in 0u64..(1 << 36)) {
            let (low, high) = bucket_bounds(bucket_of(value));
            prop_assert!(low <= value && value <= high);
            let middle = (low as f64 + high as f64) / 2.0;
            prop_assert!((middle - value as f64).abs() <= value as f64 * 0.0625);
        }

        #[test]
        fn quantiles_are_within_one_bucket_of_the_truth(mut samples in proptest::collection::vec(1u64..(1 << 23), 1..200)) {
            let found = quantiles(&hist(&samples), 1.0).unwrap();
            samples.sort_unstable();
            let rank = |percent: usize| samples[(samples.len() * percent).div_ceil(100) - 1] as f64;
            for (estimate, truth) in [(found.p50_seconds, rank(50)), (found.p99_seconds, rank(99)), (found.max_seconds, rank(100))] {
                prop_assert!(estimate >= truth && estimate <= truth * 1.125, "{estimate} {truth}");
            }
        }
    }
}
