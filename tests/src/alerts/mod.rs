//! The alert rules of `dashboards/prometheus`: what they are, what they were in the contract, and a real Prometheus and
//! Alertmanager that deliver them while faults are injected into real migrations.

pub mod clean;
pub mod contract;
mod host;
mod migrations;
pub mod playbook;
pub mod rules;
pub mod run;
pub mod scenario;
mod speed;
pub mod stack;
pub mod turns;
pub mod webhook;
