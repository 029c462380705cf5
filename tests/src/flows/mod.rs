//! TCP traffic between two processes whose byte counts are known at both ends.
//!
//! The helper program `lab-flows` makes it, under whatever process name a test needs, since the
//! observer knows migrators by their processes. [`FlowHelper`] runs that program.

mod helper;
mod pipe;
mod plan;
mod receive;
mod send;
mod socket;
mod steady;
mod web;

pub use helper::FlowHelper;
pub use plan::{Close, FlowPlan, plans};
pub use receive::{Listening, receive};
pub use send::{FlowReport, exchange};
pub use socket::{raise_file_limit, set_comm};
pub use steady::{SteadyPlan, SteadyReport, drain, steady};
pub use web::{WebReport, web_get, web_serve};
