//! Tap devices of guests: the time of the first packet that a guest sends at its destination.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use dwcp_observer_ebpf::netdev::{Tap, TapKey};
use procfs::process::{FDTarget, Process};
use rustix::fs::OFlags;

use crate::{model::facts::ProcessId, process};

/// Descriptors that are looked at for tap devices.
const MAX_FDS: usize = 1024;
/// Bytes of what is said of one descriptor.
const MAX_FDINFO: u64 = 4096;
/// Length of a device name, with its NUL (`IFNAMSIZ`).
const NAME_LEN: usize = 16;

/// A watched device and what it has carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapReading {
    /// Which.
    pub key: TapKey,
    /// Packets so far.
    pub tap: Tap,
}

/// The tap devices that a process holds open, in its own network namespace; empty when it has none or is gone.
#[must_use]
pub fn taps_of(id: ProcessId) -> Vec<TapKey> {
    process::open(id).and_then(|process| taps(&process)).unwrap_or_default()
}

fn taps(process: &Process) -> Option<Vec<TapKey>> {
    let root = process.open_relative_flags("ns/net", OFlags::PATH | OFlags::CLOEXEC).ok()?;
    let netns = netns_of(&root).ok()?;
    let mut keys: Vec<TapKey> = process
        .fd()
        .ok()?
        .take(MAX_FDS)
        .flatten()
        .filter(
            |fd| matches!(&fd.target, FDTarget::Path(path) if path == Path::new("/dev/net/tun")),
        )
        .filter_map(|fd| {
            let mut info = String::new();
            let file = process.open_relative(format!("fdinfo/{}", fd.fd)).ok()?;
            file.take(MAX_FDINFO).read_to_string(&mut info).ok()?;
            key_of(&info, netns)
        })
        .collect();
    keys.sort_unstable();
    keys.dedup();
    Some(keys)
}

fn netns_of(namespace: &File) -> io::Result<u32> {
    use std::os::unix::fs::MetadataExt as _;
    u32::try_from(namespace.metadata()?.ino()).map_err(io::Error::other)
}

/// The device of a descriptor, from the `iff:` line that tun adds to `fdinfo` (`tun_chr_show_fdinfo`).
fn key_of(fdinfo: &str, netns: u32) -> Option<TapKey> {
    let name = fdinfo.lines().find_map(|line| line.strip_prefix("iff:"))?.trim();
    if name.is_empty() || name.len() >= NAME_LEN {
        return None;
    }
    let mut bytes = [0u8; NAME_LEN];
    bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
    let half = |at: usize| {
        let half: [u8; 8] =
            std::array::from_fn(|index| bytes.get(at + index).copied().unwrap_or(0));
        u64::from_ne_bytes(half)
    };
    Some(TapKey { name: [half(0), half(8)], netns, reserved: 0 })
}

/// The name of a device as text.
#[must_use]
pub fn name_of(key: &TapKey) -> String {
    let bytes: Vec<u8> = key.name.iter().flat_map(|half| half.to_ne_bytes()).collect();
    let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_names_its_device() {
        let key = key_of("pos:\t0\nflags:\t0104002\nmnt_id:\t25\niff:\ttap12\n", 7).unwrap();
        assert_eq!((name_of(&key).as_str(), key.netns), ("tap12", 7));
        let longest = key_of("iff:\tabcdefghijklmno\n", 7).unwrap();
        assert_eq!(name_of(&longest), "abcdefghijklmno");
        for odd in ["", "iff:\t\n", "iff:\tabcdefghijklmnop\n", "pos:\t0\n"] {
            assert_eq!(key_of(odd, 7), None, "{odd:?}");
        }
    }

    #[test]
    fn a_process_without_a_tap_has_none() {
        let this = process::id_of(&process::open_now(std::process::id()).unwrap()).unwrap();
        assert_eq!(taps_of(this), []);
        assert_eq!(taps_of(ProcessId::new(u32::MAX, 0)), []);
    }
}
