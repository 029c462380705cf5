//! Classifies a network path as `datacenter`, `internet` or `hybrid`.

use crate::config::ModeThresholds;
use crate::model::record::{Mode, Transport};

/// The mode of a path; `None` while there is no RTT.
///
/// `srtt_seconds` is the mean smoothed RTT over the open streams, `peak_bits_per_second` the highest rate seen.
/// A long RTT is `internet`; a short one with a high rate is `datacenter`; the rest is `hybrid`. DWCP's own detector
/// calls a bandwidth below 1e9 bit/s `internet` as well. That is not done here: a rate that was reached is a lower
/// bound of what the path can carry, so a low one says nothing about it.
#[must_use]
pub fn mode(
    transport: Transport,
    srtt_seconds: Option<f64>,
    peak_bits_per_second: f64,
    thresholds: &ModeThresholds,
) -> Option<Mode> {
    match transport {
        Transport::Tcp => {}
        // There is no RTT to go by, and no verbs over the internet.
        Transport::Rdma => return Some(Mode::Datacenter),
    }
    let srtt = srtt_seconds?;
    Some(if srtt > thresholds.internet_min_rtt_seconds {
        Mode::Internet
    } else if srtt < thresholds.datacenter_max_rtt_seconds
        && peak_bits_per_second >= thresholds.datacenter_min_bits_per_second
    {
        Mode::Datacenter
    } else {
        Mode::Hybrid
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_rtt_and_rate() {
        let thresholds = ModeThresholds::default();
        for (srtt, rate, expected) in [
            (None, 1e12, None),
            (Some(0.000_05), 2e10, Some(Mode::Datacenter)),
            (Some(0.009_9), 1e9, Some(Mode::Datacenter)),
            (Some(0.010), 1e12, Some(Mode::Hybrid)),
            (Some(0.000_05), 9.9e8, Some(Mode::Hybrid)),
            (Some(0.05), 1e9, Some(Mode::Hybrid)),
            (Some(0.050_1), 1e12, Some(Mode::Internet)),
            (Some(0.2), 0.0, Some(Mode::Internet)),
        ] {
            assert_eq!(mode(Transport::Tcp, srtt, rate, &thresholds), expected, "{srtt:?} {rate}");
        }
    }

    #[test]
    fn verbs_stay_in_the_datacenter() {
        let found = mode(Transport::Rdma, None, 0.0, &ModeThresholds::default());
        assert_eq!(found, Some(Mode::Datacenter));
    }

    #[test]
    fn thresholds_are_obeyed() {
        let thresholds = ModeThresholds {
            datacenter_max_rtt_seconds: 0.2,
            internet_min_rtt_seconds: 0.3,
            datacenter_min_bits_per_second: 10.0,
        };
        assert_eq!(mode(Transport::Tcp, Some(0.1), 10.0, &thresholds), Some(Mode::Datacenter));
        assert_eq!(mode(Transport::Tcp, Some(0.25), 10.0, &thresholds), Some(Mode::Hybrid));
    }
}
