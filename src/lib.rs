//! dockgate: an authenticating gateway in front of container registries.

pub mod admin;
pub mod authn;
pub mod body;
pub mod authz;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod gateway;
pub mod io;
pub mod proto;
pub mod server;
pub mod telemetry;
pub mod upstream;
