//! The alert rules of `dashboards/prometheus`: what they are, what they were in the contract, and a real Prometheus and
//! Alertmanager that deliver them.

pub mod contract;
pub mod playbook;
pub mod rules;
