//! What each flow carries and how it ends.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How a flow ends. In each case all bytes that were sent have been delivered before a reset, and are
/// read, so both ends know the same figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Close {
    /// The sender closes when it has written all.
    Sender,
    /// The receiver closes when it has read all, then the sender.
    Receiver,
    /// The sender resets once all is acknowledged and read.
    SenderReset,
    /// The sender resets once all is acknowledged; the receiver has read one byte, and reads the rest from a socket that is closed.
    SenderResetUnread,
    /// The receiver resets once it has read all and the sender has its acknowledgement.
    ReceiverReset,
}

impl Close {
    /// Whether the sender ends the flow with a reset.
    #[must_use]
    pub fn is_sender_reset(self) -> bool {
        matches!(self, Self::SenderReset | Self::SenderResetUnread)
    }

    /// Whether either end does.
    #[must_use]
    pub fn is_reset(self) -> bool {
        self.is_sender_reset() || self == Self::ReceiverReset
    }
}

/// One flow to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowPlan {
    /// Number in the plan, from 0.
    pub index: usize,
    /// Payload from sender to receiver.
    pub bytes: u64,
    /// How it ends.
    pub close: Close,
    /// Over ::1 instead of 127.0.0.1.
    pub ipv6: bool,
}

/// What a receive buffer takes while nobody reads.
const MAX_UNREAD: u64 = 32 << 10;

/// `count` flows of 0 to `max_bytes` bytes; the same seed gives the same plan.
///
/// Sizes are spread evenly over their logarithm, so that 1,000 flows of up to 50 MB make about
/// 3 GB. One flow in 20 is empty and one has `max_bytes`. Half are closed by the receiver, one in ten
/// ends with a reset, and both address families take turns.
#[must_use]
pub fn plans(seed: u64, count: usize, max_bytes: u64) -> Vec<FlowPlan> {
    let mut random = XorShift::new(seed);
    (0..count)
        .map(|index| {
            let bytes = match index {
                0 => max_bytes,
                _ if index % 20 == 1 => 0,
                _ => random.log_uniform(max_bytes),
            };
            let close = match random.next() % 20 {
                0..9 => Close::Sender,
                9..18 => Close::Receiver,
                18 if (2..=MAX_UNREAD).contains(&bytes) => Close::SenderResetUnread,
                18 => Close::SenderReset,
                _ => Close::ReceiverReset,
            };
            FlowPlan { index, bytes, close, ipv6: random.next().is_multiple_of(2) }
        })
        .collect()
}

/// xorshift64*: small, seeded, and good enough to spread sizes.
struct XorShift(u64);

impl XorShift {
    fn new(seed: u64) -> Self {
        // Zero is the one state that it never leaves.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    /// 1 to `max`, evenly over the logarithm.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "any value in the range will do"
    )]
    fn log_uniform(&mut self, max: u64) -> u64 {
        let unit = self.next() as f64 / (1_u64 << 56) as f64;
        let bytes = ((max.max(1) as f64).ln() * unit).exp() as u64;
        bytes.clamp(1, max.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_has_what_it_promises() {
        let flows = plans(7, 1000, 50_000_000);
        assert_eq!(flows, plans(7, 1000, 50_000_000));
        assert_ne!(flows, plans(8, 1000, 50_000_000));
        assert_eq!(flows.iter().map(|flow| flow.bytes).max(), Some(50_000_000));
        assert_eq!(flows.iter().filter(|flow| flow.bytes == 0).count(), 50);
        let total: u64 = flows.iter().map(|flow| flow.bytes).sum();
        assert!((1_000_000_000..6_000_000_000).contains(&total), "{total}");
        let count = |close| flows.iter().filter(|flow| flow.close == close).count();
        let by_receiver = count(Close::Receiver) + count(Close::ReceiverReset);
        assert!((430..=570).contains(&by_receiver), "{by_receiver}");
        assert!(count(Close::SenderReset) + count(Close::SenderResetUnread) > 20);
        assert!(count(Close::SenderResetUnread) > 10 && count(Close::ReceiverReset) > 20);
        let ipv6 = flows.iter().filter(|flow| flow.ipv6).count();
        assert!((430..=570).contains(&ipv6), "{ipv6}");
    }
}
