//! Resource usage of the observer itself, for the `process_*` metrics.

use procfs::process::{LimitValue, Process};

/// What `/proc/self` says; absent where it says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessUsage {
    /// User and system CPU time, seconds.
    pub cpu_seconds: Option<f64>,
    /// Resident memory, bytes.
    pub resident_bytes: Option<u64>,
    /// Virtual memory, bytes.
    pub virtual_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// Soft limit of file descriptors; absent when unlimited.
    pub max_fds: Option<u64>,
    /// Seconds since 1970.
    pub start_time_seconds: Option<f64>,
    /// Threads.
    pub threads: Option<u64>,
}

impl ProcessUsage {
    /// Reads `/proc/self` now.
    #[must_use]
    pub fn read() -> Self {
        let Ok(process) = Process::myself() else {
            return Self::default();
        };
        let mut usage = Self {
            open_fds: process.fd_count().ok().map(|count| count as u64),
            max_fds: process.limits().ok().and_then(|limits| {
                match limits.max_open_files.soft_limit {
                    LimitValue::Value(value) => Some(value),
                    LimitValue::Unlimited => None,
                }
            }),
            ..Self::default()
        };
        let Ok(stat) = process.stat() else {
            return usage;
        };
        let tick = 1.0 / procfs::ticks_per_second() as f64;
        usage.cpu_seconds = Some((stat.utime + stat.stime) as f64 * tick);
        usage.resident_bytes = Some(stat.rss * procfs::page_size());
        usage.virtual_bytes = Some(stat.vsize);
        usage.threads = u64::try_from(stat.num_threads).ok();
        usage.start_time_seconds =
            procfs::boot_time_secs().ok().map(|boot| boot as f64 + stat.starttime as f64 * tick);
        usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_usage_is_plausible() {
        let before = ProcessUsage::read();
        let opened: Vec<_> =
            (0..20).map(|_| std::fs::File::open("/proc/self/stat").unwrap()).collect();
        let ballast = vec![1_u8; 64 << 20];
        let after = ProcessUsage::read();
        assert!(std::hint::black_box(&ballast).iter().all(|byte| *byte == 1));
        // Other tests of this process open and close files meanwhile.
        assert!(after.open_fds.unwrap() >= opened.len() as u64);
        assert!(after.max_fds.unwrap() >= after.open_fds.unwrap());
        assert!(after.resident_bytes.unwrap() >= 64 << 20);
        assert!(after.virtual_bytes.unwrap() >= after.resident_bytes.unwrap());
        assert!(after.cpu_seconds.unwrap() >= before.cpu_seconds.unwrap());
        assert!(after.threads.unwrap() >= 1);
        let now = jiff::Timestamp::now().as_second() as f64;
        let age = now - after.start_time_seconds.unwrap();
        assert!((-2.0..86_400.0).contains(&age), "started {age} s ago");
    }
}
