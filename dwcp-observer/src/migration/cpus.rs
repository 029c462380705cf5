//! When a guest's CPUs could last run, and when they could run again, by the stays of their threads on CPUs.
//!
//! A CPU that was running or runnable stopped when it last ran. A CPU that its guest had halted could run until it was asked to
//! stop, and can run again from when it is let run. What its thread does for QEMU is not the guest. Where the stays do not decide,
//! there is no answer.
//!
//! Pure: plain values in, plain values out. All stamps are `CLOCK_MONOTONIC` ns of this host.

use dwcp_observer_ebpf::sched::{
    Activity, BURSTS, Burst, CpuTimes, GUEST_BURST_NS, LEFT_CONDITION, LEFT_GUEST, LEFT_HALTED,
    LEFT_LOCK, LEFT_RUNNABLE, LEFT_UNKNOWN, WOKEN_MIGRATION,
};

/// CPU time of an activity that shows a running guest rather than a vCPU thread that is given its registers.
const GUEST_ACTIVITY_NS: u64 = 500_000;
/// CPU time after the guest was let run that is more than waking up for a lock.
const AWAKE_NS: u64 = 30_000;
/// QEMU stops a guest at one go, and loads the last of its state and lets it run at one go: a halted CPU's wake-ups that are
/// further apart than this have different causes.
pub const AT_ONE_GO_NS: u64 = 5_000_000;

/// When the functions say that the guest was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopMarks {
    /// `pause_all_vcpus` was entered.
    pub asked_ns: u64,
    /// It returned: by then all vCPU threads had parked, so that what began later is no guest code, and what ended later ended
    /// then: a vCPU thread says that it is stopped before it leaves its CPU.
    pub paused_ns: u64,
}

/// When the last CPU of a guest stopped being able to run, with the functions' help. `None` where the stays do not tell.
#[must_use]
pub fn stopped(cpus: &[CpuTimes], marks: StopMarks) -> Option<u64> {
    let stops: Option<Vec<u64>> = cpus.iter().map(|cpu| stop_of(cpu, marks)).collect();
    stops?.into_iter().max()
}

fn stop_of(cpu: &CpuTimes, marks: StopMarks) -> Option<u64> {
    let StopMarks { asked_ns, paused_ns } = marks;
    let told = tells_why(cpu);
    for burst in newest_first(cpu).filter(|burst| burst.on_ns < paused_ns) {
        let slept = burst.off_ns <= asked_ns;
        if slept && is_halted(&burst) {
            return Some(asked_ns);
        }
        if slept && !knows_why(&burst, told) {
            return None;
        }
        if let Some(until) = guest_until(cpu, &burst) {
            return Some(until.min(paused_ns));
        }
    }
    None
}

/// Whether some CPU of the guest was halted when it was asked to stop: it could run from when it was let run on.
#[must_use]
pub fn some_halted(cpus: &[CpuTimes], asked_ns: u64) -> bool {
    cpus.iter().any(|cpu| {
        let before = newest_first(cpu).find(|burst| burst.on_ns <= asked_ns);
        before.is_some_and(|burst| burst.off_ns <= asked_ns && is_halted(&burst))
    })
}

/// When a guest that was let run at `allowed_ns` could run. `halted`: one of its CPUs was; then it could at once. Else even a short
/// burst is guest code, but for those in which the thread only waits for QEMU's lock. `None` while no guest CPU has run since.
#[must_use]
pub fn started(cpus: &[CpuTimes], allowed_ns: u64, halted: bool, now_ns: u64) -> Option<u64> {
    if halted {
        return Some(allowed_ns);
    }
    let since = || activities(cpus, now_ns).filter(|seen| seen.off_ns > allowed_ns);
    let ran = since().filter(|seen| seen.cpu_ns >= AWAKE_NS).map(|seen| {
        // Awake before, to be told to run: its first long burst is the guest's.
        let began_before = seen.began_ns < allowed_ns;
        let began = if began_before { seen.guest_ns } else { Some(seen.began_ns) };
        began.unwrap_or(allowed_ns).max(allowed_ns)
    });
    // Halted again after no more than it takes to wake up: it had nothing to do from the first moment on.
    let idle = since().filter(|seen| seen.guest_ns.is_none() && seen.left == LEFT_CONDITION);
    ran.chain(idle.map(|_| allowed_ns)).min()
}

/// When the last CPU of a guest stopped being able to run, by the scheduler alone. `None` while one of them runs, when none ever
/// did, or where the stays do not tell.
#[must_use]
pub fn stopped_alone(cpus: &[CpuTimes]) -> Option<u64> {
    if cpus.iter().any(|cpu| cpu.on_ns != 0) {
        return None;
    }
    let stops: Option<Vec<u64>> = cpus.iter().map(stop_alone).collect();
    stops?.into_iter().max()
}

/// Of a CPU that was running: the end of its last stay in the guest. Of a halted one: when the migration's thread woke it, to be
/// told to stop.
fn stop_alone(cpu: &CpuTimes) -> Option<u64> {
    let bursts: Vec<Burst> = newest_first(cpu).collect();
    let (told, kvm) = (tells_why(cpu), is_kvm(cpu));
    let mut kicked = None;
    for (index, burst) in bursts.iter().enumerate() {
        if let Some(until) = guest_until(cpu, burst) {
            return Some(until);
        }
        if burst.woken_by == WOKEN_MIGRATION {
            kicked = Some(woken(burst));
        }
        let Some(before) = bursts.get(index + 1) else { break };
        match before.left {
            // Kicked out of the guest, in which it was halted.
            LEFT_HALTED => return Some(burst.kvm_exit_ns).filter(|exit| *exit != 0),
            _ if !knows_why(before, told) => return None,
            LEFT_CONDITION if !kvm && slept_before(burst, before) => return kicked,
            _ => {}
        }
    }
    kicked.filter(|_| !kvm)
}

/// What is known of a destination beside its stays on CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The guest stopped at the source, ns; 0 not known.
    pub after_ns: u64,
    /// It was told to wait with its guest (`-S`): what comes first is not the guest.
    pub waits_for_manager: bool,
    /// Some CPU of the guest was halted when it stopped; `None` where the source does not tell.
    pub halted: Option<bool>,
    /// KVM runs the guest.
    pub kvm: bool,
    /// Now.
    pub now_ns: u64,
}

/// When the guest could first run, by the scheduler alone. `None` while nothing tells.
#[must_use]
pub fn started_alone(cpus: &[CpuTimes], arrival: Arrival) -> Option<u64> {
    let Arrival { after_ns, waits_for_manager, halted, kvm, now_ns } = arrival;
    if kvm || cpus.iter().any(is_kvm) {
        let began = cpus.iter().map(|cpu| cpu.kvm_began_ns);
        return began.filter(|began| *began != 0 && *began >= after_ns).min();
    }
    let mut seen: Vec<Seen> =
        activities(cpus, now_ns).filter(|seen| seen.began_ns >= after_ns).collect();
    seen.sort_by_key(|seen| seen.began_ns);
    let busy = || seen.iter().filter(|seen| seen.cpu_ns >= GUEST_ACTIVITY_NS);
    let guest = busy().filter_map(|seen| seen.guest_ns).min();
    if waits_for_manager {
        // Long and then asleep: the guest that halts, or its migrator's work before the manager came. Nothing tells.
        let asleep = busy().next().is_some_and(|seen| seen.left == LEFT_CONDITION);
        return guest.filter(|_| halted == Some(false) && !asleep);
    }
    if halted == Some(false) {
        return guest;
    }
    let (last_ns, over_ns) = at_one_go(&seen, guest)?;
    // Loaded, let run, and at it at once; or halted: then the last wake-up let it run.
    match guest {
        Some(guest) if guest <= over_ns => Some(guest),
        _ if now_ns > over_ns => Some(last_ns),
        _ => None,
    }
}

/// The wake-ups in which QEMU loads the last of the state and lets the guest run: the last of them, and until when another one
/// would have been part of them. `None` where they take so long that the last one may be something else.
fn at_one_go(seen: &[Seen], guest: Option<u64>) -> Option<(u64, u64)> {
    let first = seen.first()?;
    let (mut last_ns, mut over_ns) = (first.began_ns, first.off_ns + AT_ONE_GO_NS);
    let before_guest = |seen: &&Seen| guest.is_none_or(|guest| seen.began_ns < guest);
    for next in seen.iter().take_while(before_guest) {
        if next.began_ns > over_ns {
            break;
        }
        (last_ns, over_ns) = (next.began_ns, over_ns.max(next.off_ns + AT_ONE_GO_NS));
    }
    (last_ns - first.began_ns <= 2 * AT_ONE_GO_NS).then_some((last_ns, over_ns))
}

/// Whether some CPU of a stopped guest was halted before, by the scheduler alone.
#[must_use]
pub fn some_halted_alone(cpus: &[CpuTimes]) -> bool {
    cpus.iter().any(|cpu| {
        let bursts: Vec<Burst> = newest_first(cpu).collect();
        let at = bursts.iter().position(|burst| guest_until(cpu, burst).is_some());
        let told = bursts.get(..at.unwrap_or(bursts.len())).unwrap_or_default();
        let apart = told
            .iter()
            .zip(bursts.iter().skip(1))
            .any(|(burst, before)| is_halted(before) && slept_before(burst, before));
        apart || (at.is_none() && !bursts.is_empty())
    })
}

/// The last bursts, newest first.
fn newest_first(cpu: &CpuTimes) -> impl Iterator<Item = Burst> + '_ {
    let held = usize::try_from(cpu.bursts).unwrap_or(usize::MAX).min(BURSTS);
    (1..=held).filter_map(|back| {
        let index = cpu.bursts.wrapping_sub(back as u64) % BURSTS as u64;
        cpu.recent.get(usize::try_from(index).ok()?).copied()
    })
}

/// It has left the guest under KVM: then nothing but a stay in `KVM_RUN` is the guest.
const fn is_kvm(cpu: &CpuTimes) -> bool {
    cpu.kvm_exit_ns != 0
}

/// Whether this C library and kernel let a wait of one's own will be told from one for a lock.
fn tells_why(cpu: &CpuTimes) -> bool {
    newest_first(cpu).any(|burst| is_halted(&burst))
}

/// Whether it is known why a burst ended.
const fn knows_why(burst: &Burst, told: bool) -> bool {
    match burst.left {
        LEFT_UNKNOWN => false,
        // A C library that waits for everything in this way (musl) does not tell.
        LEFT_LOCK => told,
        _ => true,
    }
}

/// Asleep for long before it was woken for this burst.
const fn slept_before(burst: &Burst, before: &Burst) -> bool {
    woken(burst).saturating_sub(before.off_ns) >= AT_ONE_GO_NS
}

/// It left its CPU because its guest had nothing to do, or because it was stopped.
const fn is_halted(burst: &Burst) -> bool {
    matches!(burst.left, LEFT_CONDITION | LEFT_HALTED)
}

const fn woken(burst: &Burst) -> u64 {
    if burst.woken_ns != 0 { burst.woken_ns } else { burst.on_ns }
}

/// Until when a burst ran the guest; `None` of one that is too short for that, or did other things.
fn guest_until(cpu: &CpuTimes, burst: &Burst) -> Option<u64> {
    let until = match burst.left {
        LEFT_GUEST | LEFT_HALTED => burst.off_ns,
        _ if is_kvm(cpu) => burst.kvm_exit_ns,
        _ => burst.off_ns,
    };
    let ran = burst.kvm_work_ns != 0 || until.saturating_sub(burst.on_ns) >= GUEST_BURST_NS;
    ran.then_some(until)
}

/// An activity with the burst that still runs.
struct Seen {
    began_ns: u64,
    guest_ns: Option<u64>,
    /// End; now, while it runs.
    off_ns: u64,
    cpu_ns: u64,
    left: u32,
}

fn activities(cpus: &[CpuTimes], now_ns: u64) -> impl Iterator<Item = Seen> {
    cpus.iter().flat_map(move |cpu| {
        let count = usize::try_from(cpu.activities).unwrap_or(usize::MAX);
        let current = count.checked_sub(1).filter(|_| cpu.on_ns != 0);
        cpu.first.iter().take(count).enumerate().map(move |(index, activity)| {
            let running_ns = match Some(index) == current {
                true => now_ns.saturating_sub(cpu.on_ns),
                false => 0,
            };
            let Activity { began_ns, guest_ns, off_ns, cpu_ns, left, .. } = *activity;
            let guest = Some(guest_ns).filter(|ns| *ns != 0);
            Seen {
                began_ns,
                guest_ns: guest.or_else(|| (running_ns >= GUEST_BURST_NS).then_some(cpu.on_ns)),
                off_ns: if running_ns > 0 { now_ns } else { off_ns },
                cpu_ns: cpu_ns + running_ns,
                left: if running_ns > 0 { LEFT_RUNNABLE } else { left },
            }
        })
    })
}

#[cfg(test)]
#[path = "cpus_tests.rs"]
mod tests;
