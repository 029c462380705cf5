//! The verdict: judges each second of a migration, and names the cause if it is not healthy.
//!
//! A [`Judge`] takes one [`inputs::Second`] after the other and returns a [`Verdict`](crate::model::verdict::Verdict). Four
//! questions, one file each: where does the sending side's time go ([`split`]), is that good or bad ([`state`], which needs the
//! migration's own past, `slow`, which knows the faults, `standstill`, which knows the stopped guest, and [`converge`],
//! which compares the rounds), when will it be done ([`eta`]), are the streams balanced ([`streams`]). [`sentence`] writes the
//! sentence.
//!
//! All of it works on plain values: no kernel, no `/proc`, no clock.

mod black_hole;
pub mod converge;
pub mod eta;
pub mod inputs;
mod neighbours;
mod reference;
pub mod sentence;
mod slow;
pub mod split;
mod standstill;
pub mod state;
pub mod streams;

#[cfg(test)]
mod tests;

pub use state::Judge;
