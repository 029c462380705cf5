//! What a cycle waits for.

use std::{io, os::fd::OwnedFd};

use tokio::{
    io::{Interest, unix::AsyncFd},
    time::sleep_until,
};

/// Registers a ring buffer or its logger with the runtime.
///
/// # Errors
/// What `epoll_ctl(2)` says.
pub fn pollable<T: std::os::fd::AsFd + std::os::fd::AsRawFd>(inner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: aya's ring buffers own their descriptor, and hand out the same open one as long as they live.
    unsafe { AsyncFd::register_with_interest(inner, Interest::READABLE) }.map_err(Into::into)
}

/// Ready at the given time, never without one.
pub(super) async fn wait(until: Option<tokio::time::Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// Registers a descriptor that becomes readable with the runtime.
pub(super) fn listen(fd: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    pollable(fd)
        .inspect_err(|error| {
            log::debug!("RDMA connections are checked once a second only: {error}");
        })
        .ok()
}

/// Ready when the descriptor is, never without one.
pub(super) async fn readable(fd: Option<&AsyncFd<OwnedFd>>) {
    let Some(fd) = fd else { return std::future::pending().await };
    match fd.readable().await {
        // The next look empties what is behind it.
        Ok(mut guard) => guard.clear_ready(),
        Err(_) => std::future::pending().await,
    }
}
