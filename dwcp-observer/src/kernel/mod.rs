//! The basis of all eBPF programs: BTF, attach ladders, maps, system calls.

pub mod btf;
#[cfg(test)]
pub(crate) mod btf_sample;
pub(crate) mod host;
pub mod ladder;
pub mod layout;
pub(crate) mod maps;
pub mod objects;
pub(crate) mod prealloc;
pub(crate) mod refusal;
pub(crate) mod slots;
pub mod stats;
pub mod sys;
pub mod uprobe;

pub use self::{
    host::{clock_error_seconds, clock_ns, privileged},
    maps::MapError,
};
