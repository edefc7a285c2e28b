//! dockgate: an authenticating gateway in front of container registries.
//!
//! The request's way, from the edge inwards: [`server`] accepts and speaks TLS and HTTP, [`gateway`] parses the request
//! with [`proto`], asks [`authn`] who it is and [`authz`] what they may do, and sends it on with [`upstream`].

pub mod admin;
pub mod app;
pub mod authn;
pub mod authz;
pub mod body;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod gateway;
pub mod io;
pub mod pace;
pub mod proto;
pub mod server;
pub mod telemetry;
pub mod upstream;
pub mod watch;
