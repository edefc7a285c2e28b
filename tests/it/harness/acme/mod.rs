//! An ACME server (RFC 8555) that issues what it is asked for, once it has found the name's gateway.

mod authority;
mod server;
mod validation;

pub(crate) use server::{AcmeServer, Life};
pub(crate) use validation::greet;
