//! The certificate that the gateway gets from an ACME server (RFC 8555) by itself, and renews.
//!
//! A renewal writes one file, which holds the certificate and its key; the listeners read it as they read every certificate that
//! has changed. So the old one is served until the new is there, and a restart finds it.
//!
//! The protocol's grammar and signatures are `instant-acme`'s. Its requests are sent by the HTTP client of the upstreams, so that
//! a proxy, a CA and the egress policy hold for them too.

mod account;
mod challenge;
mod client;
mod error;
mod folder;
mod issued;
mod order;
mod renewal;
mod status;

pub(crate) use renewal::Renewal;
pub(crate) use status::AcmeStatus;
