//! Real libvirt between two hosts on one machine: each has its own network, mount, UTS and process namespace with its own
//! `libvirtd`, and a cable between them. libvirt starts every destination with `-S` and resumes it by RPC, as on production hosts.

mod domain;
mod host;
mod modes;
mod report;
mod run;

pub use self::{
    domain::{Domain, MEMORY_MIB},
    host::Host,
    modes::{MODES, Mode},
    report::{Figures, render},
    run::Lab,
};
