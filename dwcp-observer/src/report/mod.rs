//! The report: what happened in a period, from the history database and the running observer. What was not measured is said to be
//! absent.

pub mod data;
pub mod document;
mod figures;
pub mod hourly;
mod later;
mod sections;

#[cfg(test)]
mod tests;

use self::{data::Data, document::Document};

/// The whole report, in the order of the contract's template.
#[must_use]
pub fn report(data: &Data) -> Document {
    let mut document = Document::new("DWCP v3 migrations: production report");
    sections::header(data, &mut document);
    sections::status(data, &mut document);
    sections::latency(data, &mut document);
    sections::throughput(data, &mut document);
    sections::errors(data, &mut document);
    later::components(data, &mut document);
    later::levels(data, &mut document);
    later::anomalies(data, &mut document);
    later::resources(data, &mut document);
    later::rollout(data, &mut document);
    later::comparison(&mut document);
    later::recommendations(data, &mut document);
    later::summary(data, &mut document);
    later::migrations(data, &mut document);
    later::appendix(data, &mut document);
    document
}
