//! The eBPF objects inside this program, built by `cargo xtask build-ebpf`. A debug build may have none (`build.rs`).

use thiserror::Error;

/// With typed pointers.
pub(crate) const TYPED: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("DWCP_EBPF_OBJECTS"), "/typed.bpf.o"));
/// With probe reads.
pub(crate) const PROBED: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("DWCP_EBPF_OBJECTS"), "/probed.bpf.o"));
/// RDMA verbs.
pub(crate) const RDMA: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("DWCP_EBPF_OBJECTS"), "/rdma.bpf.o"));

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
        assert_eq!([TYPED, PROBED, RDMA].map(<[u8]>::is_empty), [!cfg!(ebpf_objects); 3]);
        assert_eq!(of_build(None), Ok(()));
        let error = of_build(Some("typed.bpf.o is missing")).unwrap_err().to_string();
        assert!(error.contains("typed.bpf.o is missing") && error.contains("build-ebpf"));
    }
}
