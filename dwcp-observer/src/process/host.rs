//! Utilization of the host, from `/proc/stat` and `/proc/meminfo`.

/// Use of the host's CPUs and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HostUsage {
    /// CPU time that was not idle since the last sample, over all CPUs, 0 to 100; absent in the first sample.
    pub cpu_percent: Option<f64>,
    /// Memory that is not available, 0 to 100.
    pub memory_percent: Option<f64>,
}

/// Samples [`HostUsage`]; CPU use is that between two samples.
#[derive(Debug, Default)]
pub struct HostSampler {
    last: Option<CpuTimes>,
}

impl HostSampler {
    /// Reads `/proc`; what it refuses is absent.
    pub fn sample(&mut self) -> HostUsage {
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        self.usage(&stat, &meminfo)
    }

    fn usage(&mut self, stat: &str, meminfo: &str) -> HostUsage {
        let now = cpu_times(stat);
        let cpu_percent = self.last.zip(now).and_then(|(last, now)| cpu_percent(last, now));
        self.last = now.or(self.last);
        HostUsage { cpu_percent, memory_percent: memory_percent(meminfo) }
    }
}

/// CPU time since boot, clock ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CpuTimes {
    total: u64,
    idle: u64,
}

/// The `cpu` line of `/proc/stat`: user nice system idle iowait irq softirq steal, then guest times that user and nice hold already.
fn cpu_times(stat: &str) -> Option<CpuTimes> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let times: Vec<u64> =
        line.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    let (idle, iowait) = (*times.get(3)?, times.get(4).copied().unwrap_or(0));
    let total = times.iter().fold(0u64, |sum, &time| sum.saturating_add(time));
    Some(CpuTimes { total, idle: idle.saturating_add(iowait) })
}

/// `None` when no time has passed. The kernel's idle and iowait may step back a little: cut to 0..=100.
fn cpu_percent(last: CpuTimes, now: CpuTimes) -> Option<f64> {
    let total = now.total.checked_sub(last.total).filter(|&total| total > 0)?;
    let idle = now.idle.saturating_sub(last.idle).min(total);
    Some((total - idle) as f64 / total as f64 * 100.0)
}

fn memory_percent(meminfo: &str) -> Option<f64> {
    let field = |name: &str| -> Option<f64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.strip_prefix(':')?.split_whitespace().next()?.parse().ok()
    };
    let (total, available) = (field("MemTotal")?, field("MemAvailable")?);
    (total > 0.0 && total.is_finite())
        .then(|| ((total - available) / total * 100.0).clamp(0.0, 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str =
        "MemTotal:       16384000 kB\nMemFree:          100000 kB\nMemAvailable:    4096000 kB\n";

    #[test]
    fn between_two_samples() {
        let mut sampler = HostSampler::default();
        let first = sampler.usage("cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 1 1 1\n", MEMINFO);
        assert_eq!(first, HostUsage { cpu_percent: None, memory_percent: Some(75.0) });
        // 200 ticks later: 50 user (guest time is in it already), 100 idle, 50 iowait.
        let second = sampler.usage("cpu  150 0 100 800 150 0 0 0 99 0\n", MEMINFO);
        assert_eq!(second.cpu_percent, Some(25.0));
    }

    #[test]
    fn odd_input_is_absent() {
        let mut sampler = HostSampler::default();
        for stat in ["", "cpu", "cpu  a b c d", "cpu  1 2 3", "intr 5"] {
            assert_eq!(sampler.usage(stat, ""), HostUsage::default(), "{stat}");
        }
        let times = |total, idle| CpuTimes { total, idle };
        assert_eq!(cpu_percent(times(10, 5), times(10, 5)), None);
        assert_eq!(cpu_percent(times(10, 5), times(5, 5)), None);
        assert_eq!(cpu_percent(times(10, 5), times(20, 3)), Some(100.0));
        assert_eq!(memory_percent("MemTotal: 0 kB\nMemAvailable: 0 kB"), None);
        assert_eq!(memory_percent("MemTotal: 10 kB"), None);
    }

    #[test]
    fn this_host() {
        let mut sampler = HostSampler::default();
        let usage = sampler.sample();
        assert!(usage.memory_percent.is_some_and(|percent| percent > 0.0 && percent <= 100.0));
    }
}
