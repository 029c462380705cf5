//! Measures live migrations of VMs from inside the kernel.

pub mod anomaly;
pub mod cli;
pub mod client;
pub mod component;
pub mod config;
pub mod cycle;
pub mod freeze;
pub mod history;
pub mod http;
pub mod identify;
pub mod journal;
pub mod keeper;
pub mod kernel;
pub mod metrics;
pub mod migration;
pub mod netdev;
pub mod netlink;
pub mod phase;
pub mod process;
pub mod rdma;
pub mod report;
pub mod sched;
pub mod sla;
pub mod tcp;
pub mod verdict;

pub use dwcp_observer_model as model;
