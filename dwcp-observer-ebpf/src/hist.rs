//! Log-linear histograms: eight buckets per power of two, so that a bucket's middle is at most 6.25 % from any value in it.

/// Sub-buckets per power of two, as a power of two.
const GROUPING_POWER: u32 = 3;

/// Buckets of an RTT histogram in microseconds: 0 to 2^24 us (16.8 s).
pub const RTT_BUCKETS: usize = 176;
/// Buckets of a run-queue histogram in nanoseconds: 0 to 2^36 ns (68.7 s).
pub const RUNQ_BUCKETS: usize = 272;

/// The bucket of `value`; values beyond the last bucket give an index `>=` the histogram's length.
#[inline(always)]
#[must_use]
pub const fn bucket_of(value: u64) -> usize {
    if value < 1 << GROUPING_POWER {
        return value as usize;
    }
    let exponent = 63 - value.leading_zeros();
    let group = (exponent - GROUPING_POWER + 1) as usize;
    let within = (value >> (exponent - GROUPING_POWER)) as usize & ((1 << GROUPING_POWER) - 1);
    (group << GROUPING_POWER) | within
}

/// The smallest and the largest value that fall into bucket `index`.
#[must_use]
pub const fn bucket_bounds(index: usize) -> (u64, u64) {
    let per_group = 1usize << GROUPING_POWER;
    if index < per_group {
        return (index as u64, index as u64);
    }
    let shift = (index >> GROUPING_POWER) - 1;
    let low = ((per_group + (index & (per_group - 1))) as u64) << shift;
    (low, low + (1u64 << shift) - 1)
}

/// A histogram with one writer at a time, so that it needs no bank per CPU: samples of a flow come under the socket's lock, those of a thread under
/// the run queue's, those of a queue pair from its completer, which runs once at a time (`rxe_do_task`, later `do_task`,
/// drivers/infiniband/sw/rxe/rxe_task.c, 5.10 to 6.18). Read by a system call meanwhile, `count` and `sum` may be one sample away from the buckets.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Hist<const N: usize> {
    /// True sum of the samples, in the histogram's unit.
    pub sum: u64,
    /// Number of samples.
    pub count: u64,
    /// Samples per bucket.
    pub buckets: [u32; N],
}

/// A histogram over all tracked sockets or threads, one per CPU.
///
/// RTTs come in any context and are added atomically: a softirq may interrupt a process on its CPU. Run-queue waits have one program that writes them,
/// with interrupts off. The agent adds the CPUs up; sum and buckets of one may be a sample apart.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct HostHist {
    /// True sum of the samples, in the histogram's unit; their number is that of all buckets together.
    pub sum: u64,
    /// Samples per bucket.
    pub buckets: [u64; RUNQ_BUCKETS],
}

/// Index of the RTT histogram (microseconds) in the per-CPU histogram map; run-queue waits follow at `1 + role`.
pub const HOST_HIST_RTT: u32 = 0;
/// Index of the first run-queue histogram (nanoseconds) in the per-CPU histogram map; add the thread's role.
pub const HOST_HIST_RUNQ: u32 = 1;
/// Number of per-CPU histograms.
pub const HOST_HISTS: u32 = HOST_HIST_RUNQ + crate::sched::ROLES as u32;

const _: () = assert!(
    RTT_BUCKETS.is_multiple_of(2) && RUNQ_BUCKETS.is_multiple_of(2),
    "no padding after the buckets"
);
const _: () = assert!(bucket_of((1 << 24) - 1) == RTT_BUCKETS - 1);
const _: () = assert!(bucket_of((1 << 36) - 1) == RUNQ_BUCKETS - 1);
