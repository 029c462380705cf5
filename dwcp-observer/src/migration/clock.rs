//! Wall time of what the kernel stamps.

use jiff::Timestamp;

/// Turns `CLOCK_MONOTONIC` ns into wall time.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    /// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC`, ns.
    pub offset_ns: i128,
    /// Most that the clock may be off, seconds; `None` when it is not synchronised.
    pub max_error_seconds: Option<f64>,
}

impl WallClock {
    /// The wall time of a monotonic reading.
    #[must_use]
    pub fn at(self, monotonic_ns: u64) -> Timestamp {
        Timestamp::from_nanosecond(i128::from(monotonic_ns) + self.offset_ns)
            .unwrap_or(Timestamp::UNIX_EPOCH)
    }
}
