//! Decides from plain values which flows are migrations.

pub mod classify;
pub mod evidence;
mod flow;
pub mod mode;
mod qemu;
pub(crate) mod qemu_cmdline;
pub mod rejection;
pub mod roles;
pub mod rules;
mod table;
#[cfg(test)]
mod tests;
pub mod vcpus;
