//! The report: what happened in a period, from the history database and the running observer. What was not measured is said to be
//! absent.

mod anomaly;
pub mod data;
pub mod document;
mod errors;
mod figures;
mod frame;
mod host;
pub mod hourly;
mod latency;
mod levels;
mod rollout;
mod throughput;
mod words;

#[cfg(test)]
mod tests;

use self::{data::Data, document::Document};

/// The whole report, in the order of the contract's template.
#[must_use]
pub fn report(data: &Data) -> Document {
    let mut document = Document::new("DWCP v3 migrations: production report");
    frame::header(data, &mut document);
    frame::status(data, &mut document);
    latency::latency(data, &mut document);
    throughput::throughput(data, &mut document);
    errors::errors(data, &mut document);
    host::components(data, &mut document);
    levels::levels(data, &mut document);
    anomaly::anomalies(data, &mut document);
    host::resources(data, &mut document);
    rollout::rollout(data, &mut document);
    rollout::comparison(data, &mut document);
    frame::recommendations(data, &mut document);
    frame::summary(data, &mut document);
    frame::migrations(data, &mut document);
    frame::appendix(data, &mut document);
    document
}
