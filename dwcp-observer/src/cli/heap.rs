//! Limits the heap that the process keeps.

/// Keeps the heap small: one arena for both threads, and large buffers mapped and unmapped for themselves. glibc would otherwise
/// raise its limits with use, and the buffers of each cycle would stay.
pub(super) fn bound_memory() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, 128 << 10),
        (libc::M_TRIM_THRESHOLD, 256 << 10),
    ] {
        // SAFETY: mallopt takes two integers.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives memory that loading needed back to the system.
pub(super) fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}
