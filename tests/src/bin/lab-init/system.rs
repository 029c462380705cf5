//! What init asks the kernel for.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr;

use anyhow::{Context, Result};

/// File system and place, in this order. The root itself is in memory and needs no other /tmp.
const MOUNTS: [(&str, &str); 9] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("devpts", "/dev/pts"),
    ("tmpfs", "/dev/shm"),
    ("debugfs", "/sys/kernel/debug"),
    ("tracefs", "/sys/kernel/tracing"),
    ("bpf", "/sys/fs/bpf"),
    ("cgroup2", "/sys/fs/cgroup"),
];

/// Mounts what an ordinary system has.
pub(crate) fn mount_all() -> Result<()> {
    for (kind, place) in MOUNTS {
        // Directories within sysfs cannot be made, and need not be.
        if !Path::new(place).is_dir() {
            std::fs::create_dir_all(place).with_context(|| place.to_owned())?;
        }
        mount(kind, place).with_context(|| format!("{kind} on {place}"))?;
    }
    Ok(())
}

fn mount(kind: &str, place: &str) -> Result<()> {
    let (kind, place) = (CString::new(kind)?, CString::new(place)?);
    // SAFETY: three strings that outlive the call, and no data.
    let result =
        unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, ptr::null()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error().into()) }
}

/// Loads a module; those that it needs are loaded already.
pub(crate) fn load_module(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    let no_arguments = CString::default();
    // SAFETY: a descriptor that is open and a string, both of which outlive the call.
    let result = unsafe {
        libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), no_arguments.as_ptr(), 0)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error().into()) }
}

/// Switches the VM off. Nothing is on a disk.
pub(crate) fn power_off() {
    // SAFETY: takes an integer only.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
}
