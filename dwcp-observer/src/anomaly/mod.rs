//! Anomaly signals: detect each second whether a measurement of the migrations leaves its usual range, and explain it.
//!
//! [`Signals`] takes the [`Sample`]s of a second and returns [`Event`]s. Two detectors judge each sample:
//! a [`detector::Detector`] for each (mode, kind), which lives as long as the observer and knows the course of its series, and a
//! [`watch::Watch`] for each migration, which knows only its own past, and whose kinds vote together ([`Method::Consensus`]).
//! What they find passes one [`alarm::Alarm`] for each (mode, kind): an anomaly is counted once, however long it lasts and
//! whoever saw it. The methods are one file each: [`window`] (median and MAD), [`tail`] (peaks over threshold), [`cusum`],
//! [`novelty`].
//!
//! All of it works on plain values: no kernel, no `/proc`, no clock. Memory is bounded: 30 KiB for each (mode, kind), 9 KiB for
//! each of at most [`signals::MIGRATIONS`] migrations, and the last [`signals::EVENTS`] events.

pub mod alarm;
pub mod cusum;
pub mod detector;
mod event;
pub mod features;
pub mod feed;
pub mod novelty;
pub mod replay;
pub mod signals;
pub mod tail;
pub mod watch;
pub mod window;

#[cfg(test)]
mod tests;

pub use self::{
    event::{Direction, Event, Kind, Method, Severity, Transition},
    signals::{Sample, Signals},
};
