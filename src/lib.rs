//! dockgate: an authenticating gateway in front of container registries.
//!
//! The request's way, from the edge inwards: [`server`] accepts and speaks TLS and HTTP, [`gateway`] parses the request
//! with [`proto`], asks [`authn`] who it is and [`authz`] what they may do, and sends it on with [`upstream`].

pub(crate) mod admin;
pub(crate) mod app;
pub(crate) mod authn;
pub(crate) mod authz;
pub(crate) mod body;
pub(crate) mod cache;
pub(crate) mod cli;
pub(crate) mod clock;
pub(crate) mod config;
pub(crate) mod demo;
pub(crate) mod file_stamp;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub(crate) mod gateway;
pub(crate) mod meaning;
pub(crate) mod net;
pub(crate) mod origin;
pub(crate) mod proto;
pub(crate) mod read_size;
pub(crate) mod server;
pub(crate) mod single_flight;
pub(crate) mod telemetry;
pub(crate) mod upstream;
pub(crate) mod worker_id;

#[doc(hidden)]
pub mod internals;

pub use cli::run;
