//! The kernel laboratory: Debian's kernels, booted in QEMU with the project's own programs as the
//! only user space. `cargo xtask vm-test` is its command.

pub mod apt;
pub mod boot;
pub mod cpio;
pub mod image;
pub mod kernels;
pub mod laboratory;
pub mod modules;
pub mod programs;
pub mod protocol;
pub mod report;
pub mod rootfs;
mod siw;
