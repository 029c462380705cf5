//! The eBPF objects inside this program, built by `cargo xtask build-ebpf`. A debug build may have none (`build.rs`).

use std::io::Read as _;

use flate2::read::ZlibDecoder;
use thiserror::Error;

macro_rules! packed {
    ($name:literal) => {
        Packed(include_bytes!(concat!(env!("OUT_DIR"), "/", $name)))
    };
}

/// With typed pointers.
pub(crate) const TYPED: Packed = packed!("typed.bpf.o");
/// With probe reads.
pub(crate) const PROBED: Packed = packed!("probed.bpf.o");
/// RDMA verbs.
pub(crate) const RDMA: Packed = packed!("rdma.bpf.o");

/// An object as `build.rs` packs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packed(&'static [u8]);

impl Packed {
    /// The object; empty in a build without programs.
    ///
    /// # Errors
    /// This executable is damaged.
    pub(crate) fn unpack(self) -> Result<Vec<u8>, NotBuilt> {
        let mut object = Vec::new();
        match ZlibDecoder::new(self.0).read_to_end(&mut object) {
            Ok(_) => Ok(object),
            Err(_) => Err(NotBuilt { why: "what this executable holds of them is damaged" }),
        }
    }
}

/// This program was built without eBPF programs.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error(
    "this build has no eBPF programs ({why}): run `cargo xtask build-ebpf` and build again, or run `cargo xtask build`, which does both"
)]
pub struct NotBuilt {
    /// What the build found.
    pub why: &'static str,
}

/// Whether the objects hold programs.
///
/// # Errors
/// [`NotBuilt`], with the reason that the build noted.
pub fn built() -> Result<(), NotBuilt> {
    of_build(option_env!("DWCP_EBPF_LACK"))
}

fn of_build(lack: Option<&'static str>) -> Result<(), NotBuilt> {
    lack.map_or(Ok(()), |why| Err(NotBuilt { why }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_has_programs_or_says_why_not() {
        assert_eq!(built().is_ok(), cfg!(ebpf_objects));
        let is_empty = |object: Packed| object.unpack().unwrap().is_empty();
        assert_eq!([TYPED, PROBED, RDMA].map(is_empty), [!cfg!(ebpf_objects); 3]);
        assert!(Packed(b"no zlib").unpack().is_err());
        assert_eq!(of_build(None), Ok(()));
        let error = of_build(Some("typed.bpf.o is missing")).unwrap_err().to_string();
        assert!(error.contains("typed.bpf.o is missing") && error.contains("build-ebpf"));
    }
}
