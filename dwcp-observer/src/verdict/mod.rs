//! The verdict: each second, whether a migration goes well, and if not, what holds it back.
//!
//! A [`Judge`] is fed one [`inputs::Second`] after the other and answers with a [`Verdict`](crate::model::verdict::Verdict). Four
//! questions, one file each: where does the sending side's time go ([`split`]), is that good or bad ([`state`], which needs the
//! migration's own past, `slow`, which knows the faults, `standstill`, which knows the guest that is waited for, and [`converge`],
//! which looks at the rounds), when will it be done ([`eta`]), are the streams even ([`streams`]). [`sentence`] puts the answer into
//! words.
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
