//! Clocks of the host, and capabilities of this process.

/// A clock of the system in nanoseconds; 0 if it does not exist.
#[must_use]
pub fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return 0;
    }
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// Most that `CLOCK_REALTIME` may be off, seconds (`adjtimex(2)`, `maxerror`); `None` when it is not synchronised.
#[must_use]
pub fn clock_error_seconds() -> Option<f64> {
    // SAFETY: zero is valid for every field; with no mode set the call only reads.
    let mut status: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live timex.
    let state = unsafe { libc::adjtimex(&raw mut status) };
    let synchronised = state >= 0 && state != libc::TIME_ERROR;
    synchronised.then(|| status.maxerror as f64 / 1e6)
}

/// The coarse clock ticks with the kernel's jiffies (kernel/time/posix-timers.c: `KTIME_LOW_RES` is one tick).
pub(crate) fn jiffy_ns() -> u64 {
    let mut resolution = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec.
    if unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut resolution) } != 0 {
        return 0;
    }
    resolution.tv_sec.cast_unsigned() * 1_000_000_000 + resolution.tv_nsec.cast_unsigned()
}

/// Whether this process may load tracing programs: `CAP_SYS_ADMIN`, or `CAP_BPF` and `CAP_PERFMON`.
#[must_use]
pub fn privileged() -> bool {
    const SYS_ADMIN: u64 = 1 << 21;
    const PERFMON: u64 = 1 << 38;
    const BPF: u64 = 1 << 39;
    let effective = procfs::process::Process::myself()
        .and_then(|me| me.status())
        .map_or(0, |status| status.capeff);
    effective & SYS_ADMIN != 0 || effective & (BPF | PERFMON) == BPF | PERFMON
}
