//! Sets one host's clock by another's, and tells both kernels how far they may be off since: what NTP does, once.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::Peer;
use crate::qemu::Role;

/// How often the other clock is asked; the quickest answer counts.
const QUESTIONS: usize = 40;

/// How far the other host's clock is ahead of this one's.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Apart {
    /// Seconds; negative if it is behind.
    pub seconds: f64,
    /// Most that this may be off: half the time that the quickest answer took.
    pub bound_seconds: f64,
}

/// Sets the source's clock by the destination's and declares both synchronised, the source's with what the measurement may be off.
/// From then on the kernel itself adds 0.5 ms a second to that. Both halves call it.
///
/// # Errors
/// Without root, or when the other half does not answer.
pub fn synchronise(role: Role, peer: &mut Peer) -> Result<()> {
    let Some(apart) = compare(role, peer)? else { return declare(0.0) };
    #[expect(clippy::cast_possible_truncation, reason = "2^63 ns are 292 years")]
    let ahead = (apart.seconds * 1e9) as i64;
    set(now()?.checked_add(ahead).context("a time beyond 2262")?)?;
    declare(apart.bound_seconds)
}

/// Measures again how far the clocks are apart and declares that, without setting one: what the kernel has added since is gone.
/// Both halves call it.
///
/// # Errors
/// Without root, or when the other half does not answer.
pub fn confirm(role: Role, peer: &mut Peer) -> Result<()> {
    let apart = compare(role, peer)?;
    declare(apart.map_or(0.0, |apart| apart.seconds.abs() + apart.bound_seconds))
}

/// Compares the two clocks; the source learns how far they are apart. Both halves call it.
///
/// # Errors
/// When the other half does not answer.
pub fn compare(role: Role, peer: &mut Peer) -> Result<Option<Apart>> {
    let mut best: Option<Apart> = None;
    for _ in 0..QUESTIONS {
        if role == Role::Destination {
            peer.hear::<()>()?;
            peer.tell(&now()?)?;
            continue;
        }
        let asked = now()?;
        peer.tell(&())?;
        let there: i64 = peer.hear()?;
        let answered = now()?;
        // The answer is from between the two; its middle is wrong by half of them at most.
        let bound_seconds = (answered - asked) as f64 / 2e9;
        if best.is_none_or(|best| bound_seconds < best.bound_seconds) {
            let seconds = ((there - asked) as f64 - (answered - asked) as f64 / 2.0) / 1e9;
            best = Some(Apart { seconds, bound_seconds });
        }
    }
    Ok(best)
}

/// Nanoseconds since 1970 by this host's clock.
fn now() -> Result<i64> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(i64::try_from(since.as_nanos())?)
}

fn set(nanoseconds: i64) -> Result<()> {
    let nanoseconds = Duration::from_nanos(u64::try_from(nanoseconds)?);
    let time = libc::timespec {
        tv_sec: i64::try_from(nanoseconds.as_secs())?,
        tv_nsec: i64::from(nanoseconds.subsec_nanos()),
    };
    // SAFETY: the pointer is to a live timespec.
    let result = unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) };
    ensure!(result == 0, "the clock cannot be set: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Declares this host's clock synchronised, off by so many seconds at most.
fn declare(error_seconds: f64) -> Result<()> {
    // SAFETY: zero is valid for every field.
    let mut status: libc::timex = unsafe { std::mem::zeroed() };
    status.modes = libc::ADJ_STATUS | libc::ADJ_MAXERROR;
    #[expect(clippy::cast_possible_truncation, reason = "bounds are far below 2^63 us")]
    let microseconds = (error_seconds * 1e6).ceil() as i64;
    status.maxerror = microseconds;
    // SAFETY: the pointer is to a live timex.
    let state = unsafe { libc::adjtimex(&raw mut status) };
    ensure!(state >= 0, "the clock's state cannot be set: {}", std::io::Error::last_os_error());
    ensure!(state != libc::TIME_ERROR, "the kernel calls its clock unsynchronised all the same");
    Ok(())
}
