//! What the end-to-end tests, the demo and the benchmarks share: real QEMU migrations, the
//! observer as a child process, traffic whose byte counts are known at both ends, and the
//! kernel's own socket counters to compare with.
//!
//! Every process that this library starts is ended when its value is dropped.

pub mod alerts;
pub mod blackout;
pub mod clock;
pub mod criu;
pub mod faults;
pub mod flows;
pub mod guest;
pub mod hosts;
pub mod http;
pub mod kernel_objects;
pub mod labelled;
pub mod libvirt;
pub mod linux_guest;
pub mod metrics;
pub mod migration;
pub mod nameless;
pub mod netns;
pub mod observer;
pub mod process;
pub mod qemu;
pub mod qmp;
pub mod rdma;
pub mod record;
pub mod socket_totals;
pub mod tcp_info;
pub mod temp;
pub mod vm;
pub mod watched;
pub mod zoo;
