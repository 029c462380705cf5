//! Finds vCPU threads without recognisable names by their behaviour.

/// What is known of a thread that may run a guest CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Thread id.
    pub tid: u32,
    /// CPU time in its whole life, ns.
    pub cpu_ns: u64,
}

/// Least share of the busiest candidate's CPU time that another one has: below, it is a helper thread.
const LEAST_SHARE: u64 = 20;
/// Least CPU time that tells anything, ns.
const LEAST_CPU_NS: u64 = 5_000_000;

/// The guest CPUs among threads that existed before the migration, are not the main thread and move none of its data: the
/// busiest ones, at most `count` (`-smp`).
#[must_use]
pub fn by_cpu_time(candidates: &[Candidate], count: usize) -> Vec<u32> {
    let mut sorted = candidates.to_vec();
    sorted.sort_by_key(|candidate| (std::cmp::Reverse(candidate.cpu_ns), candidate.tid));
    let busiest = sorted.first().map_or(0, |candidate| candidate.cpu_ns);
    sorted
        .iter()
        .take(count)
        .filter(|candidate| candidate.cpu_ns >= LEAST_CPU_NS.max(busiest / LEAST_SHARE))
        .map(|candidate| candidate.tid)
        .collect()
}

/// The same threads in another process of the same kind: QEMU creates its first threads in the same order at both ends, the guest
/// CPUs among them; threads that work for others come later and may be more at one end.
#[must_use]
pub fn by_order(here: &[u32], there: &[u32], found_there: &[u32]) -> Vec<u32> {
    let sorted = |tids: &[u32]| {
        let mut tids = tids.to_vec();
        tids.sort_unstable();
        tids
    };
    let pairs = sorted(there).into_iter().zip(sorted(here));
    pairs.filter(|(other, _)| found_there.contains(other)).map(|(_, own)| own).collect()
}

/// The number of guest CPUs of a QEMU command line (`-smp 4`, `-smp cpus=4,cores=2`); 1 without one.
#[must_use]
pub fn smp(cmdline: &[String]) -> usize {
    let value = cmdline
        .iter()
        .zip(cmdline.iter().skip(1))
        .filter(|(option, _)| matches!(option.as_str(), "-smp" | "--smp"))
        .map(|(_, value)| value)
        .next_back();
    let number = |text: &str| text.parse::<usize>().ok();
    value
        .and_then(|value| {
            value.split(',').find_map(|part| match part.split_once('=') {
                None => number(part),
                Some(("cpus", count)) => number(count),
                Some(_) => None,
            })
        })
        .unwrap_or(1)
        .clamp(1, 4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(tid: u32, cpu_ms: u64) -> Candidate {
        Candidate { tid, cpu_ns: cpu_ms * 1_000_000 }
    }

    #[test]
    fn the_busiest_threads_run_the_guest() {
        let threads = [candidate(11, 1), candidate(12, 900), candidate(13, 800), candidate(14, 3)];
        assert_eq!(by_cpu_time(&threads, 2), [12, 13]);
        assert_eq!(by_cpu_time(&threads, 4), [12, 13]);
        assert_eq!(by_cpu_time(&threads, 1), [12]);
        assert_eq!(by_cpu_time(&[candidate(11, 1)], 1), Vec::<u32>::new());
        assert_eq!(by_cpu_time(&[], 1), Vec::<u32>::new());
    }

    #[test]
    fn the_same_place_in_the_order_is_the_same_thread() {
        assert_eq!(by_order(&[103, 101, 102], &[11, 12, 13], &[12]), [102]);
        assert_eq!(by_order(&[101, 102], &[11, 12, 13], &[12]), [102]);
        assert_eq!(by_order(&[101], &[11, 12, 13], &[12]), Vec::<u32>::new());
    }

    #[test]
    fn the_command_line_tells_how_many() {
        let count = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            smp(&words)
        };
        assert_eq!(count("qemu -smp 4"), 4);
        assert_eq!(count("qemu -smp 2,sockets=1"), 2);
        assert_eq!(count("qemu -smp sockets=1,cpus=8 -m 1"), 8);
        assert_eq!(count("qemu -smp sockets=2"), 1);
        assert_eq!(count("qemu -m 4"), 1);
        assert_eq!(count("qemu -smp"), 1);
        assert_eq!(count("qemu -smp 0"), 1);
    }
}
