//! Metrics of the components and of the rollout's progress.

use prometheus::proto::MetricFamily;

use super::{family::Family, table};
use crate::component::View;

/// What was not seen is missing.
pub(super) fn components(view: &View, families: &mut Vec<MetricFamily>) {
    let mut health = Family::new(&table::COMPONENT_HEALTH);
    let mut rollout = Family::new(&table::ROLLOUT);
    let mut processes = Family::new(&table::COMPONENT_PROCESSES);
    let mut threads = Family::new(&table::COMPONENT_THREADS);
    let mut cpu = Family::new(&table::COMPONENT_CPU);
    let mut resident = Family::new(&table::COMPONENT_RESIDENT);
    let mut connections = Family::new(&table::COMPONENT_CONNECTIONS);
    let mut bytes = Family::new(&table::COMPONENT_BYTES);
    let mut retransmitted = Family::new(&table::COMPONENT_RETRANSMITTED);
    for one in &view.components {
        let name = one.component.as_str();
        health.add_some(&[name, &one.version], one.status.value());
        if let Some(found) = &one.processes {
            processes.add(&[name], found.pids.len() as f64);
            threads.add(&[name], found.threads as f64);
            cpu.add(&[name], found.cpu_seconds);
            resident.add(&[name], found.resident_bytes as f64);
        }
        if let Some(found) = &one.connections {
            connections.add(&[name, "established"], found.established as f64);
            connections.add(&[name, "stalled"], found.stalled as f64);
            connections.add(&[name, "unread"], found.unread as f64);
            bytes.add(&[name, "sent"], found.sent_bytes as f64);
            bytes.add(&[name, "received"], found.received_bytes as f64);
            retransmitted.add(&[name], found.retransmitted_segments as f64);
        }
    }
    if let Some(progress) = &view.rollout {
        let text = |label: &Option<String>| label.clone().unwrap_or_else(|| "unset".to_owned());
        let (stage, region) = (text(&progress.labels.stage), text(&progress.labels.region));
        rollout.add(&[&stage, &region], progress.percent);
    }
    for family in
        [health, rollout, processes, threads, cpu, resident, connections, bytes, retransmitted]
    {
        family.finish(families);
    }
}

/// How collecting from the components goes.
pub(super) fn scrapes(view: &View, families: &mut Vec<MetricFamily>) {
    let mut scrapes = Family::new(&table::SCRAPES);
    let mut errors = Family::new(&table::SCRAPE_ERRORS);
    let mut seconds = Family::new(&table::SCRAPE_DURATION);
    let mut carried = Family::new(&table::CARRIED_SERIES);
    let mut dropped = Family::new(&table::CARRIED_DROPPED);
    for one in &view.components {
        let (name, Some(scrape)) = (one.component.as_str(), &one.scrape) else { continue };
        scrapes.add(&[name], scrape.scrapes as f64);
        for (reason, count) in &scrape.errors {
            errors.add(&[name, reason], *count as f64);
        }
        if scrape.scrapes > 0 {
            seconds.add(&[name], scrape.seconds);
        }
        carried.add(&[name], scrape.series as f64);
        for (reason, count) in &scrape.dropped {
            dropped.add(&[name, reason], *count as f64);
        }
    }
    for family in [scrapes, errors, seconds, carried, dropped] {
        family.finish(families);
    }
}
