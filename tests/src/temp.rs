//! Temporary directories and free TCP ports.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

/// The ports that libvirt gives to migrations, both ends included.
pub const MIGRATION_PORTS: RangeInclusive<u16> = 49152..=49215;

/// A directory that is removed, with all it holds, when the value is dropped.
///
/// Paths in it stay short: a Unix socket's path may have at most 107 bytes.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// Makes a new empty directory, readable by its owner only.
    ///
    /// # Errors
    /// When the system's temporary directory cannot be written.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = PathBuf::from(format!("{}{number}", Self::prefix()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path }),
                // Left by a killed process that had the same id.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot create {}", path.display()));
                }
            }
        }
    }

    /// What the paths of all directories of this process begin with.
    #[must_use]
    pub fn prefix() -> String {
        let path = std::env::temp_dir().join(format!("dwcp-lab-{}-", process::id()));
        path.to_string_lossy().into_owned()
    }

    /// Where the directory is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of `name` in the directory; nothing is created.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // Nothing useful can be done about a failure here.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A loopback port that nobody listens on at the moment.
///
/// # Errors
/// When the loopback address cannot be bound at all.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free TCP port")?;
    Ok(listener.local_addr()?.port())
}

/// A port of [`MIGRATION_PORTS`] that is free on the loopback address of the family asked for.
///
/// # Errors
/// When all 64 are taken.
pub fn free_migration_port(ipv6: bool) -> Result<u16> {
    // Spread over the range, so that tests and test programs which run at once do not collide.
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let first = process::id().wrapping_add(call) as usize % MIGRATION_PORTS.len();
    // Nobody may listen yet on those that were handed out last, to other threads.
    static LATEST: Mutex<VecDeque<u16>> = Mutex::new(VecDeque::new());
    let mut latest = LATEST.lock().unwrap_or_else(PoisonError::into_inner);
    for port in starting_at(MIGRATION_PORTS, first).filter(|port| !latest.contains(port)) {
        if TcpListener::bind(SocketAddr::new(loopback(ipv6), port)).is_ok() {
            latest.push_front(port);
            latest.truncate(LATEST_PORTS);
            return Ok(port);
        }
    }
    bail!("no free port in {}-{}", MIGRATION_PORTS.start(), MIGRATION_PORTS.end())
}

/// So many ports are not handed out again at once.
const LATEST_PORTS: usize = 8;

/// The loopback address of the family asked for.
#[must_use]
pub fn loopback(ipv6: bool) -> IpAddr {
    if ipv6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() }
}

/// All ports of a range, those after the first `skipped` ones before these.
fn starting_at(ports: RangeInclusive<u16>, skipped: usize) -> impl Iterator<Item = u16> {
    ports.clone().skip(skipped).chain(ports.take(skipped))
}

/// Whether a test runs as root.
#[cfg(test)]
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_differ_and_vanish() {
        let (a, b) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        assert_ne!(a.path(), b.path());
        fs::write(a.join("file"), "x").unwrap();
        let path = a.path().to_owned();
        drop(a);
        assert!(!path.exists());
    }

    #[test]
    fn every_port_is_tried_once() {
        let mut ports: Vec<u16> = starting_at(10..=14, 3).collect();
        assert_eq!(ports, [13, 14, 10, 11, 12]);
        ports.sort_unstable();
        assert_eq!(ports, [10, 11, 12, 13, 14]);
    }

    #[test]
    fn a_taken_migration_port_is_not_given() {
        let port = free_migration_port(false).unwrap();
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        for _ in MIGRATION_PORTS {
            assert_ne!(free_migration_port(false).unwrap(), port);
        }
    }
}
