//! The HTTP endpoints.

mod answer;
mod cache;
mod component;
mod connections;
mod health;
mod io;
mod listener;
mod server;
mod summary;

pub use health::health_body;
pub use listener::{BindError, bind};
pub use server::{HttpLimits, ServeError, ServerHandle, Site, serve, serve_sites};
